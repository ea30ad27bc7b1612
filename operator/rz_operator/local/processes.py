"""A process that is started here dies with us, and is known by more than its number; for ``local.executor``.

Linux does all of it; elsewhere (macOS) a child is not killed when the runner is killed by SIGKILL, and the next
``rz run`` sweeps up what was left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def spawn(command: Sequence[str], env: Mapping[str, str], log_file: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own (no Ctrl-C of a terminal reaches it); its output goes to ``log_file``.

    It gets SIGKILL when this process dies, however that dies. Call it from a thread that lives as long as the process:
    the kernel ties that to the thread. Raises OSError.
    """
    with log_file.open("ab", buffering=0) as log:
        return subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: the child may only do what is async-signal-safe
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return in_child


def identity(pid: int) -> str:
    """``pid-start time``: tells a process from a later one with the same number. The start time is in clock ticks since
    boot (Linux), empty where it cannot be read. Empty when there is no such process, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "" if Path("/proc").exists() or not _exists(pid) else f"{pid}-"
    except ProcessLookupError:
        return ""
    # From behind: the name in brackets may hold blanks and brackets. Start time is field 22 of proc(5).
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{pid}-{fields[19]}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def signal_process(pid: int, number: int) -> None:
    """Send a signal; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """SIGKILL to the group that ``pid`` leads: the process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def poll_and_sweep(process: subprocess.Popen[bytes]) -> int | None:
    """The return code once the process has ended, after killing what it left in its group; None while it runs.

    The group is killed before the process is reaped: until then its number cannot belong to anyone else.
    """
    if process.returncode is not None:
        return process.returncode
    with contextlib.suppress(ChildProcessError):
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        kill_group(process.pid)
    return process.wait()
