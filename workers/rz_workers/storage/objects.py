"""A caller gets its object or one of the errors below, and no failure that passes within a few minutes.

Immutable objects under keys, in a folder of this machine or a bucket. Everything that a run keeps goes through here.
Called by ``RunFolder`` and its neighbours in every role, and by ``rz_workers.data.datasets`` to read sources. Safe to
share between threads. Failures that pass by themselves are retried with back-off; what is left over is one of the
errors below.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rz_api.storage_uri import is_local
from rz_workers.runtime import UserError, WorkerError
from rz_workers.storage import explain
from rz_workers.storage.backends import Backend, FsspecFiles, LocalFiles
from rz_workers.storage.credentials import read_options
from rz_workers.storage.metrics import METRICS, OPERATIONS, StorageMetrics
from rz_workers.storage.records import FileEntry
from rz_workers.storage.retry import RetryPolicy, is_refusal, is_storage_failure, is_transient
from rz_workers.storage.trouble import TROUBLES, Troubles

log = logging.getLogger(__name__)
T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)


class StorageError(WorkerError):
    """Storage did not do what it should, after all retries. Ends a worker with the retriable exit code 70."""


class ObjectExistsError(StorageError):
    """The key is taken: somebody else created it first."""


class ObjectMissingError(StorageError):
    """There is no object under the key."""


class CorruptObjectError(StorageError):
    """An object's bytes are not those that its manifest or reference names."""


CHECK_RETRY = RetryPolicy(attempts=4)
"""For ``check_writable`` and ``above``: a run that starts should not wait minutes for an address that was mistyped."""


class ObjectStore:
    """The objects of one folder.

    Example: ``ObjectStore("s3://runs/orz-7b").put_new("incarnations/000003", b"...")``.
    """

    def __init__(
        self,
        uri: str,
        secret_name: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        backend: Backend | None = None,
        metrics: StorageMetrics = METRICS,
        troubles: Troubles = TROUBLES,
    ) -> None:
        """``uri`` is an fsspec URL or a path of this machine (a relative one is taken from the working directory);
        ``secret_name`` is the Secret that the spec names for it.

        Raises UserError when no installed package handles the URL, or the Secret lacks a key.
        """
        self._credentials = read_options(uri, secret_name)
        self.uri, self._backend = (uri, backend) if backend else _open(uri, self._credentials)
        self._secret_name = secret_name
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._jitter = jitter
        self._metrics = metrics
        self._troubles = troubles

    def __repr__(self) -> str:
        return f"ObjectStore({self.uri!r})"

    # ------------------------------------------------------------------------------------------------- one object

    def put_new(self, key: str, data: bytes) -> None:
        """Create an object; of many writers exactly one succeeds, the others get ObjectExistsError.

        A try whose answer was lost may have arrived all the same, so that after a failed try an object with the same
        bytes counts as ours. Claims therefore carry something unique to the claimant.
        """
        self._create(_checked(key), data)
        self._metrics.moved("written", len(data))

    def _create(self, key: str, data: bytes, retry: RetryPolicy | None = None) -> None:
        answer_lost = False

        def create() -> None:
            nonlocal answer_lost
            try:
                self._backend.create(key, data)
            except FileExistsError:
                # Without a failed try of ours, the same bytes are those of a writer who was first.
                if not (answer_lost and self._backend.read(key) == data):
                    raise
            except Exception:
                answer_lost = True
                raise

        self._retrying("create", key, create, retry)

    def put(self, key: str, data: bytes) -> None:
        """Replace an object as a whole. Only for derived files (metrics.jsonl, tensorboard) and for files that count
        only once a manifest names them; everything else is created once, with ``put_new``."""
        self._retrying("write", _checked(key), lambda: self._backend.replace(key, data))
        self._metrics.moved("written", len(data))

    def put_parts(self, key: str, parts: Callable[[], Iterable[memoryview]]) -> None:
        """As ``put``, for an object that need not be in memory at once: ``parts()`` gives its bytes piece by piece, and
        once more from the beginning where a try has failed."""
        size = 0

        def counted() -> Iterable[memoryview]:
            nonlocal size
            size = 0
            for part in parts():
                size += part.nbytes
                yield part

        self._retrying("write", _checked(key), lambda: self._backend.write(key, counted()))
        self._metrics.moved("written", size)

    def get(self, key: str) -> bytes:
        """An object's bytes. Raises ObjectMissingError."""
        return self._read(key, lambda: self._backend.read(key))

    def get_range(self, key: str, start: int, size: int) -> bytearray:
        """``size`` bytes of an object from byte ``start``; fewer where it ends. Raises ObjectMissingError."""
        return self._read(key, lambda: self._backend.read_range(key, start, size))

    def _read(self, key: str, read: Callable[[], B]) -> B:
        data = self._retrying("read", _checked(key), read)
        self._metrics.moved("read", len(data))
        return data

    def exists(self, key: str) -> bool:
        return self._retrying("look for", _checked(key), lambda: self._backend.exists(key))

    # ----------------------------------------------------------------------------------------------- many objects

    def folders(self, prefix: str) -> list[str]:
        """What lies directly below the folder ``prefix`` and is a folder, sorted: ``folders("checkpoints/")`` gives
        ``checkpoints/step-000055-i1``. One is there as soon as writing below it began, before its first object."""
        return sorted(self._retrying("list", prefix, lambda: self._backend.folders(prefix.rstrip("/"))))

    def above(self) -> list[ObjectStore]:
        """The folders that this one lies in, nearest first, up to the bucket or the root; with the same rights. What
        fails there is no trouble of the run's: it need not have rights outside of its folder."""
        return [
            ObjectStore(
                uri,
                self._secret_name,
                retry=CHECK_RETRY,
                sleep=self._sleep,
                jitter=self._jitter,
                backend=backend,
                metrics=self._metrics,
                troubles=Troubles(),
            )
            for uri, backend in self._backend.above()
        ]

    def list(self, prefix: str) -> list[str]:
        """All keys that start with ``prefix``, whole and sorted, at any depth; ``"weights/"`` is a folder,
        ``"weights/v1"`` also finds ``weights/v12-i1/…``. Objects written before the call are in it, from whichever
        process."""
        return sorted(self._retrying("list", prefix, lambda: self._backend.keys(prefix)))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already are passed over."""
        doomed = [_checked(key) for key in keys]
        if doomed:
            self._retrying("delete", doomed[0], lambda: self._backend.delete(doomed))

    def delete_folder(self, prefix: str) -> None:
        """Delete everything below ``prefix``, and what writers that were killed left there."""
        self._retrying("delete", _checked(prefix), lambda: self._backend.delete_folder(prefix))

    # ------------------------------------------------------------------------------------------------------ files

    def upload(self, local: Path, key: str) -> FileEntry:
        """Store a file, whatever its size, and return its size and sha256 for a manifest. Replaces an object of that
        key, so that an upload that was cut off can be repeated: a file counts only when a manifest names it."""
        self._retrying("upload", _checked(key), lambda: self._backend.upload(local, key))
        entry = file_entry(local)
        self._metrics.moved("written", entry.size_bytes)
        return entry

    def download(self, key: str, local: Path) -> None:
        """Fetch an object into a file (parent folders are made; a temporary name first). Raises ObjectMissingError."""
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex}.part")
        try:
            self._retrying("download", _checked(key), lambda: self._backend.download(key, temporary))
            self._metrics.moved("read", temporary.stat().st_size)
            os.replace(temporary, local)
        finally:
            temporary.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------ check

    def check_writable(self) -> None:
        """Create an object, try to create it a second time and delete it, to learn at the start what would go wrong
        later; three requests, and nothing is left behind.

        Raises UserError when the folder cannot be written or storage replaces what it should only create, StorageError
        when it does not answer.
        """
        probe = f"writable-{uuid.uuid4().hex}"
        # Noted first, because the probe makes them.
        made = _missing_folders(self._backend.root) if isinstance(self._backend, LocalFiles) else []
        try:
            self._create(probe, b"first", CHECK_RETRY)
            try:
                is_exclusive = not self._creates_again(probe)
            finally:
                self._retrying("delete", probe, lambda: self._backend.delete([probe]), CHECK_RETRY)
        except ObjectExistsError as error:
            raise UserError(explain.unwritable(self.uri, error)) from error
        except StorageError as error:
            cause = error.__cause__
            if cause is not None and is_transient(cause) and not is_refusal(cause):
                raise
            raise UserError(explain.unwritable(self.uri, error)) from error
        finally:
            for folder in made:
                _remove_if_empty(folder)
        if not is_exclusive:
            raise UserError(explain.not_exclusive(self.uri))

    def _creates_again(self, key: str) -> bool:
        """Whether an object that is there can be created once more, as where the condition is ignored."""
        try:
            self._create(key, b"second", CHECK_RETRY)
        except ObjectExistsError:
            return False
        return True

    def _renew_credentials(self) -> bool:
        """Read the Secret's files again and reconnect; False when they are what they were, or unusable for now."""
        try:
            credentials = read_options(self.uri, self._secret_name)
        except UserError as error:  # perhaps it is being changed; what began well does not end as the user's error
            log.warning("%s", error)
            return False
        if credentials == self._credentials:
            return False
        log.warning("%s: the credentials were refused, and %s has new ones: using them", self.uri, self._secret_name)
        self._backend, self._credentials = _open(self.uri, credentials)[1], credentials
        return True

    def _retrying(self, doing: str, key: str, call: Callable[[], T], retry: RetryPolicy | None = None) -> T:
        """Call until it succeeds, fails for good, or has failed too often; then translate the failure."""
        retry = retry or self._retry
        for attempt in range(1, retry.attempts + 1):
            try:
                with self._metrics.request(doing):
                    result = call()
                self._troubles.works(self.uri, OPERATIONS[doing])
                return result
            except FileExistsError as error:
                self._troubles.works(self.uri, OPERATIONS[doing])
                raise ObjectExistsError(f"{self.uri}: {key!r} exists already") from error
            except FileNotFoundError as error:
                self._troubles.works(self.uri, OPERATIONS[doing])
                raise ObjectMissingError(f"{self.uri}: there is no {key!r} ({explain.words(error)})") from error
            except Exception as error:
                if not is_storage_failure(error):
                    raise
                renewed = is_refusal(error) and self._renew_credentials()
                is_last = not renewed and (not is_transient(error) or attempt == retry.attempts)
                self._metrics.failed(doing, is_tried_again=not is_last)
                if not renewed:
                    self._troubles.failed(self.uri, OPERATIONS[doing], error)
                if renewed:
                    # `call` looks up the new backend. It ends: credentials count as renewed only if they are others.
                    return self._retrying(doing, key, call, retry)
                if is_last:
                    tries = "" if attempt == 1 else f" after {attempt} tries"
                    raise StorageError(f"{self.uri}: cannot {doing} {key!r}{tries}: {explain.words(error)}") from error
                seconds = retry.delay(attempt, self._jitter())
                log.warning(
                    "%s: cannot %s %r (%s); trying again in %.1f s", self.uri, doing, key, explain.words(error), seconds
                )
                self._sleep(seconds)
        raise AssertionError("a retry policy has at least one attempt")


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a file of this machine."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest)


def data_entry(data: bytes) -> FileEntry:
    """Size and sha256 of bytes."""
    return FileEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _open(uri: str, credentials: Mapping[str, Any]) -> tuple[str, Backend]:
    if is_local(uri):
        path = Path(uri.partition("://")[2] if "://" in uri else uri).expanduser().absolute()
        return (uri if "://" in uri else str(path)), LocalFiles(path)
    try:
        return uri, FsspecFiles(uri, credentials)
    except ImportError as error:
        raise UserError(
            f"{uri}: no package for this kind of storage is installed ({error}); install reasonerzero with the extra "
            "that has it (s3, gcs or azure)"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{uri}: {error}; use a path, or a URL that fsspec knows, such as file://, s3://, gs:// or az://"
        ) from error


def _checked(key: str) -> str:
    """Keys stay below the folder. They are made by ``rz_workers.storage.layout`` or come from manifests."""
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"found the key {key!r}; a key is relative, with no empty, '.' or '..' part")
    return key


def _missing_folders(folder: Path) -> list[Path]:
    """``folder`` and those above it that do not exist, deepest first."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    return missing


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        log.debug("left %s alone: it is not empty any more, or gone", folder)
