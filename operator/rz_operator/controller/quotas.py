"""Of a quota's refusal it is said which field asks for what is too much. Pure; ``refusals`` and ``readiness`` ask.

The words are the API server's own (``plugin/pkg/admission/resourcequota``)::

    pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: ...=0, limited: ...=4
    pods "x" is forbidden: failed quota: team: must specify limits.cpu for: main; limits.memory for: main
"""

from __future__ import annotations

import re

from rz_api.names import Role

_NUMBER_OF_PODS = {
    "trainer": "spec.trainer.nodes",
    "rollout": "spec.rollout.replicas",
    "reward": "spec.reward.replicas",
}
_GPUS_OF_A_POD = {"trainer": "spec.trainer.gpusPerNode", "rollout": "spec.rollout.tensorParallel"}


def is_quota(message: str) -> bool:
    """Whether a ResourceQuota refused, now or as long as the pod does not name what it counts."""
    return "exceeded quota: " in message or "failed quota: " in message


def advice(message: str, role: Role) -> str:
    """What to change, as a sentence; empty where no quota refused, or it counts what no field asks for."""
    exceeded = re.search(r"exceeded quota: [^,]+, requested: (.*?), used: ", message)
    if exceeded:
        fields = dict.fromkeys(_field(each.partition("=")[0], role) for each in exceeded[1].split(","))
        named = [field for field in fields if field]
        return f"lower {' and '.join(named)}, or raise the quota" if named else ""
    missing = re.search(r"failed quota: [^:]+: must specify (.*)", message)
    if missing:
        kinds = [kind for kind in ("requests", "limits") if f"{kind}." in missing[1]] or ["requests"]
        return f"name them in {' and '.join(f'spec.{role}.resources.{kind}' for kind in kinds)}"
    return ""


def _field(counted: str, role: Role) -> str:
    resource = counted.strip().removeprefix("requests.").removeprefix("limits.")
    if resource in ("pods", "count/pods"):
        return _NUMBER_OF_PODS.get(role, "")
    if resource in ("cpu", "memory", "ephemeral-storage"):
        return f"spec.{role}.resources"
    if resource.partition("/")[0] in ("count", "services", "secrets", "configmaps"):
        return ""
    return _GPUS_OF_A_POD.get(role, f"spec.{role}.resources")
