"""Every wait of a receiver is for one key, and ends: by the document, by a refusal, or at its deadline. No document is
looked into that was written without the run's token.

What sender and receivers tell each other beside the bytes: small JSON documents in the sender's TCPStore, sealed with a
key that follows from that token (``rz_workers.seals``). ``documents`` says what is in each.

::

    key (below the group's name)   written by       content
    hello/WORKER                   each worker      "I am here"
    join                           sender           go and connect, or why not
    vN/ready/WORKER                each worker      connected, nothing is being sampled
    vN/header                      sender           the tensors of each bucket, or why not
    vN/trailer                     sender           digest and checksum of every tensor, or why not
    vN/result/WORKER               each worker      verified, or what went wrong
    vN/bucket/K, vN/taken/K/WORKER                  shared memory only: the bucket is in a slot; copied out of it

The store has no authentication: whoever connects to it may list, read, overwrite and delete its keys. A document that
was written without the token, or for another key, is a TransferError.

A side that waits gets an answer in place of the document when the other one gives up (``refused``), so that every wait
is for one key. A store whose server hangs blocks its callers for ever, time limits or not (torch 2.13): on the
receiver's side every call is therefore made in a thread that can be left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from torch.distributed.distributed_c10d import Store

from rz_workers.seals import ForgedError, Seal
from rz_workers.transfer.documents import Document, Refusal
from rz_workers.transfer.errors import TransferError

__all__ = ["TRANSFER", "Control", "Deadline", "another_connection", "bounded"]

T = TypeVar("T")
D = TypeVar("D", bound=Document)
TRANSFER = "transfer"
"""Purpose of the seals; the incarnation is that of the sending gang."""
_GRACE_SECONDS = 1.0
"""What a call with a time limit of its own may take longer than that."""


class Deadline:
    """A point in time by which something must have happened."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._end = clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds; 0 when it has passed."""
        return max(0.0, self._end - self._clock())

    @property
    def has_passed(self) -> bool:
        return self.remaining == 0.0


def bounded(call: Callable[[], T], seconds: float, what: str) -> T:
    """``call()``, but no longer than ``seconds``: then TransferError, and the thread that is stuck is left behind."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    # A daemon: one that is stuck for ever must not keep the process from ending.
    thread = threading.Thread(target=run, name=f"transfer: {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    # Looked at before the failure and the clock: what came in the last moment counts.
    if outcome:
        return outcome[0]
    if failure:
        error = failure[0]
        if isinstance(error, RuntimeError | OSError):  # torch's store and backend errors are RuntimeErrors
            raise TransferError(f"{what}: {_first_line(error)}") from error
        raise error
    raise TransferError(f"{what}: nothing happened in {seconds:.0f} s")


class Control:
    """One side of the documents of one group, or of one version of it."""

    def __init__(self, store: Store, seal: Seal, path: str) -> None:
        """``path``: the group's name, and what is below it. Every key begins with the seal's prefix."""
        self._store, self._seal, self._path = store, seal, path

    def below(self, part: str) -> Control:
        return Control(self._store, self._seal, f"{self._path}/{part}")

    def put(self, name: str, document: Document) -> None:
        sealed = self._seal.close(self._place(name), document.model_dump_json().encode())
        self._store.set(self._key(name), sealed)  # type: ignore[arg-type]  # its stubs know text only

    def refuse(self, name: str, reason: str) -> None:
        """Answer what the other side waits for, or will, unless that is there already."""
        # Looks first: the sender alone writes these keys, and a document that is there may be in use.
        if not self.has(name):
            self.put(name, Refusal(refused=reason))

    def has(self, *names: str) -> bool:
        """Whether all are there. Only where the server is in this process: elsewhere it may hang."""
        return self._store.check([self._key(name) for name in names])

    def read(self, name: str, kind: type[D]) -> D:
        """A document that is there. Raises TransferError when it is not what a process of this run writes there."""
        return _parsed(name, self._open(name, self._store.get(self._key(name))), kind)

    def wait(self, name: str, kind: type[D], deadline: Deadline) -> D:
        """The document, when it is there. Raises TransferError when it is a refusal or not of this run, when the sender
        is gone, and at the deadline."""
        key = self._key(name)

        def look() -> bytes:
            self._store.wait([key], timedelta(seconds=max(deadline.remaining, 0.001)))
            return self._store.get(key)

        what = f"waiting for the trainer's {name}"
        # The store's own limit comes first and says more; the thread's is for a server that hangs.
        content = self._open(name, bounded(look, deadline.remaining + _GRACE_SECONDS, what))
        try:
            return _parsed(name, content, kind)
        except _OtherDocumentError as other:
            try:
                refusal = _parsed(name, content, Refusal)
            except _OtherDocumentError:
                raise other from None
        raise TransferError(f"{what}: it has left this rollout out: {refusal.refused}")

    def tell(self, name: str, document: Document, seconds: float) -> None:
        """``put`` towards another process."""
        bounded(lambda: self.put(name, document), seconds, f"telling the trainer {name!r}")

    def delete(self, *names: str) -> None:
        for name in names:
            self._store.delete_key(self._key(name))

    def _place(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _key(self, name: str) -> str:
        return f"{self._seal.prefix}/{self._path}/{name}"

    def _open(self, name: str, sealed: bytes) -> bytes:
        try:
            return self._seal.open(self._place(name), sealed)
        except ForgedError as error:
            raise TransferError(str(error)) from None


class _OtherDocumentError(TransferError):
    """Sealed, and of another kind than was expected."""


def _parsed(name: str, content: bytes, kind: type[D]) -> D:
    try:
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _OtherDocumentError(
            f"found a {name} in which {where or 'all'} is wrong ({first['msg']}); {kind.__name__} is required: "
            "trainer and rollouts must run one version of the image"
        ) from None


def another_connection(store: Store) -> Store:
    """A second connection to a TCPStore's server: a call that blocks one does not hold up the other."""
    tcp: Any = store
    connection: Store = tcp.clone()
    return connection


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
