"""YAML as kubectl reads it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rz_api.document import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1.5E+3", 1500.0),
        ("-2e3", -2000.0),
        ("2025-11-22", "2025-11-22"),
        ("2025-11-22T20:54:00Z", "2025-11-22T20:54:00Z"),
        ("8", 8),
        ("'8'", "8"),
        ("true", True),
        ("s3://runs/a", "s3://runs/a"),
        ("", None),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_a_value_has_the_type_that_kubernetes_gives_it(text: str, value: Any) -> None:
    found = parse(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_anchors_and_merges_work() -> None:
    assert parse("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}


def test_empty_documents_around_the_one_are_ignored() -> None:
    assert parse("---\n# nothing\n---\na: 1\n---\n") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: found `a` again (first in line 1): remove one of the two"),
        ("spec:\n  x: {y: 1, y: 2}\n", "line 2: found `y` again (first in line 2)"),
        ("a:\n\t- b\n", "line 2: this is not YAML"),
        ("a: 'b\n", "this is not YAML"),
        ("1: x\n", "line 1: found the key 1, keys must be strings: put it in quotes"),
        ("a: 1\n---\nb: 2\n", "found 2 YAML documents, one is required: keep one run in a file"),
        ("", "found 0 YAML documents, one is required"),
        ("- a\n", "found a list, a mapping is required: begin with apiVersion, kind, metadata and spec"),
    ],
    ids=["a key twice", "a key twice in a line", "a tab", "an open quote", "a number as key", "two", "none", "a list"],
)
def test_what_is_not_one_mapping_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)
