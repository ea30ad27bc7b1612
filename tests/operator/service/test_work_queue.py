"""The work queue, in virtual time: scripts of what happens when, and of what must be worked on when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from service_fakes import VirtualLoop, run_virtually

from rz_operator.service.work_queue import SETTLE_SECONDS, WorkQueue

S = SETTLE_SECONDS
Script = list[tuple[float, Callable[[WorkQueue[str]], None]]]


@dataclass
class Desk:
    """What is done with a key: it takes ``takes`` seconds, fails ``failures`` times, else gives ``looks``."""

    loop: VirtualLoop
    takes: dict[str, float] = field(default_factory=dict)
    looks: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    begins: list[tuple[float, str]] = field(default_factory=list)
    results: list[tuple[str, float]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def work(self, key: str) -> float | None:
        self.begins.append((round(self.loop.time(), 6), key))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.takes.get(key, 0.0))
            if self.failures.get(key, 0) > 0:
                self.failures[key] -= 1
                raise RuntimeError(f"no luck with {key}")
            return self.looks.get(key)
        finally:
            self.at_once -= 1

    def result(self, result: str, seconds: float) -> None:
        self.results.append((result, round(seconds, 6)))


def play(script: Script, until: float, concurrency: int = 2, **desk: dict[str, float]) -> Desk:
    """Run a queue from 0 to ``until`` seconds, with these things happening to it."""

    async def main(loop: VirtualLoop) -> Desk:
        found = Desk(loop, **desk)  # type: ignore[arg-type]
        queue = WorkQueue(found.work, concurrency, clock=loop.time, on_result=found.result)
        running = asyncio.create_task(queue.run())
        for at, do in script:
            await asyncio.sleep(at - loop.time())
            do(queue)
        await asyncio.sleep(until - loop.time())
        running.cancel()
        await asyncio.wait([running])
        return found

    return run_virtually(main)


def add(key: str, after: float = 0.0) -> Callable[[WorkQueue[str]], None]:
    return lambda queue: queue.add(key, after)


@pytest.mark.parametrize(
    ("script", "desk", "want"),
    [
        ([(0, add("a"))], {}, [(S, "a")]),
        ([(0, add("a", 60))], {}, [(60, "a")]),
        ([(0, add("a", 60)), (1, add("a", 5))], {}, [(6, "a")]),
        ([(0, add("a", 5)), (1, add("a", 60))], {}, [(5, "a")]),
        ([(0, add("a")), (0.05, add("a")), (0.1, add("a"))], {}, [(S, "a")]),
        ([(0, add("a"))], {"looks": {"a": 40}}, [(S, "a"), (S + 40, "a"), (S + 80, "a")]),
        ([(0, add("a")), (10, add("a"))], {"looks": {"a": 90}}, [(S, "a"), (10 + S, "a")]),
        ([(0, add("a")), (1, add("a"))], {"takes": {"a": 7}}, [(S, "a"), (7 + S, "a")]),
        ([(0, add("a")), (7, add("a"))], {"takes": {"a": 7}}, [(S, "a"), (7 + S, "a")]),
        ([(0, add("a")), (1, add("a", 30))], {"takes": {"a": 7}}, [(S, "a"), (31, "a")]),
        (
            [(0, add("a")), (0, add("b")), (0.01, add("c"))],
            {"takes": {"a": 9, "b": 3}},
            [(S, "a"), (S, "b"), (3 + S, "c")],
        ),
    ],
    ids=[
        "a key is worked on after the settling delay",
        "or later, if that is asked for",
        "an earlier due time wins",
        "a later one changes nothing",
        "a burst is one piece of work",
        "a look is taken again when the work says so",
        "an event comes before the next look that was agreed",
        "added while it is worked on: done again at once afterwards",
        "added at the very moment of its end",
        "added for later while it is worked on",
        "two workers: the third key waits for the first that is free",
    ],
)
def test_what_is_worked_on_when(
    script: Script, desk: dict[str, dict[str, float]], want: list[tuple[float, str]]
) -> None:
    found = play(script, until=100, **desk)
    assert found.begins == [(pytest.approx(at), key) for at, key in want]


@pytest.mark.parametrize(
    ("script", "failures", "want"),
    [
        ([(0, add("a"))], 4, [0, 1, 3, 7, 15]),
        ([(0, add("a")), (10, add("a"))], 9, [0, 1, 3, 7, 12, 28, 60, 124, 252, 508]),
        ([(0, add("a")), (14 + S, add("a"))], 9, [0, 1, 3, 7, 14 + S, 30 + S, 62 + S, 126 + S, 254 + S, 510 + S]),
        ([(0, add("a")), (100, add("a"))], 1, [0, 1, 100]),
    ],
    ids=[
        "the wait doubles",
        "an event soon after a failure waits a little all the same",
        "a later event does not, and the doubling goes on",
        "after a success there is none",
    ],
)
def test_a_failure_is_tried_again_after_a_back_off(script: Script, failures: int, want: list[float]) -> None:
    found = play(script, until=700, failures={"a": failures})
    assert [at - S for at, _ in found.begins] == pytest.approx(want)


def test_the_back_off_ends_at_its_limit() -> None:
    found = play([(0, add("a"))], until=4000, failures={"a": 99})
    waits = [later - sooner for (sooner, _), (later, _) in zip(found.begins, found.begins[1:], strict=False)]
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256] + [300] * (len(waits) - 9))
    assert len(waits) > 15


def test_a_failure_stops_nobody_else_and_is_counted() -> None:
    found = play([(0, add("bad")), (0, add("good"))], until=50, concurrency=1, failures={"bad": 1}, looks={"good": 20})
    assert [key for _, key in found.begins] == ["bad", "good", "bad", "good", "good"]
    assert [result for result, _ in found.results] == ["failed", "done", "done", "done", "done"]


def test_a_traceback_is_logged_once_as_long_as_the_failure_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        play([(0, add("ns/a"))], until=5, failures={"ns/a": 9})
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False]
    assert caplog.messages[1] == "ns/a failed (2 in a row), again in 2 s: RuntimeError: no luck with ns/a"


def test_the_seconds_of_each_work_are_told() -> None:
    assert play([(0, add("a"))], until=50, takes={"a": 3.5}).results == [("done", 3.5)]


def test_forty_pods_are_one_reconcile_and_no_two_workers_share_a_key() -> None:
    events: Script = [(n * 0.004, add("gang")) for n in range(40)]
    found = play(events, until=30, concurrency=8, takes={"gang": 1})
    assert len(found.begins) == 1
    events = [(n * 0.1, add("gang")) for n in range(100)]
    found = play(events, until=60, concurrency=8, takes={"gang": 1})
    assert found.most_at_once == 1
    assert len(found.begins) <= 11


def test_keys_are_taken_in_the_order_in_which_they_fell_due() -> None:
    names = [f"run-{n}" for n in range(20)]
    found = play(
        [(0, add(name, 10 - n * 0.25)) for n, name in enumerate(names)],
        until=60,
        concurrency=1,
        takes=dict.fromkeys(names, 2.0),
    )
    assert [key for _, key in found.begins] == names[::-1]


def test_a_key_that_comes_again_and_again_does_not_starve_the_others() -> None:
    script: Script = [(0, add("hot")), (0.5, add("cold"))]
    found = play(script, until=20, concurrency=1, takes={"hot": 1.0, "cold": 1.0}, looks={"hot": 0.0})
    assert found.begins[1] == (pytest.approx(1 + S), "cold")


def test_no_more_workers_than_asked_for() -> None:
    names = [f"run-{n}" for n in range(30)]
    found = play([(0, add(name)) for name in names], until=60, concurrency=4, takes=dict.fromkeys(names, 1.0))
    assert found.most_at_once == 4
    assert found.begins[-1][0] == pytest.approx(S + 7)


def test_work_that_hangs_shows_and_blocks_no_other_worker() -> None:
    async def main(loop: VirtualLoop) -> None:
        desk = Desk(loop, takes={"hangs": 1e9}, looks={"fine": 10})
        queue = WorkQueue(desk.work, 2, clock=loop.time)
        running = asyncio.create_task(queue.run())
        queue.add("hangs")
        queue.add("fine")
        await asyncio.sleep(105 + S)
        assert queue.longest_running_seconds() == pytest.approx(105)
        assert queue.longest_running_seconds(now=200 + S) == pytest.approx(200)
        assert queue.oldest_due_seconds() == 0
        assert queue.depth == 0
        assert sum(key == "fine" for _, key in desk.begins) >= 10
        running.cancel()
        await asyncio.wait([running])
        assert queue.longest_running_seconds() == 0, "its worker was cancelled"

    run_virtually(main)


def test_what_waits_for_a_worker_shows() -> None:
    async def main(loop: VirtualLoop) -> None:
        desk = Desk(loop, takes={"slow": 50})
        queue = WorkQueue(desk.work, 1, clock=loop.time)
        running = asyncio.create_task(queue.run())
        for key in ("slow", "b", "c"):
            queue.add(key)
        queue.add("later", after=500)
        await asyncio.sleep(30 + S)
        assert queue.depth == 2, "one is worked on, one is due later"
        assert queue.oldest_due_seconds() == pytest.approx(30)
        await asyncio.sleep(30)
        assert (queue.depth, queue.oldest_due_seconds(), queue.longest_running_seconds()) == (0, 0, 0)
        running.cancel()
        await asyncio.wait([running])

    run_virtually(main)


def test_a_long_queue_that_gets_shorter_is_not_stalled() -> None:
    async def main(loop: VirtualLoop) -> None:
        names = [f"run-{n}" for n in range(20)]
        desk = Desk(loop, takes=dict.fromkeys(names, 30.0), failures=dict.fromkeys(names, 9))
        queue = WorkQueue(desk.work, 1, clock=loop.time)
        for name in names:
            queue.add(name)
        await asyncio.sleep(100 + S)
        assert queue.stalled_seconds() == pytest.approx(100), "nobody runs it"
        running = asyncio.create_task(queue.run())
        await asyncio.sleep(405)
        assert queue.oldest_due_seconds() > 400
        assert queue.stalled_seconds() == pytest.approx(15)
        running.cancel()
        await asyncio.wait([running])

    run_virtually(main)


def test_there_is_no_busy_loop() -> None:
    async def main(loop: VirtualLoop) -> int:
        desk = Desk(loop, looks={"a": 600})
        queue = WorkQueue(desk.work, 2, clock=loop.time)
        running = asyncio.create_task(queue.run())
        queue.add("a")
        for n in range(500):
            queue.add(f"idle-{n}", after=1e6)
        before = loop.selector.waits
        await asyncio.sleep(3600)
        running.cancel()
        return loop.selector.waits - before

    assert run_virtually(main) < 40, "6 looks in an hour, and a few turns of the loop for each"


def test_a_cancelled_error_from_within_the_work_is_a_failure_like_any_other() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        results: list[str] = []

        async def work(key: str) -> None:
            if not results:
                raise asyncio.CancelledError

        queue = WorkQueue(work, 1, clock=loop.time, on_result=lambda result, seconds: results.append(result))
        running = asyncio.create_task(queue.run())
        queue.add("a")
        await asyncio.sleep(10)
        assert not running.done()
        running.cancel()
        return results

    assert run_virtually(main) == ["failed", "done"]


def test_the_end_waits_for_no_work_that_does_not_listen() -> None:
    async def main(loop: VirtualLoop) -> float:
        async def work(key: str) -> None:
            for _ in range(3):
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    continue

        queue = WorkQueue(work, 1, clock=loop.time)
        running = asyncio.create_task(queue.run())
        queue.add("a")
        await asyncio.sleep(10)
        running.cancel()
        await asyncio.wait([running])
        return loop.time() - 10

    assert run_virtually(main) == pytest.approx(5)


def test_a_counter_that_fails_loses_no_key() -> None:
    async def main(loop: VirtualLoop) -> int:
        desk = Desk(loop, looks={"a": 10})

        def fail(result: str, seconds: float) -> None:
            raise ValueError("no such label")

        queue = WorkQueue(desk.work, 1, clock=loop.time, on_result=fail)
        running = asyncio.create_task(queue.run())
        queue.add("a")
        await asyncio.sleep(35)
        running.cancel()
        return len(desk.begins)

    assert run_virtually(main) == 4


def test_what_was_overtaken_does_not_pile_up() -> None:
    async def work(key: str) -> None: ...

    queue = WorkQueue(work, 1, clock=lambda: 0.0)
    for n in range(10_000):
        queue.add("a", after=20_000 - n)
    assert len(queue._heap) < 100
