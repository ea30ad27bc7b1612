"""The node's main path: one thread that waits for output, ends and signals.

1. Read ``RZ_NODE``; start every process.
2. Pass on their output, whole lines, each with the name of its process in front.
3. On SIGTERM or SIGINT pass it on to all; nothing is started again from then on.
4. Reap what has ended (as PID 1: orphans too). ``rules.after_end`` says what follows: go on, start it again after a
   pause, ask everyone to stop, or stop everyone with a time limit.
5. Once every essential process has ended, stop the others.
6. Once nobody runs any more, end as the root cause did, with its last words: 0, 64, 75, ...
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rz_api import exit_codes
from rz_api.run import UnreadableRunError, read_stored_run
from rz_workers.node import children
from rz_workers.node.children import Child, Output
from rz_workers.node.rules import (
    VARIABLE,
    End,
    Next,
    NodeSpec,
    ProcessSpec,
    after_end,
    backoff,
    count,
    exit_code,
    likely_cause,
    outcome,
    parse,
    root_cause,
)
from rz_workers.runtime import UserError, WorkerError

log = logging.getLogger(__name__)

MAX_FAILURES_VARIABLE = "RZ_NODE_MAX_FAILURES"
DEFAULT_MAX_FAILURES = 5


class NodeEndedError(WorkerError):
    """A process of the node ended otherwise than with 0; carries its exit code."""

    def __init__(self, cause: End) -> None:
        super().__init__(cause.describe())
        self.exit_code = cause.code


def main() -> None:
    """Run the node. Raises UserError for an ``RZ_NODE`` that cannot be used, NodeEndedError unless all is well."""
    environment = dict(os.environ)
    # Popped: a child that found it would take itself for a node.
    spec = parse(environment.pop(VARIABLE, None))
    max_failures = read_max_failures(environment)
    children.adopt_orphans()
    with _signals() as (wakeup, received):
        cause = Node(spec, environment, max_failures, wakeup, received).run()
    if cause is not None:
        raise NodeEndedError(cause)


def read_max_failures(environment: dict[str, str]) -> int:
    """``RZ_NODE_MAX_FAILURES``, else the run's ``failurePolicy.rolloutFailures``. Raises UserError when the variable is
    no whole number above 0."""
    text = environment.pop(MAX_FAILURES_VARIABLE, "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{MAX_FAILURES_VARIABLE} is {text!r}; a whole number of at least 1 is required")
        return int(text)
    with contextlib.suppress(KeyError, OSError, UnreadableRunError):  # the processes themselves complain of a bad file
        stored = read_stored_run(Path(environment["RZ_RUN_FILE"]).read_bytes(), odd_values=True)
        return stored.run.spec.failure_policy.rollout_failures
    return DEFAULT_MAX_FAILURES


@contextlib.contextmanager
def _signals() -> Iterator[tuple[socket.socket, list[int]]]:
    """A socket that becomes readable when a child ends or SIGTERM or SIGINT arrives, and the list that those two are
    appended to."""
    received: list[int] = []
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        # Does nothing, and has to be there: a signal without a handler in Python writes no byte to the socket.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: received.append(number))
        try:
            yield reader, received
        finally:
            signal.set_wakeup_fd(-1)
            # The exit code stands: a further SIGTERM must not end the process with another one.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)


class Node:
    """The processes of one node."""

    def __init__(
        self,
        spec: NodeSpec,
        environment: dict[str, str],
        max_failures: int,
        wakeup: socket.socket,
        received: list[int],
    ) -> None:
        self._spec, self._environment, self._max_failures = spec, environment, max_failures
        self._wakeup, self._received = wakeup, received
        self._words = Path(environment.get("RZ_SCRATCH") or tempfile.gettempdir()) / "node"
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup, selectors.EVENT_READ)
        self._running: dict[int, Child] = {}
        self._again: dict[str, tuple[float, ProcessSpec]] = {}
        """Name -> when to start it again."""
        self._failures: Counter[str] = Counter()
        self._ends: list[End] = []
        """Those that the node's own end may follow from."""
        self._stopping = False
        self._kill_at: float | None = None

    def run(self) -> End | None:
        """Until nobody runs any more; returns the root cause, None if all ended with 0."""
        for process in self._spec.processes:
            if not self._stopping:
                self._start(process)
        while self._running or (self._again and not self._stopping):
            self._wait()
            self._pass_on_signals()
            self._reap()
            if not self._essential_running():
                self._stop(self._spec.grace_seconds)
            self._kill_if_due()
            self._start_again()
        return root_cause(self._ends)

    # --------------------------------------------------------------------------------------------------- waiting

    def _wait(self) -> None:
        """Pass on output until a signal, the next due time, or both streams are quiet."""
        due = [moment for moment, _ in self._again.values()] if not self._stopping else []
        due += [self._kill_at] if self._kill_at is not None else []
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        if self._received:
            timeout = 0.0
        for key, _ in self._selector.select(timeout):
            output = key.data
            if output is None:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup.recv(4096)
            elif isinstance(output, Output) and not output.pump():
                self._selector.unregister(output.source)
                output.source.close()

    # --------------------------------------------------------------------------------------------------- signals

    def _pass_on_signals(self) -> None:
        while self._received:
            number = self._received.pop(0)
            log.info("%s: passing it on to every process", signal.Signals(number).name)
            self._stopping = True
            self._signal(number)

    def _stop(self, grace_seconds: float | None) -> None:
        """Ask everyone to stop; SIGKILL after ``grace_seconds`` (None: never, the kubelet and the watchdogs do). A time
        limit that is set already stays."""
        if not self._stopping:
            self._stopping = True
            self._signal(signal.SIGTERM)
        if grace_seconds is not None and self._kill_at is None:
            self._kill_at = time.monotonic() + grace_seconds

    def _essential_running(self) -> bool:
        return any(child.spec.essential for child in self._running.values())

    def _signal(self, number: int) -> None:
        for child in self._running.values():
            child.signal(number)

    def _kill_if_due(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for child in self._running.values():
                log.warning("%s does not stop: killing it", child.spec.name)
                child.kill_group()
            # Moved on: a due time in the past would turn `_wait` into a busy loop until their ends are seen.
            self._kill_at = time.monotonic() + 1.0

    # ------------------------------------------------------------------------------------------ starting, ending

    def _start(self, process: ProcessSpec) -> None:
        now = time.monotonic()
        try:
            child = children.start(process, self._environment, self._words / f"{process.name}.last-words", now)
        except OSError as error:
            words = f"cannot start {process.command[0]}: {error.strerror or error}"
            end = End(process.name, process.essential, exit_codes.INTERNAL_ERROR, words)
            self._follow(process, end, 0.0)
            return
        log.info("started %s as process %d", process.name, child.pid)
        self._running[child.pid] = child
        for output in child.outputs:
            self._selector.register(output.source, selectors.EVENT_READ, output)

    def _start_again(self) -> None:
        for name, (moment, process) in list(self._again.items()):
            if not self._stopping and moment <= time.monotonic():
                del self._again[name]
                self._start(process)

    def _reap(self) -> None:
        seen: list[tuple[Child, End]] = []
        for child, returncode in children.ended(self._running):
            del self._running[child.pid]
            child.drain_output(self._selector)
            seen.append((child, End(child.spec.name, child.spec.essential, exit_code(returncode), child.words())))
        # Ends of one look have no order of their own: the likely cause first, its consequences after.
        for child, end in sorted(seen, key=lambda pair: likely_cause(pair[1])):
            self._follow(child.spec, end, time.monotonic() - child.started)

    def _follow(self, process: ProcessSpec, end: End, lived_seconds: float) -> None:
        """Do what ``rules`` says about an end. Once asked to stop, others than essential ones may end as they like; an
        exit 64 still explains why an essential one did not end well."""
        failures = self._failures[end.name] = count(end, self._failures[end.name], lived_seconds)
        log.log(logging.WARNING if end.code else logging.INFO, "%s %s", end.name, outcome(end.code))
        if not end.essential and self._stopping:
            if end.code == exit_codes.USER_ERROR and (self._ends or self._essential_running()):
                self._ends.append(end)
            return
        match after_end(end, failures, self._max_failures):
            case Next.GO_ON:
                pass
            case Next.START_AGAIN:
                pause = backoff(self._spec.backoff_seconds, failures)
                log.warning("%s starts again in %g s (failure %d in a row)", end.name, pause, failures)
                self._again[end.name] = (time.monotonic() + pause, process)
            case Next.DRAIN:
                self._ends.append(end)
                self._stop(None)
            case Next.STOP:
                self._ends.append(end)
                self._stop(self._spec.failure_grace_seconds)
