"""What is particular to storage in a folder of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore


@pytest.mark.parametrize("form", ["{}/run", "file://{}/run"], ids=["a path", "a file URL"])
def test_a_path_and_a_file_url_name_the_same_folder(tmp_path: Path, form: str) -> None:
    ObjectStore(form.format(tmp_path)).put_new("a/b", b"here")
    assert (tmp_path / "run" / "a" / "b").read_bytes() == b"here"


def test_a_relative_path_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ObjectStore("runs/tiny")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put_new("a", b"")
    assert store.uri == str(tmp_path / "runs" / "tiny")
    assert (tmp_path / "runs" / "tiny" / "a").exists()


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import rz_workers.storage.backends as backends
backends.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
backends.LocalFiles(Path(sys.argv[1])).create("steps/step-000001.json", b"half")
"""


def test_a_killed_writer_leaves_no_object(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path / "run")], check=False)
    store = ObjectStore(str(tmp_path / "run"))
    assert killed.returncode == -9
    assert len(list((tmp_path / "run" / "steps").iterdir())) == 1, "the test should leave a temporary file"
    assert (store.list(""), store.exists("steps/step-000001.json")) == ([], False)
    store.put_new("steps/step-000001.json", b"whole")
    assert store.list("") == ["steps/step-000001.json"]


def test_what_a_killed_writer_left_is_a_folder_that_can_be_deleted(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path / "run" / "x")], check=False)
    store = ObjectStore(str(tmp_path / "run"))
    assert (store.list(""), store.folders("x/")) == ([], ["x/steps"])
    store.delete_folder("x/steps")
    assert (store.folders("x/"), os.listdir(tmp_path / "run")) == ([], [])


def test_no_temporary_file_is_left_by_winners_and_losers(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "run"))
    store.put_new("a", b"1")
    with pytest.raises(Exception, match="exists"):
        store.put_new("a", b"2")
    store.put("a", b"3")
    assert os.listdir(tmp_path / "run") == ["a"]


def test_deleting_the_last_object_of_a_folder_removes_the_folder_but_not_the_root(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "run"))
    store.put_new("weights/v000001-i1/manifest.json", b"")
    store.delete(["weights/v000001-i1/manifest.json"])
    assert (os.listdir(tmp_path), os.listdir(tmp_path / "run")) == (["run"], [])


def test_the_writable_check_removes_the_folders_that_it_made(tmp_path: Path) -> None:
    ObjectStore(str(tmp_path / "deep" / "run")).check_writable()
    assert os.listdir(tmp_path) == []


def test_the_writable_check_keeps_folders_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    ObjectStore(str(tmp_path / "deep" / "run")).check_writable()
    assert os.listdir(tmp_path) == ["deep"]


@pytest.mark.parametrize(
    "place", ["file", "file/run", "/proc/run"], ids=["a file", "below a file", "where none may be made"]
)
def test_an_unwritable_folder_is_the_users_to_change(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / place
    with pytest.raises(UserError, match=rf"the storage folder {path} cannot be written.*point storage\.uri at"):
        ObjectStore(str(path)).check_writable()


def test_an_unknown_kind_of_storage_is_the_users_to_change() -> None:
    with pytest.raises(UserError, match=r"ftpx://x: .*use a path, or a URL that fsspec knows"):
        ObjectStore("ftpx://x")
