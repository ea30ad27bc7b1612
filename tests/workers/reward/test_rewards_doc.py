"""docs/rewards.md says what ``robust`` does: its examples come out as written, by the rule of their row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rz_workers.reward.extract import extract_answer
from rz_workers.reward.verifiers import VERIFIERS
from rz_workers.reward.verifiers.math_verify import math_verify_equal
from rz_workers.reward.verifiers.robust.verifier import decide

PAGE = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of the section's table, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.split("\n") if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def pairs(cell: str, sign: str) -> list[tuple[str, str]]:
    found = re.findall(rf"`([^`]+)` {sign} `([^`]+)`", cell)
    assert len(found) == cell.count(f"` {sign} `") > 0
    return found


RULES = {rule.strip("`"): (equal, unequal) for rule, _, equal, unequal in rows("The rules of `robust`")}


@pytest.mark.parametrize("rule", RULES)
def test_examples_of_the_rule(rule: str) -> None:
    library = math_verify_equal()
    equal, unequal = RULES[rule]
    assert [pair for pair in pairs(equal, "=") if not decide(*pair, library)[0]] == []
    assert [pair for pair in pairs(unequal, "≠") if decide(*pair, library)[0]] == []


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_decides_an_example_of_its_row(rule: str) -> None:
    library = math_verify_equal()
    examples = [*pairs(RULES[rule][0], "="), *pairs(RULES[rule][1], "≠")]
    assert rule in {decide(*pair, library)[1] for pair in examples}


def test_the_boxes_of_the_page() -> None:
    for block, cell in rows("What counts as the answer"):
        answer = None if cell.startswith("none") else cell.split(":")[0].strip("`")
        assert extract_answer(f"<answer> {block.strip('`')} </answer>") == answer


def test_every_verifier_is_on_the_page() -> None:
    assert {name for cells in rows("Verifiers") for name in re.findall(r"`([^`]+)`", cells[0])} == set(VERIFIERS)
