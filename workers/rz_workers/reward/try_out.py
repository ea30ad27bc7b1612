"""A verifier is tried on examples before it teaches anybody, and as it will run: in children, under their limits.

``rz verifier test`` calls it. A file of JSON lines in, a line for each example and an exit code out: 0 where every
example came to what it expects, and none crashed that was not expected to; else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rz_workers.reward.extract import extract_answer
from rz_workers.reward.interface import Example
from rz_workers.reward.lines import read_lines
from rz_workers.reward.pool import Asked, Outcome, VerifierPool
from rz_workers.runtime import UserError, worker_process

CLOSE_ENOUGH = 1e-6
"""Between a reward and the one that is expected: people write 0.333333."""
LONGEST_SHOWN = 60


class Line(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str = ""
    answer: str | None = None
    """If absent, what is extracted from ``response``."""
    response: str = ""
    question: str = ""
    fields: dict[str, Any] = {}
    reward: float | None = None
    """Expected; absent where any will do."""
    status: str | None = None
    """Expected: ``ok``, ``no_answer``, ``timeout``, ``memory``, ``crashed``; absent is any but ``crashed``."""


def read_examples(file: Path) -> list[Line]:
    """Raises UserError for a file that can't be read, and for a line that is no example."""
    return [
        _example(line, where) for where, line in read_lines(file, "found no example; at least one line is required")
    ]


def _example(line: str, where: str) -> Line:
    try:
        return Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise UserError(f"{where}: found {field}: {first['msg']}; correct it") from None


async def judged(verifier: str, lines: Sequence[Line], cpu_seconds: float, memory_mib: int) -> list[Outcome | None]:
    """An outcome for each line; None where there is no answer. Raises UserError for a verifier that can't be loaded."""
    async with VerifierPool(
        {verifier: None}, workers=2, cpu_seconds=cpu_seconds, memory_mib=memory_mib, shows_output=True
    ) as pool:
        whole = verifier in pool.reads_responses
        answers = [_answer(line, whole) for line in lines]
        asked = [
            Asked(verifier, Example(answer, line.reference, line.response, line.question, line.fields))
            for line, answer in zip(lines, answers, strict=True)
            if answer is not None
        ]
        outcomes = iter(await pool.verify(asked))
        return [None if answer is None else next(outcomes) for answer in answers]


def _answer(line: Line, whole: bool) -> str | None:
    if whole:
        return line.response
    return extract_answer(line.response) if line.answer is None else line.answer


def is_as_expected(line: Line, outcome: Outcome | None) -> bool:
    reward, status = (0.0, "no_answer") if outcome is None else (outcome.reward, outcome.status)
    if line.status is None and status == "crashed":
        return False
    if line.status is not None and line.status != status:
        return False
    return line.reward is None or abs(line.reward - reward) <= CLOSE_ENOUGH


def row(number: int, line: Line, outcome: Outcome | None) -> str:
    """``1  1  ok  number  0.012 s  answer | reference``, and what was expected where it did not come."""
    given = outcome or Outcome(0.0)
    status = "no_answer" if outcome is None else given.status
    answer = line.answer if line.answer is not None else extract_answer(line.response)
    texts = " | ".join(_shown(text) for text in (answer or "", line.reference))
    figures = "".join(f"  {name}={value:g}" for name, value in given.figures.items())
    expected = ""
    if not is_as_expected(line, outcome):
        wanted = [] if line.reward is None else [f"reward {line.reward:g}"]
        wanted += [] if line.status is None else [f"status {line.status}"]
        expected = f"  <- expected {' and '.join(wanted) or 'no crash'}"
    return (
        f"{number:>4}  {given.reward:<6g} {status:<9} {given.rule or '-':<12} {given.cpu_seconds:7.3f} s  "
        f"{texts}{figures}{expected}"
    )


def _shown(text: str) -> str:
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    return plain if len(plain) <= LONGEST_SHOWN else plain[: LONGEST_SHOWN - 1] + "…"


def main() -> None:
    parser = argparse.ArgumentParser(prog="rz verifier test", description="Try a verifier on examples.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--verifier", required=True)
    parser.add_argument("--cpu-seconds", type=float, default=10.0)
    parser.add_argument("--memory-mib", type=int, default=1024)
    given = parser.parse_args()
    lines = read_examples(given.file)
    outcomes = asyncio.run(judged(given.verifier, lines, given.cpu_seconds, given.memory_mib))
    print("   #  reward status    rule          CPU time  answer | reference")
    for number, (line, outcome) in enumerate(zip(lines, outcomes, strict=True), start=1):
        print(row(number, line, outcome))
    bad = sum(not is_as_expected(line, outcome) for line, outcome in zip(lines, outcomes, strict=True))
    print(f"{len(lines) - bad} of {len(lines)} as expected by {given.verifier}")
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    with worker_process():
        main()
