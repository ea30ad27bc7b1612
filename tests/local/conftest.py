"""Whole runs on this machine, small enough for a test: a tiny base model, a few steps, real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "dashboards"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "dashboards"))

from small_run import small_spec

RUN_SECONDS = 240.0


@dataclass
class LocalRun:
    """A run file in a folder of its own, and what can be done with it."""

    folder: Path
    document: dict[str, Any]

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def workdir(self) -> Path:
        return self.folder / "work"

    def command(self, *options: str) -> list[str]:
        file = self.folder / "run.yaml"
        file.write_text(yaml.safe_dump(self.document))
        return [
            str(Path(sys.executable).with_name("rz")),
            "run",
            str(file),
            "--workdir",
            str(self.workdir),
            "--plain",
            *options,
        ]

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """``rz run`` in a session of its own, so that a signal to the test does not reach it."""
        return subprocess.Popen(
            self.command(*options),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONWARNINGS": "default"},
        )

    def finish(self, process: "subprocess.Popen[str]") -> tuple[int, str]:
        try:
            output, _ = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"the run did not finish in {RUN_SECONDS} s:\n{output}\n{self.logs()}") from None
        return process.returncode, output

    def run(self, *options: str) -> tuple[int, str]:
        return self.finish(self.start(*options))

    def logs(self) -> str:
        """The end of every member's log, for the message of a failed assertion."""
        files = sorted((self.workdir / "logs").glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text()[-1500:]}" for file in files)

    # ------------------------------------------------------------------------------------------ what it left

    def commits(self) -> dict[int, dict[str, Any]]:
        """steps/*.json by step; of several for a step the newest incarnation's."""
        records = [json.loads(file.read_text()) for file in (self.storage / "steps").glob("*.json")]
        return {r["step"]: r for r in sorted(records, key=lambda r: r["incarnation"])}

    def weights_sha256(self) -> str:
        commits = self.commits()
        return str(commits[max(commits)]["weights"]["digest"])

    def assert_same_outcome(self, undisturbed: "LocalRun") -> None:
        """The same weights to the bit from the same units, and no trajectory generated twice or lost."""
        assert self.weights_sha256() == undisturbed.weights_sha256()
        commits = self.commits()
        for step, commit in undisturbed.commits().items():
            units = [shard["unit"] for shard in commits[step]["shards"]]
            assert units == [shard["unit"] for shard in commit["shards"]]
        self.assert_nothing_generated_twice()

    def assert_nothing_generated_twice(self) -> None:
        """Every stored training shard was consumed, and the other way round."""
        consumed = {shard["key"] for commit in self.commits().values() for shard in commit["shards"]}
        stored = {str(path.relative_to(self.storage)) for path in self.storage.glob("trajectories/*/*.parquet")}
        assert stored == consumed, "a trajectory was generated twice, or one that is named is lost"

    def pids(self, role: str) -> list[int]:
        """Processes of a role that run now."""
        try:
            rows = json.loads((self.workdir / ".rz" / "members.json").read_text())
        except (FileNotFoundError, ValueError):
            return []
        return [int(row["uid"].split("-")[0]) for row in rows if row["member"].startswith(role)]

    def wait_for(
        self, what: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = RUN_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert process.poll() is None, (
                f"the run ended with {process.returncode}:\n{process.stdout.read()}\n{self.logs()}"
            )
            assert time.monotonic() < deadline, f"not seen within {seconds} s\n{self.logs()}"
            time.sleep(0.05)

    def kill(self, role: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the first process of a role; returns its pid."""
        pid = self.pids(role)[0]
        os.kill(pid, number)
        return pid


@pytest.fixture(scope="session")
def make_run(base: Path) -> Callable[..., LocalRun]:
    """A run of ``small_spec``; keyword arguments replace fields of whole sections."""

    def make(folder: Path, **sections: dict[str, Any]) -> LocalRun:
        spec = small_spec(base, folder / "storage")
        for section, fields in sections.items():
            spec[section] = {**spec.get(section, {}), **fields} if isinstance(fields, dict) else fields
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "apiVersion": "reasonerzero.dev/v1alpha1",
            "kind": "ReasonerZeroRun",
            "metadata": {"name": "small"},
            "spec": spec,
        }
        return LocalRun(folder, document)

    return make


@pytest.fixture(scope="session")
def undisturbed(
    make_run: Callable[..., LocalRun], made_once: Callable[[str, Callable[[Path], None]], Path]
) -> LocalRun:
    """A run that nothing happened to."""

    def finish(folder: Path) -> None:
        run = make_run(folder)
        code, output = run.run()
        assert code == 0, f"{output}\n{run.logs()}"

    return make_run(made_once("undisturbed", finish))
