"""What holds for all tests, and what tests of several folders share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
from heartbeat import Heartbeat

# A time on a shared machine decides no test: not an example's, and not that of making one.
settings.register_profile("reasonerzero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reasonerzero")


collect_ignore = [] if {"RZ_OPERATOR_ARCHIVE", "RZ_TEST_KUBECONFIG"} & os.environ.keys() else ["cluster"]
"""They take root, Debian and a network namespace of their own, or somebody's cluster: ``make test-cluster``."""


LONG_FILES_FIRST = ("local", "workers/trainer", "workers/transfer", "workers/report", "")
THEN = ("apiserver", "docs", "charts")
"""Folders whose files take minutes, around all others. The test processes share the files out in this order
(``--no-loadscope-reorder``): begun last, one such file would leave the others idle. Those that need an API server come
when ``make test`` has built one beside the first."""


def _turn(item: pytest.Item) -> int:
    turns = (*LONG_FILES_FIRST, *THEN)
    folder = item.path.parent.relative_to(Path(__file__).parent).as_posix()
    return turns.index(folder if folder in turns else "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``make test`` is for every change; ``make test-thorough`` also runs the longer forms of what it tests."""
    items.sort(key=_turn)
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
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and "PYTEST_XDIST_WORKER" not in os.environ and not config.option.collectonly:
        config.pluginmanager.register(Heartbeat(terminal), "heartbeat")
