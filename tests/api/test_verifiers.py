"""Which verifier a source's answers have, and how one of somebody's own is named."""

from __future__ import annotations

from typing import Any

import pytest
from api_builders import document

from rz_api.resource import load_run
from rz_api.verifiers import files_of, own_verifier, verifier_of, verifiers_of

TASK = "reasoning-gym://countdown?size=8"

CHOSEN: dict[str, tuple[dict[str, Any], str]] = {
    "the run's": ({"spec.reward.verifier": "robust"}, "robust"),
    "the source's own before the run's": (
        {"spec.reward.verifier": "robust", "spec.data.train.0.verifier": "choice"},
        "choice",
    ),
    "the task's scorer, which its URI names": ({"spec.data.train.0.uri": TASK}, TASK),
    "the task's scorer where it is asked for": (
        {"spec.data.train.0": {"uri": TASK, "verifier": "reasoning-gym"}},
        TASK,
    ),
    "another for a task": ({"spec.data.train.0": {"uri": TASK, "verifier": "exact"}}, "exact"),
}


@pytest.mark.parametrize(("changes", "wanted"), CHOSEN.values(), ids=CHOSEN)
def test_the_verifier_of_a_source_is(changes: dict[str, Any], wanted: str) -> None:
    spec = load_run(document(changes)).spec
    assert verifier_of(spec, spec.data.train[0]) == wanted


def test_a_run_has_the_verifiers_of_its_sources_and_its_own() -> None:
    """Its own too where no source uses it: prompt tables of earlier releases name none."""
    spec = load_run(
        document(
            {
                "spec.data.train": [
                    {"uri": TASK},
                    {"uri": "a.json", "verifier": "a.py:f"},
                    {"uri": "b.json", "verifier": "a.py:f"},
                ],
                "spec.data.eval": [{"name": "x", "uri": "c.json", "verifier": "a.b:f"}],
            }
        )
    ).spec
    assert verifiers_of(spec) == ("math-verify", TASK, "a.py:f", "a.b:f")
    assert files_of(spec) == ("a.py:f",)


OWN = {
    "math-verify": None,
    TASK: None,
    "rewards:grade": ("rewards", "grade", False),
    "my.rewards:grade": ("my.rewards", "grade", False),
    "s3://bucket/rewards.py:grade": ("s3://bucket/rewards.py", "grade", True),
    "./a b.py:grade": ("./a b.py", "grade", True),
}


@pytest.mark.parametrize(("verifier", "parts"), OWN.items(), ids=OWN)
def test_an_own_verifier_is_told_by_its_place_and_function(verifier: str, parts: tuple[str, str, bool] | None) -> None:
    own = own_verifier(verifier)
    assert (own and (own.place, own.function, own.is_file)) == parts
