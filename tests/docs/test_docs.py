"""Every block of the documentation is executed or validated, every link leads somewhere, and the site can be built."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from pages import PAGES, ROOT, Block, anchors, blocks, links
from typer.main import get_command

from rz_api import names
from rz_api.metrics import FAMILIES
from rz_api.reference import PATH as REFERENCE
from rz_api.reference import render
from rz_operator.cli import app

BLOCKS = [block for page in PAGES for block in blocks(page)]
KUBERNETES = "1.29"
VERBS = {
    "kubectl": {
        "apply", "auth", "cordon", "create", "delete", "describe", "explain", "get", "label", "logs", "patch",
        "port-forward", "replace", "rollout", "scale", "wait", "annotate", "rz", "config", "exec",
    },
    "helm": {"install", "upgrade", "test", "uninstall", "rollback", "template", "lint", "list", "get"},
}  # fmt: skip
"""First word of each of their command lines."""
FREE = {"cd", ".", "export", "git", "cat", "{", "printf", "tensorboard", "pip", "npm", "apt-get", "unshare", "buildah"}
"""Commands that are taken as they are; what they name is checked where it is a file of ours."""


def of(*languages: str) -> Any:
    chosen = [pytest.param(block, id=block.name) for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen)


def test_every_block_is_of_a_kind_that_is_checked_here() -> None:
    checked = {"yaml", "sh", "python", "mermaid", ""}
    assert [block.name for block in BLOCKS if block.language not in checked] == []


# ---------------------------------------------------------------------------------------------------------- commands


def command_lines(text: str) -> list[list[str]]:
    """Words of each command; continued lines are joined, comments dropped, pipelines and lists cut."""
    found = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for part in re.split(r"\s(?:&&|\|\||\||;)\s", line):
            words = shlex.split(re.sub(r"<[^>]*>", "PLACE", part), comments=True)
            if words:
                found.append(words)
    return found


@of("sh")
def test_commands_exist_and_take_what_they_are_given(block: Block) -> None:
    for words in command_lines(block.text):
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        check = CHECKS.get(words[0])
        assert check or words[0] in FREE or Path(ROOT, words[0]).exists(), f"nobody knows how to check {words}"
        if check:
            check(words)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    assert {word for word in words[1:] if "=" not in word} <= set(targets), words


def check_rz(words: list[str]) -> None:
    """By the command's own parser, without running it."""
    command: click.Command = get_command(app)
    context, rest = click.Context(command), words[1:]
    while isinstance(command, click.Group):
        name, rest = rest[0], rest[1:]
        found = command.get_command(context, name)
        assert found is not None, f"rz has no command {name}"
        command = found
    parser_ignores_files = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    for parameter in parser_ignores_files:
        parameter.type = click.STRING
    command.make_context(words[1], list(rest), resilient_parsing=False)


def check_verb(words: list[str]) -> None:
    assert words[1] in VERBS[words[0]], words
    for word, value in itertools.pairwise(words):
        if word == "-f" and words[0] == "kubectl" and words[1] != "logs" and "/" in value and "://" not in value:
            assert Path(ROOT, value).exists(), f"{value} is not there"
    if words[0] == "helm" and words[1] in ("install", "upgrade", "template", "lint"):
        assert any(Path(ROOT, word, "Chart.yaml").exists() for word in words), words


def check_python(words: list[str]) -> None:
    if words[1] == "-m":
        done = subprocess.run([sys.executable, "-c", f"import importlib.util as u; assert u.find_spec({words[2]!r})"])
        assert done.returncode == 0, words
    elif words[1] == "-c":
        ast.parse(words[2])
    else:
        assert Path(ROOT, words[1]).exists(), words


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "rz": check_rz,
    "kubectl": check_verb,
    "helm": check_verb,
    "python": check_python,
    "python3": check_python,
}


@of("sh")
def test_values_that_helm_is_given_are_values_of_the_chart(block: Block) -> None:
    values = yaml.safe_load((ROOT / "charts" / "reasonerzero" / "values.yaml").read_text())
    for words in command_lines(block.text):
        if words[0] != "helm":
            continue
        for word, setting in itertools.pairwise(words):
            if word == "--set":
                place: Any = values
                for name in setting.partition("=")[0].split("."):
                    assert name in place, f"the chart has no value {setting}"
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
