"""An API server for tests of the watches: discovery, lists and watches over real HTTP, and every way to go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from rz_api import names
from rz_operator.apiserver.cluster import RESOURCES
from rz_operator.service.handlers import WATCHED

PLURALS = {RESOURCES[kind][1]: kind for kind in WATCHED}
OLDEST_TOKEN = "first"


class WatchDouble:
    """``async with WatchDouble().served() as url``. What is set counts for the next request, ``cut`` and ``stall`` for
    the watches that are open."""

    def __init__(self) -> None:
        self.token = OLDEST_TOKEN
        """The one that is accepted; another one is answered with 401."""
        self.refusal = 0
        """HTTP status of every answer; 0: none."""
        self.watch_refusal = 0
        """HTTP status of every watch; 0: none."""
        self.unlisted: set[str] = set()
        """Plurals that discovery does not show: a CRD that is being made anew."""
        self.last_words: list[str] = []
        """Lines of which the next watch of runs says one each, and ends."""
        self.is_mute = False
        """New watches are answered, and nothing ever comes: a proxy that holds everything back."""
        self.is_hanging = False
        """Requests are not even answered."""
        self.forgotten = 0
        """Watches that ask for what came after an older version than this are told 410 Gone."""
        self.watches: list[tuple[str, str]] = []
        """Plural and resourceVersion of each watch request."""
        self._version = 1
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._changed = asyncio.Event()
        self._stalled: set[asyncio.Event] = set()
        self._ended: set[asyncio.Event] = set()
        self._open: dict[asyncio.Event, web.Request] = {}

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The URL."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def create_run(self, name: str) -> None:
        """A run appears, and open watches that work are told."""
        self._version += 1
        metadata = {"namespace": "team", "name": name, "uid": name, "resourceVersion": str(self._version)}
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": {}}
        self._events.append((self._version, names.PLURAL, body))
        self._wake()

    def forget(self) -> None:
        """Compact the history: no watch can go on from where it was."""
        self._version += 10
        self.forgotten = self._version

    def stall(self) -> None:
        """The connections of the open watches die without a word: no byte, no end."""
        self._stalled |= set(self._open)

    def end(self) -> None:
        """The open watches end properly, as at the end of their time."""
        self._ended |= set(self._open)
        self._wake()

    def cut(self) -> None:
        """The connections of the open watches break."""
        for request in self._open.values():
            if request.transport is not None:
                request.transport.abort()

    @property
    def num_open(self) -> int:
        """Watches that are open and would be told of an event."""
        return len(set(self._open) - self._stalled - self._ended)

    # ------------------------------------------------------------------------------------------------------ answers

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        plural = request.path.rpartition("/")[2]
        is_watch = request.query.get("watch") == "true"
        if is_watch:
            self.watches.append((plural, request.query.get("resourceVersion", "")))
        if self.is_hanging:
            await asyncio.sleep(3600)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401)
        if self.refusal or (is_watch and self.watch_refusal):
            return _status(self.refusal or self.watch_refusal)
        if plural not in PLURALS:
            return web.json_response(self._discovered(request.path))
        if is_watch:
            return await self._watch(request, plural)
        return web.json_response(
            {
                "metadata": {"resourceVersion": str(self._version)},
                "items": [body for _, of, body in self._events if of == plural],
            }
        )

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if self.is_mute:
            await asyncio.sleep(3600)
        me = asyncio.Event()
        self._open[me] = request
        try:
            await self._stream(response, request, plural, me)
        finally:
            del self._open[me]
        return response

    async def _stream(self, response: web.StreamResponse, request: web.Request, plural: str, me: asyncio.Event) -> None:
        if plural == names.PLURAL and self.last_words:
            await response.write(self.last_words.pop(0).encode() + b"\n")
            return
        since = int(request.query["resourceVersion"])
        if since < self.forgotten:
            await response.write(_line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}))
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + int(request.query["timeoutSeconds"])
        while True:
            changed = self._changed
            for version, of, body in self._events:
                if of == plural and version > since:
                    since = version
                    await response.write(_line("ADDED", body))
            try:
                async with asyncio.timeout_at(until):
                    await changed.wait()
            except TimeoutError:
                changed = self._changed
            if me in self._stalled:
                await asyncio.sleep(3600)
            if loop.time() >= until or me in self._ended:
                return

    def _discovered(self, path: str) -> dict[str, Any]:
        versions = {RESOURCES[kind][0] for kind in WATCHED}
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            groups = [version.split("/") for version in versions if "/" in version]
            return {
                "groups": [
                    {"name": group, "versions": [{"version": each}], "preferredVersion": {"version": each}}
                    for group, each in groups
                ]
            }
        asked = path.removeprefix("/apis/").removeprefix("/api/")
        # Without namespaces kopf waits for ever, although it is told not to look at any.
        known = {
            **{plural: (RESOURCES[kind][0], kind) for plural, kind in PLURALS.items()},
            "namespaces": ("v1", "Namespace"),
        }
        return {
            "resources": [
                {"name": plural, "kind": kind, "singularName": "", "namespaced": True, "verbs": ["list", "watch"]}
                for plural, (version, kind) in known.items()
                if version == asked and plural not in self.unlisted
            ]
        }


def error_line(code: int) -> str:
    """An ERROR event, as it comes in the middle of a watch."""
    return _line("ERROR", {"kind": "Status", "code": code, "message": "as a test wants it"}).decode().strip()


def _line(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def _status(code: int) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": "as a test wants it"}, status=code)
