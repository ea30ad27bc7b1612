"""Whole runs on this machine, small enough for a test: a tiny base model, a few steps, real processes."""

import json
import os
import shutil
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
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent.parent / "dashboards"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "dashboards"))

RUN_SECONDS = 240.0


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder for all processes of this test session: pytest-xdist gives each session fixtures of its own."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, whole = shared / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def base(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A base model after 60 steps of pre-training (it answers, mostly wrong), 40 training and 8 held-out problems."""

    def build(folder: Path) -> None:
        program = Path(__file__).with_name("build_base.py")
        subprocess.run([sys.executable, program, folder], check=True, capture_output=True)

    return made_once("base", build)


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
    """A run of 4 steps of 8 prompts x 4 samples; keyword arguments replace fields of whole sections.

    One rollout: most of what a process costs here are its imports. How many there are changes no result, and tests of
    what happens between several compare with the run of one.
    """

    def make(folder: Path, **sections: dict[str, Any]) -> LocalRun:
        spec: dict[str, Any] = {
            "model": {"name": str(base / "model")},
            "data": {
                "train": [{"uri": str(base / "train.jsonl")}],
                "eval": [{"name": "heldout", "uri": str(base / "heldout.jsonl")}],
                "promptTemplate": (base / "template.txt").read_text(),
            },
            "storage": {"uri": str(folder / "storage")},
            "algorithm": {
                "totalSteps": 4,
                "promptsPerStep": 8,
                "samplesPerPrompt": 4,
                "policy": {"learningRate": 1e-3, "warmupSteps": 0},
                "critic": {"learningRate": 1e-3, "warmupSteps": 0, "miniBatches": 4},
            },
            "evaluation": {"interval": 2, "samples": 2},
            "rollout": {
                "replicas": 1,
                "groupsPerLease": 2,
                "samplesPerLease": 4,
                "leaseSeconds": 3,
                "maxModelLength": 256,
                "sampling": {"maxNewTokens": 48, "stop": ["</answer>"]},
            },
            "trainer": {
                "gpusPerNode": 0,
                "dtype": "float32",
                "activationCheckpointing": False,
                "maxTokensPerMicroBatch": 512,
                "checkpoint": {"interval": 2},
            },
            "reward": {"workers": 1},
            "failurePolicy": {"backoffSeconds": 0.2, "maxBackoffSeconds": 1.0},
        }
        spec["data"]["maxPromptTokens"] = 128
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
