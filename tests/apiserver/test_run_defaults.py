"""The owner's defaults for pods on a real API server: a run keeps those under which it was accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from api_builders import document
from kube_api import Api, Object
from operator_process import OperatorProcess, grant
from players import Players

from rz_api import names

WITHIN_SECONDS = 30.0

Operator = Callable[..., OperatorProcess]
Wait = Callable[..., Any]


def defaults(team: str) -> str:
    return json.dumps(
        {
            "labels": {"example.com/team": team},
            "env": [{"name": "TEAM", "value": team}],
            "securityContext": {"fsGroupChangePolicy": "OnRootMismatch"},
            "imagePullSecrets": [{"name": f"registry-{team}"}],
        }
    )


def submit(api: Api, namespace: str, name: str) -> None:
    storage = f"s3://bucket/{namespace}/{name}"
    changes = {"metadata.name": name, "spec.storage.uri": storage, "spec.failurePolicy.backoffSeconds": 0}
    api.create(document(changes), namespace)


def teams(api: Api, namespace: str, run: str) -> set[tuple[str, str | None, str]]:
    """(label, environment, pull secret) of the pods of a run."""
    found = set()
    for pod in api.list("Pod", namespace, {names.LABEL_RUN: run}):
        env = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
        secret = pod["spec"]["imagePullSecrets"][0]["name"]
        found.add((pod["metadata"]["labels"]["example.com/team"], env["TEAM"], secret))
    return found


def running(api: Api, namespace: str, name: str) -> bool:
    found: Object | None = api.find("Pod", namespace, name)
    return found is not None and found["status"].get("phase") == "Running"


def test_a_run_keeps_the_defaults_that_it_was_accepted_under(
    api: Api, namespace: str, operator: Operator, players: Players, kubelet: Any, wait_for: Wait
) -> None:
    process = operator(namespace, env={"RZ_RUN_DEFAULTS": defaults("a")}, account=f"defaults-{namespace}")
    submit(api, namespace, "old")
    wait_for(lambda: running(api, namespace, "old-trainer-i1-0"), WITHIN_SECONDS, each=players.tick)
    process.restart(RZ_RUN_DEFAULTS=defaults("b"))
    submit(api, namespace, "new")
    kubelet.fail(namespace, "old-trainer-i1-0")
    for pod in ("old-trainer-i2-0", "new-trainer-i1-0"):
        wait_for(lambda pod=pod: running(api, namespace, pod), WITHIN_SECONDS, each=players.tick, what=pod)
    assert teams(api, namespace, "old") == {("a", "a", "registry-a")}
    assert teams(api, namespace, "new") == {("b", "b", "registry-b")}
    users = {pod["spec"]["securityContext"].get("runAsUser") for pod in api.list("Pod", namespace)}
    assert users == {None}, "the platform chooses them"


def test_several_namespaces_are_served_with_a_role_in_each_and_no_other(
    api: Api, control_plane: Any, namespace: str, operator: Operator, players: Players, wait_for: Wait
) -> None:
    second, third = f"{namespace}-second", f"{namespace}-third"
    account = f"several-{namespace}"
    for each in (second, third):
        control_plane.create_namespace(each)
    try:
        process = operator(namespace, start=False, account=account)
        grant(api, account, second)
        for each in (namespace, second, third):
            submit(api, each, "run")
        process.start(RZ_WATCH_NAMESPACES=f"{namespace},{second}")
        for each in (namespace, second):
            wait_for(lambda each=each: running(api, each, "run-trainer-i1-0"), WITHIN_SECONDS, each=players.tick)
        submit(api, second, "later")
        wait_for(lambda: running(api, second, "later-trainer-i1-0"), WITHIN_SECONDS, each=players.tick)
        assert "status" not in api.get(names.KIND, third, "run"), "nobody told it to look there"
        assert process.denied() == []
    finally:
        for each in (second, third):
            control_plane.remove_namespace(each, (names.KIND, "Pod", "Deployment", "ReplicaSet", "Role", "RoleBinding"))
