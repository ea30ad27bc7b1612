"""The contract of ``ObjectStore``, over every kind of storage: files, memory, S3 (moto's server)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rz_workers.storage.objects import ObjectExistsError, ObjectMissingError, ObjectStore
from rz_workers.storage.records import FileEntry

OpenStore = Callable[[], ObjectStore]


def in_threads(number: int, act: Callable[[int], None]) -> None:
    """Run ``act(0..number-1)`` at the same time; an exception in one of them fails the test."""
    barrier, failures = threading.Barrier(number), []

    def run(index: int) -> None:
        barrier.wait()
        try:
            act(index)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def race(stores: list[ObjectStore], key: str) -> list[int]:
    """Every store creates ``key`` with bytes of its own at once; the indices of those that succeeded."""
    winners: list[int] = []

    def create(index: int) -> None:
        try:
            stores[index].put_new(key, b"%d" % index * 10_000)
        except ObjectExistsError:
            return
        winners.append(index)

    in_threads(len(stores), create)
    return winners


def test_what_one_store_creates_another_one_reads(open_store: OpenStore) -> None:
    open_store().put_new("steps/step-000001.json", b"\x00bytes\xff")
    assert open_store().get("steps/step-000001.json") == b"\x00bytes\xff"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put_new("empty", b"")
    assert (store.exists("empty"), store.get("empty")) == (True, b"")


def test_the_second_creation_is_refused_and_changes_nothing(open_store: OpenStore) -> None:
    open_store().put_new("run.json", b"first")
    with pytest.raises(ObjectExistsError, match=r"run\.json"):
        open_store().put_new("run.json", b"second")
    assert open_store().get("run.json") == b"first"


def test_of_eight_racing_writers_exactly_one_wins(open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(8)]
    for round_ in range(5):
        key = f"incarnations/{round_:06d}"
        winners = race(stores, key)
        assert len(winners) == 1
        assert stores[round_].get(key) == b"%d" % winners[0] * 10_000


def test_eight_threads_can_share_one_store(store: ObjectStore) -> None:
    def use(index: int) -> None:
        for number in range(3):
            key = f"folder-{number}/{index}"
            store.put_new(key, b"%d" % index)
            assert store.get(key) == b"%d" % index
            assert key in store.list(f"folder-{number}/")

    in_threads(8, use)
    assert len(store.list("")) == 24
    assert len(race([store] * 8, "shared")) == 1


def test_put_replaces_the_whole_object(open_store: OpenStore) -> None:
    open_store().put("metrics.jsonl", b"a long first version")
    open_store().put("metrics.jsonl", b"short")
    assert open_store().get("metrics.jsonl") == b"short"


def test_reading_what_is_not_there_says_so(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError, match="steps/none"):
        store.get("steps/none")


def test_exists_speaks_of_objects_and_not_of_folders(store: ObjectStore) -> None:
    store.put_new("weights/v000001-i1/manifest.json", b"{}")
    found = {key: store.exists(key) for key in ("weights/v000001-i1/manifest.json", "weights", "weights/v000002-i1")}
    assert found == {"weights/v000001-i1/manifest.json": True, "weights": False, "weights/v000002-i1": False}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        pytest.param("", ["a", "b/1", "b/10/x", "b/2", "bb/1"], id="the whole folder, sorted and recursive"),
        pytest.param("b/", ["b/1", "b/10/x", "b/2"], id="a folder"),
        pytest.param("b/1", ["b/1", "b/10/x"], id="a beginning of names, folders included"),
        pytest.param("b", ["b/1", "b/10/x", "b/2", "bb/1"], id="a beginning of a folder's name"),
        pytest.param("none/", [], id="a folder that is not there"),
    ],
)
def test_listing_a_prefix(store: ObjectStore, prefix: str, expected: list[str]) -> None:
    for key in ("b/10/x", "bb/1", "a", "b/2", "b/1"):
        store.put_new(key, b"")
    assert store.list(prefix) == expected


def test_a_folder_that_nobody_has_written_to_is_empty(store: ObjectStore) -> None:
    assert store.list("") == []


def test_a_listing_shows_what_another_store_wrote_since_the_last_listing(open_store: OpenStore) -> None:
    mine, other = open_store(), open_store()
    mine.put_new("steps/1", b"")
    assert (mine.list("steps/"), mine.exists("steps/2")) == (["steps/1"], False)
    other.put_new("steps/2", b"")
    assert (mine.list("steps/"), mine.exists("steps/2")) == (["steps/1", "steps/2"], True)
    other.delete(["steps/1"])
    assert (mine.list("steps/"), mine.exists("steps/1")) == (["steps/2"], False)


def test_deleting_passes_over_what_is_gone(store: ObjectStore) -> None:
    store.put_new("a/1", b"")
    store.put_new("a/2", b"")
    store.delete(["a/1", "a/never", "never/never"])
    store.delete([])
    assert store.list("") == ["a/2"]


def test_a_deleted_key_can_be_created_again(store: ObjectStore) -> None:
    store.put_new("a/1", b"old")
    store.delete(["a/1"])
    store.put_new("a/1", b"new")
    assert store.get("a/1") == b"new"


def test_a_file_goes_up_and_comes_down_with_its_size_and_checksum(store: ObjectStore, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "new" / "folder" / "copy"
    source.write_bytes(b"model" * 100_000)
    entry = store.upload(source, "export/model.safetensors")
    store.download("export/model.safetensors", copy)
    assert entry == FileEntry(size_bytes=500_000, sha256=hashlib.sha256(source.read_bytes()).hexdigest())
    assert copy.read_bytes() == source.read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_download_of_nothing_leaves_no_file(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissingError):
        store.download("none", tmp_path / "new" / "copy")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_repeated_upload_replaces_the_first(store: ObjectStore, tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "file").write_text(text)
        store.upload(tmp_path / "file", "folder/file")
    assert store.get("folder/file") == b"second"


def test_a_large_object_goes_up_in_parts_and_comes_down_in_ranges(store: ObjectStore) -> None:
    parts = [bytes([number]) * 6_000_000 for number in range(10)]  # more than one part of a multipart upload
    store.put_parts("checkpoints/x/data.bin", lambda: map(memoryview, parts))
    assert store.get_range("checkpoints/x/data.bin", 5_999_999, 3) == b"\x00\x01\x01"
    assert store.get_range("checkpoints/x/data.bin", 0, 60_000_000) == b"".join(parts)


def test_a_range_ends_where_the_object_ends(store: ObjectStore) -> None:
    store.put("a", b"0123")
    assert store.get_range("a", 2, 10) == b"23"
    with pytest.raises(ObjectMissingError):
        store.get_range("none", 0, 1)


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [
        pytest.param(1, 0, b"", id="no bytes"),
        pytest.param(0, 0, b"", id="no bytes from the beginning"),
        pytest.param(4, 1, b"", id="from the end on"),
        pytest.param(9, 5, b"", id="behind the end"),
        pytest.param(4, 0, b"", id="no bytes from the end on"),
        pytest.param(0, 4, b"0123", id="all of it"),
        pytest.param(3, 9, b"3", id="more than there is"),
    ],
)
def test_a_range_has_the_bytes_that_are_there(store: ObjectStore, start: int, size: int, expected: bytes) -> None:
    store.put("a", b"0123")
    store.put("empty", b"")
    assert store.get_range("a", start, size) == expected
    assert store.get_range("empty", start, size) == b""
    with pytest.raises(ObjectMissingError):
        store.get_range("none", start, size)


def test_parts_replace_what_was_there(store: ObjectStore) -> None:
    store.put("a", b"a long first version")
    store.put_parts("a", lambda: [memoryview(b"sho"), memoryview(b"rt")])
    assert store.get("a") == b"short"


def test_an_object_whose_parts_break_off_does_not_come_into_being(open_store: OpenStore) -> None:
    def parts() -> Iterator[memoryview]:
        yield memoryview(b"x" * 60_000_000)
        raise RuntimeError("the process is in trouble")

    with pytest.raises(RuntimeError, match="in trouble"):
        open_store().put_parts("folder/data.bin", parts)
    assert open_store().list("") == []


def test_folders_are_those_directly_below(store: ObjectStore) -> None:
    for key in ("checkpoints/b/policy/1", "checkpoints/a/manifest.json", "checkpoints/file", "other/c/1"):
        store.put_new(key, b"")
    assert store.folders("checkpoints/") == ["checkpoints/a", "checkpoints/b"]
    assert store.folders("") == ["checkpoints", "other"]
    assert store.folders("none/") == []


def test_deleting_a_folder_leaves_its_neighbours(store: ObjectStore) -> None:
    for key in ("a/1/x", "a/1/y/z", "a/10/x", "a/2"):
        store.put_new(key, b"")
    store.delete_folder("a/1")
    store.delete_folder("a/none")
    assert store.list("") == ["a/10/x", "a/2"]


def test_checking_that_a_folder_can_be_written_leaves_nothing(store: ObjectStore) -> None:
    store.check_writable()
    assert store.list("") == []


def test_the_folders_above_reach_up_to_the_bucket_or_the_root(open_store: OpenStore) -> None:
    root, _, name = open_store().uri.rpartition("/")
    open_store().put_new("a/b", b"here")
    inner = ObjectStore(f"{root}/{name}/a/deep/folder")
    found = {outer.uri.rpartition("/")[2]: outer for outer in inner.above()}
    assert [*found][:3] == ["deep", "a", name]
    assert (found["a"].get("b"), found[name].get("a/b")) == (b"here", b"here")
    assert inner.above()[-1].above() == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "./a"])
def test_a_key_that_leaves_the_folder_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="a key is relative"):
        store.put_new(key, b"")
