"""The task: keyed running sums, and the ways to write down a solution. Pure functions of their arguments.

Who calls this: ``corpus`` (documents), ``build`` (data files), ``measure`` (forced styles, right answers), the tests.

A problem has 5 to 9 numbers. Every operand carries a letter, and every partial total stays within 0..19, so that
operands, letters and totals are one token each (``tokenizer``); sums without the letters take much longer to learn::

    7 a+8 b-4 c-1 d+2 e-8 =?                                                   question
    <think> </think> <answer> \\boxed{4} </answer>                              direct: 6 tokens
    <think> 7 a 15 b 11 c 10 d 12 e 4 </think> <answer> \\boxed{4} </answer>    terse: 2 tokens a step
    <think> 7 a+8 = 15 b-4 = 11 ... </think> <answer> \\boxed{4} </answer>      full: 4 tokens a step
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

LARGEST_TOTAL = 19
OPERANDS = (*range(-9, 0), *range(1, 10))
ALLOWED_OPERANDS = [
    [operand for operand in OPERANDS if 0 <= total + operand <= LARGEST_TOTAL] for total in range(LARGEST_TOTAL + 1)
]
"""Running total -> operands that keep it within 0..19."""
LETTERS = "abcdefgh"
NUM_OPERANDS = range(4, len(LETTERS) + 1)
PROMPT_TEMPLATE = "User: {question} Assistant: <think>"
"""``data.promptTemplate`` of run.yaml (a test compares them): one token per word."""


@dataclass(frozen=True)
class Problem:
    """``start`` plus all ``operands``. Example: ``Problem(7, (8, -4))`` asks ``7 a+8 b-4 =?``, the answer is 11."""

    start: int
    operands: tuple[int, ...]

    @property
    def totals(self) -> tuple[int, ...]:
        """Running totals, one per operand; the last one is the answer."""
        return tuple(accumulate(self.operands, initial=self.start))[1:]

    @property
    def answer(self) -> int:
        return self.totals[-1]

    @property
    def question(self) -> str:
        steps = "".join(f" {letter}{operand:+d}" for letter, operand in zip(LETTERS, self.operands, strict=False))
        return f"{self.start}{steps} =?"

    @property
    def held_out(self) -> bool:
        """Whether the problem is kept for evaluation: one in ten, by the hash of its question, for every seed alike."""
        return int.from_bytes(hashlib.sha256(self.question.encode()).digest()[:8], "big") % 10 == 0


def draw_problem(rng: random.Random, *, held_out: bool) -> Problem:
    """A random problem from the held-out tenth, or from the other nine tenths."""
    while True:
        start = total = rng.randint(1, 9)
        operands: list[int] = []
        for _ in range(rng.choice(NUM_OPERANDS)):
            operand = rng.choice(ALLOWED_OPERANDS[total])
            operands.append(operand)
            total += operand
        problem = Problem(start, tuple(operands))
        if problem.held_out == held_out:
            return problem


def draw_distinct(rng: random.Random, count: int, *, held_out: bool) -> list[Problem]:
    """``count`` different problems, in the order in which they were drawn."""
    problems: dict[Problem, None] = {}
    while len(problems) < count:
        problems[draw_problem(rng, held_out=held_out)] = None
    return list(problems)


def totals_with_slips(problem: Problem, rng: random.Random, slip_rate: float) -> tuple[int, ...]:
    """Running totals of somebody who makes a slip at each step with probability ``slip_rate`` and carries it on.

    A slip shifts this total and all later ones by the same amount, one that keeps them within 0..19; where no shift
    does, there is no slip.
    """
    totals = list(problem.totals)
    for i in range(len(totals)):
        if rng.random() < slip_rate:
            rest = totals[i:]
            shifts = [d for d in range(-min(rest), LARGEST_TOTAL - max(rest) + 1) if d]
            if shifts:
                shift = rng.choice(shifts)
                totals[i:] = [total + shift for total in rest]
    return tuple(totals)


def full_steps(problem: Problem, totals: Sequence[int]) -> str:
    """`` 7 a+8 = 15 b-4 = 11``"""
    steps = zip(LETTERS, problem.operands, totals, strict=False)
    return f" {problem.start}" + "".join(f" {letter}{operand:+d} = {total}" for letter, operand, total in steps)


def terse_steps(problem: Problem, totals: Sequence[int]) -> str:
    """`` 7 a 15 b 11``"""
    return f" {problem.start}" + "".join(f" {letter} {total}" for letter, total in zip(LETTERS, totals, strict=False))


def answered(thoughts: str, answer: int) -> str:
    """A whole response: what follows ``<think>`` in the prompt."""
    return f"{thoughts} </think> <answer> \\boxed{{{answer}}} </answer>"


def is_right(problem: Problem, response: str) -> bool:
    """Whether a response ends with the right answer in its place: stricter than a run's verifier, which takes the last
    box wherever it is between the tags."""
    return response.endswith(answered("", problem.answer))
