"""No GPU of this machine belongs to two nodes of a plan; what is placed together on a node may share its GPUs.

Pure but for ``gpus_for``; called by ``local.start``.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from rz_api.names import Role
from rz_operator.errors import UserError
from rz_operator.plan import Plan

LIST_SECONDS = 30.0
"""For ``nvidia-smi -L``: without persistence mode the driver is loaded first, which takes seconds."""


def gpus_for(plan: Plan, timeout_seconds: float = LIST_SECONDS) -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES of the GPUs that this process may use; none where there is no NVIDIA driver, or
    the plan has no use for one. Raises UserError when the driver does not answer."""
    if not any(role.gpus_per_node for role in plan.roles):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"found an nvidia-smi that does not list the GPUs within {timeout_seconds:g} s, which trainer.gpusPerNode "
            f"{plan.run.spec.trainer.gpus_per_node} requires: repair the driver, name the GPUs in "
            "CUDA_VISIBLE_DEVICES, or set trainer.gpusPerNode: 0"
        ) from None
    return tuple(str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU "))


def visible_devices(plan: Plan, gpus: tuple[str, ...]) -> dict[tuple[Role, int], str]:
    """CUDA_VISIBLE_DEVICES of every process: nodes of the plan are laid one after the other over ``gpus``; a role that
    another one hosts shares that one's. Processes without GPUs see none.

    Raises UserError when the plan needs more than there are.
    """
    first: dict[tuple[Role, int], int] = {}
    needed = 0
    for role in sorted(plan.roles, key=lambda roles: roles.role != "trainer"):
        if role.hosted_by == role.role:
            for node in range(role.nodes):
                first[role.role, node] = needed
                needed += role.gpus_per_node
    if needed > len(gpus):
        trainer, rollout = plan.run.spec.trainer, plan.role("rollout")
        separate = f" and {rollout.nodes} x {rollout.gpus_per_node} for rollouts" if rollout.gpus_per_node else ""
        raise UserError(
            f"found {len(gpus)} GPU{'s' * (len(gpus) != 1)} on this machine, {needed} are required: trainer.nodes "
            f"{trainer.nodes} x trainer.gpusPerNode {trainer.gpus_per_node}{separate}. Set trainer.gpusPerNode: 0 "
            f"and rollout.engine: transformers to use the CPU, ask for fewer, or set rollout.placement: "
            "colocated to share them"
        )
    seen = {}
    for role in plan.roles:
        for process in role.processes:
            start = first[role.hosted_by, process.node]
            seen[process.role, process.index] = ",".join(gpus[start + device] for device in process.devices)
    return seen
