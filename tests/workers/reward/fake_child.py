"""A fork server whose comparison does what the answer says; tests start it in place of the real one.

=====================  ================================================================================================
the answer             the child
=====================  ================================================================================================
``same ...``           says that they are equal
``is TEXT``            says whether the reference is TEXT, to the last character
``after SECONDS``      waits, which takes no CPU, and says that they are equal
``spin ...``           takes CPU for ever
``spin in C``          the same in one call, which no Python code of the child's own can interrupt
``spin once PATH``     makes the file PATH and spins; equal where PATH exists
``sleep``              is silent for a minute
``memory``             takes memory, a piece at a time, until it gets no more
``error``              raises
``segfault``           dies
``segfault once PATH`` makes the file PATH and dies; equal where PATH exists
``pid``                makes the file REFERENCE.PID and says that they are equal
anything else          says that they are not equal
=====================  ================================================================================================
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import time
from pathlib import Path

from rz_workers.reward.child import MIB, run_fork_server
from rz_workers.reward.loading import ChildSettings, Loaded
from rz_workers.reward.verifiers.readings import by_equality


def obey(answer: str, reference: str) -> bool:
    match answer.split():
        case ["same", *_]:
            return True
        case ["is", *_]:
            return answer == f"is {reference}"
        case ["after", seconds]:
            time.sleep(float(seconds))
            return True
        case ["spin", "in", "C"]:
            sum(itertools.repeat(0))
        case ["spin", "once", path]:
            if made(path):
                spin()
            return True
        case ["spin", *_]:
            spin()
        case ["sleep"]:
            time.sleep(60)
        case ["memory"]:
            take_memory()
        case ["error"]:
            raise RuntimeError("the verifier has a defect")
        case ["segfault"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["segfault", "once", path]:
            if made(path):
                os.kill(os.getpid(), signal.SIGSEGV)
            return True
        case ["pid"]:
            made(f"{reference}.{os.getpid()}")
            return True
    return False


def spin() -> None:
    while True:
        pass


def take_memory() -> None:
    pieces: list[bytes] = []
    try:
        while True:
            pieces.append(bytes(16 * MIB))
    except MemoryError:
        pieces.clear()  # the child needs some to tell of it
        raise


def made(path: str) -> bool:
    """Whether the file was not there yet; it is now."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    settings = ChildSettings.from_json(sys.argv[1])
    obedient = {name: Loaded(by_equality(obey, "obeyed")) for name in settings.verifiers}
    run_fork_server(socket.socket(fileno=int(sys.argv[2])), obedient, settings)
