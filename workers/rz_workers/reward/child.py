"""A comparison that hangs, crashes or takes too much memory ends its own process and no other.

The processes in which answers are compared: a fork server, and the verifier children that it forks. ``fork_server``
starts ``python -m rz_workers.reward.child VERIFIER CPU_SECONDS MEMORY_MIB CONTROL_FD``. The fork server imports the
libraries once (1 s) and then makes a child in milliseconds. It has one thread and no state, so the children are clean.
Nothing survives the service: the control socket's end ends the fork server, and the kernel kills the children when the
fork server dies, busy or not.

Control socket (one datagram each): ``fork`` with a socket attached -> the child's pid; ``wait PID`` -> its wait status.
Child's socket (a JSON line each): ``[[answer, reference], ...]`` -> one ``{"equal", "rule", "cpu_seconds"}`` per pair
as it is done, or ``{"error"}`` and the end of the child.

The CPU limit is the kernel's profiling timer (user and system time of the process), set anew for each verdict: at the
limit the child dies of SIGPROF, whatever code it is in. That status, and no other, means ``timeout``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from rz_workers.reward.interface import Example, Verifier
from rz_workers.reward.verifiers import load_verifier

MIB = 1 << 20
_PR_SET_PDEATHSIG = 1


def run_fork_server(control: socket.socket, verifier: Verifier, cpu_seconds: float, memory_mib: int) -> None:
    """Serve the control socket until its other end is closed. The first message is our address space, MiB."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the service is told, and ends us
        signal.signal(number, signal.SIG_IGN)
    # What is there so far is never collected: a collection in a child would write to, and so copy, shared pages.
    gc.freeze()
    control.send(str(_address_space_mib()).encode())
    own_pid = os.getpid()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return
        if message == b"fork":
            # Safe, because this process has one thread.
            pid = os.fork()
            if pid == 0:
                # A child that kept it would keep the service from seeing the fork server's end.
                control.close()
                _run_child(socket.socket(fileno=fds[0]), verifier, cpu_seconds, memory_mib, own_pid)
            os.close(fds[0])
            control.send(str(pid).encode())
        else:
            _, status = os.waitpid(int(message.split()[1]), 0)
            control.send(str(status).encode())


def _run_child(channel: socket.socket, verifier: Verifier, cpu_seconds: float, memory_mib: int, parent: int) -> None:
    """Limit this process, serve its socket, and end it."""
    code = 1
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else the fork server died before the line above
            # An ignored signal stays ignored through exec and fork; then the CPU limit would do nothing.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            # Hostile input: a crash writes no core, and nothing can be written to a file.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (memory_mib * MIB, memory_mib * MIB))
            code = serve(channel, verifier, cpu_seconds)
    finally:
        # Not `sys.exit`: buffers and exit handlers are the fork server's.
        os._exit(code)


def serve(channel: socket.socket, verifier: Verifier, cpu_seconds: float) -> int:
    """Answer lines of pairs until the socket ends (returns 0) or a comparison fails unexpectedly (returns 1)."""
    stream = channel.makefile("rwb")
    for line in stream:
        for answer, reference in json.loads(line):
            started = time.process_time()
            try:
                signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
                judgement = verifier(Example(answer, reference))
                signal.setitimer(signal.ITIMER_PROF, 0)
                reply: dict[str, object] = {
                    "equal": judgement.reward == 1.0,
                    "rule": judgement.rule,
                    "cpu_seconds": time.process_time() - started,
                }
            except Exception as error:
                signal.setitimer(signal.ITIMER_PROF, 0)
                reply = {"error": f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")}
            stream.write(json.dumps(reply).encode() + b"\n")
            stream.flush()
            if "error" in reply:
                return 1
    return 0


def _address_space_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize() // MIB


if __name__ == "__main__":
    _, name, cpu_seconds, memory_mib, control_fd = sys.argv
    run_fork_server(socket.socket(fileno=int(control_fd)), load_verifier(name), float(cpu_seconds), int(memory_mib))
