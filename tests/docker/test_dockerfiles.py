"""The images without building them: what their Dockerfiles and pins promise. ``make test-cluster`` builds one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "locks"))

from project import EXTRAS, Lock

from rz_api.run_defaults import USER_ID

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
HEAVY = {"torch", "transformers", "vllm", "numpy", "pyarrow"}


def instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", file.read_text()))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@each_file
def test_the_base_is_an_argument_and_nothing_is_taken_from_elsewhere(file: Path) -> None:
    sources = [words.split()[0] for verb, words in instructions(file) if verb == "FROM"]
    assert set(sources) == {"${BASE_IMAGE}"}
    [default] = [words for verb, words in instructions(file) if verb == "ARG" and words.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.11-slim-bookworm", default)
    assert not any(verb == "ADD" for verb, _ in instructions(file))


@each_file
def test_it_runs_as_the_user_of_the_pods(file: Path) -> None:
    assert [words for verb, words in instructions(file) if verb == "USER"] == [f"{USER_ID}:{USER_ID}"]


@each_file
def test_it_has_labels_a_health_check_and_a_command(file: Path) -> None:
    found = dict(instructions(file))
    assert {"LABEL", "HEALTHCHECK", "CMD"} <= found.keys()
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in found["LABEL"]


@each_file
def test_every_installation_is_pinned(file: Path) -> None:
    installs = [words for verb, words in instructions(file) if verb == "RUN" and "pip install" in words]
    assert installs
    assert all("--constraint constraints.txt" in words for words in installs)


@each_file
def test_what_is_copied_exists_and_is_not_ignored(file: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for verb, words in instructions(file):
        if verb == "COPY" and "--from" not in words:
            for source in words.split()[:-1]:
                path = source.replace("${VARIANT}", "worker")
                assert (ROOT / path).exists(), path
                assert any(path == each or path.startswith(f"{each}/") for each in let_in), path


@pytest.mark.parametrize(
    ("name", "without"),
    [("operator", HEAVY), ("reward", HEAVY - {"numpy", "pyarrow"}), ("worker-cpu", {"vllm"})],
    ids=["the operator", "the reward service", "the worker for CPUs"],
)
def test_an_image_has_nothing_that_it_is_to_do_without(name: str, without: set[str]) -> None:
    assert not without & Lock.read(name).pins.keys()


@each_file
def test_it_asks_for_the_extras_that_its_lock_was_made_for(file: Path) -> None:
    """``engine`` stands for what the two variants of the worker differ in."""
    names = [name for name in EXTRAS if name.startswith(file.stem)]
    [asked] = re.findall(r'"\.\[(\S+)\]"', file.read_text())
    for name in names:
        engine = "vllm" if name == "worker" else "rollout"
        assert set(asked.replace("${engine}", engine).split(",")) == set(EXTRAS[name])
