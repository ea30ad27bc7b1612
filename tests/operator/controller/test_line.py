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
from rz_operator.decisions.gangs import lines_of
from rz_operator.decisions.members import Wanted, WantedRole

NOW = START + 1000
OLD, YOUNG = RunKey(NAMESPACE, "old"), RunKey(NAMESPACE, "young")


NO_ROLLOUTS = WantedRole("rollout", 0, "individual", 0.0)


def asks(nodes: int, timeout: float | None = 300.0, spec: dict[str, Any] | None = None) -> Wanted:
    roles = (NO_ROLLOUTS, WantedRole("trainer", nodes, "gang", 0.0))
    return Wanted(roles, FailurePolicy(), gang_timeout_seconds=timeout, lines=lines_of(spec or {}))


def body(name: str, nodes: int, created: float, status: RunStatus) -> dict[str, Any]:
    return {
        **run_body({"trainer": {"nodes": nodes}, "scheduling": {"minRollouts": 0}}, name, f"uid-{name}", created),
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


@pytest.mark.parametrize("key", ["Pod/old-trainer-i1-0", "PodGroup/old-trainer-i1", "Start/trainer"])
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


# ---------------------------------------------------------------------------------- whom it is none of their business


def stuck(namespace: str = NAMESPACE, **sections: Any) -> dict[str, Any]:
    """An old run that can never fit and may wait for ever, of which nothing was looked at yet."""
    spec = {"trainer": {"nodes": 2}, "scheduling": {"gangTimeoutSeconds": 10**9}, **sections}
    made = {**run_body(spec, "giant", "uid-giant", 0), "status": running().to_dict()}
    made["metadata"]["namespace"] = namespace
    return made


CPU = {"trainer": {"nodes": 2, "gpusPerNode": 0}}
WHO_WAITS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("a neighbour that wants the same nodes", stuck(), {}, "team/giant"),
    ("nobody in another namespace", stuck("stranger"), {}, ""),
    ("no run without GPUs", stuck(), CPU, ""),
    ("nobody behind a run without GPUs", stuck(**CPU), CPU, ""),
    ("nobody who wants other nodes", stuck(), {r: {"nodeSelector": {"gpu": "a"}} for r in ("trainer", "rollout")}, ""),
    ("nobody in another queue", stuck(), {"scheduling": {"queueName": "mine"}}, ""),
    ("not behind one that kueue schedules", stuck(scheduling={"gang": "kueue", "queueName": "q"}), {}, ""),
]


@pytest.mark.parametrize(("older", "spec", "waits_for"), [row[1:] for row in WHO_WAITS], ids=[r[0] for r in WHO_WAITS])
def test_who_waits_for_a_gang_that_never_fits(older: dict[str, Any], spec: dict[str, Any], waits_for: str) -> None:
    cache, woken = Cache(), list[RunKey]()
    line = Line(cache, Statuses(), woken.append)
    young = {**run_body(spec, "young", "uid-young", 10), "status": running().to_dict()}
    for each in (older, young):
        cache.see_run(each)
    assert line.give_way_to(YOUNG, young, running(), asks(1, spec=spec), NOW) == waits_for


def test_a_run_of_which_only_the_rollouts_have_no_nodes_goes_first_too() -> None:
    cache = Cache()
    line = Line(cache, Statuses(), lambda key: None)
    old = {**run_body({"trainer": {"nodes": 1}}, "old", "uid-old", 0), "status": running().to_dict()}
    young = body("young", 1, 10, running())
    for each in (old, young):
        cache.see_run(each)
    cache.see_child("Pod", pod_body("trainer", 0, run="old", uid="uid-old"))
    cache.see_child("Pod", pod_body("rollout", 0, run="old", uid="uid-old", node="", phase="Pending"))
    assert line.give_way_to(YOUNG, young, running(), asks(1), NOW) == str(OLD)
    cache.see_child("Pod", pod_body("rollout", 0, run="old", uid="uid-old"))
    assert line.give_way_to(YOUNG, young, running(), asks(1), NOW) == ""


def test_of_those_who_wait_for_one_run_the_first_of_each_line_is_woken() -> None:
    cache, woken = Cache(), list[RunKey]()
    line = Line(cache, Statuses(), woken.append)
    kinds = {kind: {"nodeSelector": {"gpu": kind}} for kind in ("a", "b")}
    old = {"trainer": kinds["a"], "rollout": kinds["b"]}
    runs = {"old": old}
    for kind, spec in kinds.items():
        runs |= {f"{kind}1": {"trainer": spec, "rollout": spec}, f"{kind}2": {"trainer": spec, "rollout": spec}}
    for age, (name, spec) in enumerate(runs.items()):
        cache.see_run({**run_body(spec, name, f"uid-{name}", age), "status": running().to_dict()})
    for name, spec in runs.items():
        key = RunKey(NAMESPACE, name)
        line.give_way_to(key, cache.run(key) or {}, running(), asks(1, spec=spec), NOW)
    cache.see_run(cache.run(OLD) or {}, deleted=True)
    line.leave(OLD, NOW)
    assert sorted(map(str, woken)) == ["team/a1", "team/b1"]
