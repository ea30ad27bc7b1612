"""``bench/grading/pairs.jsonl``, the labelled pairs by which verifiers are judged, is what the judging takes it for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PAIRS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[3] / "bench" / "grading" / "pairs.jsonl").read_text().splitlines()
]
HALVES = {"first": PAIRS[: len(PAIRS) // 2], "second": PAIRS[len(PAIRS) // 2 :]}


def test_every_pair_has_its_label_kind_and_reason() -> None:
    types = {"answer": str, "reference": str, "equal": bool, "kind": str, "why": str}
    for pair in PAIRS:
        assert {name: type(value) for name, value in pair.items()} == types, pair
        assert all(pair[name].strip() == pair[name] != "" for name in types if name != "equal"), pair


def test_no_pair_is_there_twice_or_is_equal_as_text() -> None:
    texts = Counter((" ".join(pair["answer"].split()), " ".join(pair["reference"].split())) for pair in PAIRS)
    assert [pair for pair, count in texts.items() if count > 1 or pair[0] == pair[1]] == []


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
def test_a_half_has_five_equal_and_five_unequal_pairs_of_each_kind(half: list[dict[str, Any]]) -> None:
    counts = Counter((pair["kind"], pair["equal"]) for pair in half)
    kinds = {pair["kind"] for pair in PAIRS}
    assert len(kinds) == 34
    assert counts == {(kind, equal): 5 for kind in kinds for equal in (True, False)}


def test_both_halves_have_the_kinds_in_the_same_order() -> None:
    first, second = ([(pair["kind"], pair["equal"]) for pair in half] for half in HALVES.values())
    assert first == second
