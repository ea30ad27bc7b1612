"""A verifier of somebody's own in real children: what it does is a status, never a reward, and the next is served."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rz_workers.protocol.messages import VerifyItem
from rz_workers.reward.app import create_app, judge
from rz_workers.reward.interface import Example
from rz_workers.reward.pool import Asked, Outcome, VerifierPool
from rz_workers.runtime import UserError

FILE = Path(__file__).with_name("misbehaving.py")
GRADE, READER = f"{FILE}:grade", f"{FILE}:reader"
T = TypeVar("T")


def with_pool(use: Callable[[VerifierPool], Awaitable[T]], *names: str) -> T:
    async def run() -> T:
        verifiers = dict.fromkeys(names or (GRADE,))
        async with VerifierPool(verifiers, workers=1, cpu_seconds=1, memory_mib=512) as pool:
            return await use(pool)

    return asyncio.run(run())


def outcomes(*asked: Asked) -> list[Outcome]:
    return with_pool(lambda pool: pool.verify(asked))


BECOMES: dict[str, tuple[float, str]] = {
    "burns CPU": (0, "timeout"),
    "burns CPU without its timer": (0, "timeout"),
    "allocates": (0, "memory"),
    "allocates and keeps": (0, "memory"),
    "prints 1 GB": (1, "ok"),
    "writes a file": (0, "crashed"),
    "forks and returns twice": (0.75, "ok"),
    "forks, burns, waits": (0.5, "ok"),
    "detaches": (1, "ok"),
    "detaches and dies": (0, "crashed"),
    "leaves a thread": (1, "ok"),
    "calls a program": (1, "ok"),
    "raises": (0, "crashed"),
    "exits": (0, "crashed"),
    "exits at once": (0, "crashed"),
    "is interrupted": (0, "crashed"),
    "returns NaN": (0, "crashed"),
    "returns infinity": (0, "crashed"),
    "returns 1.5": (0, "crashed"),
    "returns -0.1": (0, "crashed"),
    "returns nothing": (0, "crashed"),
    "returns a text": (0, "crashed"),
    "returns a text in a judgement": (0, "crashed"),
    "returns a rule of a megabyte": (0, "crashed"),
    "returns a figure that is none": (0, "crashed"),
    "returns True": (1, "ok"),
    "returns a judgement": (0.5, "ok"),
}


@pytest.mark.parametrize(("does", "becomes"), BECOMES.items(), ids=BECOMES)
def test_a_verifier_that(does: str, becomes: tuple[float, str], tmp_path: Path) -> None:
    """One child: what comes behind is judged by it, or by the one that took its place."""
    before = strays()
    reference = str(tmp_path / "file")
    given = outcomes(*(Asked(GRADE, Example(answer, reference)) for answer in (does, "right")))
    assert [(outcome.reward, outcome.status) for outcome in given] == [becomes, (1, "ok")]
    assert strays() == before
    assert not Path(reference).exists() or not Path(reference).stat().st_size


def strays() -> set[str]:
    """Processes that ``detach`` has left."""

    def name(pid: str) -> str:
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return ""

    return {pid for pid in os.listdir("/proc") if pid.isdigit() and name(pid) == "rz-stray"}


def test_what_it_detached_does_not_outlive_the_service() -> None:
    before = strays()

    async def use(pool: VerifierPool) -> None:
        busy = asyncio.create_task(pool.verify([Asked(GRADE, Example("detaches and waits", ""))]))
        while strays() == before:
            await asyncio.sleep(0.01)
        busy.cancel()

    with_pool(use)
    assert strays() == before


def test_what_it_did_wrong_is_told(caplog: pytest.LogCaptureFixture) -> None:
    outcomes(*(Asked(GRADE, Example(does, "7")) for does in ("returns NaN", "raises", "exits")))
    for words in ("the reward nan", "a finite number is required", "ValueError: cannot read this", "SystemExit: 0"):
        assert words in caplog.text


def test_it_is_given_the_whole_record_and_gives_rule_and_figures() -> None:
    example = Example("returns what it was given", "7", "response", "how many?", {"reward": 0.25})

    async def use(pool: VerifierPool) -> tuple[list[Outcome], str]:
        registry = CollectorRegistry()
        create_app(pool, GRADE, None, registry)
        given = await pool.verify([Asked(GRADE, each) for each in (example, replace(example, response="none"))])
        return given, generate_latest(registry).decode()

    (outcome, _), metrics = with_pool(use)
    assert (outcome.reward, outcome.rule, outcome.figures) == (0.25, "how many?", {"letters": 8.0})
    assert 'rz_reward_figure{figure="letters"} 6.0' in metrics


def test_the_same_example_twice_is_judged_twice() -> None:
    """Nobody has promised that its verdict follows from answer and reference."""

    async def use(pool: VerifierPool) -> int:
        await pool.verify([Asked(GRADE, Example("right", "7"))] * 2)
        return pool.stats.comparisons

    assert with_pool(use) == 2


def test_items_are_judged_each_by_its_own_verifier() -> None:
    """Only one that reads responses itself is asked where no answer was found."""

    def item(verifier: str, text: str, stopped: bool = True) -> VerifyItem:
        return VerifyItem(response=text, reference_answer="right", stopped=stopped, verifier=verifier)

    boxed = "<answer> \\boxed{right} </answer>"
    items = (
        item(GRADE, boxed),
        item("", boxed),
        item(GRADE, "no answer"),
        item(READER, "no answer"),
        item(READER, "no end", stopped=False),
    )
    verdicts = with_pool(lambda pool: judge(pool, items, "legacy"), GRADE, READER, "legacy")
    assert [(verdict.reward, verdict.status, verdict.rule) for verdict in verdicts] == [
        (1.0, "ok", ""),
        (1.0, "ok", "text"),
        (0.0, "no_answer", ""),
        (1.0, "ok", ""),
        (0.0, "truncated", ""),
    ]


BROKEN: dict[str, tuple[str, str]] = {
    "a module that is not there": ("no_such_module:grade", "there is no module no_such_module in the reward image"),
    "a function that is not there": (f"{FILE}:garde", "found no function garde"),
    "something that can't be called": (f"{FILE}:not_a_function", "found no function not_a_function"),
    "a file that ends the process": ("{}/ends.py:grade", "can't be imported: SystemExit: 1"),
    "a file that is no Python": ("{}/broken.py:grade", "can't be imported: SyntaxError"),
    "a module that imports another": ("{}/needs.py:grade", "can't be imported: ModuleNotFoundError: No module named"),
}


@pytest.mark.parametrize(("name", "words"), BROKEN.values(), ids=BROKEN)
def test_a_verifier_that_can_not_be_loaded_ends_the_service(name: str, words: str, tmp_path: Path) -> None:
    for file, text in {"ends": "raise SystemExit(1)", "broken": "def", "needs": "import no_such_module"}.items():
        (tmp_path / f"{file}.py").write_text(text)
    with pytest.raises(UserError, match=words):
        with_pool(lambda pool: pool.verify([]), name.format(tmp_path))
