"""A reader's shell: runs blocks of the documentation one after the other, each in the folder where the last one ended.

Used by ``machine_story.py`` and ``cluster_story.py``. What a block may call is in one folder, the only one on its PATH:
the tools below, and the programs that a story puts beside them. A block with a program that nobody has thought of ends
with 127, and that is a failure.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pages import Block

TOOLS = (
    "bash", "sh", "env", "cat", "cp", "mv", "ln", "rm", "mkdir", "mktemp", "touch", "chmod", "ls", "pwd", "dirname",
    "basename", "readlink", "uname", "date", "sleep", "true", "false", "test", "printf", "head", "tail", "sort", "tr",
    "wc", "cut", "seq", "sed", "awk", "grep", "find", "nice", "git", "make",
)  # fmt: skip
"""Of the machine; for the blocks, and for what they start: make's recipes, docker/build.sh."""
OURS = ("rz", "kubectl-rz", "pytest")
"""Of the environment that the tests run in, as is python."""
KEPT = ("LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""Variables of this process that a reader has too. What make and pytest told this process is not for the reader's."""


WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    code: int | None
    """None: the time was up."""
    output: str

    def assert_good(self, block: Block) -> None:
        how = "did not end in time" if self.code is None else f"ended with {self.code}"
        assert self.code == 0, f"{block.name} {how}:\n{block.text}\n---- it said:\n{self.output}"


class Shell:
    """``folder`` gets the reader's home and programs; the first block begins in ``cwd``."""

    def __init__(self, folder: Path, cwd: Path, environment: Mapping[str, str]) -> None:
        self.cwd, self.programs, self.home = cwd, folder / "programs", folder / "home"
        self.programs.mkdir(parents=True)
        self.home.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.programs / tool).symlink_to(found)
        here = Path(sys.executable)
        for name in ("python", "python3"):
            self.put(name, f'exec {shlex.quote(str(here))} "$@"')
        for name in OURS:
            self.put(name, f'exec {shlex.quote(str(here.with_name(name)))} "$@"')
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        self._environment = kept | {"HOME": str(self.home), "PATH": str(self.programs), **environment}

    def put(self, name: str, script: str) -> None:
        """A program on the PATH, in bash; in the place of one of the same name."""
        file = self.programs / name
        file.unlink(missing_ok=True)
        file.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        file.chmod(0o755)

    def run(self, text: str, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> Outcome:
        """``bash -euo pipefail``. ``meanwhile`` is called again and again until it has ended. What has not ended when
        the time is up is killed, with all that it started."""
        ended_in = self.home / "cwd"
        script = f"{_each_in_its_line(text)}\npwd >{shlex.quote(str(ended_in))}\n"
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        end = time.monotonic() + seconds
        try:
            while (output := _output(process)) is None:
                meanwhile()
                if time.monotonic() > end:
                    os.killpg(process.pid, signal.SIGKILL)
                    output, _ = process.communicate()
                    return Outcome(None, output)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if process.returncode == 0:
            self.cwd = Path(ended_in.read_text().rstrip("\n"))
        return Outcome(process.returncode, output)


def _output(process: subprocess.Popen[str]) -> str | None:
    """None while it runs."""
    try:
        return process.communicate(timeout=WAIT_SECONDS)[0]
    except subprocess.TimeoutExpired:
        return None


def _each_in_its_line(text: str) -> str:
    """``a && b`` as two lines: that ``a`` fails in such a list is nothing to ``bash -e``."""
    return re.sub(r"\s&&\s", "\n", text)


class Story:
    """Blocks in the order in which a reader comes to them. Whoever asks for one has those before it run first.

    A block that is there again, word for word or as a part of a longer one, is not run again: the reader has done that.
    """

    def __init__(self, blocks: Sequence[Block], run: Callable[[Block], Outcome]) -> None:
        self._left, self._run = list(blocks), run
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, block: Block) -> Outcome:
        while (found := self._known(block)) is None:
            first = self._left.pop(0)
            if self._known(first) is None:
                self._outcomes[first.text] = self._run(first)
        return found

    def _known(self, block: Block) -> Outcome | None:
        return next((outcome for text, outcome in self._outcomes.items() if block.text in text), None)
