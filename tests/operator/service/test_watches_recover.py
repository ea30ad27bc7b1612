"""Whatever becomes of the watches, a run that is created afterwards is seen by them: kopf itself, over real HTTP,
against an API server that misbehaves. No full list helps here.

A watch lasts one second instead of 60, and every other limit shrinks with it. Where nothing is to be found silent, the
clock of the pulse stands still (``frozen``): a machine that is busy for some seconds would be taken for a silence.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from service_fakes import settings
from watch_double import OLDEST_TOKEN, WatchDouble, error_line

from rz_operator.apiserver.cluster import Cluster
from rz_operator.service.handlers import WATCHED
from rz_operator.service.kopf_thread import KopfThread, lives
from rz_operator.service.pulse import Limits, Pulse
from rz_operator.service.watches import Watches

WATCH_SECONDS = 1
PATIENCE_SECONDS = 60.0
"""For what is waited for: only a test that fails takes them."""

Clock = Callable[[], float]


def frozen() -> float:
    return 0.0


@dataclass
class Scene:
    """An API server, and the watches of an operator."""

    server: WatchDouble
    token_file: Path
    watches: Watches
    pulse: Pulse
    seen: list[str] = field(default_factory=list)
    """Names of runs, in the order in which the cache is told."""
    restarts: list[str] = field(default_factory=list)
    lives: list[KopfThread] = field(default_factory=list)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)
        assert condition(), what

    async def until_watching(self) -> None:
        await self.until(lambda: self.server.num_open == len(WATCHED), "every kind is watched")

    async def until_asked(self, times: int = 1) -> None:
        """Until runs were watched, or asked for, so many times more."""
        before = len(self.server.watches)
        await self.until(lambda: len(self.server.watches) >= before + times, "watches are asked for")


@asynccontextmanager
async def watching(
    folder: Path, clock: Clock = time.monotonic, watch_seconds: int = WATCH_SECONDS
) -> AsyncIterator[Scene]:
    """``clock``: by which a watch is found silent."""
    server = WatchDouble()
    async with server.served() as url:
        token_file = folder / "token"
        token_file.write_text(OLDEST_TOKEN)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "t",
                    "clusters": [{"name": "t", "cluster": {"server": url}}],
                    "contexts": [{"name": "t", "context": {"cluster": "t", "user": "u"}}],
                    "users": [{"name": "u", "user": {"tokenFile": str(token_file)}}],
                }
            )
        )
        async with Cluster.connect(str(kubeconfig)) as cluster:
            limits = Limits(watch_seconds)
            pulse = Pulse(WATCHED, limits, clock)
            seen: list[str] = []
            begun: list[KopfThread] = []

            def tell(kind: str, body: dict[str, Any], deleted: bool) -> None:
                seen.append(body["metadata"]["name"])

            begin = lives(settings(watch_seconds=watch_seconds), cluster.credentials, pulse, tell)

            def start() -> KopfThread:
                begun.append(begin())
                return begun[-1]

            restarts: list[str] = []
            watches = Watches(start, pulse, limits, restarts.append)
            scene = Scene(server, token_file, watches, pulse, seen, restarts, begun)
            stop = asyncio.Event()
            running = asyncio.create_task(watches.run(stop))
            try:
                yield scene
            finally:
                stop.set()
                await running


async def dead_connections(scene: Scene) -> None:
    scene.server.stall()


async def no_answers(scene: Scene) -> None:
    scene.server.is_hanging = True
    scene.server.cut()
    await scene.until_asked(8)
    scene.server.is_hanging = False


async def held_back(scene: Scene) -> None:
    scene.server.is_mute = True
    scene.server.cut()
    await scene.until(lambda: scene.restarts, "it is noticed")
    scene.server.is_mute = False


async def rotated(scene: Scene) -> None:
    scene.server.token = "second"
    scene.server.cut()
    await scene.until_asked(8)
    scene.token_file.write_text("second")


async def doubted(scene: Scene) -> None:
    scene.server.token = "nobody's"
    scene.server.cut()
    await scene.until_asked(8)
    scene.server.token = OLDEST_TOKEN


def refused(status: int, only_watches: bool = False) -> Callable[[Scene], Awaitable[None]]:
    async def refuse(scene: Scene) -> None:
        which = "watch_refusal" if only_watches else "refusal"
        setattr(scene.server, which, status)
        scene.server.cut()
        await scene.until_asked(30)
        setattr(scene.server, which, 0)

    return refuse


async def compacted(scene: Scene) -> None:
    scene.server.forget()
    scene.server.cut()


def last_words(line: str) -> Callable[[Scene], Awaitable[None]]:
    async def say(scene: Scene) -> None:
        scene.server.last_words = [line]
        scene.server.cut()
        await scene.until(lambda: not scene.server.last_words, "it is said")

    return say


async def gone_as_an_answer(scene: Scene) -> None:
    scene.server.watch_refusal = 410
    scene.server.cut()
    await scene.until(lambda: scene.restarts, "kopf ends")
    scene.server.watch_refusal = 0


async def cut(scene: Scene) -> None:
    scene.server.cut()


async def cancelled_silently(scene: Scene) -> None:
    """What kopf's own time limit does to a watcher that is not reading when it strikes."""
    loop = scene.lives[-1]._loop
    assert loop is not None

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            if task.get_name().startswith("watcher for reasonerzeroruns"):
                task.cancel()

    loop.call_soon_threadsafe(cancel)
    await scene.until(lambda: scene.server.num_open < len(WATCHED), "it is gone")


async def stuck_loop(scene: Scene) -> None:
    """kopf's loop does not get on at all."""
    loop, go_on = scene.lives[-1]._loop, threading.Event()
    assert loop is not None
    loop.call_soon_threadsafe(go_on.wait, 20.0)
    scene.server.cut()
    await scene.until(lambda: scene.restarts, "it is noticed")
    go_on.set()


CASES: list[tuple[str, Callable[[Scene], Awaitable[None]], str]] = [
    ("the connections die without a word", dead_connections, ""),
    ("requests are accepted and never answered, for a while", no_answers, ""),
    ("a proxy answers and holds everything back, for a while", held_back, "silent"),
    ("the connections break", cut, ""),
    ("401 until the token's file has another one", rotated, ""),
    ("401 for a while, and then the same token is good again", doubted, ""),
    ("403 for a while, as when RBAC is applied anew", refused(403), ""),
    ("403 for a while, of watches alone", refused(403, only_watches=True), ""),
    ("429 for a while", refused(429), ""),
    ("503 for a while, as from a balancer", refused(503), ""),
    ("410 Gone within the watch", compacted, ""),
    ("410 Gone as the answer to a watch", gone_as_an_answer, "ended"),
    ("an error other than 410 within the watch", last_words(error_line(500)), "ended"),
    ("half a line", last_words('{"type": "ADDED", "obj'), "ended"),
    ("one watcher ends without a word, the others go on", cancelled_silently, "silent"),
    ("kopf's loop is stuck", stuck_loop, "silent"),
]


@pytest.mark.parametrize(
    ("happens", "restart"), [(happens, restart) for _, happens, restart in CASES], ids=[case[0] for case in CASES]
)
def test_a_run_that_is_created_afterwards_is_seen(
    happens: Callable[[Scene], Awaitable[None]], restart: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with watching(tmp_path, time.monotonic if restart == "silent" else frozen) as scene:
            scene.server.create_run("before")
            await scene.until(lambda: "before" in scene.seen, "the first run is seen")
            await scene.until_watching()
            await happens(scene)
            scene.server.create_run("afterwards")
            await scene.until(lambda: "afterwards" in scene.seen, "the run is seen")
            assert set(scene.restarts) == ({restart} if restart else set())
            await scene.until(lambda: not scene.watches.trouble(), "nothing is wrong any more")
            assert not scene.watches.degraded.is_set()

    asyncio.run(main())


def test_a_resource_that_is_not_there_at_the_start_is_watched_once_it_is(tmp_path: Path) -> None:
    """kopf looks for resources once, when it starts."""

    async def main() -> None:
        async with watching(tmp_path) as scene:
            scene.server.unlisted = {"reasonerzeroruns"}
            await scene.until(lambda: scene.restarts, "it is noticed")
            scene.server.unlisted = set()
            scene.server.create_run("afterwards")
            await scene.until(lambda: "afterwards" in scene.seen, "the run is seen")

    asyncio.run(main())


def test_a_quiet_cluster_is_no_trouble(tmp_path: Path) -> None:
    limits, passed = Limits(60), [0.0]

    async def main() -> None:
        async with watching(tmp_path, lambda: passed[0], limits.watch_seconds) as scene:
            for _ in range(4):
                await scene.until_watching()
                passed[0] += limits.watch_seconds  # as long as a server lets a watch go on
                assert not scene.pulse.troubles()
                scene.server.end()
                await scene.until(lambda: not any(map(scene.pulse.silent_seconds, WATCHED)), "each end is heard")
                assert not scene.pulse.troubles()
            await scene.until_watching()
            assert not scene.restarts

    asyncio.run(main())


def test_no_thread_of_kopf_is_left_when_the_watches_stop(tmp_path: Path) -> None:
    async def main() -> list[KopfThread]:
        async with watching(tmp_path) as scene:
            await scene.until_watching()
            scene.server.watch_refusal = 410
            scene.server.cut()
            await scene.until(lambda: len(scene.lives) >= 2, "it starts anew")
            return scene.lives

    assert all(life.ended.done() for life in asyncio.run(main()))
