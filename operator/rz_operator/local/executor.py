"""A member is one OS process of this machine, and what is done to it is never done to another that got its number.

This starts, stops and observes them, and decides nothing. ``local.runner`` calls ``observe`` and ``act`` from one
thread. Every process leads a session of its own, is told who it is by the plan's environment, appends its output to a
log file, and is killed by the kernel when the runner dies.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rz_api.names import Role
from rz_operator.decisions.members import Action, Observed, Start, Stop, member_key
from rz_operator.local.ports import HOST, Ports
from rz_operator.local.processes import identity, kill_group, poll_and_sweep, signal_process, spawn
from rz_operator.local.workdir import MEMBERS_FILE, TARGETS_FILE, Workdir, read_members, write_atomically
from rz_operator.plan import Address, Here, Plan, render_env

_OURS = ("RZ_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
"""Variables (by their beginning) that processes get from the plan alone, never from the caller's shell."""

_LAST_WORDS_BYTES = 4096


@dataclass(frozen=True)
class _Member:
    """One process that was started; ``process`` is None when it could not be."""

    start: Start
    process: subprocess.Popen[bytes] | None
    uid: str
    started_at: float
    problem: str = ""
    kill_at: float | None = None
    """Unix seconds of the final signal; None until it is told to stop."""


class LocalExecutor:
    """Runs the members of ``plan``. ``devices`` gives CUDA_VISIBLE_DEVICES by (role, index)."""

    def __init__(
        self,
        plan: Plan,
        workdir: Workdir,
        ports: Ports,
        devices: Mapping[tuple[Role, int], str],
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = plan
        self._workdir = workdir
        self._ports = ports
        self._devices = devices
        base = os.environ if environment is None else environment
        self._environment = {name: value for name, value in base.items() if not name.startswith(_OURS)}
        self._clock = clock
        self._members: dict[tuple[Role, int, int], _Member] = {}

    # ------------------------------------------------------------------------------------------------- observe

    def observe(self) -> tuple[Observed, ...]:
        """Every member as it is now. Those that were told to stop and have ended are forgotten, as a deleted pod is."""
        now = self._clock()
        observed = []
        for key, member in list(self._members.items()):
            code = poll_and_sweep(member.process) if member.process else None
            alive = member.process is not None and code is None
            if member.kill_at is not None:
                if not alive:
                    self._forget(key)
                    continue
                if now >= member.kill_at and member.process:
                    kill_group(member.process.pid)
            observed.append(self._describe(member, alive, code))
        return tuple(observed)

    def _describe(self, member: _Member, alive: bool, code: int | None) -> Observed:
        start = member.start
        seen = Observed(
            start.role,
            start.index,
            start.incarnation,
            "running",
            uid=member.uid,
            started_at=member.started_at,
            deleting=member.kill_at is not None,
        )
        if alive:
            return seen
        if code is None:
            return replace(seen, phase="failed", reason="CannotStart", message=member.problem)
        if code == 0:
            return replace(seen, phase="succeeded", exit_code=0)
        if code < 0:
            return replace(seen, phase="failed", signal=-code, reason="Signalled", message=self._words(start))
        return replace(seen, phase="failed", exit_code=code, reason="Error", message=self._words(start))

    def _words(self, start: Start) -> str:
        """The member's termination message, or else the last line of its log."""
        for file in (self._last_words_file(start), self._log_file(start)):
            text = _tail(file)
            if text:
                return text if file.suffix != ".log" else text.splitlines()[-1]
        return ""

    # ----------------------------------------------------------------------------------------------------- act

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._start(action)
            else:
                self._stop(action)

    def _start(self, start: Start) -> None:
        key = (start.role, start.index, start.incarnation)
        if key in self._members:
            return
        process = self._plan.process(start.role, start.index)
        self._last_words_file(start).unlink(missing_ok=True)
        env = {
            **self._environment,
            "PYTHONUNBUFFERED": "1",
            "CUDA_VISIBLE_DEVICES": self._devices.get((start.role, start.index), ""),
            # Last: what the plan says goes before the caller's shell.
            **render_env(process, _LocalPlace(self, start)),
        }
        program, *arguments = process.command
        command = [sys.executable if program == "python" else program, *arguments]
        now = self._clock()
        try:
            popen = spawn(command, env, self._log_file(start))
        except OSError as error:
            self._members[key] = _Member(start, None, f"never-{now}", now, f"cannot start {command[0]}: {error}")
            return
        # One that ended at once is a zombie, which has no identity.
        self._members[key] = _Member(start, popen, identity(popen.pid) or f"{popen.pid}-", now)
        self._write_members()

    def _stop(self, stop: Stop) -> None:
        key = (stop.role, stop.index, stop.incarnation)
        member = self._members.get(key)
        if member is None or member.uid != stop.uid:
            return
        kill_at = self._clock() + stop.grace_seconds
        if member.process is None or member.process.returncode is not None:
            self._forget(key)
            return
        if member.kill_at is None:
            signal_process(member.process.pid, signal.SIGTERM)
            signal_process(member.process.pid, signal.SIGCONT)  # one that is frozen could not hear it
        self._members[key] = replace(member, kill_at=min(kill_at, member.kill_at or kill_at))

    def kill_all(self) -> None:
        """End everything at once and wait for it."""
        for member in self._members.values():
            if member.process and member.process.returncode is None:
                kill_group(member.process.pid)
        for member in self._members.values():
            if member.process:
                member.process.wait()
        self._members.clear()
        self._write_members()

    # -------------------------------------------------------------------------------------------- on the disk

    def _forget(self, key: tuple[Role, int, int]) -> None:
        del self._members[key]
        self._write_members()

    def _write_members(self) -> None:
        """For ``sweep_leftovers`` and for people: who runs, by pid and start time."""
        rows = [
            {"member": member_key(m.start.role, m.start.index), "incarnation": m.start.incarnation, "uid": m.uid}
            for m in self._members.values()
            if m.process and m.process.returncode is None
        ]
        write_atomically(self._workdir.file(MEMBERS_FILE), json.dumps(rows, indent=2))
        write_atomically(self._workdir.path / TARGETS_FILE, json.dumps(self._targets(), indent=2))

    def _targets(self) -> list[dict[str, object]]:
        """Who serves metrics where, as a file of Prometheus' ``file_sd_configs``, with the labels of the chart's
        PodMonitor."""
        found: list[dict[str, object]] = []
        for role, index, life in self._members:
            port = self._ports.port(role, index, "status", _life(role, life))
            labels = {"namespace": "local", "run": self._plan.run.name, "role": role, "pod": member_key(role, index)}
            found.append({"targets": [f"{HOST}:{port}"], "labels": labels})
        return found

    def sweep_leftovers(self) -> list[str]:
        """Kill the processes that an earlier runner of this workdir left (only possible where the kernel does not tie
        children to their parent); returns their names. Call it once, before anything is started."""
        swept = []
        for row in read_members(self._workdir.path):
            pid, _, started = row["uid"].partition("-")
            if started and identity(int(pid)) == row["uid"]:
                kill_group(int(pid))
                swept.append(f"{row['member']} (process {pid})")
        return swept

    def _log_file(self, start: Start) -> Path:
        name = member_key(start.role, start.index)
        return self._workdir.log_file(f"{name}-i{start.incarnation}" if start.role == "trainer" else name)

    def _last_words_file(self, start: Start) -> Path:
        return self._workdir.folder("last-words") / f"{member_key(start.role, start.index)}-i{start.incarnation}"

    def ledger_status_url(self) -> str:
        """Where the ledger's read-only port is."""
        return f"http://{HOST}:{self._ports.port('ledger', 0, 'status', 0)}"

    def port(self, address: Address, life: int) -> int:
        """Port of an address, as seen by a member with incarnation ``life``."""
        return self._ports.port(address.role, address.index, address.port, _life(address.role, life))

    def scratch(self, start: Start) -> Path:
        return self._workdir.folder(f"scratch/{member_key(start.role, start.index)}")

    def private_file(self, name: str) -> Path:
        return self._workdir.file(name)


def _life(role: Role, incarnation: int) -> int:
    """Ledger and reward keep their ports when they are replaced, for their clients' sake; the others get fresh ones."""
    return 0 if role in ("ledger", "reward") else incarnation


@dataclass(frozen=True)
class _LocalPlace:
    """What the symbolic values of a process's environment are on this machine."""

    executor: LocalExecutor
    start: Start

    def address(self, address: Address) -> str:
        if address.form == "host":
            return HOST
        port = self.executor.port(address, self.start.incarnation)
        return str(port) if address.form == "port" else f"http://{HOST}:{port}"

    def file(self, name: str) -> str:
        return str(self.executor.private_file(name))

    def here(self, what: Here) -> str:
        match what:
            case Here.INCARNATION:
                return str(self.start.incarnation)
            case Here.BIND_HOST:
                return HOST
            case Here.SCRATCH:
                return str(self.executor.scratch(self.start))
            case Here.LAST_WORDS:
                return str(self.executor._last_words_file(self.start))


def _tail(file: Path) -> str:
    """The last bytes of a text file, stripped; empty when there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LAST_WORDS_BYTES))
            return stream.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
