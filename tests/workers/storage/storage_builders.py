"""Storage that fails or misbehaves on command, for the tests of ``rz_workers.storage``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rz_workers.storage.backends import Backend
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.retry import RetryPolicy


class FailingBackend:
    """Objects in a dictionary; each call first raises the next of ``failures``."""

    def __init__(self, *failures: Exception | None, arrives_all_the_same: bool = False) -> None:
        self.failures = list(failures)
        self.arrives_all_the_same = arrives_all_the_same
        self.objects: dict[str, bytes] = {}

    def _maybe_fail(self) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise FileExistsError(key)
        if self.arrives_all_the_same:
            self.objects[key] = data
        self._maybe_fail()
        self.objects[key] = data

    def replace(self, key: str, data: bytes) -> None:
        self._maybe_fail()
        self.objects[key] = data

    def write(self, key: str, parts: Iterable[memoryview]) -> None:
        data = b"".join(parts)
        self._maybe_fail()
        self.objects[key] = data

    def above(self) -> list[tuple[str, Backend]]:
        return []

    def read_range(self, key: str, start: int, size: int) -> bytearray:
        return bytearray(self.read(key)[start : start + size])

    def folders(self, prefix: str) -> list[str]:
        return sorted({key.rpartition("/")[0] for key in self.keys(f"{prefix}/")})

    def delete_folder(self, prefix: str) -> None:
        self.delete(self.keys(f"{prefix}/"))

    def read(self, key: str) -> bytes:
        self._maybe_fail()
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def exists(self, key: str) -> bool:
        self._maybe_fail()
        return key in self.objects

    def keys(self, prefix: str) -> list[str]:
        self._maybe_fail()
        return [key for key in self.objects if key.startswith(prefix)]

    def delete(self, keys: list[str]) -> None:
        self._maybe_fail()
        for key in keys:
            self.objects.pop(key, None)

    def upload(self, local: Path, key: str) -> None:
        self.replace(key, local.read_bytes())

    def download(self, key: str, local: Path) -> None:
        local.write_bytes(self.read(key))


class Sleeps(list[float]):
    """A sleep that only takes note."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def store_over(backend: FailingBackend, sleeps: Sleeps | None = None) -> ObjectStore:
    return ObjectStore(
        "s3://runs/x",
        backend=backend,
        retry=RetryPolicy(attempts=4, first_seconds=1, longest_seconds=3),
        sleep=Sleeps() if sleeps is None else sleeps,
        jitter=lambda: 1.0,
    )
