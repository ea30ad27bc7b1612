"""Installs an environment of ``locks/NAME.txt`` into a virtual environment, and says how far it is.

``make demo``, ``make test`` and the others call it with the machine's own Python, before anything is installed:
``python locks/install.py NAME FOLDER``. Nothing is resolved where the lock was made for this kind of machine (Linux on
x86-64, Python 3.11): its packages are taken as they are written, by several pips at once. Elsewhere pip resolves with
the lock as its constraints. ``newest`` and ``oldest`` are no locks but the ends of what pyproject.toml allows today.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  Before the imports below, which an older one lacks.
    sys.exit(f"found Python {sys.version.split()[0]} as {sys.executable}, 3.11 or newer is required: PYTHON=python3.11")

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from project import EXTRAS, ROOT, Lock, canonical, lowest, requirements

RANGES = ("newest", "oldest")
SAYS = re.compile(r"(Collecting|Downloading|Using cached|Building wheel for) ([^\s(]+)")
PIPS = 4
SECONDS_BETWEEN_LINES = 5.0
SECONDS_TO_END = 10.0
"""What a program that was told to end has for it."""
INTERRUPTED = 130
"""The exit code of what Ctrl-C ended, as shells have it."""


class PipError(Exception):
    """pip ended with an error; the text is what it said last."""


class Pip:
    """A pip at work, and what it last said that it does."""

    def __init__(self, venv: Path, constraint: Path | None, words: Sequence[str]) -> None:
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if constraint:
            # A relative name: pip splits what it reads from the environment at blanks. Both variables: what packages
            # that come as source are built with is pinned too, by old and by new pips.
            name = str(constraint.relative_to(ROOT))
            options += ["--constraint", name]
            environment |= {"PIP_CONSTRAINT": name, "PIP_BUILD_CONSTRAINT": name}
        self.process = subprocess.Popen(
            [venv / "bin" / "python", "-m", "pip", "install", *options, *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said: list[str] = []
        self._to_install: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._said.append(line)
            if line.startswith("Installing collected packages:"):
                self._to_install = [canonical(name.strip()) for name in line.partition(":")[2].split(",")]

    def runs(self) -> bool:
        return self.process.poll() is None

    def doing(self, present: dict[str, str]) -> str:
        """Such as ``installing pyarrow``."""
        if waiting := [name for name in self._to_install if name not in present]:
            return f"installing {waiting[0]}"
        found = next(filter(None, map(SAYS.search, reversed(self._said))), None)
        if not found:
            return "asking the package index"
        verb = "building" if found[1].startswith("Building") else "fetching"
        return f"{verb} {short(found[2])}"

    def check(self) -> None:
        """Raises PipError."""
        self._reader.join()
        if self.process.wait() != 0:
            raise PipError("".join(self._said[-40:]))


def short(text: str) -> str:
    """``torch`` of ``torch==2.13.0`` and of ``…/torch-2.13.0-cp311-….whl``."""
    return re.split(r"[=<>;\[~!]|-\d", text.rpartition("/")[2])[0]


def installed(venv: Path) -> dict[str, str]:
    """Packages whose installation is complete, name -> version: pip writes RECORD last."""
    records = venv.glob("lib/python3*/site-packages/*.dist-info/RECORD")
    parts = (record.parent.name.removesuffix(".dist-info").rpartition("-") for record in records)
    return {canonical(name): version for name, _, version in parts}


def missing(pins: dict[str, str], present: dict[str, str]) -> list[str]:
    """``name==version`` of what is not there in that version. Example: 2.13.0+cpu is the lock's 2.13.0."""
    return [
        f"{name}=={version}" for name, version in pins.items() if present.get(name, "").partition("+")[0] != version
    ]


def discard_half_installed(venv: Path) -> list[str]:
    """Remove each ``*.dist-info`` without RECORD, which a pip that was killed left; their names. pip itself would take
    such a package as there, whatever files it lacks."""
    folders = sorted(venv.glob("lib/python3*/site-packages/*.dist-info"))
    half = [folder for folder in folders if not (folder / "RECORD").exists()]
    for folder in half:
        shutil.rmtree(folder)
    return [folder.name.removesuffix(".dist-info") for folder in half]


def end(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """All are told before one is waited for: what is left must not write into the environment any more."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def shares(packages: Sequence[str]) -> list[list[str]]:
    """What each pip installs: torch, a third of all bytes, by itself, the others in turn. A pip mostly waits for the
    index, so that there are more of them than cores."""
    torch = [each for each in packages if each.startswith("torch==")]
    others = [each for each in packages if each not in torch]
    return [share for share in (torch, *(others[start::PIPS] for start in range(PIPS))) if share]


class Installation:
    """One environment on its way into ``venv``."""

    def __init__(self, name: str, venv: Path, torch_index: str | None) -> None:
        self._name, self._venv = name, venv
        # A local part counts as newer: of 2.13.0 and 2.13.0+cpu pip takes the second.
        self._index = ["--extra-index-url", torch_index] if torch_index else []
        self._started = time.monotonic()
        self._wanted: dict[str, str] = {}
        self._at_work: list[Pip] = []
        self._interrupted = False

    def interrupt(self, *_: object) -> None:
        """For Ctrl-C. It counts where something is waited for: raised in between, it would lose a pip that was just
        started. Who presses it again does not want to wait."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def lock(self) -> None:
        """Raises PipError."""
        lock, file = Lock.read(self._name), ROOT / "locks" / f"{self._name}.txt"
        self._wanted = lock.everywhere
        self._make_venv()
        if not of_this_machine():
            self._say("the lock is for Linux on x86-64 with Python 3.11: pip resolves within its versions")
            self._run(file, [*self._index, "--editable", f".[{','.join(EXTRAS[self._name])}]"])
        else:
            self._take(file, lock.everywhere)
            if "+cpu" not in installed(self._venv).get("torch", "+cpu"):
                self._wanted = lock.pins
                self._take(file, lock.with_cuda)
            self._run(file, ["--no-deps", "--no-build-isolation", "--editable", "."])  # hatchling is in each lock
        self._say("done")

    def range(self) -> None:
        """The newest or the oldest versions that pyproject.toml allows. Raises PipError."""
        self._make_venv()
        constraint = None
        if self._name == "oldest":
            constraint = self._venv / "lowest.txt"
            pins = lowest(requirements(EXTRAS["test"]))
            constraint.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        self._run(constraint, [*self._index, "--upgrade", "--upgrade-strategy", "eager", "--editable", ".[dev]"])
        self._say("done")

    def _make_venv(self) -> None:
        """Or complete it: its Python is there before its pip, and either may be where an earlier call was ended."""
        if half := discard_half_installed(self._venv):
            self._say(f"found half installed, will be installed again: {', '.join(half)}")
        if not (self._venv / "bin" / "python").exists() or "pip" not in installed(self._venv):
            self._say(f"a virtual environment in {self._venv.name}")
            command = [sys.executable, "-m", "venv", self._venv]
            # Its words are kept for when it fails: at Ctrl-C, which reaches it too, they are a traceback.
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as making:
                try:
                    self._wait(lambda: making.poll() is None, "making the virtual environment")
                finally:
                    end([making])
                said = making.stdout.read() if making.stdout else ""
            if making.returncode != 0:
                raise PipError(f"{said}\n`{sys.executable} -m venv` failed; Debian has it in the package python3-venv")

    def _take(self, file: Path, pins: dict[str, str]) -> None:
        packages = missing(pins, installed(self._venv))
        self._run(file, *(["--no-deps", *self._index, *share] for share in shares(packages)))

    def _run(self, constraint: Path | None, *words_of_each: Sequence[str]) -> None:
        """Several pips at once. Raises PipError; the others are then ended, as all are by Ctrl-C."""
        self._at_work = []
        try:
            for words in words_of_each:
                self._at_work.append(Pip(self._venv, constraint, words))
            self._wait(lambda: any(pip.runs() for pip in self._at_work))
            for pip in self._at_work:
                pip.check()
        finally:
            end([pip.process for pip in self._at_work])

    def _wait(self, goes_on: Callable[[], bool], text: str = "") -> None:
        """With a line every few seconds. Raises KeyboardInterrupt."""
        told = time.monotonic()
        while goes_on() and not self._interrupted:
            time.sleep(0.1)
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                self._say(text)
        if self._interrupted:
            raise KeyboardInterrupt

    def _say(self, text: str = "") -> None:
        present = installed(self._venv)
        doing = text or ", ".join(pip.doing(present) for pip in self._at_work if pip.runs())
        done = sum(package in present for package in self._wanted)
        count = f"{done:3d} of {len(self._wanted)}" if self._wanted else f"{len(present):3d}"
        seconds = time.monotonic() - self._started
        print(f"install {self._name}: {count} packages {seconds:4.0f} s  {doing}", flush=True)


def of_this_machine() -> bool:
    """Whether the locks were made for a machine like this one."""
    return sys.version_info[:2] == (3, 11) and (sys.platform, platform.machine()) == ("linux", "x86_64")


def main() -> int:
    parser = argparse.ArgumentParser(description="Install a locked environment.")
    parser.add_argument("name", choices=[*EXTRAS, *RANGES])
    parser.add_argument("venv", type=Path, help="folder of the virtual environment")
    parser.add_argument("--torch-index", help="index with the wanted build of torch, such as one of CPU builds")
    options = parser.parse_args()
    installation = Installation(options.name, options.venv.resolve(), options.torch_index or None)
    signal.signal(signal.SIGINT, installation.interrupt)
    try:
        installation.range() if options.name in RANGES else installation.lock()
    except PipError as error:
        print(
            f"{error}\ninstall {options.name}: pip failed, see above; the same command goes on from here",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"\ninstall {options.name}: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
