"""What a rollout does before its first lease."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from worker_builders import make_folder, run_of

from rz_api import exit_codes
from rz_api.run import ResolvedRun
from rz_workers.rollout.startup import engine_name, fetch_model, load_engine, wait_for_folder
from rz_workers.runtime import DrainedError, UserError
from rz_workers.storage.objects import ObjectStore


def changed(run: ResolvedRun, engine: str, gpus: int) -> ResolvedRun:
    values = run.model_dump(by_alias=True)
    values["spec"]["rollout"]["engine"] = engine
    values["spec"]["trainer"]["gpusPerNode"] = gpus
    return ResolvedRun.model_validate(values)


@pytest.mark.parametrize(
    ("engine", "gpus", "want"),
    [
        pytest.param("auto", 0, "transformers", id="auto without GPUs is transformers"),
        pytest.param("auto", 8, "vllm", id="auto with GPUs is vllm"),
        pytest.param("transformers", 8, "transformers", id="what the spec says counts"),
    ],
)
def test_which_engine_a_run_gets(engine: str, gpus: int, want: str) -> None:
    assert engine_name(changed(run_of("/nowhere"), engine, gpus).spec) == want


@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_an_engine_that_is_not_installed_is_the_users_to_change(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vllm is not installed here.* set rollout\.engine: transformers") as error:
        load_engine(changed(run_of("/nowhere"), engine, 8).spec, token_file=None)
    assert error.value.exit_code == exit_codes.USER_ERROR


def test_the_worker_waits_until_model_files_and_prompts_are_stored(tmp_path: Path) -> None:
    run = run_of(str(tmp_path / "run"))
    store = ObjectStore(run.spec.storage.uri)
    later = threading.Timer(0.5, make_folder, (tmp_path, run))
    later.start()
    folder = wait_for_folder(store, run, threading.Event())
    later.join()
    local = fetch_model(folder, tmp_path / "model")
    assert (local / "config.json").exists()
    assert load_engine(run.spec, token_file=None)(local).weight_version is None


def test_being_told_to_stop_ends_the_wait(tmp_path: Path) -> None:
    run = run_of(str(tmp_path / "run"))
    stop = threading.Event()
    stop.set()
    with pytest.raises(DrainedError):
        wait_for_folder(ObjectStore(run.spec.storage.uri), run, stop)


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    run = run_of(str(tmp_path / "run"))
    make_folder(tmp_path, run)
    other = run.model_copy(update={"uid": "uid-2"})
    with pytest.raises(UserError):
        wait_for_folder(ObjectStore(run.spec.storage.uri), other, threading.Event())
