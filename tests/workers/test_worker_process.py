"""The edges of every worker process: signals before its main begins, its scratch folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from rz_api.run import ResolvedRun
from rz_workers.runtime import Settings


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
