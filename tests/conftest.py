"""What holds for all tests, and what tests of several folders share."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
import leftovers
from heartbeat import Heartbeat

# A time on a shared machine decides no test: not an example's, and not that of making one.
settings.register_profile("reasonerzero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reasonerzero")


collect_ignore = [] if {"RZ_OPERATOR_ARCHIVE", "RZ_TEST_KUBECONFIG"} & os.environ.keys() else ["cluster"]
"""They take root, Debian and a network namespace of their own, or somebody's cluster: ``make test-cluster``."""


COMPUTE = ("workers/trainer", "workers/transfer", "workers/report")
WAIT = ("apiserver", "docs", "charts")
"""Folders whose files take minutes: those that keep a core busy, and those that mostly wait for an API server, which
``make test`` builds beside the first tests."""


def in_turn(files: Sequence[str]) -> list[str]:
    """The order in which the test processes share out the files (``--no-loadscope-reorder``): whole runs first, for
    begun last one would leave the others idle; then one that waits and one that computes, so that no core is idle.

    >>> in_turn(["api/a.py", "apiserver/b.py", "apiserver/c.py", "local/d.py", "workers/trainer/e.py"])
    ['local/d.py', 'apiserver/b.py', 'workers/trainer/e.py', 'apiserver/c.py', 'api/a.py']
    """
    first = [file for file in files if file.startswith("local/")]
    waiting = [file for folder in WAIT for file in files if file.startswith(f"{folder}/")]
    computing = [file for folder in COMPUTE for file in files if file.startswith(f"{folder}/")]
    others = [file for file in files if file not in {*first, *waiting, *computing}]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(waiting, [*computing, *others]))
    return [*first, *(file for file in mixed if file)]


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``make test`` is for every change; ``make test-thorough`` also runs the longer forms of what it tests."""
    turns = {file: turn for turn, file in enumerate(in_turn(list(dict.fromkeys(map(_file, items)))))}
    items.sort(key=lambda item: turns[_file(item)])
    if os.environ.get("RZ_TEST_THOROUGH") == "1":
        return
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.skip(reason="a thorough test: make test-thorough runs it"))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder for all processes of this test session: pytest-xdist gives each session fixtures of its own."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, whole = shared / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def base(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A base model after 60 steps of pre-training (it answers, mostly wrong), 40 training and 8 held-out problems."""

    def build(folder: Path) -> None:
        program = Path(__file__).parent / "local" / "build_base.py"
        subprocess.run([sys.executable, program, folder], check=True, capture_output=True)

    return made_once("base", build)


@pytest.hookimpl(trylast=True)  # behind the one that registers the reporter
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(leftovers)
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and "PYTEST_XDIST_WORKER" not in os.environ and not config.option.collectonly:
        config.pluginmanager.register(Heartbeat(terminal), "heartbeat")
