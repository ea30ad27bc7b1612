"""The figures that the tiny run has on every x86-64 CPU, whatever instructions that one knows.

``python tests/local/golden_run.py`` measures them and writes ``golden/LOCK.json`` (``make golden``); ``test_golden.py``
compares. They are those of examples/tiny/run.yaml, steps 1 to 5, from a base of 60 steps of pre-training, and are
printed in full: a change of the last bit is a change.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "test.json"
"""Of the environment of ``locks/test.txt``."""

STEPS = 5
FIGURES = (
    "reward_mean",
    "response_length_mean",
    "value_mean",
    "policy_loss",
    "policy_grad_norm",
    "policy_entropy",
    "critic_loss",
    "critic_grad_norm",
)
DECIDING = ("torch", "transformers", "tokenizers", "numpy")
"""Packages whose version decides the bits."""

ANY_CPU = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
"""torch's own kernels, MKL's and oneDNN's with the instructions that every x86-64 CPU has: wider ones sum in another
order, so that each kind of CPU would need figures of its own."""


def why_not() -> str:
    """Why this machine can't have these figures; empty where it can."""
    import torch

    if platform.machine() != "x86_64" or not torch.backends.mkl.is_available():
        return f"the figures are those of x86-64 with MKL, this is {platform.machine()}"
    return ""


def versions() -> dict[str, str]:
    # The build (+cpu, +cu126) is left out: one version's CPU kernels are the same in all of them.
    return {name: version(name).partition("+")[0] for name in DECIDING}


def measure(folder: Path) -> list[dict[str, Any]]:
    """Run it in ``folder``; the figures of each step. Raises CalledProcessError."""
    env = {**os.environ, **ANY_CPU}
    base = folder / "base"
    subprocess.run([sys.executable, Path(__file__).parent / "build_base.py", base], check=True, env=env)
    settings = {
        "algorithm.totalSteps": STEPS,
        "evaluation.interval": STEPS,
        "model.name": base / "model",
        "data.train.0.uri": base / "train.jsonl",
        "data.eval.0.uri": base / "heldout.jsonl",
        "storage.uri": folder / "storage",
    }
    options = [part for field, value in settings.items() for part in ("--set", f"{field}={value}")]
    rz = Path(sys.executable).with_name("rz")
    run = [rz, "run", ROOT / "examples" / "tiny" / "run.yaml", "--plain", "--workdir", folder / "work", *options]
    subprocess.run(run, check=True, env=env)
    commits = [json.loads(file.read_text()) for file in sorted((folder / "storage" / "steps").glob("*.json"))]
    return [
        {"step": commit["step"] + 1, **{name: commit["metrics"][name] for name in FIGURES}}
        | {"weights": commit["weights"]["digest"]}
        for commit in commits
    ]


def main() -> None:
    problem = why_not()
    if problem:
        sys.exit(problem)
    with tempfile.TemporaryDirectory() as folder:
        found = {"versions": versions(), "steps": measure(Path(folder))}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    print(f"wrote {GOLDEN.relative_to(ROOT)}: say in the commit why they moved")


if __name__ == "__main__":
    main()
