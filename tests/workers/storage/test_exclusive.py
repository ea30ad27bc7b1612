"""Storage on which two gangs could both win is refused before anything is written to it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from prometheus_client import CollectorRegistry
from storage_builders import FailingBackend, store_over
from werkzeug.serving import make_server

from rz_api.run import ResolvedRun
from rz_workers.runtime import UserError
from rz_workers.storage.backends import LocalFiles
from rz_workers.storage.metrics import StorageMetrics
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder

MakeRun = Callable[..., ResolvedRun]
Application = Callable[[dict[str, Any], Callable[..., Any]], Any]
CONDITION = "HTTP_IF_NONE_MATCH"


def forgetful(application: Application) -> Application:
    """An S3 server that does not know the condition, or one behind a proxy that drops it."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ.pop(CONDITION, None)
        return application(environ, start_response)

    return answer


def rejecting(application: Application) -> Application:
    """An S3 server that says that it does not know the condition."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if CONDITION not in environ:
            return application(environ, start_response)
        start_response("501 Not Implemented", [("Content-Type", "application/xml"), ("Connection", "close")])
        code = "<Error><Code>NotImplemented</Code><Message>If-None-Match is not implemented</Message></Error>"
        return [code.encode()]

    return answer


@pytest.fixture
def serve(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Has ``s3://`` served by moto (with the objects of the other tests' server) behind what is given."""
    servers = []

    def start(behind: Callable[[Application], Application]) -> None:
        server = make_server("127.0.0.1", 0, behind(DomainDispatcherApplication(create_backend_app)), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def s3_uri(tmp_path: Path) -> str:
    return f"s3://runs/{tmp_path.name}"


class OverwritingBackend(FailingBackend):
    """Objects in a dictionary that takes every creation, as some versions of fsspec's ``memory://`` do."""

    def create(self, key: str, data: bytes) -> None:
        self.replace(key, data)


def copy_over(source: Path, target: Path) -> None:
    os.replace(source, target)


def test_on_such_storage_two_runs_both_own_the_folder(
    serve: Callable[[Any], None], tmp_path: Path, make_run: MakeRun
) -> None:
    serve(forgetful)
    uri = s3_uri(tmp_path)
    ObjectStore(uri).put_new("run.json", make_run(uid="first").model_dump_json().encode())
    ObjectStore(uri).put_new("run.json", make_run(uid="second").model_dump_json().encode())
    opened = RunFolder.open(ObjectStore(uri))
    assert opened is not None
    assert opened.run.uid == "second"


def test_an_s3_server_that_ignores_the_condition_is_refused(serve: Callable[[Any], None], tmp_path: Path) -> None:
    serve(forgetful)
    store = ObjectStore(s3_uri(tmp_path))
    with pytest.raises(UserError) as error:
        store.check_writable()
    said = str(error.value)
    assert f"the storage {store.uri} replaces objects" in said
    assert "it took a second creation of one key" in said
    assert "exactly one must succeed" in said
    assert "must refuse a PUT with `If-None-Match: *`" in said
    assert store.list("") == []


def test_an_s3_server_that_rejects_the_condition_is_refused_in_the_same_words(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(rejecting)
    store = ObjectStore(s3_uri(tmp_path))
    with pytest.raises(UserError, match=r"can't create an object on the condition.*If-None-Match is not implemented"):
        store.check_writable()
    assert store.list("") == []


REFUSED: dict[str, tuple[ObjectStore, str]] = {
    "an S3 server": (ObjectStore("s3://b/x", backend=OverwritingBackend()), "behind AWS_ENDPOINT_URL"),
    "an S3 server by another scheme": (ObjectStore("s3a://b/x", backend=OverwritingBackend()), "If-None-Match"),
    "Google": (
        ObjectStore("gs://b/x", backend=OverwritingBackend()),
        "use a standard bucket, not a zonal one",
    ),
    "Azure": (
        ObjectStore("abfss://c@a.dfs.core.windows.net/x", backend=OverwritingBackend()),
        "container of Azure itself",
    ),
    "memory": (ObjectStore("memory://x", backend=OverwritingBackend()), "use files, s3://, gs:// or az://"),
    "files": (ObjectStore("/mnt/runs", backend=OverwritingBackend()), "refuse to link a file to a name that is taken"),
}


@pytest.mark.parametrize(("store", "change"), REFUSED.values(), ids=REFUSED)
def test_storage_that_takes_a_second_creation_is_refused_with_what_to_change(store: ObjectStore, change: str) -> None:
    with pytest.raises(UserError, match="it took a second creation of one key") as error:
        store.check_writable()
    assert store.uri in str(error.value)
    assert change in str(error.value)
    assert store.list("") == []


def test_a_file_system_whose_links_replace_is_refused(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "run"), backend=LocalFiles(tmp_path / "run", link=copy_over))
    with pytest.raises(UserError, match="it took a second creation of one key"):
        store.check_writable()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, number: int) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    store = ObjectStore(str(tmp_path / "run"), backend=LocalFiles(tmp_path / "run", link=link))
    with pytest.raises(UserError, match=r"can't create an object on the condition.*instead of mounting it"):
        store.check_writable()
    assert os.listdir(tmp_path) == []


def test_a_link_whose_answer_was_lost_is_ours(tmp_path: Path) -> None:
    def link(source: Path, target: Path) -> None:  # as NFS does: the repeated request finds the first one's name
        os.link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(source), None, str(target))

    files = LocalFiles(tmp_path, link=link)
    files.create("incarnations/000001", b"mine")
    assert files.read("incarnations/000001") == b"mine"
    with pytest.raises(FileExistsError):
        LocalFiles(tmp_path).create("incarnations/000001", b"mine")


def test_good_storage_is_asked_three_times(open_store: Callable[[], ObjectStore]) -> None:
    registry = CollectorRegistry()
    store = ObjectStore(open_store().uri, metrics=StorageMetrics(registry))
    store.check_writable()
    asked = {op: registry.get_sample_value("rz_storage_requests_total", {"operation": op}) for op in ("put", "delete")}
    assert asked == {"put": 2, "delete": 1}
    assert store.list("") == []


OUTAGE = ConnectionError("connection refused")


@pytest.mark.parametrize(
    "failures",
    [[OUTAGE], [None, OUTAGE], [None, None, OUTAGE]],
    ids=["of the first creation", "of the second one", "of the deletion"],
)
def test_an_answer_that_was_lost_does_not_make_storage_look_bad(failures: list[Exception | None]) -> None:
    backend = FailingBackend(*failures, arrives_all_the_same=True)
    store_over(backend).check_writable()
    assert backend.objects == {}


def test_a_lost_answer_does_not_make_bad_storage_look_good() -> None:
    backend = OverwritingBackend(None, OUTAGE)
    with pytest.raises(UserError, match="it took a second creation"):
        store_over(backend).check_writable()
    assert backend.objects == {}


def test_an_incarnation_that_the_client_library_created_twice_is_ours(make_run: MakeRun) -> None:
    class Repeating(FailingBackend):
        """As the clients of Google and Azure, which try again by themselves."""

        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            if key.startswith("incarnations/"):
                super().create(key, data)

    folder = RunFolder.claim(store_over(Repeating()), make_run())
    folder.claim_incarnation(1)
    assert folder.newest_incarnation() == 1
