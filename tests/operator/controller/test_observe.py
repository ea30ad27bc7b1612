"""Pods, Deployments and Services as API servers of 1.20 and 1.36 show them, and what is seen of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_builders import (
    START,
    UID,
    container,
    deployment_body,
    owned_by_run,
    pod_body,
    ready_pod,
    service_body,
    stamp,
)

from rz_api import names
from rz_operator.controller.observe import observation, seen_deployment, seen_pod, seen_service, unix_seconds
from rz_operator.controller.seen import Children, RunKey, SeenPod
from rz_operator.decisions.failures import judge
from rz_operator.decisions.members import Reached


def seen(body: dict[str, Any]) -> SeenPod:
    found = seen_pod(body)
    assert found is not None
    return found


def failed(role: Any = "trainer", ended: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    containers = [container("main", ended=ended)] if ended is not None else []
    return pod_body(role, phase="Failed", containers=containers, **fields)


DISRUPTION = {"status": "True", "reason": "PreemptionByScheduler", "message": "preempted by a pod of higher priority"}

ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an exit code is passed on": (
        failed(ended={"exitCode": 70, "reason": "Error", "message": "boom"}),
        {"phase": "failed", "exit_code": 70, "signal": None, "reason": "", "message": "boom"},
        "counted",
    ),
    "exit 64 ends with its termination message": (
        failed(ended={"exitCode": 64, "reason": "Error", "message": "no such model"}),
        {"exit_code": 64, "message": "no such model"},
        "terminal",
    ),
    "137 without OOMKilled is SIGKILL": (
        failed(ended={"exitCode": 137, "reason": "Error"}),
        {"exit_code": None, "signal": 9, "reason": ""},
        "counted",
    ),
    "143 is SIGTERM": (failed(ended={"exitCode": 143}), {"exit_code": None, "signal": 15}, "counted"),
    "255 is an exit code": (failed(ended={"exitCode": 255}), {"exit_code": 255, "signal": None}, "counted"),
    "a signal that the runtime names is taken": (
        failed(ended={"exitCode": 0, "signal": 11}),
        {"exit_code": None, "signal": 11},
        "counted",
    ),
    "OOMKilled is named": (
        failed(ended={"exitCode": 137, "reason": "OOMKilled"}),
        {"signal": 9, "reason": "OOMKilled"},
        "counted",
    ),
    "an evicted pod says so, in 1.20 by the pod's reason": (
        failed(ended={"exitCode": 137}, reason="Evicted", message="The node was low on resource: memory."),
        {"reason": "Evicted", "message": "The node was low on resource: memory."},
        "not_counted",
    ),
    "a pod that was not admitted has no container": (
        failed(reason="OutOfnvidia.com/gpu", message="Node didn't have enough resource"),
        {"phase": "failed", "exit_code": None, "reason": "OutOfnvidia.com/gpu"},
        "not_counted",
    ),
    "a pod that failed before any container began was turned away, whatever the kubelet calls it": (
        failed(reason="ThingsThatOnlyKubernetes140Knows", message="Pod was rejected: no"),
        {"phase": "failed", "disrupted": True, "reason": "ThingsThatOnlyKubernetes140Knows"},
        "not_counted",
    ),
    "the same where its containers are listed as waiting": (
        pod_body("trainer", phase="Failed", containers=[container("main", waiting="ContainerCreating")], reason="New"),
        {"disrupted": True},
        "not_counted",
    ),
    "the same word about a pod that ran is counted": (
        failed(reason="ThingsThatOnlyKubernetes140Knows", ended={"exitCode": 1}),
        {"disrupted": False},
        "counted",
    ),
    "a pod that did not get going within its own deadline was not turned away": (
        failed(reason="DeadlineExceeded"),
        {"disrupted": False},
        "counted",
    ),
    "a kubelet that is short of memory does not begin a pod: Evicted, no condition": (
        failed(reason="Evicted", message="Pod was rejected: The node had condition: [MemoryPressure]."),
        {"disrupted": True, "reason": "Evicted"},
        "not_counted",
    ),
    **{
        f"local storage over its own limit is the run's fault: {message}": (
            failed(ended={"exitCode": 137}, reason="Evicted", message=message),
            {"reason": "LocalStorageExceeded", "message": message, "disrupted": False},
            "counted",
        )
        for message in (
            'Usage of EmptyDir volume "scratch" exceeds the limit "10Gi". ',
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. ",
            'Container main exceeded its local ephemeral storage limit "10Gi". ',
        )
    },
    "a node that is short of local storage is not, in 1.20": (
        failed(
            ended={"exitCode": 137},
            reason="Evicted",
            message="The node was low on resource: ephemeral-storage. Container main was using 10Gi, which exceeds its "
            "request of 0. ",
        ),
        {"reason": "Evicted"},
        "not_counted",
    ),
    "nor with the condition that newer servers set, whatever the words": (
        failed(
            ended={"exitCode": 137},
            reason="Evicted",
            message="the node exceeds the limit",
            conditions={"DisruptionTarget": {"status": "True", "reason": "TerminationByKubelet"}},
        ),
        {"reason": "Evicted", "disrupted": True},
        "not_counted",
    ),
    "a disruption whose word is new is not counted": (
        failed(
            ended={"exitCode": 143},
            conditions={"DisruptionTarget": {"status": "True", "reason": "WorkloadPreempted"}},
        ),
        {"reason": "WorkloadPreempted", "disrupted": True},
        "not_counted",
    ),
    "an unexpected admission error is not counted": (failed(reason="UnexpectedAdmissionError"), {}, "not_counted"),
    "a kubelet that made room says Preempting": (failed(reason="Preempting"), {}, "not_counted"),
    "a node that shuts down in 1.20": (failed(reason="Shutdown"), {}, "not_counted"),
    "a node that shuts down in 1.22 and later": (
        failed(reason="Terminated", ended={"exitCode": 143}),
        {},
        "not_counted",
    ),
    "a disruption is a condition from 1.26 on": (
        failed(ended={"exitCode": 143}, conditions={"DisruptionTarget": DISRUPTION}),
        {"reason": "PreemptionByScheduler", "message": "preempted by a pod of higher priority"},
        "not_counted",
    ),
    "a disruption that was called off is none": (
        failed(ended={"exitCode": 1}, conditions={"DisruptionTarget": {**DISRUPTION, "status": "False"}}),
        {"reason": "", "exit_code": 1},
        "counted",
    ),
    "exit 64 keeps its last words in a disruption": (
        failed(ended={"exitCode": 64, "message": "no such model"}, conditions={"DisruptionTarget": DISRUPTION}),
        {"exit_code": 64, "message": "no such model"},
        "terminal",
    ),
    "a trainer that is complete": (
        pod_body("trainer", phase="Succeeded", containers=[container("main", ended={"exitCode": 0})]),
        {"phase": "succeeded", "exit_code": 0, "reason": ""},
        "done",
    ),
    "a rollout that succeeded": (
        pod_body("rollout", phase="Succeeded", containers=[container("main", ended={"exitCode": 0})]),
        {"phase": "succeeded", "exit_code": 0},
        "done",
    ),
    "a container that ended before the pod's phase follows": (
        pod_body("trainer", phase="Running", containers=[container("main", ended={"exitCode": 71})]),
        {"phase": "failed", "exit_code": 71},
        "counted",
    ),
    "another container's end is not the trainer's": (
        pod_body("trainer", containers=[container("sidecar", ended={"exitCode": 64}), container("main", running=1)]),
        {"phase": "running", "exit_code": None},
        "counted",
    ),
    "a rollout that the kubelet restarted shows its last end": (
        pod_body("rollout", containers=[container("main", running=9, before={"exitCode": 70}, restarts=3)]),
        {"phase": "running", "exit_code": 70, "restarts": 3},
        "counted",
    ),
    "an init container that failed": (
        failed(
            initContainerStatuses=[container("fetch", ended={"exitCode": 2, "message": "no bucket"})],
        ),
        {"phase": "failed", "exit_code": None, "reason": "InitContainerFailed"},
        "counted",
    ),
    "a container that the kubelet lost has no exit code": (
        failed(ended={"exitCode": 137, "reason": "ContainerStatusUnknown"}),
        {"exit_code": None, "signal": None, "reason": "ContainerStatusUnknown"},
        "not_counted",
    ),
}


@pytest.mark.parametrize(("body", "expected", "verdict"), ENDS.values(), ids=ENDS)
def test_end_of_a_pod(body: dict[str, Any], expected: dict[str, Any], verdict: str) -> None:
    member = seen(body).member
    assert {name: getattr(member, name) for name in expected} == expected
    assert judge(member).verdict == verdict


UNBOUND = {"status": "False", "reason": "Unschedulable", "message": "0/5 nodes are available"}

STATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a running pod": (
        ready_pod("trainer", 1, 3),
        {"index": 1, "incarnation": 3, "phase": "running", "bound": True, "started_at": START + 10, "deleting": False},
    ),
    "a pod of a lost node in 1.20 is Unknown": (pod_body("trainer", phase="Unknown"), {"phase": "running"}),
    "a pod without a node counts its age from its creation": (
        pod_body("trainer", phase="Pending", node="", conditions={"PodScheduled": UNBOUND}),
        {"phase": "pending", "bound": False, "started_at": START},
    ),
    "a bound pod that has not started": (
        pod_body("trainer", phase="Pending", conditions={"PodScheduled": "True"}),
        {"phase": "pending", "bound": True, "started_at": START},
    ),
    "bound by its condition alone": (
        pod_body("trainer", node="", conditions={"PodScheduled": "True"}),
        {"bound": True},
    ),
    "a deleted pod says by when it is gone": (
        pod_body("rollout", deleted=30),
        {"deleting": True, "gone_by": START + 30, "phase": "running"},
    ),
    "a deleted pod of a lost node": (
        pod_body("trainer", deleted=0, reason="NodeLost"),
        {"deleting": True, "reason": "NodeLost"},
    ),
}


@pytest.mark.parametrize(("body", "expected"), STATES.values(), ids=STATES)
def test_state_of_a_pod(body: dict[str, Any], expected: dict[str, Any]) -> None:
    member = seen(body).member
    assert {name: getattr(member, name) for name in expected} == expected


def waiting(reason: str, said: str = "", kind: str = "containerStatuses") -> dict[str, Any]:
    body = pod_body("trainer", phase="Pending")
    body["status"][kind] = [container("main" if kind == "containerStatuses" else "fetch", waiting=reason, said=said)]
    return body


TROUBLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no node fits": (
        pod_body("trainer", phase="Pending", node="", conditions={"PodScheduled": UNBOUND}),
        "Unschedulable",
        "0/5 nodes are available",
    ),
    "a queue holds it": (
        pod_body(
            "trainer",
            phase="Pending",
            node="",
            conditions={"PodScheduled": {"status": "False", "reason": "SchedulingGated", "message": "non-empty gates"}},
        ),
        "SchedulingGated",
        "non-empty gates",
    ),
    "the image is not there": (waiting("ErrImagePull", "not found"), "ErrImagePull", "not found"),
    "the image is still not there": (waiting("ImagePullBackOff", "Back-off"), "ImagePullBackOff", "Back-off"),
    "the image's name is wrong": (waiting("InvalidImageName"), "InvalidImageName", ""),
    "a Secret is missing": (
        waiting("CreateContainerConfigError", 'secret "x" not found'),
        "CreateContainerConfigError",
        'secret "x" not found',
    ),
    "it crashes again and again": (waiting("CrashLoopBackOff", "back-off 10s"), "CrashLoopBackOff", "back-off 10s"),
    "an init container's image": (waiting("ErrImagePull", "x", "initContainerStatuses"), "ErrImagePull", "x"),
    "an init container fails again and again": (
        pod_body("rollout", phase="Pending", initContainerStatuses=[container("fetch", ended={"exitCode": 1})]),
        "InitContainerFailed",
        "init container fetch ended with exit code 1",
    ),
    "a sidecar that runs is no trouble": (
        pod_body("trainer", initContainerStatuses=[container("proxy", running=3)]),
        "",
        "",
    ),
    "a container that is being created": (waiting("ContainerCreating"), "", ""),
    "a pod whose init containers run": (waiting("PodInitializing"), "", ""),
    "a pod that has ended has an end, no trouble": (failed(ended={"exitCode": 1}), "", ""),
}


@pytest.mark.parametrize(("body", "trouble", "message"), TROUBLES.values(), ids=TROUBLES)
def test_trouble_of_a_pod(body: dict[str, Any], trouble: str, message: str) -> None:
    pod = seen(body)
    assert (pod.trouble, pod.trouble_message) == (trouble, message)


def test_a_pod_is_ready_while_it_says_so_and_is_not_deleted() -> None:
    assert seen(ready_pod("rollout")).ready
    assert not seen(ready_pod("rollout", deleted=10)).ready
    assert not seen(pod_body("rollout")).ready
    assert seen(ready_pod("rollout")).key == RunKey("team", "orz")


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (names.LABEL_RUN, None),
        (names.LABEL_RUN_UID, None),
        (names.LABEL_ROLE, None),
        (names.LABEL_ROLE, "queen"),
        (names.LABEL_INDEX, "x"),
        (names.LABEL_INDEX, None),
        (names.LABEL_INCARNATION, "-1"),
        (names.LABEL_INCARNATION, "0"),
        (names.LABEL_INCARNATION, "9" * 40),
        (names.LABEL_RUN, 7),
    ],
)
def test_a_pod_whose_labels_are_not_ours_is_nobodys(label: str, value: Any) -> None:
    body = copy.deepcopy(ready_pod("trainer"))
    body["metadata"]["labels"][label] = value
    assert seen_pod(body) is None


def test_deployment_with_refused_pods_says_why() -> None:
    body = deployment_body("reward", ready=1, replicas=3)
    body["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]
    found = seen_deployment(body)
    assert found is not None
    assert (found.role, found.replicas, found.ready_replicas, found.refusal) == ("reward", 3, 1, "exceeded quota")
    assert seen_deployment(ready_pod("trainer")) is None


def test_a_service_that_selects_another_incarnation_is_another() -> None:
    third, again, fourth = (
        seen_service(service_body("orz-trainer", names.selector("orz", "trainer", number))) for number in (3, 3, 4)
    )
    assert third is not None
    assert fourth is not None
    assert third == again
    assert third.digest != fourth.digest


OURS = names.selector("orz", "ledger") | {names.LABEL_RUN_UID: "u-1"}
SERVICES: dict[str, tuple[dict[str, Any], Any]] = {
    "ours": ({}, "ledger"),
    "ours, owned by another version": (
        {"owners": owned_by_run("orz", "u-1", apiVersion="reasonerzero.dev/v1beta1")},
        "ledger",
    ),
    "a stranger's with our labels": ({"owners": []}, "nobody's"),
    "one that the run owns and does not control": (
        {"owners": owned_by_run("orz", "u-1", controller=False)},
        "nobody's",
    ),
    "another run's": ({"owners": owned_by_run("orz", "u-2")}, "nobody's"),
    "one of an earlier name": ({"owners": owned_by_run("other", "u-1")}, "nobody's"),
    "one of another kind with our UID": ({"owners": owned_by_run("orz", "u-1", kind="ReplicaSet")}, "nobody's"),
    "one of another API with our kind": (
        {"owners": owned_by_run("orz", "u-1", apiVersion="example.com/v1")},
        "nobody's",
    ),
    "owners that are no list": ({"owners": "us"}, "nobody's"),
    "ours, bent to a name elsewhere": ({"type": "ExternalName", "externalName": "elsewhere.example"}, None),
    "ours, without a selector": ({"selector": None}, None),
    "ours, bent to every run of the name": ({"selector": names.selector("orz", "ledger")}, None),
    "ours, bent to other pods": ({"selector": {"app": "other"}}, None),
}


@pytest.mark.parametrize(("changes", "leads_to"), SERVICES.values(), ids=SERVICES)
def test_a_service_is_asked_only_where_it_is_the_runs_and_leads_to_its_pods(
    changes: dict[str, Any], leads_to: Any
) -> None:
    found = seen_service(service_body("orz-ledger", **{"selector": OURS, **changes}))
    assert ("nobody's" if found is None else found.leads_to) == leads_to


# --------------------------------------------------------------------------------------------------- observation


def children(*bodies: dict[str, Any]) -> Children:
    pods = [pod for pod in map(seen_pod, bodies) if pod is not None and "replicas" not in _spec_of(bodies, pod)]
    deployments = [found for body in bodies if "replicas" in body["spec"] and (found := seen_deployment(body))]
    return Children(tuple(pods), tuple(deployments))


def _spec_of(bodies: tuple[dict[str, Any], ...], pod: SeenPod) -> dict[str, Any]:
    return next(body["spec"] for body in bodies if body["metadata"]["name"] == pod.name)


def ended_pod(role: Any, code: int) -> dict[str, Any]:
    ended = {"exitCode": code, "message": "words"}
    return pod_body(role, containers=[container("main", running=5, before=ended, restarts=2)])


OBSERVED: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "trainer and rollout pods are members, a Deployment is one": (
        [ready_pod("trainer", 0, 2), ready_pod("rollout", 1), deployment_body("ledger"), ready_pod("ledger")],
        [
            {"key": "trainer-0", "incarnation": 2},
            {"key": "rollout-1", "incarnation": 1},
            {"key": "ledger-0", "incarnation": 1, "phase": "running", "uid": "uid-of-orz-ledger", "restarts": 0},
        ],
    ),
    "another run's children are left out": (
        [ready_pod("trainer", uid="u-0"), deployment_body("ledger", uid="u-0"), ready_pod("rollout")],
        [{"key": "rollout-0"}],
    ),
    "ordinary restarts of a Deployment's pods are its own business": (
        [deployment_body("reward"), ended_pod("reward", 70)],
        [{"key": "reward-0", "exit_code": None, "restarts": 0, "phase": "running"}],
    ),
    "exit 64 of a Deployment's pod is shown": (
        [deployment_body("reward"), ended_pod("reward", 64)],
        [{"key": "reward-0", "exit_code": 64, "restarts": 1, "phase": "running", "message": "words"}],
    ),
    "a Deployment that was deleted is there until its pods are gone": (
        [pod_body("ledger", deleted=10)],
        [{"key": "ledger-0", "phase": "running", "deleting": True, "gone_by": START + 10}],
    ),
    "its pods count also before the garbage collector has found them": (
        [ready_pod("ledger")],
        [{"key": "ledger-0", "deleting": True, "gone_by": None}],
    ),
    "one of them on a lost node is in nobody's way": (
        [pod_body("ledger", deleted=10, reason="NodeLost")],
        [{"key": "ledger-1", "deleting": True}],
    ),
    "a deleted Deployment": (
        [deployment_body("ledger", deletionTimestamp=stamp(5))],
        [{"key": "ledger-0", "deleting": True}],
    ),
}


@pytest.mark.parametrize(("bodies", "expected"), OBSERVED.values(), ids=OBSERVED)
def test_members_of_an_observation(bodies: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    found = observation(children(*bodies), UID, None)
    shown = [
        {name: getattr(member, name) for name in want} for member, want in zip(found.members, expected, strict=True)
    ]
    assert shown == expected


def test_an_observation_carries_the_rest() -> None:
    reached = Reached(3, 4)
    found = observation(Children(), UID, reached, "team/older")
    assert (found.members, found.reached, found.give_way_to) == ((), reached, "team/older")


def test_a_leftover_that_is_late_is_in_nobodys_way() -> None:
    late = children(pod_body("ledger", deleted=10))
    assert [member.key for member in observation(late, UID, None, now=START + 15).members] == ["ledger-0"]
    assert [member.key for member in observation(late, UID, None, now=START + 25).members] == ["ledger-1"]


def test_a_deployment_with_exit_64_ends_the_run() -> None:
    member = observation(children(deployment_body("ledger"), ended_pod("ledger", 64)), UID, None).members[0]
    assert judge(member).verdict == "terminal"
    assert judge(member).last_words == "words"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14T22:13:20Z", START),
        ("2023-11-14T22:13:20.250000Z", START + 0.25),
        ("2023-11-14T23:13:20+01:00", START),
        ("2023-11-14T22:13:20", START),
        ("yesterday", None),
        ("0001-01-01T00:00:00Z", -62135596800.0),
        (None, None),
        (7, None),
        ({}, None),
    ],
)
def test_times_of_the_api(text: object, expected: float | None) -> None:
    assert unix_seconds(text) == expected


# ------------------------------------------------------------------------------------------------- odd objects

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += paths(item, (*at, key))
    return found


def with_value(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    body = copy.deepcopy(body)
    holder = body
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return body


WHOLE = pod_body(
    "rollout",
    containers=[container("main", waiting="CrashLoopBackOff", before={"exitCode": 137, "message": "m"}, restarts=2)],
    conditions={"Ready": "True", "DisruptionTarget": DISRUPTION, "PodScheduled": UNBOUND},
    deleted=3,
    reason="Evicted",
    initContainerStatuses=[container("fetch", ended={"exitCode": 1})],
)


@settings(max_examples=300)
@given(st.sampled_from(paths(WHOLE)), JSON)
def test_nothing_in_an_object_makes_it_raise(path: tuple[Any, ...], value: Any) -> None:
    body = with_value(WHOLE, path, value)
    pod = seen_pod(body)
    seen_deployment(body)
    seen_service(body)
    if pod is not None:
        judge(pod.member)
        observation(Children((pod,)), pod.run_uid, None)
