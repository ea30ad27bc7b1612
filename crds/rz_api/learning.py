"""A run that learns nothing says so, from its first step on: which steps teach nothing, how many in a row are too many,
and what is the likely cause. Pure.

The ledger counts: ``follow``, for each committed step. What it counted is in its status, and everybody who tells of it
asks ``finding``: the operator (condition ``Learning``), ``rz run`` and ``rz status``. The alert
``ReasonerZeroLearnsNothing`` has the same number of steps and the same words (a test compares them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["SIGNS", "STEPS", "Finding", "Fruitless", "Sign", "Streak", "finding", "follow", "sign_of"]

STEPS = 5
"""Fruitless steps in a row from which a run is said to learn nothing. Of the paper's 128 prompts and 64 samples one
would be enough; tiny steps without a success happen by chance."""
DOMINANT = 0.9
"""Share of the responses from which a status is held to be why all rewards are 0: the few others change no cause."""

Sign = Literal["crashed", "truncated", "no_answer", "limits", "zero", "one", "equal"]


@dataclass(frozen=True)
class Fruitless:
    """What a sign means, for people and for programs."""

    reason: str
    """CamelCase word, of the condition."""
    seen: str
    cause: str
    """What it likely comes from, and so what to look at."""


SIGNS: dict[Sign, Fruitless] = {
    "crashed": Fruitless(
        "VerifierCrashes",
        "the verifier crashed on every answer, so that all trajectories are masked",
        "a verifier that can't be loaded, or an image that lacks what it needs: the reward pods' log says it",
    ),
    "truncated": Fruitless(
        "AllTruncated",
        "responses reach the token limit, and rewards are all 0",
        "rollout.sampling.maxNewTokens is too short for this model, or nothing that it writes ends a response: neither "
        "a string of rollout.sampling.stop nor its end-of-sequence token",
    ),
    "no_answer": Fruitless(
        "NoAnswers",
        "responses end without an answer that can be extracted, and rewards are all 0",
        "data.promptTemplate does not ask for <answer> tags and a box, a string of rollout.sampling.stop ends "
        "responses before them, or the model does not follow the prompt",
    ),
    "limits": Fruitless(
        "VerifierLimits",
        "comparisons reach the verifier's limit of time or memory, and rewards are all 0",
        "limits that are too low for these references (reward.timeoutSeconds), or references that are not what the "
        "verifier compares",
    ),
    "zero": Fruitless(
        "NoRewards",
        "rewards are all 0",
        "references that no answer can equal (units, option letters, words: compare extracted_answer and "
        "reference_answer of the trajectories), a verifier for another kind of answer (reward.verifier), or questions "
        "that are too hard for this model",
    ),
    "one": Fruitless(
        "AllCorrect",
        "rewards are all 1",
        "questions that are too easy for this model, or a verifier that accepts anything",
    ),
    "equal": Fruitless(
        "EqualRewards",
        "rewards are all equal (with grpo: within each prompt group)",
        "a verifier that gives every answer the same, or questions of which each is always or never answered",
    ),
}


def sign_of(metrics: Mapping[str, float]) -> Sign | None:
    """How it shows in a step's figures (``rz_api.step_metrics``) that nothing could be learned from it; None where
    something could, and for figures that do not tell."""
    if metrics.get("reward_status_crashed_fraction") == 1.0:
        return "crashed"
    reward = metrics.get("reward_mean")
    if reward is None:
        return None
    if reward == 0.0:
        shares: list[tuple[Sign, float]] = [
            ("truncated", metrics.get("reward_status_truncated_fraction", 0.0)),
            ("no_answer", metrics.get("reward_status_no_answer_fraction", 0.0)),
            ("limits", sum(metrics.get(f"reward_status_{limit}_fraction", 0.0) for limit in ("timeout", "memory"))),
        ]
        # Masked ones are no responses of the step.
        scored = 1.0 - metrics.get("reward_status_crashed_fraction", 0.0)
        return next((sign for sign, share in shares if share >= DOMINANT * scored), "zero")
    if metrics.get("reward_std") == 0.0:
        return "one" if reward == 1.0 else "equal"
    # The critic's error is no difference between rewards: of GRPO's advantages alone does 0 mean that there is none.
    return "equal" if metrics.get("advantage_std") == 0.0 else None


@dataclass(frozen=True)
class Streak:
    """Fruitless steps in a row, up to the newest committed one, and the sign of that one."""

    steps: int = 0
    sign: Sign | None = None


def follow(streak: Streak, metrics: Mapping[str, float]) -> Streak:
    """The streak after one more step."""
    sign = sign_of(metrics)
    return Streak() if sign is None else Streak(streak.steps + 1, sign)


@dataclass(frozen=True)
class Finding:
    """What is to be said of a run."""

    learns: bool | None
    """None: too early to say."""
    reason: str = ""
    """Of a run that learns nothing."""
    message: str = ""


def finding(status: Mapping[str, object]) -> Finding:
    """What a ledger's status (JSON) says; nothing of it is believed to have the right type."""
    step, steps, sign = (status.get(name) for name in ("step", "fruitless_steps", "fruitless_sign"))
    if not isinstance(step, int) or not isinstance(steps, int) or step <= 0:
        return Finding(None)
    if sign not in get_args(Sign) or steps <= 0:
        return Finding(True)
    if steps < STEPS:
        return Finding(None if steps >= step else True)
    what = SIGNS[sign]  # type: ignore[index]
    # Which step was the first stays the same from step to step: a message that does not change is not written anew.
    since = f"nothing could be learned from any step since step {max(0, step - steps)}"
    return Finding(False, what.reason, f"{since}: {what.seen}. Likely cause: {what.cause}")
