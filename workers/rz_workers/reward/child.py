"""A verdict that hangs, crashes or takes too much memory ends its own process and no other.

The processes in which answers are judged: a fork server, and the verifier children that it forks. ``fork_server``
starts ``python -m rz_workers.reward.child SETTINGS CONTROL_FD``, the settings being those of ``ChildSettings`` as JSON.
The fork server imports the verifiers once (1 s) and then makes a child in milliseconds. It has one thread and no state,
so the children are clean. Nothing survives the service: the control socket's end ends the fork server, and the kernel
kills the children when the fork server dies, busy or not.

Control socket (one datagram each): first the fork server's ``{"address_space_mib", "reads_responses"}``, or
``{"error"}`` and its end; then ``fork`` with a socket attached -> the child's pid; ``wait PID`` -> its wait status.
Child's socket (a JSON line each): ``[[verifier, answer, reference, response, question, fields], ...]`` -> one
``{"reward", "rule", "figures", "cpu_seconds", "is_spent"}`` per item as it is done, or ``{"error"}`` and the end of the
child. A child that is spent has left something behind (a process, a thread) and is to be replaced.

The CPU limit is the kernel's profiling timer (user and system time of the process), set anew for each verdict: at the
limit the child dies of SIGPROF, whatever code it is in. That status, and no other, means ``timeout``; exit code
``OUT_OF_MEMORY`` means that the memory limit was reached. What a verifier prints goes nowhere, and what it forks dies
with its child at the latest (``strays``).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rz_workers.reward import strays
from rz_workers.reward.interface import Example, Judgement
from rz_workers.reward.loading import ChildSettings, Loaded, load
from rz_workers.reward.strict import checked
from rz_workers.runtime import UserError

MIB = 1 << 20
OUT_OF_MEMORY = 90
"""Exit code; of nothing else that Python or a shell ends with by itself."""
LONGEST_ERROR = 300
"""Letters of an exception that are told."""


def run_fork_server(control: socket.socket, verifiers: Mapping[str, Loaded], settings: ChildSettings) -> None:
    """Serve the control socket until its other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the service is told, and ends us
        signal.signal(number, signal.SIG_IGN)
    strays.adopt()
    # What is there so far is never collected: a collection in a child would write to, and so copy, shared pages.
    gc.freeze()
    reading = [name for name, loaded in verifiers.items() if loaded.reads_responses]
    control.send(json.dumps({"address_space_mib": _address_space_mib(), "reads_responses": reading}).encode())
    own_pid, children = os.getpid(), set[int]()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            strays.kill()
            return
        if message == b"fork":
            # Safe, because this process has one thread.
            pid = os.fork()
            if pid == 0:
                # A child that kept it would keep the service from seeing the fork server's end.
                control.close()
                _run_child(socket.socket(fileno=fds[0]), verifiers, settings, own_pid)
            os.close(fds[0])
            children.add(pid)
            control.send(str(pid).encode())
        else:
            pid = int(message.split()[1])
            _, status = os.waitpid(pid, 0)
            children.discard(pid)
            strays.kill(but=children)
            control.send(str(status).encode())


def _run_child(
    channel: socket.socket, verifiers: Mapping[str, Loaded], settings: ChildSettings, fork_server: int
) -> None:
    """Limit this process, serve its socket, and end it."""
    code = 1
    try:
        strays.die_with_parent()
        if os.getppid() == fork_server:  # else it died before the line above
            strays.adopt()
            # What a verifier forks must not hold the channel open: the service would wait for a child that is gone.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.register_at_fork(after_in_child=lambda: os.dup2(nowhere, channel.fileno()))
            # Any amount of output is no pipe that fills, and no disk.
            for descriptor in (1, 2):
                os.dup2(2 if settings.shows_output else nowhere, descriptor)
            _limit(settings)
            code = serve(channel, verifiers, settings.cpu_seconds)
    except MemoryError:
        code = OUT_OF_MEMORY
    finally:
        # Not `sys.exit`: buffers and exit handlers are the fork server's.
        os._exit(code)


def _limit(settings: ChildSettings) -> None:
    # An ignored signal stays ignored through exec and fork; then the CPU limit would do nothing.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Hostile input: a crash writes no core, and nothing can be written to a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (settings.memory_mib * MIB, settings.memory_mib * MIB))


def serve(channel: socket.socket, verifiers: Mapping[str, Loaded], cpu_seconds: float) -> int:
    """Answer lines of items until the socket ends (returns 0) or a verdict fails unexpectedly (returns 1). Raises
    MemoryError where one reached the memory limit."""
    own_pid = os.getpid()
    stream = channel.makefile("rwb")
    for line in stream:
        for name, *parts in json.loads(line):
            reply = _judge(verifiers[name], Example(*parts), cpu_seconds)
            if os.getpid() != own_pid:
                # The verifier forked, and both returned; only one of them speaks for the item.
                os._exit(0)
            stream.write(json.dumps(reply).encode() + b"\n")
            stream.flush()
            if "error" in reply:
                return 1
    return 0


def _judge(loaded: Loaded, example: Example, cpu_seconds: float) -> dict[str, Any]:
    started = time.process_time()
    if not loaded.is_ours:
        # Behind the timer, which other code may set for itself; processes that it forks have this limit, too.
        seconds = int(started + cpu_seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    try:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        judgement = checked(loaded.verifier(example))
        signal.setitimer(signal.ITIMER_PROF, 0)
    except MemoryError:
        raise
    except BaseException as error:  # SystemExit, too: it would end the child without a word
        signal.setitimer(signal.ITIMER_PROF, 0)
        return {"error": f"{type(error).__name__}: {str(error)[:LONGEST_ERROR]}".rstrip(": ")}
    return _reply(judgement, time.process_time() - started, is_spent=not loaded.is_ours and _left_something())


def _reply(judgement: Judgement, cpu_seconds: float, *, is_spent: bool) -> dict[str, Any]:
    return {
        "reward": judgement.reward,
        "rule": judgement.rule,
        "figures": dict(judgement.figures),
        "cpu_seconds": cpu_seconds,
        "is_spent": is_spent,
    }


def _left_something() -> bool:
    return threading.active_count() > 1 or strays.has_running_child()


def _address_space_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize() // MIB


def main(settings: str, control_fd: str) -> None:
    control = socket.socket(fileno=int(control_fd))
    try:
        parsed = ChildSettings.from_json(settings)
        verifiers = {name: load(name, code) for name, code in parsed.verifiers.items()}
    except UserError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    run_fork_server(control, verifiers, parsed)


if __name__ == "__main__":
    main(*sys.argv[1:])
