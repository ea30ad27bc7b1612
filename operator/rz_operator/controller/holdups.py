"""A pod whose containers are not created for minutes says what is in the way, in the kubelet's own words.

The kubelet writes that into events alone: a Secret that is not there, a volume that can't be attached, an image that is
still being pulled all look the same in the pod's status (``ContainerCreating``). ``reconcile`` has the pods of a run
explained before it reports on them, and has what the run itself brings (ConfigMap, token) verified when there are any.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from rz_operator.apiserver.bodies import Body, at
from rz_operator.apiserver.cluster import ApiError, Cluster
from rz_operator.controller import words
from rz_operator.controller.observe import last_seen
from rz_operator.controller.seen import Children, SeenPod

log = logging.getLogger(__name__)

CREATING_SECONDS = 120.0
"""From a node's being found until a pod without containers is held up. Most are created within seconds."""
ASK_SECONDS = 60.0
"""Between two looks at the events of one pod."""
FORGET_SECONDS = 600.0
"""After which a pod that was not asked about is no concern any more."""

CREATING = "ContainerCreating"


def is_held_up(pod: SeenPod, now: float) -> bool:
    """Whether the pod's containers have not been created for long. ``now`` is in Unix seconds."""
    since = pod.creating_since
    return since is not None and now - since >= CREATING_SECONDS and pod.member.live and not pod.member.deleting


class Holdups:
    """What was found of held-up pods, by their UIDs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, tuple[float, str]] = {}
        """When the events were asked for, and what they said."""

    async def explained(self, namespace: str, children: Children, now: float) -> Children:
        """``children`` with a trouble at each held-up pod that has no other."""
        held = [pod for pod in children.pods if is_held_up(pod, now) and not pod.trouble]
        if not held:
            return children
        causes = {pod.name: await self._cause(namespace, pod, now) for pod in _first_of_each_role(held)}
        told = {
            pod.name: replace(pod, trouble=CREATING, trouble_message=words.held_up(pod.creating_since or now, cause))
            for pod in held
            for cause in [causes.get(pod.name, "")]
        }
        return replace(children, pods=tuple(told.get(pod.name, pod) for pod in children.pods))

    async def _cause(self, namespace: str, pod: SeenPod, now: float) -> str:
        uid = pod.member.uid
        asked, said = self._known.get(uid, (float("-inf"), ""))
        if now - asked < ASK_SECONDS:
            return said
        try:
            found = cause_of(await self._cluster.events_of(namespace, uid))
        except ApiError as error:
            # An operator that was upgraded without its rights may not, and has everything else to say.
            log.warning("%s/%s: cannot read the pod's events: %s", namespace, pod.name, error)
            found = ""
        self._known = {uid: known for uid, known in self._known.items() if now - known[0] < FORGET_SECONDS}
        # The API server keeps an event for an hour; what was said before is still the reason then.
        self._known[uid] = (now, found or said)
        return found or said


def cause_of(events: Sequence[Body]) -> str:
    """What a pod's events say of its being held up; empty where they say nothing. A warning goes before the news that
    an image is being pulled, and one that names the volume before the sum of all."""
    warnings = [event for event in events if at(event, "type") == "Warning" and at(event, "message")]
    pulling = [event for event in events if at(event, "reason") == "Pulling" and at(event, "message")]
    for found in ([each for each in warnings if not _is_a_sum(each)], warnings, pulling):
        if found:
            newest = max(found, key=last_seen)
            return f"{at(newest, 'reason') or 'Warning'}: {' '.join(str(at(newest, 'message')).split())}"
    return ""


def _is_a_sum(event: Body) -> bool:
    """The kubelet writes both in turn: the sum changes with every try."""
    return str(at(event, "message")).startswith("Unable to attach or mount volumes")


def _first_of_each_role(held: Sequence[SeenPod]) -> list[SeenPod]:
    first: dict[str, SeenPod] = {}
    # As ``readiness`` takes them: the first by number is the one that is named.
    for pod in sorted(held, key=lambda pod: (pod.member.index, pod.member.incarnation, pod.name)):
        first.setdefault(pod.member.role, pod)
    return list(first.values())
