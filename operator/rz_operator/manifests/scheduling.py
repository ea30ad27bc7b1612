"""Whoever schedules a gang knows its size no later than its first pod.

How a run's pods get onto nodes: queue labels and PodGroups of the gang modes, spreading, disruption budget.
``pod`` adds what a pod carries itself; ``for_start`` creates what goes before a gang's first pod.

A group is of all trainer pods and ``scheduling.minRollouts`` rollouts. Further rollouts, and those that come later in
the place of one of the group, are scheduled each on its own.

| mode         | its pods carry                              | its group                            | scheduler    |
|--------------|---------------------------------------------|--------------------------------------|--------------|
| operator     | nothing                                     | none: the operator sees to it        | any          |
| kueue        | labels of queue and group, and its size     | none: Kueue makes its own            | any          |
| coscheduling | label of the group                          | PodGroup of ``scheduling.x-k8s.io``  | the plugins' |
| volcano      | annotation of the group                     | PodGroup of ``scheduling.volcano.sh``| Volcano's    |
| kai          | label of the queue, annotation of the group | PodGroup of ``scheduling.run.ai``    | KAI's        |
| workload     | ``schedulingGroup``                         | PodGroup of ``scheduling.k8s.io``    | any          |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_operator.apiserver.quantities import exact_quantity
from rz_operator.apiserver.versions import CLAIMS_GROUP, KUEUE_GROUP, PODGROUP_VERSIONS
from rz_operator.errors import UserError
from rz_operator.manifests.context import Body, Context

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_MANAGED = "kueue.x-k8s.io/managed"
KUEUE_GATE = "kueue.x-k8s.io/admission"
KUEUE_GROUP_NAME = "kueue.x-k8s.io/pod-group-name"
KUEUE_GROUP_COUNT = "kueue.x-k8s.io/pod-group-total-count"
KUEUE_RETRIABLE = "kueue.x-k8s.io/retriable-in-group"
COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
VOLCANO_GROUP = "scheduling.k8s.io/group-name"
VOLCANO_QUEUE = "scheduling.volcano.sh/queue-name"
KAI_QUEUE = "kai.scheduler/queue"
KAI_GROUP = "pod-group-name"
KAI_OWN_GROUP = "kai.scheduler/skip-podgrouper"
"""KAI makes a group of its own for every pod with an owner, and puts its name in place of ours, unless told not to."""

SCHEDULERS: Mapping[str, str] = {
    "coscheduling": "scheduler-plugins-scheduler",
    "volcano": "volcano",
    "kai": "kai-scheduler",
}
"""Gang mode -> the scheduler that knows its groups, as its own Helm chart calls it. The cluster's default would bind
the pods one by one."""


Pods = Sequence[tuple[Body, int]]
"""A pod of each role in a gang, as it is rendered, and how many of it there are."""


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
    """Put onto ``pod`` (metadata and spec, changed in place) what its role, its group and the gang mode ask for. Raises
    UserError for devices that nobody brings."""
    scheduling = context.run.spec.scheduling
    spec = pod["spec"]
    if scheduling.priority_class_name is not None:
        spec["priorityClassName"] = scheduling.priority_class_name
    if role == "trainer":
        spec["affinity"] = _spread(context, incarnation)
    if role not in ("rollout", "trainer"):
        return  # small CPU pods, without which nothing goes on: they never wait in a queue for GPUs
    _check_claims(context, role)
    scheduler = scheduling.scheduler_name or _scheduler(context)
    if scheduler is not None:
        spec["schedulerName"] = scheduler
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
        case "coscheduling" if gang:
            labels[COSCHEDULING_GROUP] = name
        case "volcano" if gang:
            annotations[VOLCANO_GROUP] = name
        case "volcano" if queue is not None:
            annotations[VOLCANO_QUEUE] = queue
        case "kai":
            if queue is not None:
                labels[KAI_QUEUE] = queue
            if gang:
                annotations |= {KAI_GROUP: name, KAI_OWN_GROUP: "true"}
        case "workload" if gang:
            spec["schedulingGroup"] = {"podGroupName": name}


def is_out_of_its_queue(pod: Body) -> bool:
    """Whether ``pod``, as the server answers its create, is to be queued by Kueue and is not: no webhook of Kueue's has
    put its sign on it. Which frameworks Kueue integrates is in its own configuration, which nobody else may read."""
    metadata = pod.get("metadata") or {}
    if KUEUE_QUEUE not in (metadata.get("labels") or {}):
        return False
    gates = [gate.get("name", "") for gate in (pod.get("spec") or {}).get("schedulingGates") or []]
    signs = [*(metadata.get("labels") or {}), *(metadata.get("finalizers") or []), *gates]
    return KUEUE_MANAGED not in signs and KUEUE_GATE not in signs


def _scheduler(context: Context) -> str | None:
    gang = context.run.spec.scheduling.gang
    if gang == "coscheduling" and context.run.rendering_version < 2:
        return None  # as it was accepted: its cluster may have no scheduler of that name
    return SCHEDULERS.get(gang)


def _check_claims(context: Context, role: Role) -> None:
    claims = context.claims(role)
    if claims and not context.capabilities.resource_claims:
        raise UserError(
            f"spec.scheduling.resourceClaims: found {claims[0].name}, but this cluster has no API {CLAIMS_GROUP} and "
            "would drop it without a word: enable dynamic resource allocation (and restart the operator), or use "
            "scheduling.gpuResource"
        )
    if context.plan.role(role).gpus_per_node and not context.run.spec.scheduling.gpu_resource and not claims:
        raise UserError(
            f"spec.scheduling.resourceClaims: found no claim for the role {role}, which has GPUs, and gpuResource is "
            f"empty: add a claim whose roles have {role}, or set scheduling.gpuResource"
        )


def gang_objects(context: Context, group: Group, pods: Pods) -> tuple[Body, ...]:
    """What must exist before the first pod of a gang, which consists of ``pods``. Raises UserError when the server
    lacks the mode's API."""
    scheduling = context.run.spec.scheduling
    found: list[Body] = []
    match scheduling.gang:
        case "coscheduling" | "volcano" | "kai" | "workload":
            found.append(_pod_group(context, group, pods))
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


def _pod_group(context: Context, group: Group, pods: Pods) -> Body:
    gang = context.run.spec.scheduling.gang
    api_version = context.capabilities.pod_groups.get(gang)
    if api_version is None:
        raise _missing(gang, PODGROUP_VERSIONS[gang][0])
    name = names.trainer_pod_group(context.name, group.incarnation)
    metadata = context.metadata(name, "trainer", incarnation=group.incarnation)
    spec = _group_spec(context, group, pods)
    return {"apiVersion": api_version, "kind": "PodGroup", "metadata": metadata, "spec": spec}


def _group_spec(context: Context, group: Group, pods: Pods) -> Body:
    scheduling, size = context.run.spec.scheduling, group.size(context)
    priority = scheduling.priority_class_name
    of_priority = {"priorityClassName": priority} if priority is not None else {}
    of_queue = {"queue": scheduling.queue_name} if scheduling.queue_name is not None else {}
    match scheduling.gang:
        case "coscheduling":
            return {"minMember": size, "scheduleTimeoutSeconds": scheduling.gang_timeout_seconds}
        case "volcano":
            # Volcano lets the group out of its queue when so much is free; without it, at once.
            return {"minMember": size, "minResources": _requests_of(pods)} | of_queue | of_priority
        case "kai":
            return {"minMember": size} | of_queue | of_priority
        case "workload":
            # Preempted as a whole: what is left of a gang is of no use to anybody.
            policy: Body = {"schedulingPolicy": {"gang": {"minCount": size}}, "disruptionMode": {"all": {}}}
            return policy | of_priority
    raise AssertionError(f"{scheduling.gang} has no PodGroup")


def _requests_of(pods: Pods) -> dict[str, str]:
    """What these pods ask for, as they are rendered, the user's ``podTemplate`` and all."""
    total: dict[str, Decimal] = {}
    for pod, count in pods:
        role = pod["metadata"]["labels"][names.LABEL_ROLE]
        for container in pod["spec"]["containers"]:
            for name, amount in _asked(container.get("resources") or {}, role):
                total[name] = total.get(name, Decimal()) + count * amount
    return {name: f"{amount.normalize():f}" for name, amount in total.items()}


def _asked(resources: Mapping[str, Any], role: str) -> Iterator[tuple[str, Decimal]]:
    """A limit without a request is a request of as much. Raises UserError for what is no quantity."""
    for name, text in ((resources.get("limits") or {}) | (resources.get("requests") or {})).items():
        try:
            yield name, exact_quantity(text)
        except ValueError:
            raise UserError(
                f"spec.{role}.resources: found {text!r} as {name}; a Kubernetes quantity such as 64Gi is required: "
                "change it"
            ) from None


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
