"""A verifier of somebody's own that does what the answer says. ``test_own_verifiers`` has it run in real children."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rz_workers.reward.interface import Example, Judgement, reads_responses

GIB = 1 << 30


def grade(example: Example) -> Any:
    """1 where the answer is ``right``; for any other word, what ``DOES`` has for it."""
    if example.answer == "right":
        return 1.0
    return DOES[example.answer](example)


def burn(_: Example) -> None:
    sum(itertools.repeat(0))


def burn_without_a_timer(example: Example) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_PROF, 0)
    burn(example)


def allocate(_: Example) -> float:
    return float(len(bytes(64 * GIB)))


def allocate_in_pieces_and_keep_them(_: Example, kept: list[bytes] = []) -> None:  # noqa: B006
    while True:
        kept.append(bytes(1 << 16))


def print_a_gigabyte(_: Example) -> float:
    line = "x" * (1 << 20)
    for _ in range(512):
        print(line)
        print(line, file=sys.stderr)
    return 1.0


def write_a_file(example: Example) -> float:
    Path(example.reference).write_bytes(bytes(1 << 20))
    return 1.0


def fork_and_return_twice(_: Example) -> float:
    return 0.25 if os.fork() == 0 else 0.75


def detach(example: Example) -> float:
    """Leaves a process in a session of its own, whose parent has ended, and says who it is."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(0)
            # Its name is its pid, and it holds no lock of ours.
            Path(f"/proc/{os.getpid()}/comm").write_bytes(b"rz-stray")
            time.sleep(600)
        os._exit(0)
    os.wait()
    return 1.0


def fork_and_burn(example: Example) -> float:
    pid = os.fork()
    if pid == 0:
        burn(example)
    _, status = os.waitpid(pid, 0)
    return 0.5 if os.WIFSIGNALED(status) else 0.0


def detach_and_die(example: Example) -> None:
    detach(example)
    os._exit(3)


def detach_and_wait(example: Example) -> None:
    detach(example)
    time.sleep(600)


def leave_a_thread(_: Example) -> float:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return 1.0


def call_a_program(_: Example) -> float:
    return float(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout)


def fail(_: Example) -> None:
    raise ValueError("cannot read this")


DOES: dict[str, Callable[[Example], Any]] = {
    "burns CPU": burn,
    "burns CPU without its timer": burn_without_a_timer,
    "allocates": allocate,
    "allocates and keeps": allocate_in_pieces_and_keep_them,
    "prints 1 GB": print_a_gigabyte,
    "writes a file": write_a_file,
    "forks and returns twice": fork_and_return_twice,
    "forks, burns, waits": fork_and_burn,
    "detaches": detach,
    "detaches and dies": detach_and_die,
    "detaches and waits": detach_and_wait,
    "leaves a thread": leave_a_thread,
    "calls a program": call_a_program,
    "raises": fail,
    "exits": lambda _: sys.exit(0),
    "exits at once": lambda _: os._exit(0),
    "is interrupted": lambda _: os.kill(os.getpid(), signal.SIGINT),
    "returns NaN": lambda _: math.nan,
    "returns infinity": lambda _: Judgement(math.inf),
    "returns 1.5": lambda _: 1.5,
    "returns -0.1": lambda _: -0.1,
    "returns nothing": lambda _: None,
    "returns a text": lambda _: "1.0",
    "returns a text in a judgement": lambda _: Judgement("1.0"),  # type: ignore[arg-type]
    "returns a rule of a megabyte": lambda _: Judgement(1.0, "x" * (1 << 20)),
    "returns a figure that is none": lambda _: Judgement(1.0, figures={"depth": math.nan}),
    "returns True": lambda _: True,
    "returns a judgement": lambda _: Judgement(0.5, "half", {"depth": 3}),
    "returns what it was given": lambda example: Judgement(
        float(example.fields["reward"]), example.question, {"letters": len(example.response)}
    ),
}


@reads_responses
def reader(example: Example) -> float:
    return float(example.answer == example.response)


not_a_function = 3
