"""A pid that is signalled here is always that of our own child, and each child is reaped once.

The pool's handle on ``rz_workers.reward.child``: start the fork server, have children forked, and reap them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rz_workers.reward.loading import ChildSettings
from rz_workers.runtime import UserError, WorkerError

COMMAND = (sys.executable, "-m", "rz_workers.reward.child")

LONGEST_MESSAGE = 1 << 16
HEADROOM_MIB = 64
"""Address space that a child needs beyond what it has when it is forked."""

ENVIRONMENT = {"PYTHONHASHSEED": "0", "MPMATH_NOGMPY": "1", "SYMPY_GROUND_TYPES": "python"}
"""Verdicts must not depend on the seed of hashes or on which big-number library is installed (GMP, besides, aborts the
process when it runs out of memory)."""


@dataclass(eq=False)
class Child:
    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    comparisons: int = 0


class ForkServer:
    """One fork server; its methods may be called by several tasks. They raise WorkerError once it is gone."""

    def __init__(self, settings: ChildSettings, command: Sequence[str]) -> None:
        self._settings, self._command = settings, [*command, settings.as_json()]
        self._lock = asyncio.Lock()
        self.reads_responses: frozenset[str] = frozenset()
        """Verifiers that take their answer from the whole response themselves; known once it is started."""

    async def start(self) -> None:
        """Start it and wait until the verifiers are imported. Raises UserError when one can't be, or when the memory
        limit is too low."""
        # SEQPACKET keeps messages apart, as DGRAM does, and shows the end of the other side, as STREAM does.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Closed here once the fork server has it: else its end would never show on our side.
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | ENVIRONMENT,
            )
        try:
            told = json.loads(await self._ask(b""))
            if "error" in told:
                raise UserError(told["error"])
            needed = told["address_space_mib"] + HEADROOM_MIB
            if needed > self._settings.memory_mib:
                names = ", ".join(self._settings.verifiers)
                raise UserError(
                    f"reward.memoryLimitMib is {self._settings.memory_mib}, but the verifier {names} needs at least "
                    f"{needed} MiB of address space here; raise it (the default is 1024)"
                )
            self.reads_responses = frozenset(told["reads_responses"])
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End it; the kernel ends its children."""
        with contextlib.suppress(OSError):
            # `close` alone would not wake a thread that reads from it.
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        await asyncio.to_thread(self._process.wait)

    async def fork(self) -> Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = int(await self._ask(b"fork", theirs.fileno()))
            return Child(pid, *await asyncio.open_connection(sock=ours))
        except BaseException:
            ours.close()
            raise

    async def reap(self, child: Child) -> int:
        """Make sure that the child is dead, and return its wait status: that of its own death if it died by itself.

        Its pid can't be another process's, as the fork server has not waited for it yet.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        child.writer.close()
        return int(await self._ask(f"wait {child.pid}".encode()))

    async def _ask(self, message: bytes, fd: int | None = None) -> bytes:
        """One exchange; an empty message only waits for what the fork server says first."""

        def exchange() -> bytes:
            if message:
                socket.send_fds(self._control, [message], [] if fd is None else [fd])
            return self._control.recv(LONGEST_MESSAGE)

        # One exchange at a time: replies carry no name.
        async with self._lock:
            try:
                reply = await asyncio.to_thread(exchange)
            except OSError:
                reply = b""
        if not reply:
            raise WorkerError("the fork server of the verifiers is gone; its own messages are above in the log")
        return reply


def how_it_died(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
