"""What a verifier says of labelled pairs, each verdict in a child of the project's own pool, under its limits.

Used by ``grade.py``. The pool's shortcut for texts that need no verifier is left out: the verifiers alone are judged.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from rz_api.spec import RewardSpec
from rz_workers.reward import pool as pool_module
from rz_workers.reward.extract import extract_answer
from rz_workers.reward.fork_server import COMMAND
from rz_workers.reward.interface import Example
from rz_workers.reward.pool import Asked, VerifierPool

PAIRS, FRESH = (Path(__file__).with_name(name) for name in ("pairs.jsonl", "fresh.jsonl"))
HALVES = ("first", "second", "fresh")
"""The two halves of ``pairs.jsonl``, and what was written after ``robust``, by somebody who knew neither."""
VERIFIERS = ("math-verify", "robust", "legacy")
Status = Literal["equal", "unequal", "timed out", "crashed"]


@dataclass(frozen=True)
class Pair:
    """One line of ``pairs.jsonl``."""

    answer: str
    reference: str
    equal: bool
    """The label: whether a careful teacher takes the answer for the reference."""
    kind: str
    why: str


@dataclass(frozen=True)
class Verdict:
    status: Status
    cpu_seconds: float


def read_pairs() -> dict[str, list[Pair]]:
    """The pairs by half."""
    pairs, fresh = ([Pair(**json.loads(line)) for line in file.read_text().splitlines()] for file in (PAIRS, FRESH))
    middle = len(pairs) // 2
    return dict(zip(HALVES, (pairs[:middle], pairs[middle:], fresh), strict=True))


def verdicts(
    verifier: str, pairs: Sequence[tuple[str, str]], spec: RewardSpec, command: Sequence[str] = COMMAND
) -> list[Verdict]:
    """One per (answer, reference), in order. ``spec`` has the limits; one child, so that no two share a core."""

    async def judge() -> list[Verdict]:
        async with VerifierPool(
            {verifier: None},
            workers=1,
            cpu_seconds=spec.timeout_seconds,
            memory_mib=spec.memory_limit_mib,
            command=command,
        ) as pool:
            return await asyncio.gather(*(_verdict(pool, Asked(verifier, Example(*pair))) for pair in pairs))

    with patch.object(pool_module, "verdict_by_text", lambda *_: None):
        return asyncio.run(judge())


async def _verdict(pool: VerifierPool, asked: Asked) -> Verdict:
    (outcome,) = await pool.verify([asked])
    match outcome.status:
        case "ok":
            return Verdict("equal" if outcome.reward == 1 else "unequal", outcome.cpu_seconds)
        case "timeout":
            return Verdict("timed out", outcome.cpu_seconds)
    return Verdict("crashed", outcome.cpu_seconds)


def read_references(path: Path) -> list[str]:
    """Each once, from a data set in the paper's evaluation format (``[{"final_answer": ...}, ...]``)."""
    return list(dict.fromkeys(record["final_answer"] for record in json.loads(path.read_text())))


def in_a_box(reference: str) -> str:
    r"""What is extracted from a response that gives the reference itself; empty where nothing is."""
    return extract_answer(f"<answer> \\boxed{{{reference}}} </answer>") or ""
