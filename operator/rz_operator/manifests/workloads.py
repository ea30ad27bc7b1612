"""What ``decide`` starts: Deployments of ledger and reward, Pods of rollout and trainer. ``for_start`` calls these."""

from __future__ import annotations

from rz_api import names
from rz_api.names import Role
from rz_operator.manifests.context import Body, Context
from rz_operator.manifests.pod import pod
from rz_operator.manifests.scheduling import Group

DEPLOYMENT_INCARNATION = 1
"""A Deployment is one member, with index 0: its pods are Kubernetes' own affair."""


def deployment(context: Context, role: Role) -> Body:
    """Of the ledger (one pod, never two at a time: a lease has one giver) or of the reward role."""
    name = names.ledger(context.name) if role == "ledger" else names.reward(context.name)
    metadata = context.metadata(name, role, 0, DEPLOYMENT_INCARNATION)
    of_pods = {"labels": dict(metadata["labels"]), "annotations": context.annotations}
    strategy: Body = {"type": "Recreate"}
    if role == "reward":
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": context.plan.role(role).nodes,
            # Old ReplicaSets are for rollbacks, and the template of a run's Deployment never changes.
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": context.selector(role)},
            "strategy": strategy,
            "template": pod(context, role, 0, DEPLOYMENT_INCARNATION, of_pods),
        },
    }


def rollout_pod(context: Context, index: int, incarnation: int, group: Group | None) -> Body:
    """``group``: of the gang with which it starts; None: it starts on its own."""
    metadata = context.metadata(names.rollout_pod(context.name, index, incarnation), "rollout", index, incarnation)
    if group is not None:
        metadata["labels"][names.LABEL_GANG] = str(group.incarnation)
    return _pod(context, "rollout", index, incarnation, metadata, group)


def trainer_pod(context: Context, node: int, group: Group, gang_restarts: int) -> Body:
    incarnation = group.incarnation
    metadata = context.metadata(names.trainer_pod(context.name, incarnation, node), "trainer", node, incarnation)
    metadata["annotations"][names.ANNOTATION_RESTARTS] = str(gang_restarts)
    return _pod(context, "trainer", node, incarnation, metadata, group)


def _pod(context: Context, role: Role, node: int, incarnation: int, metadata: Body, group: Group | None) -> Body:
    if group is not None and group.rollouts:
        metadata["labels"][names.LABEL_GANG_ROLLOUTS] = str(group.rollouts)
    return {"apiVersion": "v1", "kind": "Pod", **pod(context, role, node, incarnation, metadata, group)}
