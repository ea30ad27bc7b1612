"""A scheduler and a kubelet for pods that never run: it binds them to nodes and writes what a kubelet would report.

Used by the ``kubelet`` fixture of ``conftest.py`` and by ``bench/``. ``tick()`` does what happens by itself (bind,
start, finish a deletion); everything else is a test's call: ``kubelet.fail(namespace, name, exit_code=1)``.

The scheduler knows GPUs and no gangs: it takes pods one by one, oldest first or in an order of the test's choice.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kube_api import Api, ApiError, Object
from players import age, finished, gone_is_fine, gpus_of, now, phase_of

POD_IP = "127.0.0.1"
DEFAULT_NODES = {"node-1": 1_000_000}
KILLED = 137
LONG_AGO = "2025-01-01T00:00:00Z"


class Kubelet:
    """``nodes``: name to GPUs. ``holds``: pods that must not be scheduled (``KueueDouble.holds``)."""

    def __init__(
        self,
        api: Api,
        nodes: Mapping[str, int] | None = None,
        holds: Callable[[Object], bool] = lambda pod: False,
        order: Callable[[Object], Any] = age,
    ) -> None:
        self.api, self.holds, self.order = api, holds, order
        self.nodes = dict(nodes or DEFAULT_NODES)
        self.lost: set[str] = set()
        """Nodes that nobody hears from: their pods are neither started nor finished."""
        self.stuck: set[str] = set()
        """UIDs of pods whose deletion never ends."""
        self.mounts = False
        """Whether a pod waits for its ConfigMaps and Secrets, as in a cluster; those of users are not there in most
        tests."""
        self.not_pulled: set[str] = set()
        """Images that can't be pulled: their pods wait in ImagePullBackOff."""

    # ---------------------------------------------------------------------------------------- by itself

    def tick(self) -> int:
        pods = self.api.list("Pod")
        changes = self._finish_deletions(pods)
        gone = {pod["metadata"]["uid"] for pod in pods if _ended_deletion(pod)}
        changes += self._schedule([pod for pod in pods if pod["metadata"]["uid"] not in gone])
        return changes + self._start(pods)

    def _finish_deletions(self, pods: Iterable[Object]) -> int:
        changes = 0
        for pod in pods:
            meta = pod["metadata"]
            if "deletionTimestamp" not in meta or meta["uid"] in self.stuck or _node(pod) in self.lost:
                continue
            if meta.get("finalizers"):
                if not finished(pod):
                    self._status(pod, _ended(pod, KILLED, "Error", "", 9))
                    changes += 1
                continue
            self.api.delete("Pod", meta["namespace"], meta["name"], uid=meta["uid"], grace=0)
            # So that this tick neither counts its GPUs nor starts it.
            pod["status"] = {"phase": "Failed"}
            pod["metadata"]["gone"] = True
            changes += 1
        return changes

    def _schedule(self, pods: list[Object]) -> int:
        used = Counter[str]()
        for pod in pods:
            if _node(pod) and not finished(pod):
                used[_node(pod)] += gpus_of(pod)
        changes = 0
        waiting = [pod for pod in pods if not _node(pod) and not finished(pod)]
        for pod in sorted(waiting, key=self.order):
            if "deletionTimestamp" in pod["metadata"] or pod["spec"].get("schedulingGates") or self.holds(pod):
                continue
            need = gpus_of(pod)
            fits = [name for name in self.nodes if name not in self.lost and used[name] + need <= self.nodes[name]]
            if fits:
                used[fits[0]] += need
                changes += self._bind(pod, fits[0])
            else:
                changes += self._unschedulable(pod, need)
        return changes

    def _bind(self, pod: Object, node: str) -> int:
        meta = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
        with gone_is_fine():
            self.api.request("POST", path, binding)
            pod["spec"]["nodeName"] = node
        return 1

    def _unschedulable(self, pod: Object, need: int) -> int:
        message = (
            f"0/{len(self.nodes)} nodes are available: {len(self.nodes)} Insufficient nvidia.com/gpu ({need} asked)."
        )
        old = {item["type"]: item for item in pod.get("status", {}).get("conditions") or []}.get("PodScheduled", {})
        if old.get("message") == message:
            return 0
        condition = _condition("PodScheduled", False, "Unschedulable", message)
        self._status(pod, {"conditions": [condition]})
        return 1

    def _start(self, pods: Iterable[Object]) -> int:
        changes = 0
        for pod in pods:
            node = _node(pod)
            if not node or node in self.lost or "deletionTimestamp" in pod["metadata"] or phase_of(pod) != "Pending":
                continue
            unpulled = [c["image"] for c in pod["spec"]["containers"] if c["image"] in self.not_pulled]
            if unpulled:
                statuses = pod.get("status", {}).get("containerStatuses") or []
                if not statuses:
                    self._status(pod, _unpulled(pod, self.not_pulled))
                    changes += 1
                continue
            missing = self._missing_source(pod) if self.mounts else ""
            if missing:
                changes += self._hold_up(pod, missing)
                continue
            self._status(pod, _running(pod, ready=True))
            changes += 1
        return changes

    def _missing_source(self, pod: Object) -> str:
        """What a volume's mount fails with; empty where all of them succeed."""
        for volume in pod["spec"].get("volumes") or []:
            sources = {
                "ConfigMap": volume.get("configMap", {}).get("name"),
                "Secret": volume.get("secret", {}).get("secretName"),
            }
            for kind, name in sources.items():
                if name and self.api.find(kind, pod["metadata"]["namespace"], name) is None:
                    failed = f'MountVolume.SetUp failed for volume "{volume["name"]}"'
                    return f'{failed} : {kind.lower()} "{name}" not found'
        return ""

    def _hold_up(self, pod: Object, why: str) -> int:
        """No container is created, since an hour ago; an event says why."""
        if pod.get("status", {}).get("containerStatuses"):
            return 0
        meta = pod["metadata"]
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        containers = [_container(each, state=waiting, ready=False, started=False) for each in pod["spec"]["containers"]]
        scheduled = _condition("PodScheduled", True) | {"lastTransitionTime": LONG_AGO}
        self._status(pod, {"phase": "Pending", "conditions": [scheduled], "containerStatuses": containers})
        about = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        event = {"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "FailedMount", "message": why}
        named = {"metadata": {"generateName": "held-up-"}, "involvedObject": about, "lastTimestamp": now()}
        self.api.create(event | named, meta["namespace"])
        return 1

    # ---------------------------------------------------------------------------------------- what a test does

    def fail(
        self,
        namespace: str,
        name: str,
        *,
        exit_code: int = 1,
        reason: str = "Error",
        message: str = "",
        signal: int = 0,
    ) -> None:
        """The (only or first) container ends for good: phase Failed. ``message`` is the termination message."""
        pod = self.api.get("Pod", namespace, name)
        self._status(pod, _ended(pod, exit_code, reason, message, signal))

    def out_of_memory(self, namespace: str, name: str) -> None:
        self.fail(namespace, name, exit_code=KILLED, reason="OOMKilled")

    def succeed(self, namespace: str, name: str, message: str = "") -> None:
        self.fail(namespace, name, exit_code=0, reason="Completed", message=message)

    def evict(self, namespace: str, name: str, message: str = "The node was low on resource: memory.") -> None:
        """The kubelet's own eviction: phase Failed, reason Evicted, and no container has a state."""
        pod = self.api.get("Pod", namespace, name)
        self._status(pod, {"phase": "Failed", "reason": "Evicted", "message": message, "containerStatuses": None})

    def preempt(self, namespace: str, name: str) -> None:
        """The scheduler makes room for a pod of higher priority: a condition, then deletion."""
        pod = self.api.get("Pod", namespace, name)
        message = "default-scheduler: preempting to accommodate a pod"
        self._status(pod, {"conditions": [_condition("DisruptionTarget", True, "PreemptionByScheduler", message)]})
        self.api.delete("Pod", namespace, name, uid=pod["metadata"]["uid"])

    def vanish(self, namespace: str, name: str) -> None:
        """Somebody deletes the pod by force: it is gone at once, with no trace of why."""
        uid = self.api.get("Pod", namespace, name)["metadata"]["uid"]
        self.api.delete("Pod", namespace, name, uid=uid, grace=0)

    def stick(self, namespace: str, name: str) -> None:
        """From now on the pod's deletion never ends."""
        self.stuck.add(self.api.get("Pod", namespace, name)["metadata"]["uid"])

    def lose_node(self, node: str) -> None:
        """The node is silent: its pods get NodeLost and not ready, are deleted, and never go away."""
        self.lost.add(node)
        for pod in self.api.list("Pod"):
            if _node(pod) == node and not finished(pod):
                meta = pod["metadata"]
                lost = _condition("Ready", False, "NodeLost", "Node is not responding")
                target = _condition("DisruptionTarget", True, "DeletionByTaintManager", "Taint manager: deleting")
                message = f"Node {node} which was running pod {meta['name']} is unresponsive"
                self._status(pod, {"reason": "NodeLost", "message": message, "conditions": [lost, target]})
                self.api.delete("Pod", meta["namespace"], meta["name"], uid=meta["uid"])

    def restart_container(
        self,
        namespace: str,
        name: str,
        *,
        exit_code: int = 1,
        reason: str = "Error",
        message: str = "",
        up: bool = True,
    ) -> None:
        """The container ends and is started again in place; with ``up=False`` it waits in CrashLoopBackOff."""
        pod = self.api.get("Pod", namespace, name)
        body = _running(pod, ready=up)
        old = _statuses(pod)
        for status in body["containerStatuses"]:
            previous = old.get(status["name"], {})
            status["restartCount"] = previous.get("restartCount", 0) + 1
            status["lastState"] = {"terminated": _terminated(exit_code, reason, message, 0)}
            if not up:
                status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}}
        self._status(pod, body)

    def _status(self, pod: Object, status: Object) -> None:
        meta = pod["metadata"]
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        with gone_is_fine():
            self.api.patch("Pod", meta["namespace"], meta["name"], body, "strategic", subresource="status")


# -------------------------------------------------------------------------------------------------- pod statuses


def _node(pod: Object) -> str:
    node: str = pod["spec"].get("nodeName", "")
    return node


def _ended_deletion(pod: Object) -> bool:
    return bool(pod["metadata"].get("gone"))


def _statuses(pod: Object) -> dict[str, Object]:
    return {item["name"]: item for item in pod.get("status", {}).get("containerStatuses") or []}


def _condition(kind: str, status: bool, reason: str = "", message: str = "") -> Object:
    return {
        "type": kind,
        "status": "True" if status else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now(),
    }


_container_ids = itertools.count(1)


def _container(container: Object, **state: Any) -> Object:
    base = {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"{container['image']}@sha256:{'0' * 64}",
        "containerID": f"containerd://{next(_container_ids):064x}",
        "restartCount": 0,
        "lastState": {},
    }
    return base | state


def _running(pod: Object, *, ready: bool) -> Object:
    running = {"running": {"startedAt": now()}}
    return {
        "phase": "Running",
        "podIP": POD_IP,
        "podIPs": [{"ip": POD_IP}],
        "hostIP": POD_IP,
        "startTime": now(),
        "conditions": [
            _condition("PodScheduled", True),
            _condition("Initialized", True),
            _condition("ContainersReady", ready),
            _condition("Ready", ready),
        ],
        "containerStatuses": [
            _container(each, state=running, ready=ready, started=True) for each in pod["spec"]["containers"]
        ],
    }


def _ended(pod: Object, exit_code: int, reason: str, message: str, signal: int) -> Object:
    """The first container ended so; those beside it were killed for it."""
    old = _statuses(pod)
    statuses = []
    for number, container in enumerate(pod["spec"]["containers"]):
        if number == 0:
            terminated = _terminated(exit_code, reason, message, signal)
        else:
            terminated = _terminated(0, "Completed", "", 0) if exit_code == 0 else _terminated(KILLED, "Error", "", 9)
        kept = {key: old.get(container["name"], {}).get(key) for key in ("restartCount", "lastState")}
        kept = {key: value for key, value in kept.items() if value is not None}
        statuses.append(_container(container, state={"terminated": terminated}, ready=False, started=False) | kept)
    return {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "conditions": [_condition("Ready", False, "PodFailed"), _condition("ContainersReady", False, "PodFailed")],
        "containerStatuses": statuses,
    }


def _terminated(exit_code: int, reason: str, message: str, signal: int) -> Object:
    found: Object = {"exitCode": exit_code, "reason": reason, "startedAt": now(), "finishedAt": now()}
    if message:
        found["message"] = message
    if signal:
        found["signal"] = signal
    return found


def _unpulled(pod: Object, images: Iterable[str]) -> Object:
    statuses = []
    for container in pod["spec"]["containers"]:
        bad = container["image"] in images
        message = f'Back-off pulling image "{container["image"]}"'
        waiting = {"reason": "ImagePullBackOff", "message": message} if bad else {"reason": "ContainerCreating"}
        statuses.append(_container(container, state={"waiting": waiting}, ready=False, started=False))
    return {"phase": "Pending", "startTime": now(), "containerStatuses": statuses}


__all__ = ["DEFAULT_NODES", "POD_IP", "ApiError", "Kubelet"]
