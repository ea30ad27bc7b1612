"""What each main path says it waits for is what docs/architecture.md has: neither can change alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAIN_PATHS = {
    "operator": "operator/rz_operator/controller/reconcile.py",
    "ledger": "workers/rz_workers/ledger/main.py",
    "reward": "workers/rz_workers/reward/main.py",
    "rollout": "workers/rz_workers/rollout/main.py",
    "trainer": "workers/rz_workers/trainer/main.py",
}


def rows_of(text: str, first: str) -> list[list[str]]:
    """Rows of the Markdown table in ``text`` whose first heading is ``first``; ``code`` and `code` alike."""
    lines = [line.strip() for line in text.replace("``", "`").splitlines()]
    start = next((i for i, line in enumerate(lines) if line.startswith(f"| {first} ")), None)
    if start is None:
        return []
    table = lines[start + 2 :]
    end = next((i for i, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:end]]


WAITS = rows_of((ROOT / "docs" / "architecture.md").read_text(), "who")


@pytest.mark.parametrize("who", MAIN_PATHS)
def test_a_main_path_opens_with_its_rows_of_the_table(who: str) -> None:
    module = ast.parse((ROOT / MAIN_PATHS[who]).read_text())
    said = rows_of(ast.get_docstring(module) or "", "waits for")
    assert said == [row[1:] for row in WAITS if row[0] == who]
    assert said


def test_nobody_else_waits() -> None:
    assert {row[0] for row in WAITS} == MAIN_PATHS.keys()
