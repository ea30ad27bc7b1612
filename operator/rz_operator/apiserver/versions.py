"""Nothing of one API server is assumed of another: of the versions that it has, ours are chosen when we start.

``choose`` is pure; ``cluster.probe`` asks the server (``/version``, ``/apis``) and passes the answers on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

PODGROUP_VERSIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "coscheduling": ("scheduling.x-k8s.io", ("v1alpha1",)),
    "volcano": ("scheduling.volcano.sh", ("v1beta1",)),
    "kai": ("scheduling.run.ai", ("v2alpha2",)),
    "workload": ("scheduling.k8s.io", ("v1beta1",)),
}
"""Gang mode -> (API group, versions of its PodGroup that we can write, best first)."""

OF_OTHER_KINDS = "scheduling.k8s.io/v1beta1"
"""An API that has PodGroups from Kubernetes 1.37 on, where it is enabled. Servers before 1.22 had PriorityClasses
there."""

KUEUE_GROUP = "kueue.x-k8s.io"
CLAIMS_GROUP = "resource.k8s.io"
FIRST_WITH_POLICY_V1 = 21


@dataclass(frozen=True)
class Capabilities:
    """What was chosen for one server."""

    minor: int
    """Of its version 1.minor; 0 where it cannot be read, which uses nothing that is newer than 1.20."""
    policy: str = "policy/v1"
    """apiVersion of PodDisruptionBudgets: ``policy/v1`` (from 1.21) or ``policy/v1beta1``."""
    pod_groups: Mapping[str, str] = field(default_factory=dict)
    """apiVersion of PodGroup by gang mode (coscheduling, volcano, kai, workload); a mode that is missing is not
    served."""
    kueue: bool = False
    """Whether Kueue's API is installed. Whether its integration of pods is on only shows in a pod
    (``manifests.is_out_of_its_queue``)."""
    resource_claims: bool = False
    """Whether dynamic resource allocation is served; a server without it drops ``resourceClaims`` without a word."""


def choose(
    version: Mapping[str, Any], groups: Mapping[str, Collection[str]], others: Collection[str] = ()
) -> Capabilities:
    """The choice for a server that answers ``version`` (``/version``) and has these groups (name -> versions), and
    these resources in ``OF_OTHER_KINDS``.

    What is listed goes before what the version number suggests: providers write ``20+``, and a server can be started
    without a group.
    """
    minor = _minor(version)
    listed = groups.get("policy", ())
    if "v1" in listed and (minor >= FIRST_WITH_POLICY_V1 or "v1beta1" not in listed):
        policy = "policy/v1"
    elif "v1beta1" in listed:
        policy = "policy/v1beta1"
    else:  # not told: by age
        policy = "policy/v1" if minor >= FIRST_WITH_POLICY_V1 else "policy/v1beta1"
    pod_groups = {}
    for mode, (group, versions) in PODGROUP_VERSIONS.items():
        there = next((known for known in versions if known in groups.get(group, ())), None)
        if there is not None and (f"{group}/{there}" != OF_OTHER_KINDS or "podgroups" in others):
            pod_groups[mode] = f"{group}/{there}"
    return Capabilities(
        minor=minor,
        policy=policy,
        pod_groups=pod_groups,
        kueue=KUEUE_GROUP in groups,
        resource_claims=CLAIMS_GROUP in groups,
    )


def _minor(version: Mapping[str, Any]) -> int:
    """``{"minor": "20+"}`` is 20; the ``gitVersion`` (``v1.20.2-gke.1``) serves where there is no such number."""
    found = re.match(r"\d+", str(version.get("minor", "")))
    if found:
        return int(found[0])
    found = re.match(r"v?1\.(\d+)", str(version.get("gitVersion", "")))
    return int(found[1]) if found else 0
