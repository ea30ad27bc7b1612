"""A verdict that can't be had is waited for, never replaced.

Responses on their way to the reward service, while the engine samples the others. Called by ``main``. The client
retries without end, and what it does raise goes to whoever asks for the verdict.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

from rz_workers.protocol.messages import Verdict, VerifyItem

__all__ = ["MAX_ITEMS", "Scorer", "wait_for"]

MAX_ITEMS = 16
"""Most responses in one request: enough to make its cost small, few enough to keep several verifiers busy."""
POLL_SECONDS = 0.1
"""How often a wait looks whether it has become pointless."""


class VerifyClient(Protocol):
    """What is used of ``RewardClient``."""

    def verify(self, items: Sequence[VerifyItem]) -> tuple[Verdict, ...]: ...
    def trouble(self) -> str | None: ...


class Scorer:
    """A thread that sends what has been submitted, as many at once as have come together since its last request."""

    def __init__(self, client: VerifyClient) -> None:
        self._client = client
        self._queue: queue.SimpleQueue[tuple[VerifyItem, Future[Verdict]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="scorer", daemon=True).start()

    def submit(self, item: VerifyItem) -> Future[Verdict]:
        """The verdict to come. ``cancel()`` it when its unit is dropped, and it is not asked for."""
        future: Future[Verdict] = Future()
        self._queue.put((item, future))
        return future

    def trouble(self) -> str | None:
        """Why verdicts have been waited for, for long; None where they have not."""
        return self._client.trouble()

    def _run(self) -> None:
        while True:
            # False means cancelled; from here on nobody can cancel the others, so that they take their result.
            batch = [(item, future) for item, future in self._collect() if future.set_running_or_notify_cancel()]
            try:
                verdicts = self._client.verify([item for item, _ in batch]) if batch else ()
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), verdict in zip(batch, verdicts, strict=True):
                future.set_result(verdict)

    def _collect(self) -> list[tuple[VerifyItem, Future[Verdict]]]:
        batch = [self._queue.get()]
        while len(batch) < MAX_ITEMS:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch


def wait_for(verdicts: Sequence[Future[Verdict]], pointless: Callable[[], bool]) -> list[Verdict] | None:
    """All verdicts, in order; None as soon as waiting has become pointless. Raises what the client raised."""
    results = []
    for future in verdicts:
        while True:
            if pointless():
                return None
            try:
                results.append(future.result(POLL_SECONDS))
                break
            except FutureTimeoutError:
                continue
    return results
