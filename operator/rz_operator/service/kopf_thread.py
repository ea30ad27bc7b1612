"""Nothing that kopf does to its thread and its event loop reaches the operator's: both last for one life of kopf.

``watches`` begins and ends them. kopf takes itself for the whole program: it takes the signals, ends every task of its
loop that it does not know, kills the process some time after it has ended, leaves the other watchers running when one
fails, and waits for credentials for ever when nobody brings any. A loop of its own ends with it, whatever is left in
there; one that does not end can be left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import kopf

from rz_operator.service.handlers import Tell, kopf_settings, registry
from rz_operator.service.login import Login
from rz_operator.service.pulse import Limits, Pulse
from rz_operator.service.settings import Settings

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""For kopf's tasks to end. They take milliseconds, unless something hangs."""


def lives(
    settings: Settings, credentials: Callable[[], Awaitable[dict[str, Any]]], pulse: Pulse, tell: Tell
) -> Callable[[], KopfThread]:
    """What begins a life of kopf. ``credentials`` and ``tell`` are called in the loop that it is begun from."""
    retry_seconds = Limits(settings.watch_seconds).retry_seconds

    def begin() -> KopfThread:
        loop = asyncio.get_running_loop()

        async def fresh() -> dict[str, Any]:
            async def ask() -> dict[str, Any]:
                return await credentials()

            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), loop))

        def hand_over(kind: str, body: dict[str, Any], deleted: bool) -> None:
            loop.call_soon_threadsafe(tell, kind, body, deleted)

        login = Login(fresh, pulse.trace(), retry_seconds)
        return KopfThread(registry(hand_over, login), kopf_settings(settings), login, settings.watch_namespaces)

    return begin


class KopfThread:
    """Starts at once. ``ended`` becomes a sentence, in the loop that started it, when kopf has ended for any reason."""

    def __init__(
        self,
        registry: kopf.OperatorRegistry,
        settings: kopf.OperatorSettings,
        login: Login,
        namespaces: Sequence[str] = (),
    ) -> None:
        """No ``namespaces``: all of them."""
        self._registry, self._settings, self._login, self._namespaces = registry, settings, login, namespaces
        self._starter = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._starter.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_ending = False
        threading.Thread(target=self._live, name="kopf", daemon=True).start()

    async def end(self, seconds: float = END_SECONDS) -> bool:
        """Stop it; False where it did not within the limit, and is left behind."""
        self._is_ending = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.wait({self.ended}, timeout=seconds)
        return self.ended.done()

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
            why = "it ended without a word"
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the operator itself has ended
            self._starter.call_soon_threadsafe(self._tell, why)

    def _tell(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._is_ending:
            return
        # kopf would ask for the name of the user, which number 65532 has not in most images. Used in peering alone.
        identity: Any = socket.gethostname()
        tasks = await kopf.spawn_tasks(
            identity=identity,
            registry=self._registry,
            settings=self._settings,
            namespaces=list(self._namespaces),
            clusterwide=not self._namespaces,
            standalone=True,
        )
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(tasks)
            # Of the other kinds, if one failed. Before the loop ends what is left in it: a watcher waits for tasks of
            # its own, and for ever when these were ended at the same time.
            await _cancel([task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")])
        finally:
            await self._login.close()
        for task in done - {stop}:
            task.result()


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=END_SECONDS / 3)
        for task in late:
            log.error("kopf's task %s does not end", task.get_name())
