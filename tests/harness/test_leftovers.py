"""Who is blamed for a socket that nobody closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LEAVES = """
import socket

class Holder: ...

def test_leaves_a_socket():
    holder = Holder()
    holder.itself, holder.socket = holder, socket.socket()

def test_comes_last(): ...
"""


def test_the_file_that_left_it_fails_and_the_next_does_not(tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text(LEAVES)
    (tmp_path / "test_second.py").write_text("def test_is_innocent(): ...")
    command = [sys.executable, "-m", "pytest", "-p", "leftovers", "-W", "error", "-p", "no:cacheprovider", tmp_path]
    ran = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert "ERROR at teardown of test_comes_last" in ran.stdout
    assert "test_first.py left behind, found when garbage was collected: ResourceWarning" in ran.stdout
    assert "3 passed, 1 error" in ran.stdout
