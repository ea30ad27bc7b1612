"""What the pool makes of pairs that misbehave. The children obey their answers (``fake_child``); all else is real."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from rz_workers.reward import pool as pool_module
from rz_workers.reward.interface import Example
from rz_workers.reward.pool import Asked, Outcome, VerifierPool
from rz_workers.runtime import UserError, WorkerError

FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))
T = TypeVar("T")


def with_pool(
    use: Callable[[VerifierPool], Awaitable[T]],
    *,
    workers: int = 2,
    cpu_seconds: float = 0.1,
    memory_mib: int = 512,
    wall_seconds: float = 60,
) -> T:
    async def run() -> T:
        pool = VerifierPool(
            {"legacy": None},
            workers=workers,
            cpu_seconds=cpu_seconds,
            memory_mib=memory_mib,
            wall_seconds=wall_seconds,
            command=FAKE,
        )
        async with pool:
            return await use(pool)

    return asyncio.run(run())


def ask(*pairs: tuple[str, str]) -> list[Asked]:
    return [Asked("legacy", Example(*pair)) for pair in pairs]


def equalities(outcomes: list[Outcome]) -> list[bool]:
    return [outcome.reward == 1 for outcome in outcomes]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_outcomes_come_in_the_order_of_the_pairs() -> None:
    pairs = [(f"same {n}" if n % 3 else f"other {n}", "x") for n in range(200)]
    outcomes = with_pool(lambda pool: pool.verify(ask(*pairs)))
    assert equalities(outcomes) == [bool(n % 3) for n in range(200)]


def test_the_same_pair_is_compared_once() -> None:
    async def use(pool: VerifierPool) -> int:
        await asyncio.gather(pool.verify(ask(("same", "x")) * 50), pool.verify(ask(("same", "x"))))
        await pool.verify(ask(("same", "x")))
        return pool.stats.comparisons

    assert with_pool(use) == 1


def test_the_same_text_needs_no_child() -> None:
    async def use(pool: VerifierPool) -> int:
        assert equalities(await pool.verify(ask(("segfault", "segfault")))) == [True]
        return pool.stats.comparisons

    assert with_pool(use) == 0


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "two\nlines", "\x00 \x1b[2J \u202e \U0001f600", '"], ["x'],
    ids=["a megabyte", "two lines", "control characters", "JSON"],
)
def test_any_text_reaches_the_verifier_as_it_is(text: str) -> None:
    pairs = [(f"is {text}", text), (f"is {text}", f"{text}!")]
    assert equalities(with_pool(lambda pool: pool.verify(ask(*pairs)))) == [True, False]


@pytest.mark.parametrize("busy", ["spin", "spin in C"])
def test_the_cpu_limit_is_a_verdict_and_the_pairs_behind_it_are_served(busy: str) -> None:
    async def use(pool: VerifierPool) -> list[Outcome]:
        outcomes = await pool.verify(ask(("same 1", "x"), (busy, "x"), *[(f"same {n}", "x") for n in range(2, 40)]))
        assert (pool.stats.timeouts, pool.stats.crashes) == (1, 0)
        return outcomes

    outcomes = with_pool(use, workers=1)
    assert [n for n, outcome in enumerate(outcomes) if outcome.status == "timeout"] == [1]
    assert equalities(outcomes) == [True, False] + [True] * 38


def test_the_cpu_limit_is_not_a_wall_time_limit() -> None:
    """A child that waits for three times its CPU limit has taken next to none of it."""
    (outcome,) = with_pool(lambda pool: pool.verify(ask(("after 0.3", "x"))), cpu_seconds=0.1)
    assert outcome.status == "ok"
    assert outcome.cpu_seconds < 0.1


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("error", "RuntimeError: the verifier has a defect"),
    ],
)
def test_an_example_that_keeps_crashing_has_no_reward_after_three_children(
    answer: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(pool: VerifierPool) -> VerifierPool:
        outcomes = await pool.verify(ask(("same", "x"), (answer, "x"), ("other", "x")))
        assert [(outcome.reward, outcome.status) for outcome in outcomes] == [(1, "ok"), (0, "crashed"), (0, "ok")]
        assert equalities(await pool.verify(ask(("same", "x"), ("other", "x")))) == [True, False]
        return pool

    pool = with_pool(use)
    assert pool.stats.crashes == 3
    assert f"the verifier legacy crashed 3 times ({cause}) on answer {answer!r}" in caplog.text


def test_the_memory_limit_is_a_verdict_of_a_fresh_child() -> None:
    """The first child has judged another before: what that left behind must not count against the second."""

    async def use(pool: VerifierPool) -> tuple[list[Outcome], int]:
        outcomes = await pool.verify(ask(("same", "x"), ("memory", "x"), ("other", "x")))
        return outcomes, pool.stats.children_started

    outcomes, children = with_pool(use, workers=1)
    assert [(outcome.reward, outcome.status) for outcome in outcomes] == [(1, "ok"), (0, "memory"), (0, "ok")]
    assert children == 3


def test_a_crash_that_does_not_come_again_leaves_no_trace_in_the_verdict(tmp_path: Path) -> None:
    pairs = [("same 1", "x"), (f"segfault once {tmp_path / 'seen'}", "x"), ("other", "x")]
    assert equalities(with_pool(lambda pool: pool.verify(ask(*pairs)))) == [True, True, False]


def test_silence_counts_as_a_crash_not_as_a_verdict() -> None:
    async def use(pool: VerifierPool) -> None:
        (outcome,) = await pool.verify(ask(("sleep", "x")))
        assert outcome.status == "crashed"

    with_pool(use, wall_seconds=0.05)


def test_a_request_that_is_given_up_does_not_disturb_another_for_the_same_pair() -> None:
    async def use(pool: VerifierPool) -> list[Outcome]:
        first = asyncio.create_task(pool.verify(ask(("spin", "x"))))
        second = asyncio.create_task(pool.verify(ask(("spin", "x"))))
        await asyncio.sleep(0)  # both have asked
        first.cancel()
        return await second

    assert [outcome.status for outcome in with_pool(use)] == ["timeout"]


def test_a_child_is_replaced_after_many_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "RETIRE_AFTER", 50)

    async def use(pool: VerifierPool) -> int:
        await pool.verify(ask(*((f"same {n}", "x") for n in range(300))))
        return pool.stats.children_started

    assert with_pool(use, workers=1) >= 4


def test_when_the_fork_server_dies_everything_that_waits_is_told() -> None:
    async def use(pool: VerifierPool) -> None:
        await pool.verify(ask(("same", "x")))
        waiting = asyncio.create_task(pool.verify(ask(("sleep", "x"))))
        await asyncio.sleep(0)  # it has been handed to a child
        os.kill(pool._server._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="fork server of the verifiers is gone"):
            await waiting
        with pytest.raises(WorkerError, match="fork server of the verifiers is gone"):
            await pool.verify(ask(("other", "x")))
        assert pool.give_up_reason() is not None

    with_pool(use)


def test_no_child_outlives_the_pool(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    async def use(pool: VerifierPool) -> int:
        await pool.verify(ask(("pid", str(tmp_path / "child"))))
        busy = asyncio.create_task(pool.verify(ask((f"spin once {begun}", "x"))))
        while not begun.exists():
            await asyncio.sleep(0.01)
        busy.cancel()
        (child,) = tmp_path.glob("child.*")
        return int(child.suffix[1:])

    pid = with_pool(use, workers=1, cpu_seconds=60)
    wait_until(lambda: not alive(pid))


def test_a_memory_limit_that_the_verifier_does_not_fit_in_is_refused() -> None:
    with pytest.raises(UserError, match=r"reward\.memoryLimitMib is 64, but .* needs at least \d+ MiB"):
        with_pool(lambda pool: pool.verify(ask()), memory_mib=64)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.01)
