"""Whoever schedules a gang knows its size no later than its first pod.

How a run's pods get onto nodes: queue labels and PodGroups of the four gang modes, spreading, disruption budget.
``pod`` adds what a pod carries itself; ``for_start`` creates what goes before a gang's first pod.

A group is of all trainer pods and ``scheduling.minRollouts`` rollouts. Further rollouts, and those that come later in
the place of one of the group, are scheduled each on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from rz_api import names
from rz_api.names import Role
from rz_operator.apiserver.versions import KUEUE_GROUP, PODGROUP_VERSIONS
from rz_operator.errors import UserError
from rz_operator.manifests.context import Body, Context
from rz_operator.plan import GPU_RESOURCE

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GROUP_NAME = "kueue.x-k8s.io/pod-group-name"
KUEUE_GROUP_COUNT = "kueue.x-k8s.io/pod-group-total-count"
KUEUE_RETRIABLE = "kueue.x-k8s.io/retriable-in-group"
COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
VOLCANO_GROUP = "scheduling.k8s.io/group-name"
VOLCANO_QUEUE = "scheduling.volcano.sh/queue-name"
VOLCANO_SCHEDULER = "volcano"


@dataclass(frozen=True)
class Group:
    """What starts together or not at all: all trainer pods of a gang, and the first few rollouts."""

    incarnation: int
    """Of the gang."""
    rollouts: int

    def size(self, context: Context) -> int:
        """Pods."""
        return context.plan.role("trainer").nodes + self.rollouts


def add_scheduling(context: Context, pod: Body, role: Role, incarnation: int, group: Group | None) -> None:
    """Put onto ``pod`` (metadata and spec, changed in place) what its role, its group and the gang mode ask for."""
    scheduling = context.run.spec.scheduling
    spec = pod["spec"]
    if scheduling.priority_class_name is not None:
        spec["priorityClassName"] = scheduling.priority_class_name
    if role == "trainer":
        spec["affinity"] = _spread(context, incarnation)
    if role not in ("rollout", "trainer"):
        return  # small CPU pods, without which nothing goes on: they never wait in a queue for GPUs
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    queue, gang = scheduling.queue_name, group is not None
    name = names.trainer_pod_group(context.name, group.incarnation) if group is not None else ""
    match scheduling.gang:
        case "kueue":
            if queue is not None:
                labels[KUEUE_QUEUE] = queue
            if group is not None:
                labels[KUEUE_GROUP_NAME] = name
                annotations[KUEUE_GROUP_COUNT] = str(group.size(context))
                # A pod of a gang is never replaced in its group: the next gang is another group.
                annotations[KUEUE_RETRIABLE] = "false"
        case "coscheduling":
            if gang:
                labels[COSCHEDULING_GROUP] = name
        case "volcano":
            spec["schedulerName"] = VOLCANO_SCHEDULER
            if gang:
                annotations[VOLCANO_GROUP] = name
            elif queue is not None:
                annotations[VOLCANO_QUEUE] = queue


def gang_objects(context: Context, group: Group) -> tuple[Body, ...]:
    """What must exist before the first pod of a gang. Raises UserError when the server lacks the mode's API."""
    scheduling = context.run.spec.scheduling
    found: list[Body] = []
    match scheduling.gang:
        case "coscheduling" | "volcano":
            found.append(_pod_group(context, group))
        case "kueue" if not context.capabilities.kueue:
            raise _missing("kueue", KUEUE_GROUP)
    if scheduling.disruption_budget:
        found.append(_disruption_budget(context, group.incarnation))
    return tuple(found)


def _spread(context: Context, incarnation: int) -> Body:
    """One trainer pod a host where there are enough, since they hold most of a host. The pods of an earlier gang, which
    may hang in Terminating, don't count."""
    term = {
        "labelSelector": {"matchLabels": context.selector("trainer", incarnation)},
        "topologyKey": "kubernetes.io/hostname",
    }
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _pod_group(context: Context, group: Group) -> Body:
    scheduling, trainer = context.run.spec.scheduling, context.plan.role("trainer")
    api_version = context.capabilities.pod_groups.get(scheduling.gang)
    if api_version is None:
        raise _missing(scheduling.gang, PODGROUP_VERSIONS[scheduling.gang][0])
    spec: Body = {"minMember": group.size(context)}
    if scheduling.gang == "coscheduling":
        spec["scheduleTimeoutSeconds"] = scheduling.gang_timeout_seconds
    else:
        if trainer.gpus_per_node:
            # Volcano lets the group out of its queue when so much is free; without it, at once.
            gpus = trainer.nodes * trainer.gpus_per_node
            gpus += group.rollouts * context.plan.role("rollout").gpus_per_node
            spec["minResources"] = {GPU_RESOURCE: str(gpus)}
        if scheduling.queue_name is not None:
            spec["queue"] = scheduling.queue_name
        if scheduling.priority_class_name is not None:
            spec["priorityClassName"] = scheduling.priority_class_name
    name = names.trainer_pod_group(context.name, group.incarnation)
    metadata = context.metadata(name, "trainer", incarnation=group.incarnation)
    return {"apiVersion": api_version, "kind": "PodGroup", "metadata": metadata, "spec": spec}


def _disruption_budget(context: Context, incarnation: int) -> Body:
    """No trainer pod may be evicted: the loss of one ends them all. An integer ``minAvailable``, because pods without a
    controller that can be scaled admit nothing else. One a gang, because the next one may have more nodes."""
    name = names.trainer_pod_group(context.name, incarnation)
    return {
        "apiVersion": context.capabilities.policy,
        "kind": "PodDisruptionBudget",
        "metadata": context.metadata(name, "trainer", incarnation=incarnation),
        "spec": {
            "minAvailable": context.plan.role("trainer").nodes,
            "selector": {"matchLabels": context.selector("trainer", incarnation)},
        },
    }


def _missing(gang: str, group: str) -> UserError:
    return UserError(
        f"spec.scheduling.gang: found {gang}, but this cluster has no API {group}: install it (and restart the "
        "operator), or set scheduling.gang to operator"
    )
