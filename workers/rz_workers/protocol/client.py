"""A call returns the peer's reply or says what the peer refused; it never gives up on a peer that is down.

The callers' side of the protocol: blocking HTTP clients for the ledger and the reward service. Rollout and trainer call
these, from several threads if they like. A peer that is down is being replaced by the operator, so a call waits for it:
connection errors, timeouts and 5xx are retried without end, with capped back-off; what the peer refuses (4xx) is a
defect or a decision, never a reason to repeat:

====================  ==============================================================================================
the peer answers      the call
====================  ==============================================================================================
2xx                   returns the reply's model
401                   reads the token file again and retries; ``ProtocolError`` when that does not help for a while
409                   raises ``SupersededError``: a newer trainer incarnation exists
other 4xx             raises ``ProtocolError`` with the peer's message
5xx, 408, 429, none   retries; ``DrainedError`` when ``stop`` is set while it waits between two tries
====================  ==============================================================================================

``stop`` ends only waiting for a peer that does not answer: a first try is always made, so that a process that is told
to stop can still hand in finished work.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from rz_workers.protocol.messages import (
    Ack,
    CodeReply,
    CodeRequest,
    Completion,
    CompletionReply,
    DrainRequest,
    EvalReply,
    Heartbeat,
    HeartbeatReply,
    LeaseReply,
    LeaseRequest,
    Publication,
    StepReport,
    StorageReport,
    TakeReply,
    TakeRequest,
    TransferReply,
    TransferRequest,
    TurnReply,
    TurnRequest,
    Verdict,
    VerifyItem,
    VerifyReply,
    VerifyRequest,
    WeightsReply,
)
from rz_workers.runtime import DrainedError, SupersededError, WorkerError, read_token

__all__ = ["LedgerClient", "ProtocolError", "RewardClient", "backoff_seconds"]

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""Beyond what the peer may hold the request (``wait_seconds``)."""
FIRST_BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 10.0
UNAUTHORIZED_SECONDS = 300.0
"""Waits for a token that is not refused, in one call. Where the operator makes a deleted one anew, two pods hold
different ones until both kubelets have refreshed the mounted Secret: every 60 to 90 s, and its watch may be late."""

FAILING_SECONDS = 5.0
"""Of failed tries at the reward service, until it is somebody's trouble: a restart of it is shorter."""
SILENT_SECONDS = 60.0
"""The same of one try that is not answered: many answers that each take their whole limit of CPU time."""

MAX_ERROR_LENGTH = 500
"""Characters of an error that go to people by way of the ledger."""

_RETRIED = frozenset({408, 425, 429})
Reply = TypeVar("Reply", bound=BaseModel)


class ProtocolError(WorkerError):
    """The peer refused a request (4xx) or answered with something that is not its reply; repeating would not help."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        """HTTP status of the refusal; None when the reply did not parse."""


def backoff_seconds(failures: int, jitter: float) -> float:
    """Wait after the ``failures``-th failed try in a row: 0.2 s doubling to 10 s, times 0.5 to 1 (``jitter``)."""
    # The bound of 16: 2.0 ** 1024 is an OverflowError, and tries have no end.
    bound = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16))
    return bound * (0.5 + 0.5 * jitter)


class _Peer:
    """One service: its address, the token, and the retries. ``transport`` replaces the network in tests."""

    def __init__(
        self,
        name: str,
        url: str,
        token_file: Path | None,
        stop: threading.Event | None,
        transport: httpx.BaseTransport | None,
        max_backoff_seconds: float = MAX_BACKOFF_SECONDS,
        on_wait: Callable[[], None] = lambda: None,
        on_trouble: Callable[[str], None] = lambda trouble: None,
    ) -> None:
        """``on_trouble`` is told why a try failed."""
        self._max_backoff_seconds, self._on_wait, self._on_trouble = max_backoff_seconds, on_wait, on_trouble
        self._name, self._url, self._token_file = name, url, token_file
        self._stop = stop or threading.Event()
        self._token = read_token(token_file)
        # No proxy from the environment: peers are pods or processes of this run.
        self._http = httpx.Client(base_url=url, transport=transport, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, reply: type[Reply], body: BaseModel | None = None, patience: float = 0.0
    ) -> Reply:
        """Make one request until the peer has answered it; ``patience`` is how long the peer may hold it, seconds."""
        timeout = httpx.Timeout(READ_SECONDS + patience, connect=CONNECT_SECONDS)
        content = None if body is None else body.model_dump_json()
        failures, refused_seconds = 0, 0.0
        while True:
            unauthorized = False
            try:
                response = self._http.request(method, path, content=content, headers=self._headers(), timeout=timeout)
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                status = response.status_code
                if response.is_success:
                    return self._parse(response, reply)
                trouble = f"{status} {_message(response)}"
                unauthorized = status == 401 and refused_seconds < UNAUTHORIZED_SECONDS
                if unauthorized:
                    self._reread_token()
                elif status == 409:
                    raise SupersededError(_message(response))
                elif status < 500 and status not in _RETRIED:
                    raise ProtocolError(f"the {self._name} refused {method} {path}: {trouble}", status)
            failures += 1
            waited = self._wait(failures, f"{method} {path}", trouble)
            refused_seconds += waited if unauthorized else 0.0

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _reread_token(self) -> None:
        try:
            self._token = read_token(self._token_file)
        except OSError as error:  # a Secret is being swapped; the old token serves until the next try
            log.warning("cannot read the token file %s: %s", self._token_file, error)

    def _parse(self, response: httpx.Response, reply: type[Reply]) -> Reply:
        try:
            return reply.model_validate_json(response.content)
        except ValidationError as error:
            raise ProtocolError(
                f"the {self._name} at {self._url} answered with something that is not a {reply.__name__}; "
                f"is another service on that port, or another version of this one? {error}"
            ) from error

    def _wait(self, failures: int, what: str, trouble: str) -> float:
        """Back off for this many seconds, with a log line after failure 1, 2, 4, 8, ...; DrainedError when told to
        stop."""
        delay = min(backoff_seconds(failures, random.random()), self._max_backoff_seconds)
        self._on_wait()
        self._on_trouble(trouble)
        # Powers of two: an hour's outage is a dozen lines, not hundreds.
        if failures & (failures - 1) == 0:
            log.warning(
                "%s at %s: %s failed (try %d, %s); trying again", self._name, self._url, what, failures, trouble
            )
        if self._stop.wait(delay):
            raise DrainedError(f"told to stop while waiting for the {self._name} at {self._url} ({trouble})")
        return delay


class LedgerClient:
    """One method per route of the ledger (see ``messages``); every method may raise what the module docstring lists.

    ``token_file`` None sends no token (tests).
    """

    def __init__(
        self,
        url: str,
        token_file: Path | None = None,
        stop: threading.Event | None = None,
        transport: httpx.BaseTransport | None = None,
        *,
        max_backoff_seconds: float = MAX_BACKOFF_SECONDS,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """``max_backoff_seconds`` limits the wait between tries (heartbeats must reach a restarted ledger within a
        lease); ``on_wait`` is called before each such wait."""
        self.url = url
        self._peer = _Peer("ledger", url, token_file, stop, transport, max_backoff_seconds, on_wait)

    def close(self) -> None:
        self._peer.close()

    def lease(self, request: LeaseRequest) -> LeaseReply:
        """Units to sample; blocks at the ledger until one is free, ``request.wait_seconds`` at most."""
        return self._peer.call("POST", "/lease", LeaseReply, request, request.wait_seconds)

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        return self._peer.call("POST", "/heartbeat", HeartbeatReply, beat)

    def complete(self, completion: Completion) -> CompletionReply:
        """Hand in a stored shard. Repeating it is harmless: the same shard again is accepted again."""
        return self._peer.call("POST", "/complete", CompletionReply, completion)

    def weights(self, version: int) -> WeightsReply:
        """A published version and its canary."""
        return self._peer.call("GET", f"/weights/{version}", WeightsReply)

    def announce_weights(self, publication: Publication) -> None:
        self._peer.call("POST", "/weights", Ack, publication)

    def open_transfer(self, request: TransferRequest) -> TransferReply:
        """Who takes part in a broadcast; each of them is told with its next request for leases."""
        return self._peer.call("POST", "/transfer/open", TransferReply, request)

    def turn(self, rollout_id: str) -> TurnReply:
        """Whether a rollout may build its engine on the trainer's device; it counts as awake from then on."""
        return self._peer.call("POST", "/turn", TurnReply, TurnRequest(rollout_id=rollout_id))

    def take_step(
        self, step: int, incarnation: int, wait_seconds: float = 20.0, weights: Publication | None = None
    ) -> TakeReply:
        """The shards of a step; blocks at the ledger until it is complete, ``wait_seconds`` at most. ``weights`` is
        what was announced last, for a ledger that was restarted since."""
        request = TakeRequest(step=step, incarnation=incarnation, wait_seconds=wait_seconds, weights=weights)
        return self._peer.call("POST", "/step/take", TakeReply, request, wait_seconds)

    def commit_step(self, report: StepReport) -> None:
        self._peer.call("POST", "/step/commit", Ack, report)

    def eval_shards(self, version: int) -> EvalReply:
        return self._peer.call("GET", f"/eval/{version}", EvalReply)

    def report_storage(self, report: StorageReport) -> None:
        self._peer.call("POST", "/storage", Ack, report)

    def verifier_code(self, verifier: str) -> CodeReply:
        """The file of a verifier; waits at a ledger whose run has not begun."""
        return self._peer.call("POST", "/verifier", CodeReply, CodeRequest(verifier=verifier))

    def drain(self, draining: bool = True) -> None:
        self._peer.call("POST", "/drain", Ack, DrainRequest(draining=draining))


class RewardClient:
    """Verdicts from the reward service, asked for by one thread; ``trouble`` may be called by any.

    ``patience_seconds`` is the longest that one request may take there.
    """

    def __init__(
        self,
        url: str,
        token_file: Path | None = None,
        stop: threading.Event | None = None,
        transport: httpx.BaseTransport | None = None,
        patience_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = _Peer("reward service", url, token_file, stop, transport, on_trouble=self._failed)
        self._url, self._patience, self._clock = url, patience_seconds, clock
        self._asked: tuple[float, str | None] | None = None
        """Since when the request under way is waited for, and why its last try failed; None between two requests."""

    def close(self) -> None:
        self._peer.close()

    def verify(self, items: Sequence[VerifyItem]) -> tuple[Verdict, ...]:
        """One verdict per item, in order. A verifier that crashes is a status, never a reward."""
        if not items:
            return ()
        self._asked = (self._clock(), None)
        try:
            reply = self._peer.call("POST", "/verify", VerifyReply, VerifyRequest(items=tuple(items)), self._patience)
        finally:
            self._asked = None
        if len(reply.verdicts) != len(items):
            raise ProtocolError(f"the reward service gave {len(reply.verdicts)} verdicts for {len(items)} items")
        return reply.verdicts

    def trouble(self) -> str | None:
        """Why verdicts have been waited for, for longer than they take where all is well; None where they have not."""
        asked = self._asked  # once: another thread replaces it
        if asked is None:
            return None
        since, error = asked
        waited = self._clock() - since
        if error is not None and waited >= FAILING_SECONDS:
            return f"the reward service at {self._url} fails, and is asked again and again ({error})"
        # No number of seconds in it: people are told again whenever it is another text.
        if waited >= SILENT_SECONDS:
            return f"the reward service at {self._url} has not answered a request for more than {SILENT_SECONDS:g} s"
        return None

    def _failed(self, error: str) -> None:
        if self._asked is not None:
            self._asked = (self._asked[0], error[:MAX_ERROR_LENGTH])


def _message(response: httpx.Response) -> str:
    """The peer's words: ``detail`` of a FastAPI error, else the start of the body."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
    return detail if isinstance(detail, str) else str(detail)[:2000]
