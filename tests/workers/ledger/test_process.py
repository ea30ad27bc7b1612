"""The ledger as the process that the plan starts: its port, its exit codes, its last words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from ledger_builders import claim, run_of

from rz_api import exit_codes
from rz_workers.storage.objects import ObjectStore
from rz_workers.web import take_port


def free_port() -> int:
    with take_port("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        return port


def start(tmp_path: Path, port: int, status_port: int = 0, uid: str = "uid-1") -> subprocess.Popen[str]:
    run_file = tmp_path / f"{uid}.json"
    run_file.write_text(run_of(str(tmp_path / "run"), uid=uid).model_dump_json(by_alias=True))
    environment = {
        **os.environ,
        "RZ_RUN_FILE": str(run_file),
        "RZ_ROLE": "ledger",
        "RZ_SCRATCH": str(tmp_path),
        "RZ_PORT": str(port),
        "RZ_STATUS_PORT": str(status_port),
        "RZ_TERMINATION_LOG": str(tmp_path / "last-words"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "rz_workers.ledger"], env=environment, stderr=subprocess.PIPE, text=True
    )


def status(port: int, process: subprocess.Popen[str]) -> dict[str, object]:
    for _ in range(600):
        assert process.poll() is None, "the ledger ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as response:
                return dict(json.load(response))
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the status port never opened")


def test_sigterm_ends_it_as_drained_without_a_traceback(tmp_path: Path) -> None:
    port = free_port()
    process = start(tmp_path, free_port(), port)
    assert status(port, process)["phase"] == "waiting"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as response:
        assert response.status == 200
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == exit_codes.DRAINED, log
    assert "Traceback" not in log
    assert not (tmp_path / "run").exists(), "it creates nothing itself"


@pytest.mark.parametrize("which", ["port", "status port"])
def test_a_port_in_use_is_a_user_error_that_names_it(tmp_path: Path, which: str) -> None:
    with take_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path, *((port, 0) if which == "port" else (free_port(), port)))
        _, log = process.communicate(timeout=30)
    assert process.returncode == exit_codes.USER_ERROR, log
    assert f"port {port}" in (tmp_path / "last-words").read_text()
    assert "Traceback" not in log


def test_the_folder_of_another_run_is_a_user_error(tmp_path: Path) -> None:
    claim(ObjectStore(str(tmp_path / "run")), run_of(str(tmp_path / "run")))
    process = start(tmp_path, free_port(), uid="uid-2")
    _, log = process.communicate(timeout=30)
    assert process.returncode == exit_codes.USER_ERROR, log
    assert "belongs to" in (tmp_path / "last-words").read_text()
    assert "Traceback" not in log
