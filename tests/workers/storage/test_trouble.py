"""Which failures say that storage is full, and what people are told of it."""

from __future__ import annotations

import errno
from typing import Any

import botocore.exceptions
import pytest

from rz_workers.storage.objects import ObjectStore, StorageError
from rz_workers.storage.retry import RetryPolicy
from rz_workers.storage.trouble import LASTS_SECONDS, MAX_WORDS, Troubles, is_full, words


def s3(code: str, message: str, status: int) -> OSError:
    """As s3fs translates an error that it has no exception for: an EIO, with botocore's own as its cause."""
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    cause = botocore.exceptions.ClientError(answer, "PutObject")
    error = OSError(errno.EIO, message)
    error.__cause__ = cause
    return error


class HttpError(Exception):
    """As gcsfs raises it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message}, {code}")
        self.code = code


def wrapped(cause: Exception) -> StorageError:
    error = StorageError("s3://runs/x: cannot create 'a' after 17 tries")
    error.__cause__ = cause
    return error


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
FULL: dict[str, Exception] = {
    "a full disk": NO_SPACE,
    "a full disk, with a file's name": OSError(errno.ENOSPC, "No space left on device", "/mnt/runs/.a.part"),
    "a quota of a disk": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "MinIO's disk": s3("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.", 507),
    "MinIO's quota": s3("XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded", 400),
    "Ceph's quota": s3("QuotaExceeded", "", 403),
    "a server's 507": HttpError(507, "Insufficient Storage"),
    "Google's quota": HttpError(403, "The project to be billed has exceeded its storage quota. storageQuotaExceeded"),
    "any of them, once all tries are over": wrapped(NO_SPACE),
}
NOT_FULL: dict[str, Exception] = {
    "an outage": ConnectionError("connection refused"),
    "throttling": s3("SlowDown", "Please reduce your request rate.", 503),
    "a rate limit": HttpError(429, "rateLimitExceeded"),
    "forbidden": PermissionError("Access Denied"),
    "nothing there": FileNotFoundError("weights/v000507"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_storage_that_is_full_is_known(error: Exception) -> None:
    assert is_full(error)
    assert words("s3://runs/x", error).startswith("the storage s3://runs/x is full (")


@pytest.mark.parametrize("error", NOT_FULL.values(), ids=NOT_FULL)
def test_what_is_something_else_is_not_called_full(error: Exception) -> None:
    assert not is_full(error)


def test_the_words_are_the_same_from_try_to_try_and_name_no_key_and_no_secret() -> None:
    once, again = (wrapped(OSError(errno.ENOSPC, "No space left on device", f"/mnt/{n}.part")) for n in (1, 2))
    assert words("/mnt/runs", once) == words("/mnt/runs", again)
    said = words(
        "https://me:secret@host/runs?sig=abc", ConnectionError("PUT https://host/a?X-Amz-Signature=abc failed")
    )
    assert said.startswith("the storage https://***@host/runs?sig=*** does not do what it should (")
    assert "PUT https://host/a?X-Amz-Signature=*** failed" in said


def test_a_credential_is_taken_out_before_the_words_are_cut_off_behind_it() -> None:
    beside = "x" * (MAX_WORDS - len("ConnectionError:  https://me:secret"))
    said = words("s3://runs/x", ConnectionError(f"{beside} https://me:secret@host/a failed"))
    assert "secret" not in said
    assert " https://***@host" in said


class FullBackend:
    """Storage without room for the next so many writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def replace(self, key: str, data: bytes) -> None:
        if self.left:
            self.left -= 1
            raise NO_SPACE

    def exists(self, key: str) -> bool:
        return False


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_full_storage_is_told_from_the_first_try_on_until_one_succeeds() -> None:
    troubles = Troubles(Clock())
    told: list[str | None] = []
    store = ObjectStore(
        "s3://runs/x",
        backend=FullBackend(2),  # type: ignore[arg-type]
        retry=RetryPolicy(attempts=4),
        sleep=lambda _: told.append(troubles.current()),
        troubles=troubles,
    )
    store.put("a", b"")
    said = (
        "the storage s3://runs/x is full (OSError: [Errno 28] No space left on device): free space in it, or raise its "
        "quota; the run goes on then"
    )
    assert told == [said, said]
    assert troubles.current() is None


def test_what_can_still_be_read_does_not_make_a_full_storage_well() -> None:
    troubles, backend = Troubles(Clock()), FullBackend(1)
    store = ObjectStore(
        "s3://runs/x",
        backend=backend,  # type: ignore[arg-type]
        retry=RetryPolicy(attempts=1),
        troubles=troubles,
    )
    with pytest.raises(StorageError):
        store.put("a", b"")
    assert not store.exists("a")
    assert troubles.current() is not None


def test_what_may_pass_is_told_when_it_lasts_and_never_before_what_is_full() -> None:
    clock = Clock()
    troubles = Troubles(clock)
    troubles.failed("s3://runs/x", "get", ConnectionError("refused"))
    assert troubles.current() is None
    clock.now = LASTS_SECONDS
    troubles.failed("s3://runs/x", "get", ConnectionError("refused"))
    assert "s3://runs/x does not do what it should (ConnectionError: refused)" in str(troubles.current())
    troubles.failed("s3://runs/y", "put", NO_SPACE)
    assert "s3://runs/y is full" in str(troubles.current())
    troubles.works("s3://runs/y", "put")
    troubles.works("s3://runs/x", "get")
    assert troubles.current() is None
