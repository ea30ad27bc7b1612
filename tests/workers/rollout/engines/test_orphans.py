"""The processes of an engine end with the rollout that started them, also when it is killed while they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rollout_builders import until

from rz_workers.rollout.engines.vllm.orphans import OrphanGuard, carriers

SCRIPT = """
import multiprocessing, sys, time
from rz_workers.rollout.engines.vllm.orphans import OrphanGuard

if __name__ == "__main__":
    guard = OrphanGuard()
    context = multiprocessing.get_context("spawn")
    with guard.marked():
        marked = context.Process(target=time.sleep, args=(600,))
        marked.start()
    other = context.Process(target=time.sleep, args=(600,))
    other.start()
    print(marked.pid, other.pid, guard.mark, flush=True)
    time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def rollout(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, int, str]]:
    """A process with a child that was started within the mark, and one that was not: (it, child, other, mark)."""
    script = tmp_path / "rollout.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child, other, mark = process.stdout.readline().split()
        yield process, int(child), int(other), mark
        for pid in (process.pid, int(other)):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def test_children_of_a_rollout_that_is_killed_are_killed(
    rollout: tuple[subprocess.Popen[str], int, int, str],
) -> None:
    process, child, other, mark = rollout
    until(lambda: carriers(mark) == [child])
    process.kill()
    until(lambda: not is_running(child))
    assert is_running(other), "what does not carry the mark is nobody's business here"


def test_nothing_is_killed_after_an_orderly_end() -> None:
    guard = OrphanGuard()
    with guard.marked(), subprocess.Popen(["sleep", "600"]) as child:
        until(lambda: carriers(guard.mark) == [child.pid])
        guard.stop()
        assert is_running(child.pid)
        child.kill()
    assert not is_running(child.pid)


def test_the_mark_does_not_stay_in_the_environment() -> None:
    before = dict(os.environ)
    guard = OrphanGuard()
    with guard.marked():
        assert dict(os.environ) != before
    guard.stop()
    assert dict(os.environ) == before
