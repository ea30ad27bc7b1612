"""The edges of every worker process: signals before its main begins, its scratch folder, its run's file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rz_api import exit_codes
from rz_api.run import ResolvedRun, write_stored_run
from rz_workers.runtime import Settings, UserError, WorkerError, first_line, read_run_file, write_last_words


def test_sigterm_before_the_role_listens_for_it_ends_the_process_as_drained() -> None:
    script = (
        "import time\nfrom rz_workers.runtime import worker_process\n"
        "with worker_process():\n    print('importing', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75


def test_the_scratch_folder_is_made(tmp_path: Path) -> None:
    spec = {"model": {"name": "m"}, "data": {"train": [{"uri": "d.jsonl"}]}, "storage": {"uri": "runs/x"}}
    run = ResolvedRun.model_validate({"name": "tiny", "uid": "u", "spec": spec})
    (tmp_path / "run.json").write_text(run.model_dump_json(by_alias=True))
    scratch = tmp_path / "scratch" / "trainer-3"
    Settings.from_environment({"RZ_RUN_FILE": str(tmp_path / "run.json"), "RZ_SCRATCH": str(scratch)})
    assert scratch.is_dir()


# ------------------------------------------------------------------------------------ run.json of another version


def run_file(folder: Path, **changes: Any) -> Path:
    """``changes``: ``spec__trainer__next=1`` puts something in it."""
    spec = {"model": {"name": "m"}, "data": {"train": [{"uri": "d"}]}, "storage": {"uri": "s"}}
    run = ResolvedRun.model_validate({"name": "tiny", "uid": "u", "spec": spec})
    made = json.loads(write_stored_run(run))
    for path, value in changes.items():
        *sections, key = path.split("__")
        holder = made
        for section in sections:
            holder = holder[section]
        holder[key] = value
    file = folder / "run.json"
    file.write_text(json.dumps(made))
    return file


def test_a_worker_of_an_older_image_does_without_what_is_new_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = run_file(tmp_path, spec__trainer__next=1, spec__scheduling__gang="next")
    assert read_run_file(file).spec.scheduling.gang == "operator"
    assert "from a newer version; left out: spec.trainer.next, spec.scheduling.gang" in caplog.text


BEYOND: dict[str, tuple[dict[str, Any], type[WorkerError], str]] = {
    "what the result depends on is new": (
        {"spec__algorithm__next": 1, "mustUnderstand": ["spec.algorithm.next"]},
        UserError,
        r"found spec\.algorithm\.next, .*: set the image of this role to one that is no older than the operator",
    ),
    "the whole form is new": ({"schemaVersion": 99}, UserError, "found schemaVersion 99; .* set the image"),
    "somebody has broken it": ({"spec": 3}, WorkerError, "must be the run that the operator has frozen: found spec"),
}


@pytest.mark.parametrize(("changes", "kind", "words"), BEYOND.values(), ids=BEYOND)
def test_a_worker_that_cannot_do_without_says_what_to_change(
    tmp_path: Path, changes: dict[str, Any], kind: type[WorkerError], words: str
) -> None:
    with pytest.raises(kind, match=words) as error:
        read_run_file(run_file(tmp_path, **changes))
    # Terminal where only a person can help; what the operator writes again is tried again.
    assert error.value.exit_code == (exit_codes.USER_ERROR if kind is UserError else exit_codes.INTERNAL_ERROR)


def test_last_words_tell_no_credentials_wherever_they_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "last-words"
    monkeypatch.setenv("RZ_TERMINATION_LOG", str(words))
    write_last_words("x" * 4070 + " cannot read https://b.s3/k?X-Amz-Signature=" + "made0up" * 600)
    assert len(words.read_bytes()) <= 4096
    write_last_words("cannot read https://b.s3/k?X-Amz-Signature=made0up&v=1")
    assert words.read_text() == "cannot read https://b.s3/k?X-Amz-Signature=***&v=1"


def test_an_unexpected_error_tells_none_either(tmp_path: Path) -> None:
    script = (
        "from rz_workers.runtime import worker_process\n"
        "with worker_process():\n    raise OSError('no answer from s3://minio:made0up@minio.example.com/b')"
    )
    words = tmp_path / "last-words"
    environment = {**os.environ, "RZ_TERMINATION_LOG": str(words)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 70
    assert words.read_text() == "OSError: no answer from s3://***@minio.example.com/b"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError(), "KeyError"),
        (OSError("no such file\nadvice"), "no such file"),
        (ValueError("\nfor validator 'x':\n    ValueError: 3 layers\nmore"), "for validator 'x': ValueError: 3 layers"),
        (RuntimeError("missing:\n" + "a.weight, " * 99), "missing:" + " a.weight," * 29 + " …"),
    ],
    ids=["nothing", "more lines", "a heading", "a long list"],
)
def test_an_error_of_somebody_elses_code_fits_in_a_sentence(error, said):
    assert first_line(error) == said
