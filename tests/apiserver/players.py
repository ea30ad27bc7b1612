"""What controllers, the scheduler and kubelets would do, done by writing to the API server as its administrator.

Used by the ``players`` fixture of ``conftest.py`` and by ``bench/``. Each player has ``tick()``: look once, do what is
due, return the number of changes. Nothing happens between two ticks, so that a test decides when something happens;
``run_in_background`` ticks in a thread for the scale benchmark. kubelet: ``kubelet_double.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from kube_api import Api, ApiError, Object

from rz_api import names

OWNED_KINDS = (
    "Pod",
    "ReplicaSet",
    "Deployment",
    "Service",
    "ConfigMap",
    "Secret",
    "NetworkPolicy",
    "PodDisruptionBudget",
)
"""Kinds that the garbage collector looks through."""


QUOTA_SECONDS = 10.0


class Player(Protocol):
    def tick(self) -> int: ...


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def phase_of(pod: Object) -> str:
    phase: str = pod.get("status", {}).get("phase", "Pending")
    return phase


def finished(pod: Object) -> bool:
    return phase_of(pod) in ("Failed", "Succeeded")


def ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


class DeploymentController:
    """Deployment -> ReplicaSet -> pods with the template's labels; then the Deployment's ready count.

    A template that changed has its new pods made before the old ones are deleted; what finished or went is replaced.
    Pods that are refused (a quota) are tried again when the ReplicaSet changes, else, as Kubernetes' own back-off grows
    to 1000 s, in no test's lifetime; a Deployment's annotations are copied to its ReplicaSet.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self._refused: dict[str, tuple[str, str]] = {}
        """By UID of a ReplicaSet: its resourceVersion when its pods were refused, and the server's words."""

    def tick(self) -> int:
        deployments = self.api.list("Deployment")
        if not deployments:
            return 0
        sets = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in self.api.list("ReplicaSet")}
        pods: dict[str, list[Object]] = defaultdict(list)
        for pod in self.api.list("Pod"):
            for owner in pod["metadata"].get("ownerReferences", []):
                if owner["kind"] == "ReplicaSet":
                    pods[owner["uid"]].append(pod)
        by_owner: dict[str, list[Object]] = defaultdict(list)
        for each in sets.values():
            for owner in each["metadata"].get("ownerReferences", []):
                by_owner[owner["uid"]].append(each)
        changes = 0
        for deployment in deployments:
            if "deletionTimestamp" not in deployment["metadata"]:
                with gone_is_fine():
                    changes += self._one(deployment, sets, by_owner[deployment["metadata"]["uid"]], pods)
        return changes

    def _one(
        self,
        deployment: Object,
        sets: dict[tuple[str, str], Object],
        own_sets: list[Object],
        pods: dict[str, list[Object]],
    ) -> int:
        meta, spec = deployment["metadata"], deployment["spec"]
        template = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        name, changes = f"{meta['name']}-{template}", 0
        current = sets.get((meta["namespace"], name))
        if current is None:
            current = self.api.create(_replica_set(deployment, name, template))
            changes += 1
        mine = current["metadata"].get("annotations") or {}
        if (meta.get("annotations") or {}).items() - mine.items():
            body = {"metadata": {"annotations": meta["annotations"]}}
            current = {"kind": "ReplicaSet"} | self.api.patch("ReplicaSet", meta["namespace"], name, body)
            changes += 1
        wanted = spec.get("replicas", 1)
        live = [pod for pod in pods[current["metadata"]["uid"]] if not leaving(pod)]
        for number in range(len(live), wanted):
            made = self._make_pod(current, template, number)
            if made is None:
                break
            live.append(made)
            changes += 1
        for pod in live[wanted:]:
            self._delete(pod)
            changes += 1
        for old in own_sets:
            if old["metadata"]["name"] != name:
                for pod in pods[old["metadata"]["uid"]]:
                    if not leaving(pod):
                        self._delete(pod)
                        changes += 1
        changes += self._tell_of_refusal(deployment, current["metadata"]["uid"])
        status = _deployment_status(deployment, live[:wanted])
        if status != {key: deployment.get("status", {}).get(key, 0) for key in status}:
            with gone_is_fine():
                self.api.patch("Deployment", meta["namespace"], meta["name"], {"status": status}, subresource="status")
            changes += 1
        return changes

    def _make_pod(self, replica_set: Object, template: str, number: int) -> Object | None:
        meta = replica_set["metadata"]
        if self._refused.get(meta["uid"], ("", ""))[0] == meta["resourceVersion"]:
            return None
        try:
            made = self.api.create(_pod_of(replica_set, template, number))
        except ApiError as error:
            if error.code != 403:
                raise
            self._refused[meta["uid"]] = (meta["resourceVersion"], error.message)
            return None
        self._refused.pop(meta["uid"], None)
        return made

    def _tell_of_refusal(self, deployment: Object, replica_set: str) -> int:
        """The condition ReplicaFailure, which the Deployment takes over from its ReplicaSet."""
        meta, refused = deployment["metadata"], self._refused.get(replica_set)
        before = (deployment.get("status") or {}).get("conditions") or []
        said = next((each["message"] for each in before if each["type"] == "ReplicaFailure"), None)
        if said == (refused[1] if refused else None):
            return 0
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "lastTransitionTime": now()}
        body = {"status": {"conditions": [condition | {"message": refused[1]}] if refused else []}}
        with gone_is_fine():
            self.api.patch("Deployment", meta["namespace"], meta["name"], body, subresource="status")
        return 1

    def _delete(self, pod: Object) -> None:
        meta = pod["metadata"]
        self.api.delete("Pod", meta["namespace"], meta["name"], uid=meta["uid"])


def leaving(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"] or finished(pod)


def owner_reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _replica_set(deployment: Object, name: str, template: str) -> Object:
    spec = deployment["spec"]
    labels = {**spec["template"]["metadata"].get("labels", {}), "pod-template-hash": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": spec.get("replicas", 1),
            "selector": {"matchLabels": {**spec["selector"]["matchLabels"], "pod-template-hash": template}},
            "template": {**spec["template"], "metadata": {**spec["template"]["metadata"], "labels": labels}},
        },
    }


def _pod_of(replica_set: Object, template: str, number: int) -> Object:
    made = replica_set["spec"]["template"]
    meta = {key: made["metadata"][key] for key in ("labels", "annotations") if key in made["metadata"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta
        | {
            "generateName": f"{replica_set['metadata']['name']}-",
            "namespace": replica_set["metadata"]["namespace"],
            "ownerReferences": [owner_reference({"apiVersion": "apps/v1", "kind": "ReplicaSet"} | replica_set)],
        },
        "spec": made["spec"],
    }


def _deployment_status(deployment: Object, live: list[Object]) -> Object:
    ready_count = sum(ready(pod) for pod in live)
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(live),
        "updatedReplicas": len(live),
        "readyReplicas": ready_count,
        "availableReplicas": ready_count,
        "unavailableReplicas": len(live) - ready_count,
    }


class GarbageCollector:
    """Deletes what has only owners that are gone, and lets go of owners that were deleted in the foreground."""

    def __init__(self, api: Api, kinds: tuple[str, ...] = OWNED_KINDS) -> None:
        self.api, self.kinds = api, kinds

    def tick(self) -> int:
        """One generation: the pods of a ReplicaSet that is deleted now go at the next tick."""
        # Children first: an owner that is listed later than its child existed when the child was seen.
        found = [item for kind in self.kinds for item in self.api.list(kind)]
        owners = [*found, *self.api.list(names.KIND)]
        alive = {item["metadata"]["uid"] for kind in ("ReplicaSet", "Deployment") for item in self.api.list(kind)}
        alive |= {item["metadata"]["uid"] for item in owners}
        waiting = {item["metadata"]["uid"]: item for item in owners if _in_foreground(item)}
        changes, children = 0, Counter[str]()
        for item in found:
            meta = item["metadata"]
            owner_uids = [owner["uid"] for owner in meta.get("ownerReferences", [])]
            children.update(owner_uids)
            orphaned = bool(owner_uids) and not any(uid in alive and uid not in waiting for uid in owner_uids)
            if orphaned and "deletionTimestamp" not in meta:
                self.api.delete(item["kind"], meta["namespace"], meta["name"], uid=meta["uid"])
                changes += 1
        for uid, owner in waiting.items():
            if not children[uid]:
                meta = owner["metadata"]
                left = [each for each in meta["finalizers"] if each != "foregroundDeletion"]
                with gone_is_fine():
                    body = {"metadata": {"finalizers": left or None}}
                    self.api.patch(owner["kind"], meta["namespace"], meta["name"], body)
                changes += 1
        return changes


def _in_foreground(item: Object) -> bool:
    meta = item["metadata"]
    return "deletionTimestamp" in meta and "foregroundDeletion" in meta.get("finalizers", [])


def gpus_of(pod: Object) -> int:
    return sum(
        int(container.get("resources", {}).get("requests", {}).get("nvidia.com/gpu", 0))
        for container in pod["spec"]["containers"]
    )


def age(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]


def use_quota(api: Api, namespace: str, name: str) -> None:
    """What the quota controller does once: copy a ResourceQuota's limits to its status, and count the pods.

    Back when the server's admission has seen it: until then it would let everything pass. For quotas of pods and of
    what pods ask for: cpu, memory, nvidia.com/gpu.
    """
    quota = api.get("ResourceQuota", namespace, name)
    hard = quota["spec"]["hard"]
    used = dict.fromkeys(hard, "0") | (quota.get("status", {}).get("used") or {})
    if "pods" in hard:
        used["pods"] = str(sum(not finished(pod) for pod in api.list("Pod", namespace)))
    full = any(used[resource] == hard[resource] for resource in hard)
    for now_used, refuses in ((hard, True), (used, False)):
        body = {"status": {"hard": hard, "used": now_used}}
        api.patch("ResourceQuota", namespace, name, body, subresource="status")
        end = time.monotonic() + QUOTA_SECONDS
        while _quota_refuses(api, namespace, name) is not refuses and (refuses or not full):
            assert time.monotonic() < end, f"admission has not seen the quota {name} after {QUOTA_SECONDS:.0f} s"
            time.sleep(0.02)


def _quota_refuses(api: Api, namespace: str, name: str) -> bool:
    """Whether a pod that asks for one of everything would be refused by this quota now."""
    each = {"cpu": "1", "memory": "1", "nvidia.com/gpu": "1"}
    container = {"name": "c", "image": "image", "resources": {"requests": each, "limits": each}}
    spec = {"containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "quota-probe"}, "spec": spec}
    try:
        api.create(pod, namespace, dryRun="All")
    except ApiError as error:
        return f"exceeded quota: {name}" in error.message
    return False


@dataclass
class Players:
    """All of them, in the order in which a cluster would get to it."""

    players: list[Player] = field(default_factory=list)

    def tick(self) -> int:
        return sum(player.tick() for player in self.players)

    def settle(self, ticks: int = 20) -> int:
        """Tick until nothing changes; the changes. What keeps changing after ``ticks`` is an error."""
        total = 0
        for _ in range(ticks):
            changes = self.tick()
            if not changes:
                return total
            total += changes
        raise AssertionError(f"the players still change something after {ticks} ticks")

    @contextlib.contextmanager
    def run_in_background(self, seconds_between: float = 0.5) -> Iterator[None]:
        """Tick in a thread; an error in it is raised at the end."""
        with in_background(self.tick, seconds_between):
            yield


@contextlib.contextmanager
def in_background(tick: Callable[[], object], seconds_between: float) -> Iterator[None]:
    stop, errors = threading.Event(), []

    def loop() -> None:
        while not stop.wait(seconds_between):
            try:
                tick()
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=loop, name="players", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Someone else deleted or changed the object since it was listed; the next tick sees that."""
    try:
        yield
    except ApiError as error:
        if error.code not in (404, 409):
            raise
