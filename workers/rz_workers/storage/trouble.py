"""Whoever waits for a run is told within seconds that its storage is full, by the name of that storage.

``ObjectStore`` notes each try that failed, and the next one that did not; ``storage_reports`` sends what is noted to
the ledger, whose status is shown to people. A full bucket or disk is told at once, since nothing but a person mends it;
what may pass by itself is told when it has lasted for ``LASTS_SECONDS``.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator

from rz_api.redact import redact
from rz_workers.storage.retry import http_status

__all__ = ["TROUBLES", "Troubles", "is_full", "words"]

LASTS_SECONDS = 5.0
"""From the first failed try on; throttling and restarts of a service are over by then."""

MAX_WORDS = 300
"""Characters kept of what a client library says."""

_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_WORDS = re.compile(
    r"XMinioStorageFull|QuotaExceeded|QuotaFull|InsufficientStorage|Insufficient Storage|StorageFull"
    r"|storage quota|quota ?exceeded|exceeded (?:its|the|your) (?:storage )?quota|no space left|\b507\b",
    re.IGNORECASE,
)
"""Of S3 (MinIO: XMinioStorageFull, XMinioAdminBucketQuotaExceeded; Ceph: QuotaExceeded), HTTP 507, GCS (403 with
``storageQuotaExceeded``), Azure (AccountQuotaExceeded). The client libraries turn most of them into an OSError, and the
name of the error is in its text alone."""


class Troubles:
    """What does not work now, of all stores of this process. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], tuple[float, bool, str]] = {}
        """By storage and kind of request: since when, whether it is full, what is said."""

    def failed(self, uri: str, request: str, error: BaseException) -> None:
        """A try of this kind of request failed; it will be repeated, or has ended its caller."""
        said = words(uri, error)
        with self._lock:
            since = self._found.get((uri, request), (self._clock(),))[0]
            self._found[uri, request] = (since, is_full(error), said)

    def works(self, uri: str, request: str) -> None:
        """A request of this kind was answered."""
        if self._found:  # almost never
            with self._lock:
                self._found.pop((uri, request), None)

    def current(self) -> str | None:
        """What people should know now; None where there is nothing."""
        with self._lock:
            found = list(self._found.values())
        told = [each for each in found if each[1] or self._clock() - each[0] >= LASTS_SECONDS]
        # Full before anything else: it explains the others.
        return min(told, key=lambda each: (not each[1], each[0]))[2] if told else None


TROUBLES = Troubles()
"""Of this process."""


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that there is no room left (or no quota)."""
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in _FULL_ERRNOS:
            return True
        if http_status(each) == 507:
            return True
        if not isinstance(each, FileNotFoundError | FileExistsError) and _FULL_WORDS.search(_text(each)):
            return True
    return False


def words(uri: str, error: BaseException) -> str:
    """``the storage s3://runs/x is full (OSError: [Errno 28] No space left on device): free space in it, or ...``"""
    # The deepest cause is the storage's own word; ours around it name keys, which change from try to try.
    *_, first = _causes(error)
    said = _text(first)[:MAX_WORDS]  # redacted before: half a credential would not be known as one
    if is_full(error):
        return f"the storage {redact(uri)} is full ({said}): free space in it, or raise its quota; the run goes on then"
    return f"the storage {redact(uri)} does not do what it should ({said}); the run goes on when it does again"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"{type(error).__name__}: [Errno {error.errno}] {redact(str(error.strerror))}"  # without a file's name
    return f"{type(error).__name__}: {redact(str(error))}"
