"""Two runs never share a folder, and none begins inside another's: whatever namespaces they are of, on every storage.

"At the same time" is played step by step: a store that lets the other run act at a chosen request of the first one's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storage_builders import FailingBackend

from rz_api.run import ResolvedRun
from rz_workers.runtime import UserError
from rz_workers.storage import neighbours
from rz_workers.storage.backends import Backend
from rz_workers.storage.objects import ObjectStore, StorageError
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trouble import TROUBLES

OpenStore = Callable[[], ObjectStore]
MakeRun = Callable[..., ResolvedRun]


def of(namespace: str, run: ResolvedRun) -> ResolvedRun:
    return run.model_copy(update={"namespace": namespace})


def below(store: ObjectStore, path: str) -> ObjectStore:
    return ObjectStore(f"{store.uri}/{path}" if path else store.uri)


# ------------------------------------------------------------------------------------------------- one folder


def test_of_two_namespaces_runs_that_start_at_once_exactly_one_has_the_folder(
    open_store: OpenStore, make_run: MakeRun
) -> None:
    runs = [of(f"team-{number}", make_run(uid=f"uid-{number}")) for number in range(2)]
    barrier, said, won = threading.Barrier(2), list[str](), list[RunFolder]()

    def start(run: ResolvedRun) -> None:
        store = open_store()
        barrier.wait()
        try:
            won.append(RunFolder.claim(store, run))
        except UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=start, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(said)) == (1, 1)
    owner, (loser,) = won[0].run, (run for run in runs if run is not won[0].run)
    assert f"belongs to run {owner.namespace}/tiny (uid {owner.uid})" in said[0]
    stored = RunFolder.open(open_store())
    assert stored is not None
    assert stored.run == owner
    with pytest.raises(UserError, match="belongs to run"):
        RunFolder.open(open_store(), loser)


def test_a_claim_says_no_more_than_the_bucket_does(open_store: OpenStore, make_run: MakeRun) -> None:
    RunFolder.claim(open_store(), of("theirs", make_run(uid="first", name="secret-plan")))
    with pytest.raises(UserError) as error:
        RunFolder.claim(open_store(), of("mine", make_run(uid="second")))
    stored = open_store().get("run.json").decode()
    for word in ("theirs", "secret-plan", "first"):
        assert word in str(error.value)
        assert word in stored


# ------------------------------------------------------------------------------------- a folder inside another


NESTED = {
    "in the folder itself": ("", "x"),
    "far inside": ("", "a/b/c/d"),
    "beside other folders": ("runs", "runs/weights"),
}


@pytest.mark.parametrize(("outer", "inner"), NESTED.values(), ids=NESTED)
def test_a_run_inside_another_runs_folder_is_refused(
    open_store: OpenStore, make_run: MakeRun, outer: str, inner: str
) -> None:
    RunFolder.claim(below(open_store(), outer), of("one", make_run(uid="first", name="alice")))
    before = open_store().list("")
    with pytest.raises(UserError, match=r"lies inside .*, which belongs to run one/alice \(uid first\)"):
        RunFolder.claim(below(open_store(), inner), of("two", make_run(uid="second")))
    assert open_store().list("") == before


@pytest.mark.parametrize(("outer", "inner"), NESTED.values(), ids=NESTED)
def test_a_run_around_another_runs_folder_is_refused(
    open_store: OpenStore, make_run: MakeRun, outer: str, inner: str
) -> None:
    RunFolder.claim(below(open_store(), inner), of("one", make_run(uid="first", name="alice")))
    before = open_store().list("")
    with pytest.raises(UserError, match=rf"lies around .*/{inner}, which belongs to run one/alice \(uid first\)"):
        RunFolder.claim(below(open_store(), outer), of("two", make_run(uid="second")))
    assert open_store().list("") == before


def test_adopting_another_runs_folder_is_no_right_to_begin_inside_it(open_store: OpenStore, make_run: MakeRun) -> None:
    RunFolder.claim(open_store(), make_run(uid="first"))
    with pytest.raises(UserError, match="lies inside"):
        RunFolder.claim(below(open_store(), "x"), make_run(uid="second", adopt=True))
    RunFolder.claim(open_store(), make_run(uid="second", adopt=True))


def test_runs_beside_each_other_are_no_neighbours(open_store: OpenStore, make_run: MakeRun) -> None:
    for name in ("orz", "orz-7b", "or", "more/orz"):
        RunFolder.claim(below(open_store(), name), make_run(uid=name))


@pytest.mark.parametrize(
    "found",
    [b"", b"no JSON \xff", b"[1]", b'{"name": "a tool", "uid": "x"}', b'{"spec": {}, "name": 1, "uid": "x"}'],
    ids=["empty", "no JSON", "a list", "another tool's", "of other types"],
)
def test_a_run_json_that_is_no_runs_is_nobodys(open_store: OpenStore, make_run: MakeRun, found: bytes) -> None:
    open_store().put_new("run.json", found)
    open_store().put_new("x/logs/run.json", found)
    RunFolder.claim(below(open_store(), "x"), make_run())


def test_a_run_of_another_version_counts(open_store: OpenStore, make_run: MakeRun) -> None:
    open_store().put_new("run.json", b'{"name": "future", "uid": "f", "namespace": "n", "spec": {"new": 1}, "more": 2}')
    with pytest.raises(UserError, match=r"belongs to run n/future \(uid f\)"):
        RunFolder.claim(below(open_store(), "x"), make_run())


def test_a_runs_own_files_elsewhere_do_not_stop_it(open_store: OpenStore, make_run: MakeRun) -> None:
    RunFolder.claim(below(open_store(), "copy"), make_run(uid="a"))
    open_store().put_new(".rz/run.json", make_run(uid="b").model_dump_json().encode())  # `rz run` of another run
    RunFolder.claim(open_store(), make_run(uid="a"))


def test_a_run_that_goes_on_is_not_ended_by_what_appears_beside_its_files(
    open_store: OpenStore, make_run: MakeRun
) -> None:
    RunFolder.claim(below(open_store(), "runs"), make_run(uid="first")).claim_incarnation(1)
    stranger = make_run(uid="stranger").model_dump_json().encode()
    open_store().put_new("run.json", stranger)
    open_store().put_new("runs/backup/run.json", stranger)
    RunFolder.claim(below(open_store(), "runs"), make_run(uid="first")).claim_incarnation(2)


def test_a_run_that_was_killed_before_it_looked_looks_when_it_comes_again(
    open_store: OpenStore, make_run: MakeRun
) -> None:
    RunFolder.claim(open_store(), make_run(uid="first"))
    below(open_store(), "x").put_new("run.json", make_run(uid="second").model_dump_json().encode())
    with pytest.raises(UserError, match="lies inside"):
        RunFolder.claim(below(open_store(), "x"), make_run(uid="second"))


class Interrupted(ObjectStore):
    """Has somebody else act just before or behind the creation of ``run.json``."""

    before: Callable[[], object] = staticmethod(lambda: None)
    behind: Callable[[], object] = staticmethod(lambda: None)

    def put_new(self, key: str, data: bytes) -> None:
        self.before()
        super().put_new(key, data)
        self.behind()


@pytest.mark.parametrize(("mine", "theirs"), [("", "x"), ("x", ""), ("a/b/c", "")])
def test_of_two_nested_runs_that_start_at_once_the_one_that_writes_last_gives_up(
    open_store: OpenStore, make_run: MakeRun, mine: str, theirs: str
) -> None:
    store = Interrupted(below(open_store(), mine).uri)
    store.before = lambda: RunFolder.claim(below(open_store(), theirs), make_run(uid="theirs"))
    with pytest.raises(UserError, match=r"lies (inside|around) .* \(uid theirs\)"):
        RunFolder.claim(store, make_run(uid="mine"))
    assert open_store().list("") == [f"{theirs}/run.json".lstrip("/")]


def test_of_two_nested_runs_that_both_write_before_either_looks_again_at_most_one_stays(
    open_store: OpenStore, make_run: MakeRun
) -> None:
    ready, written = threading.Barrier(2), threading.Barrier(2)
    stores = {"": Interrupted(open_store().uri), "x": Interrupted(below(open_store(), "x").uri)}
    said, won = list[str](), list[str]()

    def start(folder: str) -> None:
        try:
            RunFolder.claim(stores[folder], make_run(uid=f"uid of {folder}"))
        except UserError as error:
            said.append(str(error))
        else:
            won.append(f"{folder}/run.json".lstrip("/"))

    threads = [threading.Thread(target=start, args=(folder,)) for folder in stores]
    for store in stores.values():
        store.before, store.behind = ready.wait, written.wait
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The second to look may find that the first one has given up already.
    assert (len(said), len(won)) in [(2, 0), (1, 1)]
    assert open_store().list("") == won


# ------------------------------------------------------------------------------------------- rights and limits


class Bucket(FailingBackend):
    """A folder of a bucket of which the folders above are those in ``outer``."""

    def __init__(self, *outer: FailingBackend) -> None:
        super().__init__()
        self.outer = outer

    def above(self) -> list[tuple[str, Backend]]:
        return [(f"s3://b/{depth}", backend) for depth, backend in enumerate(self.outer)]


FORBIDDEN = {
    "S3": PermissionError("Access Denied"),
    "Google": OSError("Forbidden: https://storage.example/b/o/run.json\nno access"),
    "a file system": PermissionError(13, "Permission denied"),
}


@pytest.mark.parametrize("refusal", FORBIDDEN.values(), ids=FORBIDDEN)
def test_folders_above_that_this_runs_rights_do_not_reach_are_passed_over(
    make_run: MakeRun, refusal: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TROUBLES, "_found", {})
    outer = [FailingBackend(*[refusal] * 100) for _ in range(2)]
    store = ObjectStore("s3://b/team/x", backend=Bucket(*outer), sleep=lambda seconds: None)
    RunFolder.claim(store, make_run())
    assert store.exists("run.json")
    monkeypatch.setattr(TROUBLES, "_clock", lambda: math.inf)
    assert TROUBLES.current() is None, "what was passed over is told to nobody, however long it lasts"


def test_an_outage_is_not_taken_for_an_empty_folder(make_run: MakeRun) -> None:
    outer = FailingBackend(*[ConnectionError("refused")] * 100)
    store = ObjectStore("s3://b/team/x", backend=Bucket(outer), sleep=lambda seconds: None)
    with pytest.raises(StorageError, match="refused"):
        RunFolder.claim(store, make_run())
    assert not store.exists("run.json")


def test_a_bucket_of_many_folders_is_looked_through_to_a_limit(
    local_store: ObjectStore, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbours, "MAX_BELOW", 3)
    for name in ("a", "b", "c", "d"):
        local_store.put_new(f"{name}/data", b"")
    RunFolder.claim(below(local_store, "b"), make_run(uid="near"))
    with pytest.raises(UserError, match="lies around"):
        RunFolder.claim(local_store, make_run(uid="outer"))
    below(local_store, "b").delete(["run.json"])
    RunFolder.claim(below(local_store, "d"), make_run(uid="far"))
    RunFolder.claim(local_store, make_run(uid="outer"))
    assert "only 3 were looked at" in caplog.text


def test_a_start_costs_a_read_a_folder_above_and_a_listing_below(make_run: MakeRun) -> None:
    asked: list[tuple[str, str]] = []

    class Counting(Bucket):
        def __getattribute__(self, name: str) -> Any:
            if name in ("create", "read", "read_range", "exists", "keys", "folders"):
                asked.append((name, "here"))
            return super().__getattribute__(name)

    class CountingOuter(FailingBackend):
        def read_range(self, key: str, start: int, size: int) -> bytearray:
            asked.append(("read_range", "above"))
            return super().read_range(key, start, size)

    store = ObjectStore("s3://b/team/x", backend=Counting(CountingOuter(), CountingOuter()))
    RunFolder.claim(store, make_run())
    look = [("read_range", "above")] * 2 + [("folders", "here")]
    assert [each for each in asked if each[0] != "keys"] == [("exists", "here"), *look, ("create", "here"), *look]


def test_a_link_in_the_path_leads_to_the_folder_that_it_is(tmp_path: Path, make_run: MakeRun) -> None:
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "run")
    RunFolder.claim(ObjectStore(str(tmp_path / "real")), make_run(uid="first"))
    with pytest.raises(UserError, match="lies inside"):
        RunFolder.claim(ObjectStore(str(tmp_path / "link" / "x")), make_run(uid="second"))
