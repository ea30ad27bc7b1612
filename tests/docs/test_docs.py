"""Every block of the documentation is executed or validated, every link leads somewhere, and the site can be built."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pages import PAGES, ROOT, Block, anchors, blocks, code_in_prose, links
from typer.main import get_command

from rz_api import names
from rz_api.metrics import FAMILIES
from rz_api.reference import PATH as REFERENCE
from rz_api.reference import render
from rz_operator.commands.cli import app

BLOCKS = [block for page in PAGES for block in blocks(page)]
KUBERNETES = "1.29"
COMMANDS = ("rz", "make", "kubectl", "helm", "git", "python", "pytest", "pip", "bash")


def of(*languages: str) -> Any:
    chosen = [
        pytest.param(block, id=block.name)
        for block in BLOCKS
        if block.language in languages and not block.is_for_a_machine
    ]
    return pytest.mark.parametrize("block", chosen)


def test_every_block_is_of_a_kind_that_is_checked_here() -> None:
    checked = {"yaml", "sh", "python", "mermaid", ""}
    assert [block.name for block in BLOCKS if block.language not in checked] == []


def test_no_command_is_in_a_block_that_nothing_runs() -> None:
    """``sh`` blocks are run by ``test_machine_blocks.py`` and ``test_cluster_blocks.py``; these have no language."""
    for block in BLOCKS:
        if not block.language:
            starts = {line.split()[0] for line in block.text.splitlines() if line.split()}
            assert not starts & set(COMMANDS), f"{block.name} has commands: make it a block of sh"


# ---------------------------------------------------------------------------------------------- commands in the text


def in_text(program: str) -> Any:
    """(page, words) of each ``program ...`` between backticks."""
    found = {
        (page.relative_to(ROOT).as_posix(), code): shlex.split(code)
        for page in PAGES
        for code in code_in_prose(page)
        if code.startswith(f"{program} ")
    }
    cases = [pytest.param(words, id=f"{page}: {code}") for (page, code), words in found.items()]
    return pytest.mark.parametrize("words", cases)


@in_text("rz")
def test_rz_has_the_command_and_the_options_that_the_text_names(words: list[str]) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert words[1] in commands
    options = {option for parameter in commands[words[1]].params for option in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= options


@in_text("make")
def test_make_has_the_target_that_the_text_names(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets, variables = (set(re.findall(pattern, makefile, re.M)) for pattern in (r"^([a-z-]+):", r"\$\((\w+)"))
    assert {word for word in words[1:] if "=" not in word} <= targets
    assert {word.partition("=")[0] for word in words[1:] if "=" in word} <= variables


@in_text("python")
def test_python_has_the_module_or_file_that_the_text_names(words: list[str]) -> None:
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2])
    else:
        assert Path(ROOT, words[1]).exists()


def test_values_that_the_text_has_people_set_are_values_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "charts" / "reasonerzero" / "values.yaml").read_text())
    for page in PAGES:
        its_own = page.is_relative_to(ROOT / "charts")
        for code in code_in_prose(page):
            setting = re.match(r"(?:--set )?([a-z][\w.]*)=" if its_own else r"--set ([\w.]+)=", code)
            place: Any = values
            for name in setting[1].split(".") if setting else ():
                assert name in place, f"{page}: the chart has no value {code}"
                place = place[name]


# -------------------------------------------------------------------------------------------------------------- yaml


@of("yaml")
def test_yaml_is_a_valid_run_object_or_part_of_one(block: Block, tmp_path: Path) -> None:
    documents = [document for document in yaml.safe_load_all(block.text) if document]
    assert documents
    for document in documents:
        if document.get("kind") == names.KIND:
            file = tmp_path / "run.yaml"
            file.write_text(yaml.safe_dump(document))
            rz = str(Path(sys.executable).with_name("rz"))
            done = subprocess.run([rz, "validate", file], capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, done.stdout + done.stderr
        elif "kind" in document:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        else:
            sections = set(yaml.safe_load((ROOT / "charts" / "reasonerzero" / "values.yaml").read_text()))
            sections |= {"spec", *_sections_of_a_run()}
            assert set(document) <= sections, f"{set(document)} is neither of a run nor of the chart's values"


def _sections_of_a_run() -> set[str]:
    return set(re.findall(r"(?m)^## (\w+)$", REFERENCE.read_text()))


@of("python")
def test_python_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    done = subprocess.run([sys.executable, "-c", "\n".join(imports)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: there is no such heading"


# ---------------------------------------------------------------------------------------------------------- contents


def test_the_reference_is_what_the_models_say() -> None:
    assert REFERENCE.read_text() == render(), "run `python -m rz_api.reference`"


def test_metrics_that_the_pages_name_exist() -> None:
    for page in PAGES:
        if page.name == "metrics.md":
            continue
        pattern = r"`(rz_(?:ledger|rollout|trainer|reward|storage|operator)_[a-z0-9_]+)`"
        named = set(re.findall(pattern, page.read_text()))
        assert named <= FAMILIES.keys(), page


def test_the_site_can_be_built_and_has_every_page(tmp_path: Path) -> None:
    mkdocs = shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    assert mkdocs, "mkdocs-material is in the extra dev"
    command = [mkdocs, "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix(".html")
        html = (tmp_path / "site" / place).read_text()
        assert "fonts.googleapis" not in html, "nothing is loaded from elsewhere"
