"""A pair is graded on this machine as in a run: in a child, under the run's limits of CPU time and memory.

``rz grade`` calls it, without a server. One pair: a line for people, and exit code 0 where it has the whole reward,
else 1. A file of pairs: a JSON line for each, and 1 where a verifier crashed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rz_api.spec import RewardSpec
from rz_workers.reward.interface import Example
from rz_workers.reward.lines import read_lines
from rz_workers.reward.pool import Asked, Outcome, VerifierPool
from rz_workers.runtime import UserError, worker_process

_OF_EXAMPLE = ("answer", "reference", "response", "question")
Pair = dict[str, Any]
"""A line of the file: ``answer``, ``reference``, and what else it has."""


def read_pairs(file: Path) -> list[Pair]:
    """Raises UserError for a file that can't be read, and for a line that is no pair."""
    required = 'found no pair; a line {"answer": ..., "reference": ...} is required at least'
    return [_pair(line, where) for where, line in read_lines(file, required)]


def _pair(line: str, where: str) -> Pair:
    try:
        pair = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: found no JSON ({error}); an object with answer and reference is required") from None
    if not isinstance(pair, dict):
        raise UserError(f"{where}: found {type(pair).__name__}; an object with answer and reference is required")
    for name in _OF_EXAMPLE:
        value = pair.get(name, "" if name in ("response", "question") else None)
        if not isinstance(value, str) and not (name == "answer" and name in pair and value is None):
            found = f"{name} {value!r}" if name in pair else f"no {name}"
            raise UserError(f"{where}: found {found[:100]}; a text is required: correct the line")
    return pair


async def graded(pairs: Sequence[Pair], verifier: str, cpu_seconds: float, memory_mib: int) -> list[dict[str, Any]]:
    """A verdict for each pair, in order. Raises UserError for a verifier that can't be loaded."""
    asked = [Asked(verifier, example(pair)) for pair in pairs if has_answer(pair)]
    workers = min(2, len(pairs))
    async with VerifierPool({verifier: None}, workers=workers, cpu_seconds=cpu_seconds, memory_mib=memory_mib) as pool:
        outcomes = iter(await pool.verify(asked))
    return [verdict(next(outcomes) if has_answer(pair) else None) for pair in pairs]


def has_answer(pair: Pair) -> bool:
    return bool((pair["answer"] or "").strip())


def example(pair: Pair) -> Example:
    """What a verifier is given of it: the fields that an example has, and all others as the record's."""
    others = {name: value for name, value in pair.items() if name not in _OF_EXAMPLE}
    return Example(pair["answer"], pair["reference"], pair.get("response", ""), pair.get("question", ""), others)


def verdict(outcome: Outcome | None) -> dict[str, Any]:
    """``verdict`` is the reward; null where the verifier crashed, as there is none."""
    if outcome is None:
        return {"verdict": 0.0, "status": "no_answer", "seconds": 0.0, "rule": ""}
    reward = None if outcome.status == "crashed" else outcome.reward
    return {"verdict": reward, "status": outcome.status, "seconds": round(outcome.cpu_seconds, 6), "rule": outcome.rule}


def sentence(given: dict[str, Any], verifier: str) -> str:
    """``1 (ok) by the rule number of robust, 0.001 s of CPU time``."""
    reward = "no verdict" if given["verdict"] is None else f"{given['verdict']:g}"
    rule = f"the rule {given['rule']} of " if given["rule"] else ""
    return f"{reward} ({given['status']}) by {rule}{verifier}, {given['seconds']:.3f} s of CPU time"


def main() -> None:
    limits = RewardSpec()
    parser = argparse.ArgumentParser(prog="rz grade", description="Grade an answer, or a file of pairs.")
    parser.add_argument("answer", nargs="?")
    parser.add_argument("reference", nargs="?")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--verifier", default=limits.verifier)
    parser.add_argument("--cpu-seconds", type=float, default=limits.timeout_seconds)
    parser.add_argument("--memory-mib", type=int, default=limits.memory_limit_mib)
    given = parser.parse_args()
    if given.pairs is not None and given.answer is not None:
        raise UserError("found an answer and --pairs; one of the two is required: leave the other out")
    if given.pairs is None and given.reference is None:
        raise UserError("found no reference; an answer and a reference are required, or --pairs FILE")
    one = {"answer": given.answer, "reference": given.reference}
    pairs = [one] if given.pairs is None else read_pairs(given.pairs)
    verdicts = asyncio.run(graded(pairs, given.verifier, given.cpu_seconds, given.memory_mib))
    if given.pairs is None:
        print(sentence(verdicts[0], given.verifier))
        sys.exit(0 if verdicts[0]["verdict"] == 1.0 else 1)
    for pair, found in zip(pairs, verdicts, strict=True):
        print(json.dumps(pair | found, ensure_ascii=False))
    if any(found["verdict"] is None for found in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    with worker_process():
        main()
