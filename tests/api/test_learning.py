"""Which steps teach nothing, and what is said of a run of such steps."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from rz_api.learning import SIGNS, STEPS, Finding, Sign, Streak, finding, follow, sign_of
from rz_api.step_metrics import STEP_METRICS


def figures(reward: float | None = 0.5, std: float | None = 0.5, **shares: float) -> dict[str, float]:
    """Of a step; ``shares`` by status."""
    found = {f"reward_status_{status}_fraction": share for status, share in shares.items()}
    found |= {"reward_mean": reward} if reward is not None else {}
    return found | ({"reward_std": std} if std is not None else {})


STEPS_SEEN: dict[str, tuple[dict[str, float], Sign | None]] = {
    "rewards that differ": (figures(), None),
    "one right answer of thousands": (figures(1e-4, 1e-2, truncated=0.99), None),
    "no figures": ({}, None),
    "every verifier crashed": (figures(None, None, crashed=1.0), "crashed"),
    "all truncated": (figures(0.0, 0.0, truncated=1.0), "truncated"),
    "nearly all truncated, the others wrong": (figures(0.0, 0.0, truncated=0.93, ok=0.07), "truncated"),
    "all truncated but for those that crashed": (figures(0.0, 0.0, truncated=0.5, crashed=0.5), "truncated"),
    "no answer anywhere": (figures(0.0, 0.0, no_answer=1.0), "no_answer"),
    "time and memory limits": (figures(0.0, 0.0, timeout=0.6, memory=0.4), "limits"),
    "all compared, none right": (figures(0.0, 0.0, ok=1.0), "zero"),
    "none right for several reasons": (figures(0.0, 0.0, ok=0.3, truncated=0.3, no_answer=0.4), "zero"),
    "none right, by figures of an earlier release": (figures(0.0, None, ok=1.0), "zero"),
    "all right": (figures(1.0, 0.0, ok=1.0), "one"),
    "all equal in between": (figures(0.3, 0.0, ok=1.0), "equal"),
    "grpo: equal within each group": (figures() | {"advantage_std": 0.0}, "equal"),
    "ppo: rewards that differ": (figures() | {"advantage_std": 0.4}, None),
}


@pytest.mark.parametrize(("metrics", "sign"), STEPS_SEEN.values(), ids=STEPS_SEEN.keys())
def test_what_a_step_shows(metrics: dict[str, float], sign: Sign | None) -> None:
    assert metrics.keys() <= STEP_METRICS.keys()
    assert sign_of(metrics) == sign


def test_one_step_that_teaches_something_ends_a_streak() -> None:
    streak, seen = Streak(), []
    for name in ("all truncated", "all compared, none right", "rewards that differ", "all right"):
        streak = follow(streak, STEPS_SEEN[name][0])
        seen.append((streak.steps, streak.sign))
    assert seen == [(1, "truncated"), (2, "zero"), (0, None), (1, "one")]


CASES: dict[str, tuple[dict[str, Any], bool | None, str]] = {
    "before the first step": ({"step": 0}, None, ""),
    "one fruitless step": ({"step": 1, "fruitless_steps": 1, "fruitless_sign": "zero"}, None, ""),
    "too few to say, from the first on": ({"step": 4, "fruitless_steps": 4, "fruitless_sign": "zero"}, None, ""),
    "enough, from the first on": ({"step": 5, "fruitless_steps": 5, "fruitless_sign": "truncated"}, False, "step 0: "),
    "enough, later on": ({"step": 90, "fruitless_steps": 7, "fruitless_sign": "one"}, False, "step 83: "),
    "too few, later on": ({"step": 90, "fruitless_steps": 4, "fruitless_sign": "one"}, True, ""),
    "a step that teaches": ({"step": 90, "fruitless_steps": 0, "fruitless_sign": None}, True, ""),
    "a ledger of an earlier release": ({"step": 90}, None, ""),
    "a sign that is not known": ({"step": 90, "fruitless_steps": 9, "fruitless_sign": "new"}, True, ""),
    "nothing of the right type": ({"step": "9", "fruitless_steps": [], "fruitless_sign": {}}, None, ""),
}


@pytest.mark.parametrize(("status", "learns", "since"), CASES.values(), ids=CASES.keys())
def test_what_is_said_of_a_run(status: dict[str, Any], learns: bool | None, since: str) -> None:
    found = finding(status)
    assert found.learns is learns
    assert (since in found.message) if since else found == Finding(learns)


@pytest.mark.parametrize("sign", get_args(Sign))
def test_every_sign_has_a_reason_and_a_cause(sign: Sign) -> None:
    found = finding({"step": STEPS, "fruitless_steps": STEPS, "fruitless_sign": sign})
    assert found.reason == SIGNS[sign].reason
    assert found.message.endswith(f"{SIGNS[sign].seen}. Likely cause: {SIGNS[sign].cause}")


def test_a_message_stays_the_same_from_step_to_step() -> None:
    assert len({finding({"step": 3 + n, "fruitless_steps": n, "fruitless_sign": "zero"}) for n in range(5, 50)}) == 1
