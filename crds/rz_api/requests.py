"""What a pod of a role asks for where its spec does not say: arithmetic on the spec, nothing is measured.

The operator fills these in when it renders a pod (``rz_operator.manifests``); what the spec says of a resource, request
or limit, always wins. Without requests a pod is BestEffort: the first that a node in need of memory kills.

Trainer and rollout ask for what ``estimate`` finds for the model's size. The operator has no network and reads no
configuration, so that the size is what the model's name says (``Qwen/Qwen2.5-7B``); where it says nothing the requests
are small constants, a floor and no promise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from rz_api.estimate import GB, host_parts
from rz_api.names import Role
from rz_api.spec import ReasonerZeroRunSpec

__all__ = ["default_requests", "parameters_in_name"]

MI, GI = 2**20, 2**30

LEDGER = {"cpu": "100m", "memory": "256Mi"}
"""Leases and progress of one run, in memory; trajectories pass it by."""
REWARD_BYTES, VERIFIER_BYTES = 256 * MI, 128 * MI
"""The service, and each of its verifier processes (sympy imported)."""

CPU_PROCESS_BYTES = 1 * GI
"""A Python process with torch on the CPU, without its model."""
GPU_PROCESS_BYTES = 3 * GB
"""The same with CUDA, as ``estimate`` counts it."""

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z0-9])")
_UNITS = {"b": 1e9, "m": 1e6}


def parameters_in_name(name: str) -> float | None:
    """The number of parameters that a model's name or path ends in: ``Qwen/Qwen2.5-7B`` is 7e9, ``s3://b/135M/`` is
    1.35e8. Of several the smallest (``72B-distilled-to-7B``), because a request must not be more than is needed. None
    where there is no such number."""
    last = name.rstrip("/").rpartition("/")[2]
    sizes = [float(number) * _UNITS[unit.lower()] for number, unit in _SIZE.findall(last)]
    return min((size for size in sizes if size > 0), default=None)


def default_requests(spec: ReasonerZeroRunSpec, role: Role) -> Mapping[str, str]:
    """Requests of one pod of ``role``: ``cpu``, ``memory`` and, where the model's size is known,
    ``ephemeral-storage``. Of a trainer pod with those of the rollouts that are placed in it."""
    match role:
        case "ledger":
            return LEDGER
        case "reward":
            return {"cpu": "100m", "memory": _mebibytes(REWARD_BYTES + spec.reward.workers * VERIFIER_BYTES)}
    size, gpus = parameters_in_name(spec.model.name), spec.trainer.gpus_per_node
    colocated = spec.rollout.placement == "colocated"
    engines = 1
    if role == "trainer":
        engines = max(1, gpus // spec.rollout.tensor_parallel) if colocated else 0
    memory = engines * _engine_bytes(spec, size) + (_trainer_bytes(spec, size) if role == "trainer" else 0.0)
    ranks = gpus if role == "trainer" else spec.rollout.tensor_parallel
    requests = {"cpu": str(ranks) if gpus else "250m", "memory": _mebibytes(memory)}
    if size is not None:
        # An engine has the weights that it samples with and the next ones; the trainer the base model and an export.
        copies = 2 * engines + (2 if role == "trainer" else 0)
        requests["ephemeral-storage"] = _mebibytes(GI + copies * _width(spec) * size)
    return requests


def _engine_bytes(spec: ReasonerZeroRunSpec, size: float | None) -> float:
    """Host memory of one rollout: its weights while they load; without GPUs the loaded ones too."""
    weights = _width(spec) * (size or 0.0)
    return GPU_PROCESS_BYTES + weights if spec.trainer.gpus_per_node else CPU_PROCESS_BYTES + 2 * weights


def _trainer_bytes(spec: ReasonerZeroRunSpec, size: float | None) -> float:
    """Host memory of the first trainer pod, which holds most. Policy and critic are taken to be of one size."""
    ranks = max(1, spec.trainer.gpus_per_node)
    process = GPU_PROCESS_BYTES if spec.trainer.gpus_per_node else CPU_PROCESS_BYTES
    if size is None:
        return float(ranks * process)
    critic = size if spec.algorithm.name == "ppo" else 0.0
    parts = host_parts(spec, size, critic)
    if not spec.trainer.gpus_per_node:  # masters, moments and gradients are on the host as well
        shards = spec.trainer.shard_size or spec.trainer.nodes
        parts |= {"processes": float(process), "training": (12.0 * (size + critic) + 4.0 * size) / shards}
    return sum(parts.values())


def _width(spec: ReasonerZeroRunSpec) -> int:
    return 2 if spec.trainer.dtype == "bfloat16" else 4


def _mebibytes(size: float) -> str:
    """Rounded up, in the larger unit from 10 GiB on: ``512Mi``, ``221Gi``."""
    if size > 10 * GI:
        return f"{math.ceil(size / GI)}Gi"
    return f"{math.ceil(size / MI)}Mi"
