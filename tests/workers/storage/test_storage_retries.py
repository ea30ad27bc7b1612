"""Which failures are retried, how long, and what they become: over a backend that fails on command."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import botocore.exceptions
import pytest
from storage_builders import FailingBackend, Sleeps, store_over

from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectExistsError, ObjectStore, StorageError
from rz_workers.storage.retry import RetryPolicy, is_refusal, is_transient

OUTAGE = ConnectionError("connection refused")


class StatusError(Exception):
    """As client libraries tell an HTTP status."""

    def __init__(self, status: int) -> None:
        self.status = status


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "put_new": lambda store: store.put_new("new", b""),
    "put": lambda store: store.put("a", b""),
    "put_parts": lambda store: store.put_parts("a", lambda: iter([memoryview(b"x"), memoryview(b"y")])),
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", 0, 1),
    "exists": lambda store: store.exists("a"),
    "list": lambda store: store.list(""),
    "folders": lambda store: store.folders("a/"),
    "delete": lambda store: store.delete(["a"]),
    "delete_folder": lambda store: store.delete_folder("a"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_outlasts_a_short_outage(call: Callable[[ObjectStore], object]) -> None:
    backend, sleeps = FailingBackend(OUTAGE, TimeoutError(), OSError(errno.EIO, "io")), Sleeps()
    backend.objects["a"] = b""
    call(store_over(backend, sleeps))
    assert sleeps == [1, 2, 3]


def test_a_second_try_writes_the_parts_from_the_first_on() -> None:
    backend = FailingBackend(OUTAGE)
    store_over(backend).put_parts("a", lambda: iter([memoryview(b"x"), memoryview(b"y")]))
    assert backend.objects["a"] == b"xy"


def test_each_retry_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        store_over(FailingBackend(OUTAGE, OUTAGE)).put_new("steps/1", b"")
    assert caplog.messages == [
        "s3://runs/x: cannot create 'steps/1' (ConnectionError: connection refused); trying again in 1.0 s",
        "s3://runs/x: cannot create 'steps/1' (ConnectionError: connection refused); trying again in 2.0 s",
    ]


def test_a_long_outage_ends_in_a_storage_error() -> None:
    with pytest.raises(StorageError, match=r"s3://runs/x: cannot read 'a' after 4 tries: ConnectionError"):
        store_over(FailingBackend(*[OUTAGE] * 4)).get("a")


def test_what_is_forbidden_is_not_retried() -> None:
    sleeps = Sleeps()
    with pytest.raises(StorageError, match="cannot read 'a': PermissionError: no"):
        store_over(FailingBackend(PermissionError("no")), sleeps).get("a")
    assert sleeps == []


def test_a_mistake_in_our_code_is_not_dressed_up_as_a_storage_failure() -> None:
    with pytest.raises(TypeError, match="a bug"):
        store_over(FailingBackend(TypeError("a bug"))).get("a")


def test_a_creation_whose_answer_was_lost_counts_as_ours() -> None:
    backend = FailingBackend(OUTAGE, arrives_all_the_same=True)
    store_over(backend).put_new("incarnations/000001", b"mine")
    assert backend.objects == {"incarnations/000001": b"mine"}


def test_after_an_outage_somebody_elses_object_is_still_somebody_elses() -> None:
    backend = FailingBackend(OUTAGE)
    store = ObjectStore(
        "s3://runs/x", backend=backend, sleep=lambda _: backend.objects.update({"incarnations/000001": b"theirs"})
    )
    with pytest.raises(ObjectExistsError):
        store.put_new("incarnations/000001", b"mine")


def test_equal_bytes_that_were_there_before_the_first_try_are_not_ours() -> None:
    backend = FailingBackend()
    backend.objects["a"] = b"same"
    with pytest.raises(ObjectExistsError):
        store_over(backend).put_new("a", b"same")


@pytest.mark.parametrize(
    "failure",
    [
        PermissionError("Access Denied"),
        FileNotFoundError("The specified bucket does not exist"),
        botocore.exceptions.NoCredentialsError(),
        OSError(errno.EROFS, "Read-only file system"),
    ],
    ids=["forbidden", "no bucket", "no credentials", "read-only"],
)
def test_storage_that_refuses_at_the_start_is_the_users_to_change(failure: Exception) -> None:
    with pytest.raises(UserError, match=r"the storage folder s3://runs/x cannot be written: .*storage\.secretName"):
        store_over(FailingBackend(failure)).check_writable()


def test_storage_that_does_not_answer_at_the_start_is_not_the_users_fault() -> None:
    with pytest.raises(StorageError, match="after 4 tries"):
        store_over(FailingBackend(*[OUTAGE] * 10)).check_writable()


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [
        pytest.param(1, 1.0, 0.2, id="first"),
        pytest.param(2, 1.0, 0.4, id="doubled"),
        pytest.param(8, 1.0, 25.6, id="eighth"),
        pytest.param(9, 1.0, 30.0, id="capped"),
        pytest.param(17, 1.0, 30.0, id="still capped"),
        pytest.param(2, 0.0, 0.2, id="at least half"),
    ],
)
def test_the_waits(attempt: int, jitter: float, seconds: float) -> None:
    assert RetryPolicy().delay(attempt, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        pytest.param(ConnectionResetError(), True, id="connection reset"),
        pytest.param(TimeoutError(), True, id="time limit"),
        pytest.param(OSError(errno.EBUSY, "SlowDown"), True, id="s3 throttles"),
        pytest.param(OSError(errno.EREMOTEIO, "InternalError"), True, id="s3 has an internal error"),
        pytest.param(OSError(errno.ENOSPC, "full"), True, id="disk full"),
        pytest.param(botocore.exceptions.EndpointConnectionError(endpoint_url="x"), True, id="endpoint unreachable"),
        pytest.param(botocore.exceptions.NoCredentialsError(), False, id="no credentials"),
        pytest.param(FileNotFoundError(), False, id="missing"),
        pytest.param(FileExistsError(), False, id="taken"),
        pytest.param(PermissionError(), False, id="forbidden"),
        pytest.param(NotADirectoryError(), False, id="a file in the way"),
        pytest.param(OSError(errno.EINVAL, "bad"), False, id="invalid request"),
        pytest.param(ValueError("bad"), False, id="our own mistake"),
    ],
)
def test_what_passes_by_itself(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        pytest.param(PermissionError("Access Denied"), True, id="S3, files"),
        pytest.param(OSError("Forbidden: https://storage.example/o/x\nno access"), True, id="Google"),
        pytest.param(StatusError(403), True, id="Azure"),
        pytest.param(StatusError(401), True, id="nobody knows who asks"),
        pytest.param(StatusError(503), False, id="an outage"),
        pytest.param(OSError(errno.EIO, "Forbidden: x"), False, id="a disk that is broken"),
        pytest.param(TimeoutError(), False, id="a time limit"),
    ],
)
def test_what_other_credentials_may_help_against(error: Exception, refused: bool) -> None:
    assert is_refusal(error) is refused


def test_google_that_refuses_at_the_start_is_the_users_to_change() -> None:
    refusals = [OSError("Forbidden: https://storage.example/o/x\nno access")] * 4
    with pytest.raises(UserError, match=r"(?s)the storage folder s3://runs/x cannot be written: .*storage\.secretName"):
        store_over(FailingBackend(*refusals)).check_writable()
