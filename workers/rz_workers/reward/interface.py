"""What a verifier is given and what it gives: the whole of what somebody's own one has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Example", "Judgement", "OwnVerifier", "Verifier", "reads_responses"]


@dataclass(frozen=True)
class Example:
    """One answered question."""

    answer: str
    """What was extracted from the response (``rz_workers.reward.extract``); the whole response for a verifier that
    reads responses itself."""
    reference: str
    response: str = ""
    """The response's whole text, the stop string included."""
    question: str = ""
    """As in the data, without the template."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The record's other fields (options of a multiple choice, a task's own data)."""


@dataclass(frozen=True)
class Judgement:
    """What a verifier says of an example."""

    reward: float
    """In [0, 1]."""
    rule: str = ""
    """By which rule it was decided, a short word for charts (``number``, ``choice``, ``library``)."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the verdict, by name; shown as means."""


Verifier = Callable[[Example], Judgement]
"""Runs in a child with limits of CPU time, memory and wall time. Whatever it raises is a status, never a reward."""

OwnVerifier = Callable[[Example], Judgement | float]
"""What somebody's own verifier may be: a number is a Judgement of that reward. One that is not finite, or not in
[0, 1], is as if it had raised.

It is called for responses that ended by a stop and have an answer. It must depend on its example alone: a process
judges many, in any order, and is replaced now and then."""

Given = TypeVar("Given", bound=OwnVerifier)


def reads_responses(verifier: Given) -> Given:
    """Decorator of a verifier that finds the answer itself: it is called for every response that ended by a stop, and
    ``Example.answer`` is the whole of it."""
    verifier.reads_responses = True  # type: ignore[attr-defined]
    return verifier
