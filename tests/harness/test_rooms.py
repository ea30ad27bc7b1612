"""The layout is as README draws it: a room that nobody described, or a module left on the stairs, fails here."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_room_is_in_the_readmes_tree() -> None:
    (tree,) = re.findall(r"## The files\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    described = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    rooms = {
        str(folder.parent.relative_to(ROOT))
        for package in ("operator/rz_operator", "workers/rz_workers")
        for folder in (ROOT / package).glob("*/__init__.py")
    }
    assert rooms - described == set()


def test_the_operators_root_has_what_all_its_rooms_share_and_nothing_else() -> None:
    modules = {file.name for file in (ROOT / "operator" / "rz_operator").glob("*.py")}
    assert modules == {"__init__.py", "__main__.py", "errors.py", "plan.py", "run_file.py"}


def test_every_decision_is_on_the_site() -> None:
    pages = {f"decisions/{file.name}" for file in (ROOT / "docs" / "decisions").glob("*.md")}
    for index in ("docs/index.md", "mkdocs.yml"):
        assert pages - set(re.findall(r"decisions/[\w-]+\.md", (ROOT / index).read_text())) == set(), index
