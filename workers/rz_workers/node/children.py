"""A process that is started here ends when this one does, however that ends, and is reaped once.

Processes of a node as the system sees them: start one, read its output line by line, signal it, reap it. ``main`` calls
this from one thread (the kernel ties a child's life to the thread that started it). Linux alone: pods are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rz_workers.node.rules import ProcessSpec

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
LONGEST_LINE_BYTES = 64 * 1024
"""A longer line is passed on in pieces of that size."""
_LAST_READS = 32
"""More than a pipe holds; whoever still writes after the child has ended is not waited for."""
_TAIL_LINES = 20
_LAST_WORDS_BYTES = 4096


def adopt_orphans() -> None:
    """Become the parent of what children leave behind, as PID 1 is by itself, so that ``ended`` can reap it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Output:
    """One stream of a child: complete lines go to ``target``, each with the child's name in front."""

    source: IO[bytes]
    target: int
    """File descriptor."""
    prefix: bytes
    tail: deque[bytes]
    """The child's last lines, of both streams."""
    rest: bytes = b""

    def pump(self) -> bool:
        """Pass on what there is; False at the end of the stream."""
        try:
            data = os.read(self.source.fileno(), LONGEST_LINE_BYTES)
        except BlockingIOError:
            return True
        *lines, self.rest = (self.rest + data).split(b"\n")
        if self.rest and (not data or len(self.rest) >= LONGEST_LINE_BYTES):
            lines, self.rest = [*lines, self.rest], b""
        if lines:
            self.tail.extend(lines)
            _write_all(self.target, b"".join(self.prefix + line + b"\n" for line in lines))
        return bool(data)


@dataclass
class Child:
    """A process that was started."""

    spec: ProcessSpec
    popen: subprocess.Popen[bytes]
    outputs: tuple[Output, Output]
    words_file: Path
    started: float
    """Monotonic seconds."""
    tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    @property
    def pid(self) -> int:
        return self.popen.pid

    def words(self) -> str:
        """Its termination message, or else the last line that it wrote."""
        with contextlib.suppress(OSError):
            text = self.words_file.read_bytes()[:_LAST_WORDS_BYTES].decode(errors="replace").strip()
            if text:
                return text
        lines = (line.decode(errors="replace").strip() for line in reversed(self.tail))
        return next((line for line in lines if line), "")

    def signal(self, number: int) -> None:
        """To the process alone: it knows what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL to the process and all that it started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def drain_output(self, selector: selectors.BaseSelector) -> None:
        """Pass on what is left in the pipes of a child that has ended, and close them: a process that it left elsewhere
        must not hold them open."""
        for output in self.outputs:
            if output.source.closed:
                continue
            for _ in range(_LAST_READS):
                if not (selectable(output.source) and output.pump()):
                    break
            if output.rest:
                _write_all(output.target, output.prefix + output.rest + b"\n")
                output.tail.append(output.rest)
            with contextlib.suppress(KeyError):
                selector.unregister(output.source)
            output.source.close()


def start(spec: ProcessSpec, environment: Mapping[str, str], words_file: Path, now: float) -> Child:
    """Start a process in a session of its own, with ``environment`` under its own variables. It gets SIGKILL when this
    process dies, however that dies. Raises OSError when there is no such program."""
    words_file.parent.mkdir(parents=True, exist_ok=True)
    # The last words of the process before this one would explain the wrong end.
    words_file.unlink(missing_ok=True)
    program, *arguments = spec.command
    popen = subprocess.Popen(
        [sys.executable if program == "python" else program, *arguments],
        env={"PYTHONUNBUFFERED": "1", **environment, **spec.env, "RZ_TERMINATION_LOG": str(words_file)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )
    assert popen.stdout is not None
    assert popen.stderr is not None
    tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
    prefix = f"{spec.name}: ".encode()
    outputs = (Output(popen.stdout, 1, prefix, tail), Output(popen.stderr, 2, prefix, tail))
    for output in outputs:
        os.set_blocking(output.source.fileno(), False)
    return Child(spec, popen, outputs, words_file, now, tail)


def ended(children: Mapping[int, Child]) -> list[tuple[Child, int]]:
    """Children that have ended, with their return codes (``-n`` for signal n). Orphans are reaped on the way.

    What a child left in its group is killed before the child is reaped: until then its number cannot belong to anyone
    else.
    """
    found: list[tuple[Child, int]] = []
    while True:
        try:
            status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return found
        if status is None:
            return found
        child = children.get(status.si_pid)
        if child is not None:
            child.kill_group()
        _, encoded = os.waitpid(status.si_pid, 0)
        if child is not None:
            # By hand: Popen knows nothing of our `waitpid`, and would warn at its end that the child still runs.
            child.popen.returncode = os.waitstatus_to_exitcode(encoded)
            found.append((child, child.popen.returncode))


def selectable(source: IO[bytes]) -> bool:
    """Whether a read would not block."""
    with selectors.DefaultSelector() as once:
        once.register(source, selectors.EVENT_READ)
        return bool(once.select(0))


def _die_with_parent() -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: the child may only do what is async-signal-safe
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return in_child


def _write_all(descriptor: int, data: bytes) -> None:
    """Whoever reads the node's output may be gone; that is no reason to end a run."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
