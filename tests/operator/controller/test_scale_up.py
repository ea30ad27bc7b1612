"""What an autoscaler's events say about pods that wait for nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kube_builders import START, stamp

from rz_operator.apiserver.cluster import ApiError, Page
from rz_operator.controller.scale_up import PROVISION_SECONDS, ScaleUps, until

PODS = frozenset({"a", "b"})


def event(reason: str, at: float, pod: str = "a", **fields: Any) -> dict[str, Any]:
    return {"involvedObject": {"kind": "Pod", "uid": pod}, "reason": reason, "lastTimestamp": stamp(at), **fields}


HELPED, REFUSED = "TriggeredScaleUp", "NotTriggerScaleUp"
LATER = "2023-11-14T22:13:50.000000Z"
"""30 s after the start."""

TABLE: list[tuple[str, list[Any], float | None]] = [
    ("nothing was said", [], None),
    ("the cluster-autoscaler brings nodes", [event(HELPED, 10)], 10),
    ("Karpenter brings nodes", [event("Nominated", 10)], 10),
    ("the newest counts", [event(HELPED, 70), event(HELPED, 10, "b")], 70),
    ("what the scheduler says is no news", [event("FailedScheduling", 10)], None),
    ("another pod's nodes are not ours", [event(HELPED, 10, "stranger")], None),
    ("it could not help this pod after all", [event(HELPED, 10), event(REFUSED, 70)], None),
    ("it can help it now", [event(REFUSED, 10), event(HELPED, 70)], 70),
    ("one that gets no node makes the others' useless", [event(HELPED, 70), event(REFUSED, 9, "b")], None),
    ("a new kind of event has its time elsewhere", [event(HELPED, 0, lastTimestamp=None, eventTime=LATER)], 30),
    ("a series has its last one", [event(HELPED, 0, series={"lastObservedTime": stamp(40)})], 40),
    ("nonsense says nothing", [{}, {"involvedObject": 7}, {"involvedObject": {"uid": ["a"]}}, None], None),
]


@pytest.mark.parametrize(("events", "at"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_until_when_nodes_may_still_come(events: list[Any], at: float | None) -> None:
    assert until(events, PODS) == (0.0 if at is None else START + at + PROVISION_SECONDS)


class Events:
    """A cluster that has these events, or refuses to list any."""

    def __init__(self, answer: list[Any] | ApiError) -> None:
        self.answer, self.asked = answer, list[tuple[Any, ...]]()

    async def snapshot(self, *what: Any, **how: Any) -> Page:
        self.asked.append((*what, how))
        if isinstance(self.answer, ApiError):
            raise self.answer
        return Page(self.answer, "1")


def ask(cluster: Events, *times: float, pods: str = "ab") -> list[float]:
    """What is found when one run's gang asks at these times, seconds after the start."""

    async def main() -> list[float]:
        return [await scale_ups.scaling_until("team", "u-1", pods, START + time) for time in times]

    scale_ups = ScaleUps(cluster)  # type: ignore[arg-type]
    return asyncio.run(main())


def test_the_events_of_one_namespace_are_asked_for_once_a_minute() -> None:
    cluster = Events([event("Nominated", 5)])
    assert ask(cluster, 10, 40, 69) == [START + 5 + PROVISION_SECONDS] * 3
    assert cluster.asked == [("Event", "team", {"field_selector": "involvedObject.kind=Pod,type=Normal"})]
    ask(cluster, 10, 70)
    assert len(cluster.asked) == 3


def test_the_next_gang_has_an_answer_of_its_own() -> None:
    async def main() -> list[float]:
        return [await scale_ups.scaling_until("team", "u-1", pods, START + 9) for pods in ("ab", "a", "cd")]

    scale_ups = ScaleUps(Events([event("Nominated", 5)]))  # type: ignore[arg-type]
    assert asyncio.run(main()) == [START + 5 + PROVISION_SECONDS] * 2 + [0.0]


def test_where_no_pod_waits_nobody_is_asked() -> None:
    cluster = Events([])
    assert ask(cluster, 10, pods="") == [0.0]
    assert cluster.asked == []


def test_an_operator_with_the_rights_of_an_older_release_sees_no_autoscaler() -> None:
    assert ask(Events(ApiError(403, "Forbidden", "events is forbidden")), 10) == [0.0]


@pytest.mark.parametrize("status", [0, 410, 500])
def test_an_api_server_that_fails_has_a_gang_wait_once_more_and_not_for_ever(status: int) -> None:
    assert ask(Events(ApiError(status, "Reason", "no answer")), 10, 70, 130) == [START + 10] * 3
