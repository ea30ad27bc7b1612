"""Whatever the ledger does, the local runner goes on: no proper answer in time is None, since it may be restarting.

Reads the ledger's read-only ``/status`` (JSON; ``LedgerStatus`` in the workers' protocol). What comes back is shown to
people and, reduced by ``reached_of``, given to ``decide``.
"""

from __future__ import annotations

import asyncio

from rz_operator.decisions.reached import LedgerStatus

TIMEOUT_SECONDS = 0.5
"""For one whole poll: a ledger that is frozen, or sends a byte now and then, must not hold up the runner, which has
everyone else to look after."""


class LedgerReader:
    """Asks one ledger, again and again, over one connection. Not for use within an event loop."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        import httpx

        self._url = f"{url}/status"
        self._timeout = timeout_seconds
        # InvalidURL is no HTTPError, and the URL may come from anybody's status.json.
        self._errors = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError)
        # In a loop of its own: the client itself, blocking or not, limits each read and not the whole.
        self._loop = asyncio.Runner()
        # A proxy of the environment's must not be asked for 127.0.0.1, and plain HTTP needs no certificates.
        self._client = httpx.AsyncClient(timeout=timeout_seconds, trust_env=False, verify=False)

    def read(self) -> LedgerStatus | None:
        """The ledger's status, or None when there is no proper answer in time."""
        return self._loop.run(self._read())

    async def _read(self) -> LedgerStatus | None:
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._client.get(self._url)
            reply.raise_for_status()
            status = reply.json()
        except self._errors:
            return None
        return status if isinstance(status, dict) else None

    def close(self) -> None:
        self._loop.run(self._client.aclose())
        self._loop.close()
