"""Each process has the plan's whole environment, whether it has a container of its own or shares one.

One process: its command, its variables. Several (ranks of a GPU node, colocated rollouts): ``python -m
rz_workers.node`` with the processes as JSON in ``RZ_NODE``; what all of them share is the container's. ``pod`` calls
``container_environment``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rz_api.rules import show
from rz_operator.errors import UserError
from rz_operator.manifests import defaults
from rz_operator.manifests.context import Body, Context
from rz_operator.manifests.place import MODEL_FOLDER, SCRATCH_FOLDER, SECRETS_FOLDER, PodPlace
from rz_operator.plan import Process, RoleSet, render_env

ENV_SOURCES = ("configMapRef", "secretRef")
"""What an entry of ``envFrom`` takes its variables from, one of them."""

NODE_COMMAND = ("python", "-m", "rz_workers.node")

BASE = {
    "RZ_SECRETS_DIR": SECRETS_FOLDER,  # below it a folder for each Secret that the run names, if any
    "HOME": SCRATCH_FOLDER,  # the fixed user has none; caches of torch, triton and vLLM go below it
    "USER": "reasonerzero",  # torch's inductor asks for the user's name, and uid 65532 may have none
    "PYTHONDONTWRITEBYTECODE": "1",  # the root file system is read-only
    "PYTHONUNBUFFERED": "1",
    "RZ_SCRATCH": SCRATCH_FOLDER,  # of the node process; each worker's own is below it
}
"""What every process needs of its container; the plan's and the user's variables are laid over it."""

WITH_MODEL = {"HF_HOME": MODEL_FOLDER}

WITHOUT_GPUS = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""Where the NVIDIA runtime is the default, an image made for GPUs sees all of its node's, asked for or not."""

WITH_GPUS = {
    "NCCL_DEBUG": "WARN",  # its reasons would otherwise not be in the log
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # a collective that times out ends the process: the gang restarts
}


def command(processes: Sequence[Process]) -> list[str]:
    return list(processes[0].command if len(processes) == 1 else NODE_COMMAND)


def container_environment(context: Context, processes: Sequence[Process], incarnation: int) -> list[Body]:
    """``env`` of the container; each name once: the owner's defaults, the operator's own over them, the user's over
    both. Raises UserError when colocated roles want two values of one name."""
    host = context.plan.role(processes[0].role)
    rendered = [render_env(each, PodPlace(context, each, incarnation)) | _devices(host, each) for each in processes]
    shared = {name: value for name, value in rendered[0].items() if all(env.get(name) == value for env in rendered)}
    env = BASE | (WITH_MODEL if host.role in ("rollout", "trainer") else {})
    env |= WITH_GPUS if host.gpus_per_node else WITHOUT_GPUS
    env |= shared
    if len(processes) > 1:
        env["RZ_NODE"] = _node(processes, [_without(each, shared) for each in rendered])
    entries: dict[str, Body] = {entry["name"]: entry for entry in defaults.environment(context)}
    entries |= {name: {"name": name, "value": value} for name, value in env.items()}
    for entry in _from_cluster(context, processes):
        entries.pop(entry["name"], None)
        entries[entry["name"]] = entry
    return list(entries.values())


def env_from(context: Context, processes: Sequence[Process]) -> list[Body]:
    """The user's ``envFrom`` of all roles in the pod. Raises UserError for an entry that names no source."""
    found: list[Body] = []
    for role_set in _role_sets(context, processes):
        for index, entry in enumerate(role_set.env_from):
            if not any(isinstance(entry.get(source), Mapping) for source in ENV_SOURCES):
                raise UserError(
                    f"spec.{role_set.role}.envFrom[{index}]: found {show(entry)}; a {' or a '.join(ENV_SOURCES)} is "
                    "required: write one, or move a variable of its own to env"
                )
            if entry not in found:
                found.append(entry)
    return found


def _from_cluster(context: Context, processes: Sequence[Process]) -> list[Body]:
    """The user's variables with ``valueFrom``; the container has them, so colocated roles must agree on them."""
    found: dict[str, tuple[str, Body]] = {}
    for role_set in _role_sets(context, processes):
        for entry in role_set.env_from_cluster:
            role, known = found.setdefault(entry["name"], (role_set.role, entry))
            if role != role_set.role and known != entry:
                raise UserError(
                    f"spec.{role_set.role}.env: found {entry['name']} with another valueFrom than in spec.{role}.env; "
                    "with rollout.placement colocated they are one container, which has one value: use the same "
                    "valueFrom, or another name"
                )
            found[entry["name"]] = (role_set.role, entry)
    return [entry for _, entry in found.values()]


def _role_sets(context: Context, processes: Sequence[Process]) -> list[RoleSet]:
    return [context.plan.role(role) for role in dict.fromkeys(process.role for process in processes)]


def _devices(host: RoleSet, process: Process) -> dict[str, str]:
    """``CUDA_VISIBLE_DEVICES`` of a process that must see a part of its container's GPUs (a colocated rollout). In the
    container they count from 0. A rank sees all of its node's and takes the one of its LOCAL_RANK."""
    if len(process.devices) == host.gpus_per_node:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(device) for device in process.devices)}


def _without(env: dict[str, str], shared: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in shared}


def _node(processes: Sequence[Process], own: Sequence[dict[str, str]]) -> str:
    """The JSON of ``rz_workers.node``. The kubelet would expand ``$(NAME)`` in it, ``$$`` is its escape."""
    entries = [
        {
            "name": f"{process.role}-{process.index}",
            "command": list(process.command),
            "env": env,
            "essential": process.role == processes[0].role,
        }
        for process, env in zip(processes, own, strict=True)
    ]
    return json.dumps({"processes": entries}).replace("$(", "$$(")
