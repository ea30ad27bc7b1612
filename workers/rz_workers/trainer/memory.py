"""A rank whose memory is seen to be too small does not begin: it is looked at before any weights are spread.

The formulas are those of ``rz plan`` (``rz_api.estimate``). Running out of memory in the first update, after an hour of
loading and sampling, is what this is for.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rz_api import estimate
from rz_api.shapes import ModelShape
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.runtime import UserError

__all__ = ["check", "host_limit"]

CGROUP_FILES = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of version 2 and 1, below the root."""


def check(spec: ReasonerZeroRunSpec, shape: ModelShape, device: torch.device) -> None:
    """Raises UserError when the estimate exceeds the GPU's memory or the host's, naming the fields to change."""
    host = host_limit()
    if device.type == "cuda":
        limit = float(torch.cuda.get_device_properties(device).total_memory)
        looked_at = {
            f"the GPU of this trainer rank ({torch.cuda.get_device_name(device)})": estimate.trainer_memory(
                spec, shape, limit
            ),
            "the host of this trainer pod": estimate.host_memory(spec, shape, host),
        }
    else:
        looked_at = {"the host of this trainer rank": on_the_cpu(spec, shape, host)}
    for what, memory in looked_at.items():
        problem = estimate.memory_problem(spec, what, memory)
        if problem is not None:
            raise UserError(problem)


def on_the_cpu(spec: ReasonerZeroRunSpec, shape: ModelShape, limit: float | None) -> estimate.Memory:
    """Without a GPU everything is in the host's memory; there is no runtime of its own."""
    parts = estimate.trainer_memory(spec, shape, limit).parts
    return estimate.Memory({name: size for name, size in parts.items() if name != "runtime"}, limit)


def host_limit(root: Path = Path("/")) -> float | None:
    """Bytes that this process may use: its cgroup's limit or the machine's memory, whichever is less; None where
    neither can be read."""
    limits = []
    for name in CGROUP_FILES:
        try:
            # Version 1 says 'no limit' by a number near 2^63: the machine's own memory is less and counts.
            limits.append(float((root / name).read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        limits += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemTotal:")]
    except (OSError, ValueError, IndexError):
        pass
    return min(limits, default=None)
