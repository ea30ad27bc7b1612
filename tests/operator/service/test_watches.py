"""When the watches are started anew, what stands in for them meanwhile, and what is told. Seconds of watches of 60."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from service_fakes import VirtualLoop, run_virtually
from watch_fakes import FakeContent, FakeLife, opened, refused

from rz_operator.apiserver.cluster import ApiError
from rz_operator.service.main import keep_listing
from rz_operator.service.pulse import Limits, Pulse
from rz_operator.service.watches import Watches

LIMITS = Limits(60)


class Scene:
    """Watches of one kind, in virtual time. ``on_start`` is what each life of kopf does as it begins."""

    def __init__(self, loop: VirtualLoop, on_start: Callable[[Scene, FakeLife], None]) -> None:
        self.loop = loop
        self.pulse = Pulse(["Pod"], LIMITS, loop.time)
        self.began: list[float] = []
        self.reasons: list[str] = []
        self.lives: list[FakeLife] = []
        self.stop = asyncio.Event()
        self._on_start = on_start
        self.watches = Watches(self._start, self.pulse, LIMITS, self.reasons.append)
        self.running = asyncio.create_task(self.watches.run(self.stop))

    def _start(self) -> FakeLife:
        self.began.append(self.loop.time())
        self.lives.append(FakeLife())
        self._on_start(self, self.lives[-1])
        return self.lives[-1]

    async def at(self, seconds: float) -> None:
        await asyncio.sleep(seconds - self.loop.time())

    async def end(self) -> None:
        self.stop.set()
        await self.running


def ends_at_once(_: Scene, life: FakeLife) -> None:
    life.ended.set_result("OSError: gone")


def is_silent(scene: Scene, _: FakeLife) -> None:
    opened(scene.pulse)


def is_refused(scene: Scene, _: FakeLife) -> None:
    async def ask() -> None:
        while True:
            refused(scene.pulse)
            await asyncio.sleep(10)

    scene.asking = asyncio.create_task(ask())  # type: ignore[attr-defined]


async def speak(content: FakeContent) -> None:
    while True:
        content.say()
        await asyncio.sleep(30)


def test_one_that_ends_again_and_again_is_started_anew_ever_more_slowly() -> None:
    async def main(loop: VirtualLoop) -> tuple[list[float], set[str]]:
        scene = Scene(loop, ends_at_once)
        await scene.at(200)
        await scene.end()
        return scene.began, set(scene.reasons)

    began, reasons = run_virtually(main)
    assert began == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert reasons == {"ended"}


def test_one_that_lived_is_started_anew_after_a_second() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        scene = Scene(loop, is_silent)
        for seconds in (100, 200, 300):
            await scene.at(seconds - 50)
            opened(scene.pulse).say()
            await scene.at(seconds)
            scene.lives[-1].ended.set_result("gone")
        await scene.at(310)
        await scene.end()
        return scene.began

    assert run_virtually(main) == [0, 101, 201, 301]


def test_a_silent_one_is_noticed_after_75_seconds_and_started_anew_after_150() -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = Scene(loop, is_silent)
        await scene.at(75)
        assert not scene.watches.degraded.is_set()
        assert scene.watches.trouble() == ""
        await scene.at(77)
        assert scene.watches.degraded.is_set()
        assert scene.watches.trouble() == (
            "the watch of pods has been silent for 76 s, at most 75 s is expected; a full list every 10 s stands in"
        )
        await scene.at(153)
        assert scene.lives[0].ended.done()
        assert (len(scene.lives), scene.reasons) == (2, ["silent"])
        speaking = asyncio.create_task(speak(opened(scene.pulse)))
        await scene.at(155)
        assert not scene.watches.degraded.is_set()
        assert scene.watches.trouble() == ""
        await scene.at(3600)
        assert len(scene.lives) == 2
        speaking.cancel()
        await scene.end()

    run_virtually(main)


@pytest.mark.parametrize(
    ("on_start", "is_listed", "stuck"),
    [
        (
            is_silent,
            True,
            "stuck: the watch of pods has been silent for 640 s, at most 150 s is expected; 4 restarts of the watches "
            "did not help, though the API server answers",
        ),
        (is_silent, False, ""),
        (is_refused, True, ""),
        (ends_at_once, True, ""),
    ],
    ids=[
        "starting anew does not help",
        "the API server does not answer at all: another process is no use",
        "it is refused: another process would be refused as well",
        "it is not silent for long yet",
    ],
)
def test_only_what_another_process_may_put_right_is_a_failure_of_the_probe(
    on_start: Callable[[Scene, FakeLife], None], is_listed: bool, stuck: str
) -> None:
    async def main(loop: VirtualLoop) -> str:
        scene = Scene(loop, on_start)
        await scene.at(640 if on_start is not ends_at_once else 100)
        if is_listed:
            scene.watches.listed()
        found = scene.watches.stuck()
        assert scene.watches.trouble()
        await scene.end()
        return found

    assert run_virtually(main) == stuck


def test_a_stop_while_it_backs_off_is_heard_at_once() -> None:
    async def main(loop: VirtualLoop) -> float:
        scene = Scene(loop, ends_at_once)
        await scene.at(125)
        await scene.end()
        return loop.time()

    assert run_virtually(main) == 125


def test_full_lists_stand_in_for_the_watches_every_ten_seconds() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        scene, lists = Scene(loop, is_silent), []

        async def full_list() -> None:
            lists.append(loop.time())
            if len(lists) == 2:
                raise ApiError(503, "Busy", "later")

        listing = asyncio.create_task(keep_listing(full_list, scene.watches, 600, LIMITS.retry_seconds))
        await scene.at(110)
        speaking = asyncio.create_task(speak(opened(scene.pulse)))
        await scene.at(1000)
        for task in (listing, speaking):
            task.cancel()
        await scene.end()
        return lists

    assert run_virtually(main) == [76, 86, 96, 106, 716]
