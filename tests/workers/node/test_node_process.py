"""``python -m rz_workers.node`` with real small processes. They tell by their output where they are; nothing sleeps for
longer than the test takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FOREVER = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def on_sigterm(code: int, words: str = "") -> str:
    """Says that it is ready (a line, and the file ``up``), and ends with ``code`` on SIGTERM."""
    return (
        "import os, signal, time\n"
        "def end(*_):\n"
        f"    open(os.environ['RZ_TERMINATION_LOG'], 'w').write({words!r})\n"
        "    print('drained', flush=True)\n"
        f"    os._exit({code})\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "open(os.environ['RZ_SCRATCH'] + '/up', 'w').close()\n"
        "time.sleep(600)"
    )


ON_SIGTERM_75 = on_sigterm(75)


def ends(code: int, words: str = "") -> str:
    return (
        f"import os, sys; open(os.environ['RZ_TERMINATION_LOG'], 'w').write({words!r}); print('out'); sys.exit({code})"
    )


def once_up(script: str) -> str:
    """``script`` once a process with ``on_sigterm`` is ready."""
    return f"import os, time\nwhile not os.path.exists(os.environ['RZ_SCRATCH'] + '/up'): time.sleep(0.01)\n{script}"


def rank(index: int, script: str, **env: str) -> dict[str, object]:
    return {"name": f"trainer-{index}", "command": ["python", "-c", script], "env": env, "essential": True}


def rollout(index: int, script: str) -> dict[str, object]:
    return {"name": f"rollout-{index}", "command": ["python", "-c", script], "essential": False}


class NodeProcess:
    """The node as a process; ``lines`` is what it has written."""

    def __init__(self, tmp_path: Path, processes: list[dict[str, object]], **changes: object) -> None:
        options = {"failureGraceSeconds": 0.3, "graceSeconds": 0.3, "backoffSeconds": 0.01, **changes}
        self.words_file = tmp_path / "last-words"
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "rz_workers.node"],
            env={
                **os.environ,
                "RZ_NODE": json.dumps({"processes": processes, **options}),
                "RZ_NODE_MAX_FAILURES": "3",
                "RZ_SCRATCH": str(tmp_path / "scratch"),
                "RZ_TERMINATION_LOG": str(self.words_file),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, *wanted: str) -> None:
        """Read until every wanted line has come."""
        assert self.popen.stdout is not None
        left = set(wanted)
        while left:
            line = self.popen.stdout.readline()
            assert line, f"the node ended before {left}: {self.lines}"
            self.lines.append(line.rstrip("\n"))
            left.discard(self.lines[-1])

    def end(self) -> int:
        out, _ = self.popen.communicate(timeout=30)
        self.lines += out.splitlines()
        return self.popen.returncode

    def words(self) -> str:
        return self.words_file.read_text() if self.words_file.exists() else ""


@pytest.fixture
def nodes() -> Iterator[list[NodeProcess]]:
    started: list[NodeProcess] = []
    yield started
    for node in started:
        node.popen.kill()
        node.popen.wait()
        assert node.popen.stdout is not None
        node.popen.stdout.close()


@pytest.mark.parametrize(
    ("processes", "code", "words"),
    [
        pytest.param([rank(0, ends(0)), rank(1, ends(0))], 0, "", id="all ranks are done"),
        pytest.param([rank(0, ends(0)), rollout(0, FOREVER)], 0, "", id="a rollout is stopped at the end"),
        pytest.param([rank(0, ends(0)), rollout(0, STUBBORN)], 0, "", id="a rollout that does not stop is killed"),
        pytest.param(
            [rank(0, STUBBORN), rank(1, ends(70, "lost peer"))],
            70,
            "trainer-1 ended with exit code 70: lost peer",
            id="a rank fails and the other one hangs",
        ),
        pytest.param(
            [rank(0, "import os; os.kill(os.getpid(), 9)"), rank(1, FOREVER)],
            137,
            "trainer-0 was killed by SIGKILL (137; perhaps for its memory limit)",
            id="a rank is killed",
        ),
        pytest.param(
            [rank(0, once_up(ends(70, "noise"))), rank(1, on_sigterm(64, "no GPU"))],
            64,
            "trainer-1 ended with exit code 64: no GPU",
            id="exit 64 explains another rank's failure",
        ),
        pytest.param(
            [rank(0, FOREVER), rollout(0, ends(64, "no such engine"))],
            64,
            "rollout-0 ended with exit code 64: no such engine",
            id="a rollout with a user error",
        ),
        pytest.param(
            [rank(0, FOREVER), rollout(0, "print('a'); print('the last line'); raise SystemExit(70)")],
            70,
            "rollout-0 ended with exit code 70: the last line",
            id="a rollout that fails three times, with its last line for want of last words",
        ),
        pytest.param(
            [rank(0, ON_SIGTERM_75), rank(1, once_up(ends(75, "stopped")))],
            75,
            "trainer-1 ended with exit code 75: stopped",
            id="one rank is drained, so the others are",
        ),
        pytest.param(
            [rank(0, FOREVER), rank(1, "") | {"command": ["no-such-program"]}],
            70,
            "trainer-1 ended with exit code 70: cannot start no-such-program: No such file or directory",
            id="a program that does not exist",
        ),
    ],
)
def test_how_a_node_ends(
    tmp_path: Path, nodes: list[NodeProcess], processes: list[dict[str, object]], code: int, words: str
) -> None:
    nodes.append(node := NodeProcess(tmp_path, processes))
    assert node.end() == code, node.lines
    assert node.words() == words


def test_a_bad_description_is_the_users_error(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(node := NodeProcess(tmp_path, []))
    assert node.end() == 64
    assert node.words().startswith("RZ_NODE cannot be used (processes: List should have at least 1 item")


def test_on_sigterm_everyone_drains(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(
        node := NodeProcess(tmp_path, [rank(0, ON_SIGTERM_75), rank(1, ON_SIGTERM_75), rollout(0, ON_SIGTERM_75)])
    )
    node.wait_for("trainer-0: ready", "trainer-1: ready", "rollout-0: ready")
    node.popen.send_signal(signal.SIGTERM)
    assert node.end() == 75
    assert {"trainer-0: drained", "trainer-1: drained", "rollout-0: drained"} <= set(node.lines)


def test_a_failed_rollout_starts_again_in_place(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    second_time = (
        "import os, sys; path = os.environ['RZ_SCRATCH'] + '/again'\n"
        "if not os.path.exists(path): open(path, 'w'); sys.exit(70)\n"
        "print('again', flush=True); sys.exit(0)"
    )
    nodes.append(node := NodeProcess(tmp_path, [rank(0, ON_SIGTERM_75), rollout(0, second_time)]))
    node.wait_for("rollout-0: again", "trainer-0: ready")
    node.popen.send_signal(signal.SIGTERM)
    assert node.end() == 75


def test_lines_stay_whole_and_carry_their_process(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    script = (
        "import os\n"
        "for n in range(300):\n"
        "    for part in ('abc', f'-{n}-', 'xyz' * 100 + '\\n'): os.write(1 + n % 2, part.encode())\n"
        "os.write(1, b'no newline')"
    )
    nodes.append(node := NodeProcess(tmp_path, [rank(0, script), rank(1, script)]))
    assert node.end() == 0
    for name in ("trainer-0", "trainer-1"):
        whole = {f"{name}: abc-{n}-{'xyz' * 100}" for n in range(300)}
        assert {line for line in node.lines if line.startswith(f"{name}: ")} == {*whole, f"{name}: no newline"}


def test_own_environment_is_over_the_shared_one(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    script = "import os; print([os.environ.get(n) for n in ('RANK', 'RZ_NODE', 'RZ_NODE_MAX_FAILURES')])"
    nodes.append(node := NodeProcess(tmp_path, [rank(0, script, RANK="7")]))
    assert node.end() == 0
    assert "trainer-0: ['7', None, None]" in node.lines


def test_the_children_die_with_the_node(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    script = f"import os; print(os.getpid(), flush=True); {STUBBORN}"
    nodes.append(node := NodeProcess(tmp_path, [rank(0, script)]))
    node.wait_for("trainer-0: ready")
    pid = next(int(line.split()[1]) for line in node.lines if line.startswith("trainer-0: "))
    node.popen.kill()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_orphans_are_reaped_and_hold_nothing_open(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    """A rank leaves a daemon in a session of its own that ends a little later: no zombie of it stays."""
    leaves = (
        "import os, subprocess, sys\n"
        "orphan = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.2)'], start_new_session=True)\n"
        "print(orphan.pid, flush=True); open(os.environ['RZ_SCRATCH'] + '/up', 'w').close(); os._exit(0)"
    )
    once_left = once_up(ON_SIGTERM_75)
    nodes.append(node := NodeProcess(tmp_path, [rank(0, leaves), rank(1, once_left)]))
    node.wait_for("trainer-1: ready")
    pid = next(int(line.split()[1]) for line in node.lines if line.startswith("trainer-0: "))
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, Path(f"/proc/{pid}/stat").read_text()
        time.sleep(0.01)
    node.popen.send_signal(signal.SIGTERM)
    assert node.end() == 75


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
