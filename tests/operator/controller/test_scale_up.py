"""What an autoscaler's events say about pods that wait for nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kube_builders import START, stamp

from rz_operator.apiserver.cluster import ApiError, Page
from rz_operator.controller.scale_up import PROVISION_SECONDS, scaling_until, until

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


def ask(answer: list[Any] | ApiError, *pods: str) -> tuple[float, Events]:
    cluster = Events(answer)
    return asyncio.run(scaling_until(cluster, "team", pods)), cluster  # type: ignore[arg-type]


def test_the_events_of_one_namespace_are_asked_for_once() -> None:
    found, cluster = ask([event("Nominated", 5)], "a", "b")
    assert found == START + 5 + PROVISION_SECONDS
    assert cluster.asked == [("Event", "team", {"field_selector": "involvedObject.kind=Pod,type=Normal"})]


def test_where_no_pod_waits_nobody_is_asked() -> None:
    assert ask([])[1].asked == []


def test_an_operator_with_the_rights_of_an_older_release_sees_no_autoscaler() -> None:
    assert ask(ApiError(403, "Forbidden", "events is forbidden"), "a")[0] == 0.0


def test_an_api_server_that_does_not_answer_is_asked_again() -> None:
    with pytest.raises(ApiError):
        ask(ApiError(0, "NoAnswer", "no answer"), "a")
