"""What every example and every variant is rendered to, against files that a person has reviewed."""

from __future__ import annotations

import difflib

import pytest
from manifest_builders import GOLDEN, cases, context, golden_text

from rz_operator.manifests import all_of

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_the_objects_are_the_reviewed_ones(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    reviewed = path.read_text(encoding="utf-8") if path.exists() else ""
    rendered = golden_text(CASES[name])
    changes = difflib.unified_diff(reviewed.splitlines(), rendered.splitlines(), "reviewed", "rendered", lineterm="")
    if rendered != reviewed:
        pytest.fail("\n".join([*changes, "", "if so wanted: python tests/operator/manifests/update_golden.py"]))


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)


def test_rendering_twice_gives_the_same() -> None:
    assert all_of(context()) == all_of(context())


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("example-")])
def test_the_config_map_of_an_example_is_below_512_kib(name: str) -> None:
    data = all_of(CASES[name])[0]["data"]
    assert sum(len(text.encode()) for text in data.values()) < 512 * 1024
