"""What is done about a local run is what the operator would do: the same ``decide``, in the same order of steps.

``rz run`` drives one run on this machine, from a plan to an exit code. Called by the command line
(``rz_operator.commands.cli``). Twice a second:

1. observe the members (processes) and read the ledger's status;
2. decide what to do (the operator's own ``decide``);
3. write the new status to ``status.json``;
4. carry out the actions;
5. show what is going on.

Ctrl-C or SIGTERM suspends the run through ``decide``: the trainer checkpoints at its next step boundary, then
everything stops; the same command goes on from there. A second one kills at once; nothing that was stored is lost.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rz_api import exit_codes
from rz_api.status import FINAL_PHASES, RunStatus
from rz_operator.decisions.decide import begin_again, decide
from rz_operator.decisions.members import Event, Observation
from rz_operator.decisions.reached import LedgerStatus, reached_of
from rz_operator.local.executor import LocalExecutor
from rz_operator.local.workdir import Workdir
from rz_operator.plan import Plan, wanted

INTERVAL_SECONDS = 0.5
FAILED, INTERRUPTED = 1, 130


class View(Protocol):
    """Shows a run to a person (``local.view``)."""

    def show(self, status: RunStatus, seen: Observation, ledger: LedgerStatus | None) -> None: ...
    def tell(self, event: Event) -> None: ...


class StopRequests:
    """How often someone asked the runner to stop. ``install`` counts SIGINT, SIGTERM and SIGHUP."""

    def __init__(self) -> None:
        self.count = 0
        self.wake = threading.Event()

    def ask(self) -> None:
        self.count += 1
        self.wake.set()

    @contextmanager
    def install(self) -> Iterator[None]:
        def handle(_number: int, _frame: object) -> None:
            self.ask()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Runner:
    """Drives one plan. Everything that touches the world is passed in."""

    def __init__(
        self,
        plan: Plan,
        workdir: Workdir,
        executor: LocalExecutor,
        view: View,
        ledger: Callable[[], LedgerStatus | None],
        stop: StopRequests,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = plan
        self._workdir = workdir
        self._executor = executor
        self._view = view
        self._ledger = ledger
        self._stop = stop
        self._clock = clock
        self.status = RunStatus()
        self._newest: LedgerStatus | None = None
        self._unwritten = False

    def run(self) -> int:
        """Returns the exit code: 0 succeeded, 64 user error, 1 failed, 130 interrupted and everything stopped."""
        self.status = begin_again(self._workdir.read_memory())
        for leftover in self._executor.sweep_leftovers():
            self._view.tell(Event("Warning", "LeftOver", f"killed {leftover}, left by an earlier runner"))
        asked = 0
        try:
            while True:
                if self._stop.count > asked:
                    asked = self._stop.count
                    self._answer_stop_request(asked)
                    if asked > 1:
                        return INTERRUPTED
                code = self.turn()
                if code is not None:
                    return code
                # Not ``sleep``: a Ctrl-C is answered at once.
                self._stop.wake.wait(INTERVAL_SECONDS)
                self._stop.wake.clear()
        finally:
            self._executor.kill_all()

    def turn(self) -> int | None:
        """One look and what follows from it; the exit code once the run is over and nothing of it is alive."""
        members = self._executor.observe()
        ledger = self._ledger() if any(m.role == "ledger" and m.live for m in members) else None
        seen, now = Observation(members, reached_of(ledger)), self._clock()
        decision = decide(wanted(self._plan, suspend=self._stop.count > 0), self.status, seen, now)
        self.status = decision.status
        self._newest = ledger or self._newest
        # Before acting: an incarnation is on the disk before anything runs under it, so it is never used twice.
        if not self._remember(now):
            self._view.show(self.status, seen, self._newest)
            return None
        self._executor.act(decision.actions)
        self._view.show(self.status, seen, self._newest)
        for event in decision.events:
            self._view.tell(event)
        return None if any(member.live for member in members) else self._outcome(started=len(decision.actions) > 0)

    def _remember(self, now: float) -> bool:
        """Write ``status.json``. False while that cannot be written (a full disk): then nothing is started or stopped,
        and what runs goes on; a person is told once, and the next turn tries again."""
        try:
            self._workdir.write_status(self.status, self._shown(now))
        except OSError as error:
            if not self._unwritten:
                why = error.strerror or str(error)
                self._view.tell(
                    Event(
                        "Warning",
                        "StatusNotWritten",
                        f"cannot write into the workdir {self._workdir.path} ({why}): nothing is started or stopped "
                        "until that works; free space on its disk, or make it writable",
                    )
                )
            self._unwritten = True
            return False
        self._unwritten = False
        return True

    def _outcome(self, started: bool) -> int | None:
        """What the run's end means; ``started``: actions of this turn may still have to take effect."""
        if self.status.phase == "Suspended":
            return INTERRUPTED
        if self.status.phase not in FINAL_PHASES or started:
            return None
        if self.status.phase == "Succeeded":
            return exit_codes.OK
        return exit_codes.USER_ERROR if self.status.exit_code == exit_codes.USER_ERROR else FAILED

    def _answer_stop_request(self, times: int) -> None:
        if times > 1:
            message = "killing everything now; the same command resumes from the last checkpoint"
        else:
            grace = self._plan.run.spec.trainer.termination_grace_seconds
            message = (
                f"interrupted: the trainer has {grace} s for its step and a checkpoint; the same command resumes; "
                f"Ctrl-C again kills at once"
            )
        self._view.tell(Event("Normal", "Interrupted", message))

    def _shown(self, now: float) -> dict[str, object]:
        run = self._plan.run
        return {
            "name": run.name,
            "uid": run.uid,
            "storage": run.spec.storage.uri,
            "ledgerStatusUrl": self._executor.ledger_status_url(),
            "updatedAt": now,
            "ledger": self._newest,
        }
