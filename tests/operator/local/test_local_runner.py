"""The local runner with real processes that are no workers, to its exit code."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_fakes import DEAF, LAST_WORDS, SUCCEED, executor_of, fake_plan, pid_of, until

from rz_api.status import RunStatus
from rz_operator.decisions.members import Event, Observation, Observed
from rz_operator.decisions.reached import LedgerStatus
from rz_operator.local.processes import identity
from rz_operator.local.runner import Runner, StopRequests
from rz_operator.local.workdir import Workdir, read_status


class Recorder:
    """A view that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.looks: list[tuple[RunStatus, Observation]] = []
        self.on_look: Callable[[RunStatus, Observation], None] = lambda *_: None

    def show(self, status: RunStatus, seen: Observation, ledger: LedgerStatus | None) -> None:
        self.looks.append((status, seen))
        self.on_look(status, seen)

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def uids(self, key: str) -> set[str]:
        return {member.uid for _, seen in self.looks for member in seen.members if member.key == key}


class Case:
    """A runner over fake processes, and what it needs."""

    def __init__(self, tmp_path: Path, programs: dict[str, str] | None = None, **sections: Any) -> None:
        planned = fake_plan(tmp_path, programs, **sections)
        executor, self.workdir = executor_of(planned, tmp_path)
        self.view, self.stop = Recorder(), StopRequests()
        self.ledger: LedgerStatus | None = None
        self.runner = Runner(planned, self.workdir, executor, self.view, lambda: self.ledger, self.stop)

    def run(self) -> int:
        try:
            return self.runner.run()
        finally:
            self.workdir.close()


def once(action: Callable[[Observed], None], key: str, when: Callable[[], bool] = lambda: True) -> Any:
    """An ``on_look`` that acts once on a running member."""
    acted: list[str] = []

    def on_look(_status: RunStatus, seen: Observation) -> None:
        for member in seen.members:
            if member.key == key and member.live and not acted and when():
                acted.append(member.uid)
                action(member)

    return on_look


def kill(member: Observed) -> None:
    os.kill(pid_of(member), signal.SIGKILL)


def succeed_when(file: Path) -> str:
    return f"import pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.02)"


def test_a_run_ends_with_0_when_the_trainer_does_and_nothing_stays(tmp_path: Path) -> None:
    case = Case(tmp_path, {"trainer": SUCCEED})
    assert case.run() == 0
    status, shown = read_status(case.workdir.path)
    assert (status.phase, shown["name"]) == ("Succeeded", "fake")
    assert all(
        identity(int(uid.partition("-")[0])) == "" for key in ("ledger-0", "rollout-0") for uid in case.view.uids(key)
    )


def test_a_killed_rollout_is_replaced_alone(tmp_path: Path) -> None:
    finish = tmp_path / "finish"
    case = Case(tmp_path, {"trainer": succeed_when(finish)})
    killer = once(kill, "rollout-0")

    def on_look(status: RunStatus, seen: Observation) -> None:
        killer(status, seen)
        if len(case.view.uids("rollout-0")) == 2:
            finish.touch()

    case.view.on_look = on_look
    assert case.run() == 0
    assert len(case.view.uids("trainer-0")) == 1
    assert case.runner.status.restarts == {"rollout": 1}


def test_a_killed_rank_restarts_the_gang_under_a_new_incarnation(tmp_path: Path) -> None:
    program = "import os, time\nwhile os.environ['RZ_INCARNATION'] == '1': time.sleep(0.02)"
    case = Case(tmp_path, {"trainer": program}, trainer={"nodes": 2, "gpusPerNode": 0})
    case.view.on_look = once(kill, "trainer-1")
    assert case.run() == 0
    gang = case.runner.status.gang
    assert (gang.incarnation, gang.restarts) == (2, 1)
    assert len(case.view.uids("ledger-0")) == 1


def test_a_trainer_that_keeps_failing_ends_the_run_with_1(tmp_path: Path) -> None:
    policy = {"backoffSeconds": 0, "maxRestarts": 1}
    case = Case(tmp_path, {"trainer": "raise RuntimeError('boom')"}, failurePolicy=policy)
    assert case.run() == 1
    assert (case.runner.status.reason, case.runner.status.gang.incarnation) == ("BackoffLimitExceeded", 3)
    assert "RuntimeError: boom" in case.runner.status.message


def test_a_user_error_of_any_member_ends_the_run_with_64_and_its_words(tmp_path: Path) -> None:
    case = Case(tmp_path, {"rollout": LAST_WORDS.format("change data.train")})
    assert case.run() == 64
    assert case.runner.status.message == "change data.train"


def test_an_interrupt_drains_the_trainer_first_and_the_next_run_goes_on(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.view.on_look = once(
        lambda _member: case.stop.ask(), "trainer-0", lambda: "ready" in trainer_log(case.workdir, 1)
    )
    assert case.run() == 130
    assert case.runner.status.phase == "Suspended"
    last_seen = {
        key: max(i for i, (_, seen) in enumerate(case.view.looks) if key in {m.key for m in seen.members})
        for key in ("trainer-0", "rollout-0", "ledger-0")
    }
    assert last_seen["trainer-0"] < last_seen["rollout-0"] < last_seen["ledger-0"]

    again = Case(tmp_path, {"trainer": SUCCEED})
    assert again.run() == 0
    assert (again.runner.status.gang.incarnation, again.runner.status.gang.restarts) == (2, 0)


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path, {"trainer": DEAF})

    def on_look(status: RunStatus, _seen: Observation) -> None:
        if "ready" in trainer_log(case.workdir, 1) or status.phase == "Suspending":
            case.stop.ask()

    case.view.on_look = on_look
    assert case.run() == 130
    (uid,) = case.view.uids("trainer-0")
    assert identity(int(uid.partition("-")[0])) == ""


def test_a_runner_that_died_is_followed_by_one_that_starts_the_next_gang_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.runner.status = RunStatus.model_validate(
        {"phase": "Running", "gang": {"incarnation": 5, "complete": True, "notBefore": 1e12}}
    )
    case.workdir.write_status(case.runner.status, {})
    case.workdir.close()
    again = Case(tmp_path, {"trainer": SUCCEED})
    assert again.run() == 0
    assert again.runner.status.gang.incarnation == 6


def test_status_json_is_written_before_anything_is_started(tmp_path: Path) -> None:
    case = Case(tmp_path, {"trainer": SUCCEED})
    seen: list[bool] = []
    act = case.runner._executor.act

    def checking(actions: Any) -> None:
        if actions:
            seen.append((case.workdir.path / "status.json").exists())
        act(actions)

    case.runner._executor.act = checking  # type: ignore[method-assign]
    case.run()
    assert seen
    assert all(seen)


def test_a_full_disk_under_the_workdir_is_told_once_and_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, {"trainer": SUCCEED})
    write, failures = case.workdir.write_status, iter([OSError(errno.ENOSPC, "No space left on device")] * 3)

    def sometimes(status: RunStatus, shown: dict[str, object]) -> None:
        for failure in failures:
            raise failure
        write(status, shown)

    monkeypatch.setattr(case.workdir, "write_status", sometimes)
    assert case.run() == 0
    told = [event.message for event in case.view.events if event.reason == "StatusNotWritten"]
    assert len(told) == 1
    assert f"{case.workdir.path} (No space left on device): nothing is started or stopped until" in told[0]
    assert all(not seen.members for _, seen in case.view.looks[:3])


def test_what_runs_ends_even_when_the_runner_breaks(tmp_path: Path) -> None:
    case = Case(tmp_path)

    def broken(_status: RunStatus, _seen: Observation) -> None:
        if case.view.uids("ledger-0"):
            raise ZeroDivisionError

    case.view.on_look = broken
    with pytest.raises(ZeroDivisionError):
        case.run()
    (uid,) = case.view.uids("ledger-0")
    until(lambda: identity(int(uid.partition("-")[0])) == "", "the ledger's end")


def trainer_log(workdir: Workdir, incarnation: int) -> str:
    file = workdir.log_file(f"trainer-0-i{incarnation}")
    return file.read_text() if file.exists() else ""
