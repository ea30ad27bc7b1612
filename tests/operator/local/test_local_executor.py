from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_fakes import DEAF, LAST_WORDS, SUCCEED, WAIT, executor_of, fake_plan, only, pid_of, until

from rz_operator.decisions.members import Observed, Start, Stop
from rz_operator.local.executor import LocalExecutor
from rz_operator.local.processes import identity
from rz_operator.local.workdir import Workdir

Make = Callable[..., tuple[LocalExecutor, Workdir]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[LocalExecutor] = []

    def build(programs: dict[str, str] | None = None, options: dict[str, Any] | None = None, **sections: Any) -> Any:
        executor, workdir = executor_of(fake_plan(tmp_path, programs, **sections), tmp_path, **(options or {}))
        made.append(executor)
        return executor, workdir

    yield build
    for executor in made:
        executor.kill_all()


def log_of(workdir: Workdir, name: str) -> str:
    file = workdir.log_file(name)
    return file.read_text() if file.exists() else ""


def ended(executor: LocalExecutor) -> Observed:
    return until(lambda: next((m for m in executor.observe() if not m.live), None), "an end")  # type: ignore[no-any-return]


def stop_of(member: Observed, grace: float) -> Stop:
    return Stop(member.role, member.index, member.incarnation, member.uid, grace)


def test_a_started_member_is_observed_running_with_pid_and_start_time(make: Make) -> None:
    executor, _ = make()
    executor.act([Start("rollout", 0, 1)])
    member = only(executor.observe())
    assert (member.phase, member.uid) == ("running", identity(pid_of(member)))


def test_starting_twice_is_starting_once(make: Make) -> None:
    executor, _ = make()
    executor.act([Start("rollout", 0, 1), Start("rollout", 0, 1)])
    only(executor.observe())


def test_success_failure_and_signals_are_told_apart(make: Make) -> None:
    executor, _ = make({"reward": SUCCEED, "trainer": "exit(70)"})
    executor.act([Start("reward", 0, 1), Start("trainer", 0, 1), Start("rollout", 0, 1)])
    rollout = next(m for m in executor.observe() if m.role == "rollout")
    os.kill(pid_of(rollout), signal.SIGKILL)
    until(lambda: not any(m.live for m in executor.observe()), "three ends")
    assert {(m.role, m.phase, m.exit_code, m.signal) for m in executor.observe()} == {
        ("reward", "succeeded", 0, None),
        ("trainer", "failed", 70, None),
        ("rollout", "failed", None, 9),
    }


def test_the_termination_message_is_the_members_last_words(make: Make) -> None:
    executor, _ = make({"trainer": LAST_WORDS.format("no such model")})
    executor.act([Start("trainer", 0, 1)])
    assert ended(executor).message == "no such model"


def test_without_one_the_last_line_of_the_log_is(make: Make) -> None:
    executor, _ = make({"trainer": "raise RuntimeError('boom')"})
    executor.act([Start("trainer", 0, 1)])
    assert ended(executor).message == "RuntimeError: boom"


def test_stop_is_polite_first(make: Make) -> None:
    executor, workdir = make()
    executor.act([Start("rollout", 0, 1)])
    until(lambda: "ready" in log_of(workdir, "rollout-0"), "the handler")
    member = only(executor.observe())
    executor.act([stop_of(member, 60.0)])
    until(lambda: executor.observe() == (), "a polite end")


def test_one_that_does_not_listen_is_killed_after_its_grace(make: Make) -> None:
    now = [1000.0]
    executor, workdir = make({"rollout": DEAF}, {"clock": lambda: now[0]})
    executor.act([Start("rollout", 0, 1)])
    until(lambda: "ready" in log_of(workdir, "rollout-0"), "the handler")
    executor.act([stop_of(only(executor.observe()), 30.0)])
    now[0] = 1029.9
    member = only(executor.observe())
    assert (member.phase, member.deleting) == ("running", True)
    now[0] = 1030.0
    until(lambda: executor.observe() == (), "the kill")


def test_a_second_stop_can_only_shorten_the_grace(make: Make) -> None:
    now = [1000.0]
    executor, workdir = make({"rollout": DEAF}, {"clock": lambda: now[0]})
    executor.act([Start("rollout", 0, 1)])
    until(lambda: "ready" in log_of(workdir, "rollout-0"), "the handler")
    member = only(executor.observe())
    executor.act([stop_of(member, 600.0), stop_of(member, 5.0), stop_of(member, 900.0)])
    now[0] = 1005.0
    until(lambda: executor.observe() == (), "the kill")


def test_a_frozen_member_can_be_stopped(make: Make) -> None:
    executor, workdir = make()
    executor.act([Start("rollout", 0, 1)])
    until(lambda: "ready" in log_of(workdir, "rollout-0"), "the handler")
    member = only(executor.observe())
    os.kill(pid_of(member), signal.SIGSTOP)
    assert only(executor.observe()).phase == "running"
    executor.act([stop_of(member, 60.0)])
    until(lambda: executor.observe() == (), "an end")


def test_a_stop_for_a_predecessor_does_not_touch_its_successor(make: Make) -> None:
    executor, _ = make()
    executor.act([Start("rollout", 0, 1)])
    executor.act([Stop("rollout", 0, 1, "4711-1", 0.0)])
    assert only(executor.observe()).deleting is False


def test_what_a_member_started_ends_with_it(make: Make) -> None:
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    program = f"import subprocess, sys\nprint({child}.pid)"
    executor, workdir = make({"reward": program})
    executor.act([Start("reward", 0, 1)])
    ended(executor)
    pid = int(log_of(workdir, "reward-0").strip())
    until(lambda: identity(pid) == "", "the end of the child")


def test_the_environment_is_the_plans(make: Make) -> None:
    program = "import json, os\nprint(json.dumps(dict(os.environ)))"
    options = {"environment": {"PATH": os.environ["PATH"], "HF_HOME": "/models", "RZ_LEDGER_URL": "stale", "RANK": "7"}}
    executor, workdir = make(
        {"rollout": program, "trainer": program, "ledger": program}, options, trainer={"nodes": 2, "gpusPerNode": 0}
    )
    executor.act([Start("ledger", 0, 1), Start("trainer", 1, 4), Start("trainer", 0, 4), Start("rollout", 0, 1)])
    until(lambda: not any(m.live for m in executor.observe()), "their ends")
    ledger, rollout = (json.loads(log_of(workdir, name)) for name in ("ledger-0", "rollout-0"))
    ranks = [json.loads(log_of(workdir, f"trainer-{i}-i4")) for i in (0, 1)]
    assert rollout["HF_HOME"] == "/models"
    assert "RANK" not in rollout
    assert rollout["RZ_LEDGER_URL"] == f"http://127.0.0.1:{ledger['RZ_PORT']}"
    assert {env["MASTER_PORT"] for env in ranks} == {ranks[0]["MASTER_PORT"]}
    assert [(env["RANK"], env["RZ_INCARNATION"], env["CUDA_VISIBLE_DEVICES"]) for env in ranks] == [
        ("0", "4", ""),
        ("1", "4", ""),
    ]
    assert Path(rollout["RZ_RUN_FILE"]).exists()
    assert Path(rollout["RZ_SCRATCH"]).is_dir()
    token = Path(rollout["RZ_TOKEN_FILE"])
    assert (oct(token.stat().st_mode & 0o777), len(token.read_text())) == ("0o600", 64)


def test_the_ledger_keeps_its_port_and_a_new_gang_gets_a_new_rendezvous(make: Make) -> None:
    program = "import os\nprint(os.environ.get('RZ_PORT'), os.environ.get('MASTER_PORT'))"
    executor, workdir = make({"ledger": program, "trainer": program})
    for incarnation in (1, 2):
        executor.act([Start("ledger", 0, incarnation), Start("trainer", 0, incarnation)])
        until(lambda: not any(m.live for m in executor.observe()), "their ends")
    first, second = log_of(workdir, "ledger-0").splitlines()
    assert first == second
    assert log_of(workdir, "trainer-0-i1") != log_of(workdir, "trainer-0-i2")


def test_a_command_that_does_not_exist_is_a_failed_member(make: Make, tmp_path: Path) -> None:
    executor, _ = make()
    process = executor._plan.process("rollout", 0)
    object.__setattr__(process, "command", ("/no/such/program",))
    executor.act([Start("rollout", 0, 1)])
    member = only(executor.observe())
    assert (member.phase, member.reason) == ("failed", "CannotStart")
    executor.act([stop_of(member, 1.0)])
    assert executor.observe() == ()


def test_everything_dies_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from local_fakes import executor_of, fake_plan
from rz_operator.decisions.members import Start
executor, _ = executor_of(fake_plan(Path({str(tmp_path)!r})), Path({str(tmp_path)!r}))
executor.act([Start("rollout", 0, 1), Start("ledger", 0, 1)])
print(*(m.uid for m in executor.observe()), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout
        uids = runner.stdout.readline().split()
        assert len(uids) == 2
        assert all(identity(int(uid.partition("-")[0])) == uid for uid in uids)
        runner.kill()
    until(lambda: all(identity(int(uid.partition("-")[0])) == "" for uid in uids), "the members' ends")


def test_leftovers_of_an_earlier_runner_are_swept_by_pid_and_start_time(make: Make) -> None:
    executor, workdir = make()
    with subprocess.Popen([sys.executable, "-c", WAIT], start_new_session=True, stdout=subprocess.DEVNULL) as leftover:
        rows = [
            {"member": "rollout-0", "incarnation": 1, "uid": identity(leftover.pid)},
            {"member": "rollout-1", "incarnation": 1, "uid": f"{os.getpid()}-1"},
        ]
        workdir.file("members.json").write_text(json.dumps(rows))
        assert executor.sweep_leftovers() == [f"rollout-0 (process {leftover.pid})"]
        assert leftover.wait() == -signal.SIGKILL


def test_ports_are_below_the_range_of_outgoing_connections_and_free(make: Make) -> None:
    executor, _ = make()
    port = int(executor.ledger_status_url().rpartition(":")[2])
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert port < int(first)
    with socket.create_server(("127.0.0.1", port)):
        pass
