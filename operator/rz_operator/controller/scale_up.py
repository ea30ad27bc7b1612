"""While a cluster's autoscaler is bringing nodes for a gang, the gang's time does not run.

An autoscaler says so in events of the pods that it brings nodes for; no condition or annotation of theirs does. So when
a gang's time is up, and not before, ``reconcile`` asks for the events of its namespace, once a minute at most, and
decides again with the answer. Whoever may write events there can stretch that time, for runs of that namespace and up
to the operator's own limit.

| who                    | it brings a node    | it does not         | it gives up after                            |
|------------------------|---------------------|---------------------|----------------------------------------------|
| cluster-autoscaler     | TriggeredScaleUp    | NotTriggerScaleUp   | --max-node-provision-time, 15 min by default |
| Karpenter, EKS auto    | Nominated           |                     | 15 min without a registered node             |
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from rz_operator.apiserver.bodies import Body, at
from rz_operator.apiserver.cluster import ApiError, Cluster
from rz_operator.controller.observe import last_seen

log = logging.getLogger(__name__)

BRINGS = frozenset({"TriggeredScaleUp", "Nominated"})
DOES_NOT = frozenset({"NotTriggerScaleUp"})
_OF_PODS = "involvedObject.kind=Pod,type=Normal"

ASK_SECONDS = 60.0
"""Between two looks at the events for one gang."""
PROVISION_SECONDS = 900.0
"""From the event until a node must be there, after which both autoscalers give it up and try another kind."""


@dataclass(frozen=True)
class _Answer:
    asked: float
    """Unix seconds."""
    pods: frozenset[str]
    """The UIDs that it is about."""
    until: float


class ScaleUps:
    """What was found of gangs whose time is up, by the UIDs of their runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, _Answer] = {}

    async def scaling_until(self, namespace: str, run_uid: str, pods: Iterable[str], now: float) -> float:
        """Unix seconds until which nodes may still come for these pods (UIDs) that wait for one; 0 where nobody brings
        any."""
        wanted = frozenset(pods)
        if not wanted:
            return 0.0
        known = self._known.get(run_uid)
        if known is not None and not wanted <= known.pods:
            known = None  # of another gang
        if known is not None and now - known.asked < ASK_SECONDS:
            return known.until
        found = await self._ask(namespace, wanted)
        if found is None:  # a server that fails ends no gang: its time begins anew, once
            found = now if known is None else known.until
        self._known[run_uid] = _Answer(now, wanted, found)
        return found

    async def _ask(self, namespace: str, wanted: frozenset[str]) -> float | None:
        try:
            page = await self._cluster.snapshot("Event", namespace, field_selector=_OF_PODS)
        except ApiError as error:
            log.warning("%s: events can't be listed, so autoscalers are not seen: %s", namespace, error.message)
            return 0.0 if error.status == 403 else None  # 403: the rights of an older release
        return until(page.items, wanted)

    def keep_only(self, live: set[str]) -> None:
        """Forget runs that are gone."""
        self._known = {uid: answer for uid, answer in self._known.items() if uid in live}


def until(events: Iterable[Body], pods: frozenset[str]) -> float:
    """``scaling_until`` from the events themselves, which may be anybody's. For a pod its newest word counts; one that
    gets no node keeps the gang from being whole, so that nothing is worth waiting for."""
    newest: dict[str, tuple[float, bool]] = {}
    for event in events:
        pod, reason = at(event, "involvedObject", "uid"), at(event, "reason")
        if isinstance(pod, str) and pod in pods and isinstance(reason, str) and reason in BRINGS | DOES_NOT:
            newest[pod] = max(newest.get(pod, (0.0, False)), (last_seen(event), reason in BRINGS))
    if not newest or not all(brings for _, brings in newest.values()):
        return 0.0
    return max(time for time, _ in newest.values()) + PROVISION_SECONDS
