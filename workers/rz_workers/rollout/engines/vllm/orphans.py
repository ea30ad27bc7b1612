"""No process of vLLM outlives the rollout that started it, however that ends. For ``engine``; no torch.

vLLM's processes outlive a rollout that was killed, with all of their memory, and for as long as they start nothing in
them looks after it. So a small process beside them waits for the end of the rollout, however that comes, and then kills
whatever carries the rollout's mark in its environment. Only processes that begin with ``exec`` have it there:
multiprocessing's ``spawn``, not its ``fork``. In a container none of this is needed, where all ends with process 1.

This file is also what that process runs: it has to import in an instant, so that it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OrphanGuard", "carriers"]

MARK = "RZ_ENGINE_OF_ROLLOUT"
_ROUND_SECONDS = 0.2
_ROUNDS = 50
"""How often is looked, and how many times at most: something that was killed may just have started something else."""
_END_SECONDS = 5.0


class OrphanGuard:
    """What is started within ``marked`` ends with this process."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}-{uuid.uuid4().hex}"  # process ids are used again
        self._guard = subprocess.Popen(
            # Isolated and without `site`: it starts in an instant, and reads no path that could fail.
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), self.mark],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the rollout's group must not end the guard first
        )

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        os.environ[MARK] = self.mark
        try:
            yield
        finally:
            del os.environ[MARK]

    def stop(self) -> None:
        """The engine was closed; whatever is left of it is let be."""
        self._guard.kill()
        self._guard.wait(_END_SECONDS)


def carriers(mark: str) -> list[int]:
    """Processes that were started with a mark that begins so. Multiprocessing's resource tracker is none: it ends by
    itself, and removes what the others leave in shared memory."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # ended, or not ours to look at
            if (
                folder.name.isdigit()
                and any(entry.startswith(wanted) for entry in (folder / "environ").read_bytes().split(b"\0"))
                and b"resource_tracker" not in (folder / "cmdline").read_bytes()
            ):
                found.append(int(folder.name))
    return found


def _guard(rollout: int, mark: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        # A pidfd stays this process's even when its number is used again; readable means that it ended.
        select.select([os.pidfd_open(rollout)], [], [])
    for _ in range(_ROUNDS):
        orphans = carriers(mark)
        if not orphans:
            return
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        time.sleep(_ROUND_SECONDS)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2])
