"""Credentials that the API server refuses never end the watching: newer ones are waited for, and the same tried again.

kopf logs in at its start, and whenever it was answered 401: the token has expired, and its file has a newer one.
``kopf_thread`` makes one for each life of kopf.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import kopf


class Login:
    """kopf's login handler of one of its lives."""

    def __init__(
        self,
        credentials: Callable[[], Awaitable[dict[str, Any]]],
        trace: aiohttp.TraceConfig,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``credentials`` gives the fields of kopf's ``ConnectionInfo``, read anew."""
        self._credentials, self._trace, self._retry, self._clock = credentials, trace, retry_seconds, clock
        self._given: dict[str, Any] = {}
        self._at = float("-inf")
        self._sessions: list[aiohttp.ClientSession] = []

    async def __call__(self, **_: Any) -> kopf.AiohttpSession:
        """Other credentials are tried at once, the same ones again only after a while: that an API server cannot judge
        a token, for a moment, is a 401 too.

        A session, not a ``ConnectionInfo``: kopf never takes one again that equals one of the last three that failed,
        and gives up watching for good when there is no other.
        """
        fresh = await self._credentials()
        now = self._clock()
        if fresh == self._given and now < self._at + self._retry:
            raise kopf.TemporaryError("the API server refuses these credentials; waiting for others", self._retry / 5)
        self._given, self._at = fresh, now
        info = kopf.ConnectionInfo(**fresh)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            trace_configs=[self._trace],
        )
        self._sessions = [each for each in self._sessions if not each.closed] + [session]
        return kopf.AiohttpSession(server=info.server, aiohttp_session=session)

    async def close(self) -> None:
        """Close what kopf did not."""
        for session in self._sessions:
            await session.close()
