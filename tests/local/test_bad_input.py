"""Bad input ends with exit code 64, one clear message, no traceback, and no half-made run folder."""

import os
import socket

import pytest

pytestmark = pytest.mark.local


def assert_refused(run, *words, options=()):
    code, output = run.run(*options)
    assert code == 64, f"{output}\n{run.logs()}"
    assert "Traceback" not in output
    for word in words:
        assert word in output, output
    assert not run.storage.exists()
    assert not run.workdir.exists()


def test_an_unknown_field_is_named_with_the_closest_known_one(make_run, tmp_path):
    assert_refused(make_run(tmp_path, trainer={"gpusPerNod": 0}), "gpusPerNod", "gpusPerNode")


def test_a_wrong_type_is_named_with_what_is_required(make_run, tmp_path):
    assert_refused(make_run(tmp_path, algorithm={"totalSteps": "many"}), "algorithm.totalSteps", "many", "whole number")


@pytest.mark.thorough
def test_a_missing_data_file_is_named(make_run, tmp_path):
    assert_refused(make_run(tmp_path, data={"train": [{"uri": "nowhere.jsonl"}]}), "nowhere.jsonl")


def test_a_malformed_record_is_named_with_file_and_line(make_run, tmp_path):
    data = tmp_path / "broken.jsonl"
    data.write_text('{"question": "1 =?", "answer": "1"}\n{"question": "2 =?"}\n')
    run = make_run(tmp_path / "run")
    run.document["spec"]["data"]["train"] = [{"uri": str(data)}]
    assert_refused(run, "broken.jsonl", "line 2", "answer")


@pytest.mark.thorough
def test_a_model_that_does_not_load_is_named(make_run, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert_refused(make_run(tmp_path / "run", model={"name": str(model)}), str(model))


@pytest.mark.thorough
def test_a_storage_folder_that_cannot_be_written_is_named(make_run, tmp_path):
    blocker = tmp_path / "a-file"
    blocker.write_text("")
    run = make_run(tmp_path / "run", storage={"uri": str(blocker / "storage")})
    code, output = run.run()
    assert code == 64, f"{output}\n{run.logs()}"
    assert str(blocker) in output
    assert "Traceback" not in output
    assert not run.workdir.exists()


def test_a_port_in_use_is_named(make_run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(make_run(tmp_path), str(port), options=("--ledger-port", str(port)))


def test_a_run_that_wants_gpus_on_a_machine_without_says_what_to_change(make_run, tmp_path):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU")
    assert_refused(make_run(tmp_path, trainer={"gpusPerNode": 8}), "trainer.gpusPerNode")
