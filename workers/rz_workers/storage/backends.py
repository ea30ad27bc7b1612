"""A reader never sees a part of an object, and of many writers that ``create`` the same key exactly one succeeds.

Where objects really are: files of this machine, or whatever fsspec reaches. Called by ``ObjectStore`` alone. A backend
does one thing once and raises what the system raises (the OSError family, botocore's, aiohttp's);
``rz_workers.storage.objects`` retries, translates and explains.

==============  ===================================================  ==========================================
where           create (exclusive)                                   replace
==============  ===================================================  ==========================================
local files     temporary name, fsync, ``link`` to the real name     temporary name, fsync, ``rename``
``s3://`` etc.  fsspec's conditional put (``mode="create"``)         put
``memory://``   check and put under a lock (one process, for tests)  put
==============  ===================================================  ==========================================

``write`` is ``replace`` for what is too large to be in memory at once: in a bucket a multipart upload.

Whether a place keeps the first promise is asked at the start (``ObjectStore.check_writable``): S3 servers that do not
know the condition ignore it, and mounted buckets have no hard links.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec

from rz_workers.storage.retry import http_status

_TEMPORARY_SUFFIX = ".rz-tmp"
_FOLDER_TRIES = 10
_memory_lock = threading.Lock()


class Backend(Protocol):
    """What ``ObjectStore`` needs of a place. Keys are relative, with forward slashes."""

    def create(self, key: str, data: bytes) -> None:
        """Store ``data`` under a new key; FileExistsError when the key is taken."""

    def replace(self, key: str, data: bytes) -> None: ...

    def write(self, key: str, parts: Iterable[memoryview]) -> None:
        """As ``replace`` with the parts one behind the other; what an interrupted call leaves does not count as an
        object."""

    def read(self, key: str) -> bytes:
        """FileNotFoundError when there is no such object."""

    def read_range(self, key: str, start: int, size: int) -> bytearray:
        """``size`` bytes from ``start``; fewer where the object ends, none behind its end. FileNotFoundError as for
        ``read``, also for no bytes."""

    def exists(self, key: str) -> bool: ...

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with ``prefix``, in no particular order."""

    def folders(self, prefix: str) -> list[str]:
        """What lies directly below the folder ``prefix`` and holds anything, be it what an interrupted ``write``
        left."""

    def above(self) -> list[tuple[str, Backend]]:
        """The folders that this one lies in, nearest first, up to the bucket or the root: URI and place of each."""

    def delete(self, keys: list[str]) -> None:
        """Objects that are not there are passed over."""

    def delete_folder(self, prefix: str) -> None:
        """Everything below ``prefix``, what an interrupted ``write`` left too."""

    def upload(self, local: Path, key: str) -> None: ...

    def download(self, key: str, local: Path) -> None: ...


class LocalFiles:
    """Files below one folder. The folder comes into being with its first object.

    A writer that is killed leaves at most a hidden file ``.NAME.RANDOM.rz-tmp``, which no listing shows. Data reach the
    disk before the name does, so that a power cut may lose the newest objects but never leaves half of one.
    """

    def __init__(self, root: Path, link: Callable[[Path, Path], None] = os.link) -> None:
        """``link`` names a file a second time, and fails where the name is taken."""
        self.root = root
        self._link = link

    def create(self, key: str, data: bytes) -> None:
        # Not `rename`, which replaces; not mode "x", which shows a file before its bytes.
        self._store(key, lambda file: file.write(data), self._link_once)

    def replace(self, key: str, data: bytes) -> None:
        self._store(key, lambda file: file.write(data), os.replace)

    def write(self, key: str, parts: Iterable[memoryview]) -> None:
        self._store(key, lambda file: file.writelines(parts), os.replace)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_range(self, key: str, start: int, size: int) -> bytearray:
        data = bytearray(size)
        with open(self.root / key, "rb") as file:
            file.seek(start)
            del data[file.readinto(data) :]
        return data

    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self.root / key).st_mode)
        except FileNotFoundError:
            return False

    def keys(self, prefix: str) -> list[str]:
        folder = self.root / prefix.rpartition("/")[0]
        keys = []
        for place, _folders, names in os.walk(folder, onerror=_raise_unless_missing):
            for name in names:
                if not name.endswith(_TEMPORARY_SUFFIX):
                    key = (Path(place) / name).relative_to(self.root).as_posix()
                    if key.startswith(prefix):
                        keys.append(key)
        return keys

    def folders(self, prefix: str) -> list[str]:
        try:
            entries = list(os.scandir(self.root / prefix))
        except FileNotFoundError:
            return []
        return [f"{prefix}/{entry.name}".lstrip("/") for entry in entries if entry.is_dir()]

    def above(self) -> list[tuple[str, Backend]]:
        # Resolved: a link in the path may lead into another folder than its text says.
        return [(str(folder), LocalFiles(folder)) for folder in self.root.resolve().parents]

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.root / key)
        # Behind a folder its subfolders sort; in reverse they go first.
        for folder in sorted({(self.root / key).parent for key in keys}, reverse=True):
            self._remove_empty(folder)

    def delete_folder(self, prefix: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root / prefix)
        self._remove_empty((self.root / prefix).parent)

    def upload(self, local: Path, key: str) -> None:
        with open(local, "rb") as source:
            self._store(key, lambda file: shutil.copyfileobj(source, file, 1 << 20), os.replace)

    def download(self, key: str, local: Path) -> None:
        shutil.copyfile(self.root / key, local)

    def _store(self, key: str, write: Callable[[BinaryIO], object], name_it: Callable[[Path, Path], None]) -> None:
        """Write a free name beside the key's own, then give it that name; the free name is gone afterwards either
        way."""
        target = self.root / key
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
        try:
            with self._open_new(temporary) as file:
                write(file)
                file.flush()
                # Before the name: a file system may write a rename to disk earlier than the bytes.
                os.fsync(file.fileno())
            name_it(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(temporary)

    def _link_once(self, temporary: Path, target: Path) -> None:
        try:
            self._link(temporary, target)
        except FileExistsError:
            # NFS repeats a request whose answer was lost, and its second try finds the name that the first one made.
            with contextlib.suppress(FileNotFoundError):  # deleted since, as somebody else's
                if os.path.samefile(temporary, target):
                    return
            raise

    def _open_new(self, path: Path) -> BinaryIO:
        """Another process may remove the folder as empty (``delete``) just after it was made here; then it is made
        again."""
        for _ in range(_FOLDER_TRIES):
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                return open(path, "xb")
        raise OSError(errno.EBUSY, "the folder is removed again and again while a file is made in it", str(path.parent))

    def _remove_empty(self, folder: Path) -> None:
        """Remove ``folder`` and the folders above it, as far as they are empty and below the root."""
        while folder != self.root and self.root in folder.parents:
            try:
                # This is the check too: asking first whether it is empty would race with a writer.
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


class FsspecFiles:
    """Objects that fsspec reaches: ``s3://``, ``gs://``, ``az://``, ``memory://``, and for reading any URL it knows.

    Listing caches are off: what another process has just written is there in the next listing. The client libraries'
    own retries are off too, so that a conditional put is never repeated behind our back (its second try would find its
    own object and report that somebody else was first).
    """

    def __init__(self, uri: str, credentials: Mapping[str, Any] | None = None) -> None:
        """``credentials`` are fsspec options of this URI alone (``rz_workers.storage.credentials``).

        Raises ValueError for a protocol that fsspec does not know, ImportError when its package is not installed.
        """
        protocol = uri.partition("://")[0]
        options: dict[str, Any] = dict(credentials or {})
        if protocol in ("s3", "s3a"):
            # Retries are in two layers: botocore's, and s3fs's own around it (5 tries in 2026.9).
            options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
        # fsspec would hand out one instance per URI and options: `retries` below would be everybody's.
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, skip_instance_cache=True, **options)
        if protocol in ("s3", "s3a"):
            fs.retries = 1
        self._fs = fs
        self._root = str(path).rstrip("/")
        self._is_memory = protocol == "memory"
        self._create_guard: contextlib.AbstractContextManager[Any] = (
            _memory_lock if self._is_memory else contextlib.nullcontext()
        )

    def create(self, key: str, data: bytes) -> None:
        with self._create_guard:
            try:
                # Not mode `xb`: without a byte written, s3fs empties what is there (findings/s3fs_exclusive_open.sh).
                self._fs.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                raise
            except OSError as error:
                # s3fs reports SeaweedFS's "412 precondition failed" as EINVAL, as it does many other things.
                if error.errno == errno.EINVAL and self.exists(key):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key) from error
                raise

    def replace(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(key), data)

    def write(self, key: str, parts: Iterable[memoryview]) -> None:
        if self._is_memory:  # its files are there from the moment that they are opened
            self.replace(key, b"".join(parts))
            return
        file = self._fs.open(self._path(key), "wb")
        try:
            for part in parts:
                file.write(part)
        except BaseException:
            _abandon(file)
            raise
        file.close()

    def read(self, key: str) -> bytes:
        return bytes(self._fs.cat_file(self._path(key)))

    def read_range(self, key: str, start: int, size: int) -> bytearray:
        if size > 0:  # a range of nothing is no range to HTTP: S3 answers with the whole object
            try:
                return bytearray(self._fs.cat_file(self._path(key), start=start, end=start + size))
            except Exception as error:
                if not _may_be_past_the_end(error):
                    raise
                if self._fs.info(self._path(key))["size"] > start:
                    raise
        elif not self.exists(key):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return bytearray()

    def exists(self, key: str) -> bool:
        try:
            # Not `fs.exists`: fsspec's takes every error for "no".
            return bool(self._fs.info(self._path(key))["type"] == "file")
        except FileNotFoundError:
            return False

    def keys(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        start = len(self._root) + 1
        found = self._fs.find(f"{self._root}/{folder}".rstrip("/"))
        return [key for path in found if (key := str(path)[start:]).startswith(prefix)]

    def folders(self, prefix: str) -> list[str]:
        try:
            entries = self._fs.ls(self._path(prefix).rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        start = len(self._root) + 1
        return [str(entry["name"]).rstrip("/")[start:] for entry in entries if entry["type"] == "directory"]

    def above(self) -> list[tuple[str, Backend]]:
        found: list[tuple[str, Backend]] = []
        root = self._root
        while root := root.rpartition("/")[0].rstrip("/"):
            folder = copy.copy(self)  # with the same connections
            folder._root = root
            found.append((str(self._fs.unstrip_protocol(root)), folder))
        return found

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(key))

    def delete_folder(self, prefix: str) -> None:
        self.delete(self.keys(f"{prefix}/"))

    def upload(self, local: Path, key: str) -> None:
        self._fs.put_file(str(local), self._path(key))

    def download(self, key: str, local: Path) -> None:
        self._fs.get_file(self._path(key), str(local))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def _may_be_past_the_end(error: Exception) -> bool:
    """Whether HTTP's 416 (no such range) may be behind this. s3fs says EINVAL, others tell the status."""
    return http_status(error) == 416 or (isinstance(error, OSError) and error.errno == errno.EINVAL)


def _abandon(file: Any) -> None:
    """Give up an upload: closing the file, which its end does too, would make an object of what was sent."""
    with contextlib.suppress(Exception):  # what matters is the error that is being handled
        file.discard()
    file.closed = True


def _raise_unless_missing(error: OSError) -> None:
    """A folder that is not there (yet, or any more) has no objects; any other failure is not an empty folder."""
    if not isinstance(error, FileNotFoundError):
        raise error
