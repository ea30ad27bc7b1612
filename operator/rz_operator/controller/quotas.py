"""A quota's refusal is told from others, because it is over when somebody raises the quota. Pure.

The words are the API server's own (``plugin/pkg/admission/resourcequota``)::

    pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: ...=0, limited: ...=4
    pods "x" is forbidden: failed quota: team: must specify limits.cpu for: main; limits.memory for: main

Which field asks for what is refused, by a quota or anybody: ``refusal_fields``.
"""

from __future__ import annotations


def is_quota(message: str) -> bool:
    """Whether a ResourceQuota refused, now or as long as the pod does not name what it counts."""
    return "exceeded quota: " in message or "failed quota: " in message
