"""Small builders of API objects, as an API server stores them: runs, pods, Deployments, Services. All JSON values.

Times are given in seconds after ``START`` and written as the API writes them.
"""

from __future__ import annotations

import datetime
from typing import Any

from rz_api import names
from rz_api.names import Role

START = 1_700_000_000.0
"""2023-11-14T22:13:20Z."""
NAMESPACE, NAME, UID = "team", "orz", "u-1"

SPEC: dict[str, Any] = {
    "model": {"name": "base"},
    "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
    "storage": {"uri": "s3://runs/orz"},
    "trainer": {"nodes": 2, "gpusPerNode": 8},
    "rollout": {"replicas": 3},
}
IMAGES: dict[Role, str] = {"ledger": "slim:1", "reward": "slim:1", "rollout": "worker:1", "trainer": "worker:1"}


def stamp(seconds: float) -> str:
    """``START`` plus these seconds, as the API writes times."""
    return datetime.datetime.fromtimestamp(START + seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def run_body(spec: Any = None, name: str = NAME, uid: str = UID, created: float = 0, **metadata: Any) -> dict[str, Any]:
    """A run's object; ``spec`` replaces the whole spec."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid,
            "generation": 1,
            "creationTimestamp": stamp(created),
            **metadata,
        },
        "spec": SPEC if spec is None else spec,
    }


def owned_by_run(run: str, uid: str, **changes: Any) -> list[dict[str, Any]]:
    """The owner reference that makes a run the controller; ``changes`` spoil it."""
    reference = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": run, "uid": uid}
    return [{**reference, "controller": True, **changes}]


def pod_body(
    role: Role,
    index: int = 0,
    incarnation: int = 1,
    *,
    phase: str = "Running",
    containers: list[dict[str, Any]] | None = None,
    conditions: dict[str, Any] | None = None,
    node: str = "node-1",
    run: str = NAME,
    uid: str = UID,
    deleted: float | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A pod. ``conditions`` are status by type, or whole conditions; ``deleted`` is when it should be gone."""
    if role == "trainer":
        name, policy = names.trainer_pod(run, incarnation, index), "Never"
    elif role == "rollout":
        name, policy = names.rollout_pod(run, index, incarnation), "Always"
    else:
        name, policy = f"{run}-{role}-abc-{index}", "Always"  # the ReplicaSet is NAME-ROLE-abc
    numbered = role in ("trainer", "rollout")
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-of-{name}-{incarnation}",
        "resourceVersion": "7",
        "creationTimestamp": stamp(0),
        "labels": names.labels(run, role, index if numbered else None, incarnation if numbered else None, uid=uid),
        "ownerReferences": owned_by_run(run, uid),
    }
    if not numbered:
        metadata["labels"]["pod-template-hash"] = "abc"
        replica_set = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{run}-{role}-abc", "uid": "r-1"}
        metadata["ownerReferences"] = [{**replica_set, "controller": True}]
    if deleted is not None:
        metadata["deletionTimestamp"] = stamp(deleted)
    given = [
        {"type": kind, **(value if isinstance(value, dict) else {"status": value})}
        for kind, value in (conditions or {}).items()
    ]
    return {
        "metadata": metadata,
        "spec": {"restartPolicy": policy, **({"nodeName": node} if node else {})},
        "status": {"phase": phase, "conditions": given, "containerStatuses": containers or [], **status},
    }


def ready_pod(role: Role, index: int = 0, incarnation: int = 1, **fields: Any) -> dict[str, Any]:
    """A pod with which everything is well."""
    containers = [container("main", running=10)]
    return pod_body(role, index, incarnation, containers=containers, conditions={"Ready": "True"}, **fields)


def container(
    name: str,
    *,
    running: float | None = None,
    waiting: str = "",
    said: str = "",
    ended: dict[str, Any] | None = None,
    before: dict[str, Any] | None = None,
    restarts: int = 0,
) -> dict[str, Any]:
    """A container's status: one of ``running`` (since when), ``waiting`` (a reason, and what is said) and ``ended``
    (``terminated``); ``before`` is the end of its last life."""
    state: dict[str, Any] = {}
    if running is not None:
        state = {"running": {"startedAt": stamp(running)}}
    elif waiting:
        state = {"waiting": {"reason": waiting, "message": said}}
    elif ended is not None:
        state = {"terminated": ended}
    last = {"terminated": before} if before is not None else {}
    return {"name": name, "restartCount": restarts, "state": state, "lastState": last}


def deployment_body(role: Role, ready: int = 1, replicas: int = 1, uid: str = UID, **metadata: Any) -> dict[str, Any]:
    name = f"{NAME}-{role}"
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-of-{name}",
            "resourceVersion": "8",
            "labels": names.labels(NAME, role, uid=uid),
            "ownerReferences": owned_by_run(NAME, uid),
            **metadata,
        },
        "spec": {"replicas": replicas},
        "status": {"readyReplicas": ready} if ready else {},
    }


def service_body(
    name: str, selector: dict[str, str] | None, uid: str = UID, owners: Any = None, **spec: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-of-{name}",
            "resourceVersion": "9",
            "labels": names.labels(NAME, "trainer", uid=uid),
            "ownerReferences": owned_by_run(NAME, uid) if owners is None else owners,
        },
        "spec": {"selector": selector, **spec},
    }
