"""The example that explains ``decide`` shows what it does."""

from __future__ import annotations

import doctest

from rz_operator.decisions import decide


def test_the_worked_example_of_a_decision_is_true() -> None:
    examples = [example for found in doctest.DocTestFinder().find(decide) for example in found.examples]
    assert examples, "decide.py has no worked example"
    failed, tried = doctest.testmod(decide)
    assert (failed, tried) == (0, len(examples))
