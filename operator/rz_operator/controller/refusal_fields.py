"""A refusal of the cluster's says which field of the run's spec is to be changed, beside the server's own words. Pure.

Admission speaks of containers, quotas and limit ranges: of what was rendered. ``apply`` (pods) and ``observe`` (pods of
Deployments) hand its sentence to ``with_fields`` before it is kept.

| the server says                                                  | the field                                    |
|------------------------------------------------------------------|----------------------------------------------|
| failed quota: q: must specify limits.memory for: main            | ``trainer.resources.limits.memory``          |
| exceeded quota: q, requested: requests.cpu=8, used: ...          | ``trainer.resources.requests.cpu``           |
| exceeded quota: q, requested: requests.nvidia.com/gpu=3, ...     | ``trainer.gpusPerNode``                      |
| exceeded quota: q, requested: pods=1, ...                        | ``trainer.nodes``                            |
| maximum memory usage per Container is 512Mi, but limit is 1Gi    | ``trainer.resources.limits.memory``          |
| minimum cpu usage per Container is 1, but request is 100m        | ``trainer.resources.requests.cpu``           |
| memory max limit to request ratio per Container is 1, but ...    | both of them                                 |
| ...requests: Invalid value: "3Gi": must be less than or equal to | ``trainer.resources.limits.memory``, because |
| memory limit of 512Mi                                            | a LimitRange brought that limit              |
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rz_api.names import Role

_NAME = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_MUST_SPECIFY = re.compile(r"must specify (.*)", re.DOTALL)
_EXCEEDED = re.compile(rf"exceeded quota: [^,]+, requested: ((?:{_NAME}=[^,=\s]+,?)+)")
_BOUND = re.compile(rf"(maximum|minimum) ({_NAME}) usage per (?:Container|Pod) is")
_RATIO = re.compile(rf"({_NAME}) max limit to request ratio per (?:Container|Pod) is")
_ABOVE_LIMIT = re.compile(rf"must be less than or equal to ({_NAME}) limit")
_RESOURCE = re.compile(rf"(?:(requests|limits)\.)?({_NAME})")

_COUNTS: dict[Role, str] = {
    "ledger": "scheduling",  # one pod, whatever the spec says
    "reward": "reward.replicas",
    "rollout": "rollout.replicas",
    "trainer": "trainer.nodes",
}
_GPUS: dict[Role, str] = {"rollout": "rollout.tensorParallel", "trainer": "trainer.gpusPerNode"}
_PLAIN = ("cpu", "memory", "ephemeral-storage")


def with_fields(message: str, role: Role, gpu_resource: str = "") -> str:
    """``message`` with the fields of the spec that it is about, for a pod of ``role`` whose GPUs are counted by
    ``gpu_resource``; as it is where it is about none."""
    found = (_field(resource, role, gpu_resource) for resource in _resources(message))
    fields = list(dict.fromkeys(field for field in found if field))
    if not fields:
        return message
    return f"{message}; to change in the run: {', '.join(f'spec.{field}' for field in fields)}"


def _resources(message: str) -> Iterator[str]:
    """What the sentence is about, as a quota names it: ``limits.memory``, ``cpu``, ``pods``."""
    for found in _MUST_SPECIFY.finditer(message):
        # "limits.cpu for: main; limits.memory for: main", before 1.24 "limits.cpu,limits.memory"
        for part in re.split(r"[,;]", found[1]):
            name = part.strip().partition(" ")[0]
            if (name and "." in name) or name in _PLAIN:
                yield name
    for found in _EXCEEDED.finditer(message):
        for pair in found[1].rstrip(",").split(","):
            yield pair.partition("=")[0]
    for found in _BOUND.finditer(message):
        side = "limits" if found[1] == "maximum" else "requests"
        yield f"{side}.{found[2]}"
    for found in _RATIO.finditer(message):
        yield f"requests.{found[1]}"
        yield f"limits.{found[1]}"
    for found in _ABOVE_LIMIT.finditer(message):
        yield f"limits.{found[1]}"


def _field(resource: str, role: Role, gpu_resource: str) -> str:
    """``requests.cpu`` of a trainer is ``trainer.resources.requests.cpu``; a quota's ``cpu`` means requests. Empty for
    what is no name of a resource."""
    if resource in ("pods", "count/pods"):
        return _COUNTS[role]
    found = _RESOURCE.fullmatch(resource)
    if found is None:
        return ""
    side, name = found[1] or "requests", found[2]
    if name == gpu_resource and role in _GPUS:
        return _GPUS[role]
    return f"{role}.resources.{side}.{name}"
