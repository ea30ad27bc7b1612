"""A verifier of somebody's own gives a number in [0, 1] or nothing at all.

What a verifier has returned, as a Judgement. Pure; called in verifier children.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real

from rz_workers.reward.interface import Judgement

LONGEST_NAME = 40
"""Of a rule or a figure, letters."""
MOST_FIGURES = 16


class BadJudgementError(ValueError):
    """What the verifier returned is no judgement; the message says what it was."""


def checked(returned: object) -> Judgement:
    """``returned``, a number in [0, 1] or a Judgement with one; whole numbers and numpy's are numbers, too.

    Raises BadJudgementError.
    """
    if not isinstance(returned, Judgement):
        return Judgement(_number(returned, "reward"))
    reward = _number(returned.reward, "reward")
    if not isinstance(returned.figures, Mapping) or len(returned.figures) > MOST_FIGURES:
        raise BadJudgementError(
            f"found figures {returned.figures!r:.80}; at most {MOST_FIGURES}, by name, are required"
        )
    for name in (returned.rule, *returned.figures):
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise BadJudgementError(
                f"found the name {name!r:.80}; a text of at most {LONGEST_NAME} letters is required"
            )
    figures = {name: _finite(value, f"figure {name}") for name, value in returned.figures.items()}
    return replace(returned, reward=reward, figures=figures)


def _number(value: object, what: str) -> float:
    number = _finite(value, what)
    if not 0 <= number <= 1:
        raise BadJudgementError(f"found the {what} {number:g}; one in [0, 1] is required")
    return number


def _finite(value: object, what: str) -> float:
    # numpy's float32 and torch's numbers of one element turn into a float; texts would too.
    if not isinstance(value, Real) and not (hasattr(value, "__float__") and not isinstance(value, str | bytes)):
        raise BadJudgementError(f"found {type(value).__name__} as {what}; a number or a Judgement is required")
    number = float(value)
    if not math.isfinite(number):
        raise BadJudgementError(f"found the {what} {number}; a finite number is required")
    return number
