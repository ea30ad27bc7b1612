"""The line for nodes, from what the cache has of all runs."""

from __future__ import annotations

from typing import Any

import pytest
from kube_builders import NAMESPACE, START, pod_body, run_body, stamp

from rz_api.spec import FailurePolicy
from rz_api.status import GangState, RetryState, RunStatus
from rz_operator.apiserver.bodies import Statuses
from rz_operator.controller.cache import Cache
from rz_operator.controller.line import Line
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.members import Wanted, WantedRole

NOW = START + 1000
OLD, YOUNG = RunKey(NAMESPACE, "old"), RunKey(NAMESPACE, "young")


def asks(nodes: int, timeout: float | None = 300.0) -> Wanted:
    return Wanted((WantedRole("trainer", nodes, "gang", 0.0),), FailurePolicy(), False, timeout)


def body(name: str, nodes: int, created: float, status: RunStatus) -> dict[str, Any]:
    return {
        **run_body({"trainer": {"nodes": nodes}}, name, f"uid-{name}", created),
        "status": status.to_dict(),
    }


def running(**fields: Any) -> RunStatus:
    return RunStatus(phase="Running", gang=GangState(incarnation=1), **fields)


class Scene:
    """An old run with two trainer pods that have nodes, and a young one with none."""

    def __init__(self, bound: int = 2, nodes_in_spec: int = 2, status: RunStatus | None = None) -> None:
        self.cache, self.woken = Cache(), list[RunKey]()
        self.line = Line(self.cache, Statuses(), self.woken.append)
        self.old = body("old", nodes_in_spec, 0, status or running())
        self.young = body("young", 1, 10, running())
        for each in (self.old, self.young):
            self.cache.see_run(each)
        for index in range(2):
            node = {"node": "node-1"} if index < bound else {"node": "", "phase": "Pending"}
            self.cache.see_child("Pod", pod_body("trainer", index, run="old", uid="uid-old", **node))

    def look_at_old(self, nodes: int = 2) -> str:
        return self.line.give_way_to(OLD, self.old, running(), asks(nodes), NOW)

    def look_at_young(self) -> str:
        return self.line.give_way_to(YOUNG, self.young, running(), asks(1), NOW)


def test_an_older_run_that_is_short_of_nodes_goes_first() -> None:
    scene = Scene(bound=1)
    assert scene.look_at_young() == str(OLD)


def test_an_older_run_that_has_all_its_nodes_is_in_nobodys_way() -> None:
    scene = Scene(bound=2)
    assert scene.look_at_young() == ""


def test_a_changed_spec_that_acts_later_does_not_put_a_running_gang_back_into_the_line() -> None:
    scene = Scene(bound=2, nodes_in_spec=4)
    scene.look_at_old(nodes=2)
    assert scene.look_at_young() == ""


@pytest.mark.parametrize(
    "key", ["Pod/old-trainer-i1-0", "PodDisruptionBudget/old-trainer-i1", "PodGroup/old-trainer-i1", "Start/trainer"]
)
def test_a_gang_that_is_refused_holds_nobody_back(key: str) -> None:
    refused = running(retries={key: RetryState(failures=1, not_before=NOW + 60, message="quota")})
    scene = Scene(status=refused)
    for index in range(2):
        scene.cache.forget_child(
            "Pod", ("team", "uid-old"), f"old-trainer-i1-{index}", f"uid-of-old-trainer-i1-{index}-1"
        )
    assert scene.cache.children("team", "uid-old").pods == ()
    assert scene.look_at_young() == ""


def test_who_waited_is_woken_when_the_older_run_is_gone() -> None:
    scene = Scene(bound=1)
    assert scene.look_at_young() == str(OLD)
    scene.cache.see_run(scene.old | {"metadata": scene.old["metadata"] | {"deletionTimestamp": stamp(900)}})
    scene.line.leave(OLD, NOW)
    assert scene.woken == [YOUNG]


@pytest.mark.parametrize(("age", "older"), [(5.0, str(OLD)), (500.0, "")])
def test_an_older_run_that_is_new_goes_first_too_but_not_for_ever(age: float, older: str) -> None:
    scene = Scene()
    new = body("old", 2, 1000 - age, running())
    new["metadata"]["resourceVersion"] = "9"
    del new["status"]
    scene.cache.see_run(new)
    for index in range(2):
        scene.cache.forget_child(
            "Pod", ("team", "uid-old"), f"old-trainer-i1-{index}", f"uid-of-old-trainer-i1-{index}-1"
        )
    young = body("young", 1, 999, running())
    assert scene.line.give_way_to(YOUNG, young, running(), asks(1), NOW) == older
