"""A fork server whose comparison does what the answer says; the pool's tests start it in place of the real one.

``same``/anything else: equal or not. ``spin``: take CPU for ever. ``sleep``: be silent. ``memory``: run into the memory
limit. ``error``: raise. ``segfault``: die. ``segfault once PATH``: die unless PATH exists. ``pid``: equal, and make the
file REFERENCE.PID.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from rz_workers.reward.child import run_fork_server


def obey(answer: str, reference: str) -> bool:
    match answer.split():
        case ["spin", *_]:
            while True:
                pass
        case ["sleep"]:
            time.sleep(60)
        case ["memory"]:
            bytearray(1 << 33)
        case ["error"]:
            raise RuntimeError("the verifier has a defect")
        case ["segfault"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["segfault", "once", path]:
            if not os.path.exists(path):
                os.close(os.open(path, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGSEGV)
            return True
        case ["pid"]:
            Path(f"{reference}.{os.getpid()}").touch()
            return True
    return answer.startswith("same")


if __name__ == "__main__":
    _, _, cpu_seconds, memory_mib, control_fd = sys.argv
    run_fork_server(socket.socket(fileno=int(control_fd)), obey, float(cpu_seconds), int(memory_mib))
