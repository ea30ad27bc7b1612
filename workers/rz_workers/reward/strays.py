"""What a verifier has forked does not outlive its child, however it was detached.

Processes that lost their parent become children of the nearest ancestor that adopts them (``PR_SET_CHILD_SUBREAPER``):
of the verifier child while it lives, of the fork server afterwards, which kills every child that it has not made
itself. A process group or session would not do, because a process may leave both. Only where somebody kills the fork
server itself do they stay, until their container ends. Used by ``child``; Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Set
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def has_running_child() -> bool:
    """Whether a child of this process runs; those that have ended are reaped."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    return False


def kill(but: Set[int] = frozenset()) -> None:
    """Kill and reap the children of this process, and theirs, which it adopts when they lose them."""
    while strays := _children() - but:
        for pid in strays:
            os.kill(pid, signal.SIGKILL)
        for pid in strays:
            os.waitpid(pid, 0)


def _children() -> set[int]:
    # Not /proc/self/task/*/children: not every kernel has it.
    own, found = os.getpid(), set[int]()
    for name in os.listdir("/proc"):
        # One that ends meanwhile is nobody's any more.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if name.isdigit() and _parent(name) == own:
                found.add(int(name))
    return found


def _parent(pid: str) -> int:
    # Behind the last parenthesis: a process may call itself anything.
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)
