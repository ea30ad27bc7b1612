"""How often verifiers err on labelled pairs: wrong answers accepted, right ones refused; and how fast they are.

    python bench/grading/grade.py [--only NAME ...] [--self FILE] [--json] [--write] [--check]

Every verifier of the project judges every pair of ``pairs.jsonl``, in a child with the limits of CPU time and memory
that a run has by default. A pair that hits one counts as that, neither right nor wrong. The first half of the pairs may
be looked at by whoever writes a verifier; the second is held out.

--only NAME ...  these verifiers alone
--self FILE      also every reference of a data set against itself, boxed; those that are not equal are listed
--json           all figures, and every pair judged otherwise than its label, as JSON; bars are not held
--write          keep the figures (``figures.json``) and write docs/grading.md from them: ``make grading``
--check          judge nothing; end with 1 when docs/grading.md, the figures, the pairs and the verifiers don't agree

Seconds are CPU time of the comparisons, on this machine. Ends with 1 when a bar of ``bars.toml`` is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import report
from bars import hold
from judge import VERIFIERS, Pair, Verdict, in_a_box, read_pairs, read_references, verdicts

from rz_api.spec import RewardSpec

BARS = {
    "math-verify": ("grading-math-verify-accepted-wrong", "grading-math-verify-refused-right"),
    "robust": ("grading-robust-accepted-wrong", "grading-robust-refused-right"),
    "legacy": ("grading-legacy-accepted-wrong", "grading-legacy-refused-right"),
}
"""Of each verifier that has bars, for both halves together."""


def count(pairs: Sequence[Pair], judged: Sequence[Verdict]) -> report.Half:
    """The figures of one verifier on one half."""
    half = report.Half()
    for pair, verdict in zip(pairs, judged, strict=True):
        half.count(pair.kind, pair.equal, verdict.status, verdict.cpu_seconds)
    return half


def misjudged(half: str, pairs: Sequence[Pair], judged: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The pairs whose verdict is not their label, with both."""
    return [
        {"half": half, **asdict(pair), "verdict": verdict.status}
        for pair, verdict in zip(pairs, judged, strict=True)
        if verdict.status != ("equal" if pair.equal else "unequal")
    ]


def grade(name: str, halves: Mapping[str, Sequence[Pair]]) -> tuple[report.Grade, list[dict[str, Any]]]:
    """The figures of a verifier on both halves, and what it misjudged."""
    figures, wrong = report.Grade(), []
    for half, pairs in halves.items():
        judged = verdicts(name, [(pair.answer, pair.reference) for pair in pairs], RewardSpec())
        figures.halves[half] = count(pairs, judged)
        wrong += misjudged(half, pairs, judged)
    return figures, wrong


def exceptions(name: str, references: Sequence[str]) -> list[str]:
    """References that are not equal to themselves."""
    judged = verdicts(name, [(in_a_box(reference), reference) for reference in references], RewardSpec())
    return [reference for reference, verdict in zip(references, judged, strict=True) if verdict.status != "equal"]


def held(grades: Mapping[str, report.Grade]) -> bool:
    """Hold the bars of those verifiers that have some."""
    results = []
    for name in (name for name in grades if name in BARS):
        halves = [grades[name].halves[half] for half in ("first", "second")]
        accepted, refused = BARS[name]
        results.append(hold(accepted, sum(half.accepted_wrong for half in halves)))
        results.append(hold(refused, sum(half.refused_right for half in halves)))
    return all(results)


def main() -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VERIFIERS, default=VERIFIERS)
    parser.add_argument("--self", type=Path, dest="data", metavar="FILE")
    for option in ("--json", "--write", "--check"):
        parser.add_argument(option, action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        wanting = report.stale(VERIFIERS)
        return f"{wanting}: run `make grading`" if wanting else 0
    if arguments.write and set(arguments.only) != set(VERIFIERS):
        parser.error("--write takes every verifier: leave out --only")
    references = read_references(arguments.data) if arguments.data else []
    grades, wrong = {}, {}
    for name in arguments.only:
        grades[name], wrong[name] = grade(name, read_pairs())
        if references:
            itself = exceptions(name, references)
            grades[name].itself = report.Itself(data=arguments.data.name, references=len(references), exceptions=itself)
    if arguments.write:
        report.write(grades)
    if arguments.json:
        print(json.dumps({name: {**grades[name].model_dump(), "misjudged": wrong[name]} for name in grades}, indent=1))
        return 0
    print(report.tables(grades))
    return 0 if held(grades) else 1


if __name__ == "__main__":
    sys.exit(main())
