"""A reward of one's own, for the task of examples/tiny: what is right counts more where every step is shown.

``run.yaml`` names ``grade``; ``rz verifier test`` tries it on ``examples.jsonl``. A file may import what the reward
image has; what it prints goes nowhere, and what it raises makes the sample count nowhere.
"""

from __future__ import annotations

import re

from rz_workers.reward.interface import Example, Judgement

STEP = re.compile(r"=\s*-?\d+")
OPERAND = re.compile(r"[+-]")


def grade(example: Example) -> Judgement:
    """0 for a wrong sum; for the right one 0.5, and the other 0.5 by the share of its additions that are shown."""
    additions = len(OPERAND.findall(example.question))
    shown = min(1.0, len(STEP.findall(example.response)) / additions)
    figures = {"shown": shown}
    if example.answer.strip() != example.reference:
        return Judgement(0.0, "wrong", figures)
    return Judgement(0.5 + 0.5 * shown, "steps" if shown == 1 else "guess", figures)
