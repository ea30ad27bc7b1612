"""The same context and arguments always give the same Kubernetes objects: dicts, rendered from a run's plan. Pure.

``apply`` creates what ``statics`` and ``for_start`` give, in their order; ``rz manifests`` and the golden files show
``all_of``. Nothing here talks to a cluster.

====================  ==============================================================================================
module                what it renders
====================  ==============================================================================================
``context``           ``Context``, metadata of every child
``place``             ports, paths, addresses: the cluster's ``Place``
``environment``       variables and command of a container, of one process or several
``credentials``       which Secrets which role gets
``pod``               the pod of a node: container, probes, volumes, hardening
``defaults``          what lies below a run's own words: the owner's defaults, requests, tolerations of lost nodes
``pod_template``      the user's ``podTemplate`` over it
``scheduling``        gang modes, PodGroups, disruption budget
``workloads``         Deployments and Pods
``services``          Services, NetworkPolicy
====================  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rz_api import names
from rz_operator.decisions.members import ROLES, Start
from rz_operator.manifests.context import Context
from rz_operator.manifests.scheduling import Group, gang_objects, is_out_of_its_queue
from rz_operator.manifests.services import network_policy, rendezvous_service, role_service
from rz_operator.manifests.workloads import deployment, rollout_pod, trainer_pod
from rz_operator.plan import RUN_FILE, TOKEN_FILE, wanted

__all__ = [
    "Context",
    "all_of",
    "check",
    "config_map",
    "for_start",
    "is_out_of_its_queue",
    "scale_patch",
    "statics",
    "token_secret",
]

SHOWN_TOKEN = "made-up-when-the-run-starts"
"""Stands for the token in ``all_of``."""


def config_map(context: Context, data: Mapping[str, str]) -> dict[str, Any]:
    """The frozen run (``run.json``, which the workers read) and what else is to be remembered with it."""
    metadata = context.metadata(names.config_map(context.name))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}


def token_secret(context: Context, token: str) -> dict[str, Any]:
    """The bearer token of ledger and reward. Not immutable: where it was deleted and is made anew, kubelets bring the
    new token to the pods that run (of an immutable Secret they keep the first one for ever), and workers read it again.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": context.metadata(names.token_secret(context.name, context.run_uid)),
        "type": "Opaque",
        "stringData": {TOKEN_FILE: token},
    }


def statics(context: Context, incarnation: int = 0) -> tuple[dict[str, Any], ...]:
    """What a run has as long as it lives, whatever of it runs: Services and the NetworkPolicy. The rendezvous Service
    selects the gang of this incarnation; 0: of any."""
    return (
        role_service(context, "ledger", names.ledger(context.name)),
        role_service(context, "reward", names.reward(context.name)),
        rendezvous_service(context, incarnation),
        network_policy(context),
    )


def for_start(context: Context, start: Start, gang_restarts: int) -> tuple[dict[str, Any], ...]:
    """What carries out ``start``, in order of creation. ``gang_restarts`` is stamped on trainer pods.

    What a gang needs besides its pods comes with the first of them. Raises UserError for what this run and this server
    cannot have: a podTemplate that is none, a gang mode whose API is not installed.
    """
    match start.role:
        case "ledger" | "reward":
            return (deployment(context, start.role),)
        case "rollout":
            group = Group(start.gang, start.gang_rollouts) if start.gang else None
            return (rollout_pod(context, start.index, start.incarnation, group),)
        case "trainer":
            group = Group(start.incarnation, start.gang_rollouts)
            pod = trainer_pod(context, start.index, group, gang_restarts)
            if start.index:
                return (pod,)
            pods = [(pod, context.plan.role("trainer").nodes)]
            if group.rollouts:
                pods.append((rollout_pod(context, 0, 1, group), group.rollouts))
            return (*gang_objects(context, group, pods), pod)


def scale_patch(replicas: int) -> dict[str, Any]:
    """Merge patch for a Deployment."""
    return {"spec": {"replicas": replicas}}


def check(context: Context) -> None:
    """Raises UserError where ``all_of`` would. The pods of a role differ in their numbers alone: the first and the last
    of each are rendered, since thousands would hold up the operator's event loop for seconds."""
    statics(context)
    asked = wanted(context.plan, False, by="node")
    for role in ROLES:
        count = asked.role(role).count
        for index in sorted({0, count - 1} if count else ()):
            for_start(context, Start(role, index, 1), 0)


def all_of(context: Context, incarnation: int = 1) -> tuple[dict[str, Any], ...]:
    """Every object of a running run, in order of creation; the token is a stand-in. Raises UserError as ``for_start``
    does."""
    contents = {file.name: file.content for file in context.plan.files if file.content is not None}
    objects = [config_map(context, {RUN_FILE: contents[RUN_FILE]}), token_secret(context, SHOWN_TOKEN)]
    objects += statics(context, incarnation)
    asked = wanted(context.plan, False, by="node")
    rollouts = asked.min_rollouts if asked.grouped else 0
    for role in ROLES:
        for index in range(asked.role(role).count):
            start = Start(role, index, 1)
            if role == "trainer":
                start = Start(role, index, incarnation, gang_rollouts=rollouts)
            elif role == "rollout" and index < rollouts:
                start = Start(role, index, 1, incarnation, rollouts)
            objects += for_start(context, start, 0)
    return tuple(objects)
