"""No ledger can fail a look at its run, or hold one up for longer than a poll may take.

``reconcile`` asks how far each run is, ``main`` owns it; what is polled is the ledgers' read-only ``/status``. A ledger
is a pod of somebody's run: it may be away, slow, or send anything. So one poll has a time limit and a limit of size, no
redirect is followed, and whatever goes wrong is None: no answer. A run is polled at most once within half of
``poll_seconds``, however often it is reconciled; in between the newest answer is given again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import httpx

from rz_api import names
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.reached import LedgerStatus
from rz_operator.service.metrics import OperatorMetrics
from rz_operator.service.settings import Settings

log = logging.getLogger(__name__)

Result = Literal["answered", "silent", "refused", "garbled", "failed"]

TIMEOUT_SECONDS = 2.0
"""For one whole poll. A ledger answers within milliseconds; one that does not must not hold up a worker for long."""

MAX_BODY_BYTES = 1 << 20
"""A status is about 2 kB."""

LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60.0)
"""More than there are workers of the queue; an idle connection lasts until the next poll of a run."""


@dataclass
class _Ledger:
    """What is known of one run's ledger. Times are Unix seconds."""

    first_asked: float
    asked: float
    status: LedgerStatus | None = None
    answered: float | None = None


class Ledgers:
    """``async with Ledgers(settings, metrics) as ledgers: await ledgers.read(key)``"""

    def __init__(
        self,
        settings: Settings,
        metrics: OperatorMetrics,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._url = settings.ledger_status_url
        self._pause = 0.5 * settings.options.poll_seconds
        self._metrics = metrics
        self._clock = clock
        self._timeout = timeout_seconds
        self._ledgers: dict[RunKey, _Ledger] = {}
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds,
            limits=LIMITS,
            # No proxy of the environment's may stand between, and loading certificates for plain HTTP takes time.
            trust_env=False,
            verify=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": names.MANAGER},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def read(self, key: RunKey) -> LedgerStatus | None:
        """The newest status of this run's ledger; None where its last poll had no proper answer. Never raises."""
        now = self._clock()
        known = self._ledgers.get(key)
        # 0 <=: a clock that was set back must not end the polls until it has caught up.
        if known and 0 <= now - known.asked < self._pause:
            return known.status
        ledger = self._ledgers[key] = known or _Ledger(now, now)
        ledger.asked = now
        status, result = await self._poll(key)
        self._metrics.ledger_poll(result)
        ledger.status = status
        if status is not None:
            ledger.answered = self._clock()
        return status

    def silent_since(self, key: RunKey) -> float | None:
        """Unix seconds of its last answer (of the first poll, where it never gave one); None while it answers, and
        before it was asked."""
        ledger = self._ledgers.get(key)
        if ledger is None or ledger.status is not None:
            return None
        return ledger.first_asked if ledger.answered is None else ledger.answered

    def forget(self, key: RunKey) -> None:
        """The run is gone."""
        self._ledgers.pop(key, None)

    def url(self, key: RunKey) -> str:
        """Where this run's ledger says how far it is."""
        values = {"namespace": key.namespace, "name": key.name, "service": names.ledger(key.name)}
        url = self._url
        # Not ``str.format``, for which every other brace in an owner's URL is an error.
        for word, value in values.items():
            url = url.replace("{" + word + "}", value)
        return url

    async def _poll(self, key: RunKey) -> tuple[LedgerStatus | None, Result]:
        try:
            async with asyncio.timeout(self._timeout), self._client.stream("GET", self.url(key)) as reply:
                if reply.status_code != 200:
                    return None, "refused"
                body = bytearray()
                # Raw: a few bytes of a hostile answer could be decompressed to gigabytes.
                async for chunk in reply.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        return None, "garbled"
            status = json.loads(body)
        except (httpx.HTTPError, OSError, TimeoutError):
            return None, "silent"
        except (ValueError, RecursionError):
            return None, "garbled"
        except Exception:  # whatever a hostile answer provokes in a library is no reason to fail a reconcile
            log.exception("the ledger of %s could not be polled", key)
            return None, "failed"
        return (status, "answered") if isinstance(status, dict) else (None, "garbled")
