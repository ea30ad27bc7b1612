"""README and docs say what is there: commands run, links lead somewhere, every field and column is described."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from report_builders import a_folder

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.report.summary import SetSummary, Summary
from rz_workers.storage.trajectories import SCHEMA

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
RUN_FOLDER = (ROOT / "docs/run-folder.md").read_text()
PAGES = ("README.md", "docs/index.md", "docs/architecture.md", "docs/run-folder.md")


def test_the_readmes_query_reads_the_trajectories_of_the_demo(tmp_path: Path) -> None:
    a_folder(tmp_path / "runs/tiny/storage", steps=3)
    (line,) = re.findall(r"^python -c .*duckdb.*$", README, flags=re.MULTILINE)
    command = [sys.executable, *shlex.split(line)[1:]]
    shown = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    ).stdout
    rows = re.findall(r"│\s+(\d+) │\s+([\d.]+) │\s+([\d.]+) │", shown)
    assert rows == [("0", "0.5", "3.0"), ("1", "0.5", "4.0"), ("2", "0.5", "5.0")]


def test_the_readmes_run_file_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    ReasonerZeroRunSpec.model_validate(yaml.safe_load(text)["spec"])


def test_every_path_of_the_file_tree_exists() -> None:
    (tree,) = re.findall(r"## The files\n\n```\n(.*?)```", README, flags=re.DOTALL)
    paths = [line.split()[0] for line in tree.splitlines()]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


@pytest.mark.parametrize("field", sorted(set(Summary.model_fields) - {"evaluations"}))
def test_a_field_of_the_summary_is_described(field: str) -> None:
    assert f"`{field}`" in RUN_FOLDER


@pytest.mark.parametrize("field", SetSummary.model_fields)
def test_a_field_of_each_set_is_described(field: str) -> None:
    assert f"`<set>_{field}`" in RUN_FOLDER


@pytest.mark.parametrize("column", SCHEMA.names)
def test_a_column_of_the_trajectories_is_described(column: str) -> None:
    assert f"`{column}`" in RUN_FOLDER
