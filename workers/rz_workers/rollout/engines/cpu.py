"""The name of a CPU, as far as it decides how sums are rounded on it. For ``Engine.hardware``."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

__all__ = ["cpu_name"]


def cpu_name() -> str:
    """Model, vector instructions in use and threads, e.g. ``AMD EPYC 9654 AVX512, 2 threads``: the number of threads
    decides how sums are cut."""
    return f"{_model()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _model() -> str:
    """As Linux tells it; the architecture where it does not."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()
