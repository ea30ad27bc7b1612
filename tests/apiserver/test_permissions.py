"""The operator with no more rights than the chart gives it: everywhere, or in a single namespace with a Role only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from api_builders import document
from control_plane import ControlPlane
from kube_api import Api, Object
from operator_process import OperatorProcess
from players import Players

from rz_api import names

WITHIN_SECONDS = 30.0

Operator = Callable[..., OperatorProcess]
Wait = Callable[..., Any]


def submit(api: Api, namespace: str, name: str = "tiny") -> None:
    storage = f"s3://bucket/{namespace}/{name}"
    api.create(document({"metadata.name": name, "spec.storage.uri": storage, "spec.rollout.replicas": 2}), namespace)


def status(api: Api, namespace: str, name: str = "tiny") -> Object:
    found: Object = api.get(names.KIND, namespace, name).get("status") or {}
    return found


def running_pods(api: Api, namespace: str) -> int:
    return sum(pod["status"]["phase"] == "Running" for pod in api.list("Pod", namespace))


def live_through(api: Api, namespace: str, players: Players, kubelet: Any, wait_for: Wait) -> None:
    """Everything that an operator does to a run: start, replace, start a gang anew, scale, suspend, resume, end."""

    def wait(look: Callable[[], Any], what: str) -> None:
        wait_for(look, WITHIN_SECONDS, each=players.tick, what=what)

    wait(lambda: running_pods(api, namespace) == 5, "all pods run")
    kubelet.fail(namespace, "tiny-trainer-i1-0")
    wait(lambda: api.get("Pod", namespace, "tiny-trainer-i2-0")["status"]["phase"] == "Running", "a second gang")
    api.patch(names.KIND, namespace, "tiny", {"spec": {"rollout": {"replicas": 1}, "reward": {"replicas": 2}}})
    wait(lambda: api.get("Deployment", namespace, "tiny-reward")["spec"]["replicas"] == 2, "more reward workers")
    wait(lambda: api.find("Pod", namespace, "tiny-rollout-i1-1") is None, "fewer rollouts")
    for suspend, phase in ((True, "Suspended"), (False, "Running")):
        api.patch(names.KIND, namespace, "tiny", {"spec": {"suspend": suspend}})
        wait(lambda: status(api, namespace).get("phase") == phase, phase)  # noqa: B023
    wait(lambda: running_pods(api, namespace) == 5, "all pods run again")
    (trainer,) = api.list("Pod", namespace, {names.LABEL_ROLE: "trainer"})
    api.patch(names.KIND, namespace, "tiny", {"spec": {"ttlSecondsAfterFinished": 0}})
    kubelet.succeed(namespace, trainer["metadata"]["name"])
    wait(lambda: api.find(names.KIND, namespace, "tiny") is None, "the finished run is deleted")


@pytest.mark.parametrize("single", [True, False], ids=["a single namespace, Role only", "cluster-wide"])
def test_its_own_rights_are_enough_for_a_whole_life(
    single: bool, api: Api, namespace: str, operator: Operator, players: Players, kubelet: Any, wait_for: Wait
) -> None:
    process = operator(namespace if single else "", account=f"life-{namespace}")
    submit(api, namespace)
    live_through(api, namespace, players, kubelet, wait_for)
    process.stop()  # a watch is in the audit log when it has ended
    verbs = {"create", "delete", "get", "list", "patch", "update", "watch"}
    wait_for(lambda: {request.verb for request in process.requests()}, 5, until=verbs.__eq__)
    assert process.denied() == []
    assert api.list("Event", namespace), "events are written with these rights"


def test_a_run_that_exists_already_is_served_at_the_start_in_a_single_namespace(
    api: Api, namespace: str, operator: Operator, wait_for: Wait
) -> None:
    """Prints the seconds from the start of the process to the first child (5 are the target on an idle machine): a
    time on a shared machine decides nothing."""
    process = operator(namespace, start=False, account=f"first-{namespace}")
    submit(api, namespace, "early")
    process.start(ready_seconds=None)
    wait_for(partial(made, process), WITHIN_SECONDS, every=0.1, what="a first child")
    print(f"\nfirst child {made(process)[0] - process.started:.2f} s after the start of the process")
    process.wait_ready()
    assert process.denied() == []


def made(process: OperatorProcess) -> list[float]:
    """When this operator made something, Unix seconds."""
    return [each.seconds_since_epoch for each in process.requests() if (each.verb, each.code) == ("create", 201)]


def test_in_a_single_namespace_it_asks_for_nothing_outside_of_it(
    control_plane: ControlPlane, api: Api, namespace: str, operator: Operator, players: Players, wait_for: Wait
) -> None:
    other = control_plane.create_namespace(f"{namespace}-other")
    process = operator(namespace, account=f"one-{namespace}")
    submit(api, other)
    submit(api, namespace)
    wait_for(lambda: running_pods(api, namespace) == 5, WITHIN_SECONDS, each=players.tick)
    assert "status" not in api.get(names.KIND, other, "tiny"), "a run of another namespace is not its own"
    asked = {request.path.partition("?")[0] for request in process.requests()}
    outside = [path for path in asked if "/namespaces/" in path and f"/namespaces/{namespace}/" not in path]
    assert outside == []
    everywhere = [
        path for path in asked if path.startswith("/apis/reasonerzero.dev/v1alpha1/") and "/namespaces/" not in path
    ]
    assert everywhere == []
    api.delete(names.KIND, other, "tiny")


# ---------------------------------------------------------------------------------------------- what it may not do

MAY = True
MAY_NOT = False
RIGHTS = [
    # verb, group, resource, where: in every mode in the namespace that it serves
    ("list", names.GROUP, names.PLURAL, "own", MAY),
    ("update", names.GROUP, f"{names.PLURAL}/status", "own", MAY),
    ("update", names.GROUP, names.PLURAL, "own", MAY_NOT),
    ("patch", names.GROUP, names.PLURAL, "own", MAY_NOT),
    ("update", names.GROUP, f"{names.PLURAL}/finalizers", "own", MAY_NOT),
    ("create", "", "pods", "own", MAY),
    ("delete", "", "pods", "own", MAY),
    ("update", "", "pods", "own", MAY_NOT),
    ("patch", "", "pods", "own", MAY_NOT),
    ("deletecollection", "", "pods", "own", MAY_NOT),
    ("create", "", "pods/exec", "own", MAY_NOT),
    ("create", "", "pods/eviction", "own", MAY_NOT),
    ("get", "", "pods/log", "own", MAY_NOT),
    ("create", "", "secrets", "own", MAY),
    ("get", "", "secrets", "own", MAY_NOT),
    ("list", "", "secrets", "own", MAY_NOT),
    ("watch", "", "secrets", "own", MAY_NOT),
    ("update", "", "secrets", "own", MAY_NOT),
    ("delete", "", "secrets", "own", MAY_NOT),
    ("list", "", "configmaps", "own", MAY_NOT),
    ("delete", "", "configmaps", "own", MAY_NOT),
    ("update", "apps", "deployments", "own", MAY_NOT),
    ("create", "", "serviceaccounts/token", "own", MAY_NOT),
    ("create", "rbac.authorization.k8s.io", "rolebindings", "own", MAY_NOT),
    ("impersonate", "", "users", "own", MAY_NOT),
    ("list", "", "nodes", "cluster", MAY_NOT),
    ("list", "", "namespaces", "cluster", MAY_NOT),
    ("list", "apiextensions.k8s.io", "customresourcedefinitions", "cluster", MAY_NOT),
    # what a Role does not give
    ("list", names.GROUP, names.PLURAL, "other", None),
    ("create", "", "pods", "other", None),
    ("delete", "", "pods", "other", None),
    ("create", "", "secrets", "other", None),
    ("list", "", "pods", "cluster", None),
    ("get", "", "secrets", "other", MAY_NOT),
]
"""None: only where the operator serves the whole cluster."""


@pytest.mark.parametrize("single", [True, False], ids=["a single namespace, Role only", "cluster-wide"])
def test_its_rights_are_these(
    single: bool, control_plane: ControlPlane, api: Api, namespace: str, operator: Operator, wait_for: Wait
) -> None:
    other = control_plane.create_namespace(f"{namespace}-other")
    user = operator(namespace if single else "", start=False).user
    places = {"own": namespace, "other": other, "cluster": ""}
    wanted = {
        (verb, group, resource, place): (not single if may is None else may)
        for verb, group, resource, place, may in RIGHTS
    }

    def allowed() -> dict[tuple[str, str, str, str], bool]:
        return {asked: may(api, user, *asked[:3], places[asked[3]]) for asked in wanted}

    # The authorizer learns of the binding from a watch of its own.
    wait_for(allowed, 5, until=lambda found: found == wanted)


def may(api: Api, user: str, verb: str, group: str, resource: str, namespace: str) -> bool:
    """``kubectl auth can-i VERB RESOURCE --as USER``."""
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
    }
    answer = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    found: bool = answer["status"]["allowed"]
    return found
