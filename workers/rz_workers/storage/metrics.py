"""What this process asks of object storage, on its status port. ``ObjectStore`` counts, once a process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from rz_api.metrics import described

Operation = Literal["get", "put", "list", "delete", "head"]

OPERATIONS: dict[str, Operation] = {
    "create": "put",
    "write": "put",
    "upload": "put",
    "read": "get",
    "download": "get",
    "look for": "head",
    "list": "list",
    "delete": "delete",
}
"""What ``ObjectStore`` says that it does -> label."""


class StorageMetrics:
    """``rz_storage_*``, all since the process started."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter(*described("rz_storage_requests_total"), registry=registry)
        self._errors = Counter(*described("rz_storage_errors_total"), registry=registry)
        self._retries = Counter(*described("rz_storage_retries_total"), registry=registry)
        self._seconds = Counter(*described("rz_storage_seconds_total"), registry=registry)
        self._bytes = Counter(*described("rz_storage_bytes_total"), registry=registry)

    @contextmanager
    def request(self, doing: str) -> Iterator[None]:
        """Around each try of a request; an answer such as "missing" is no error, see ``failed``."""
        operation, started = OPERATIONS[doing], time.monotonic()
        try:
            yield
        finally:
            self._requests.labels(operation).inc()
            self._seconds.labels(operation).inc(time.monotonic() - started)

    def failed(self, doing: str, *, is_tried_again: bool) -> None:
        """A try ended with a failure of storage."""
        self._errors.labels(OPERATIONS[doing]).inc()
        if is_tried_again:
            self._retries.labels(OPERATIONS[doing]).inc()

    def moved(self, direction: Literal["read", "written"], size_bytes: int) -> None:
        self._bytes.labels(direction).inc(size_bytes)


METRICS = StorageMetrics()
