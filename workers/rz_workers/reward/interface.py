"""What a verifier is given and what it gives: the whole of what somebody's own one has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Example", "Judgement", "Verifier"]


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
