"""An API server in memory, as the operator speaks to one, and what else a cluster does: deletions that take their time,
a scheduler, kubelets, the controllers of Deployments and of garbage. Nothing happens by itself: the caller says what.
"""

from __future__ import annotations

import copy
import datetime
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from kube_builders import container

from rz_api import names
from rz_operator.apiserver.cluster import RESOURCES, ApiError, Page

Body = dict[str, Any]
Name = tuple[str, str, str]
"""Kind, namespace and name."""


class Killed(BaseException):
    """The operator's process ends here; no ``except Exception`` saves it."""


class ClusterInMemory:
    """Everything in it is as the API server would show it. ``written`` gets what watches would show, in order:
    (kind, body, deleted)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.objects: dict[Name, Body] = {}
        self.written: list[tuple[str, Body, bool]] = []
        self.refuse: set[str] = set()
        """Kinds of which no create is admitted."""
        self.survive: int | None = None
        """Writes until the operator is killed."""
        self.num_writes = 0
        self._clock = clock
        self._version = 0

    # ------------------------------------------------------------------------------- what the operator may call

    async def get(self, kind: str, namespace: str, name: str, api_version: str | None = None) -> Body:
        found = self._find(kind, namespace, name)
        if found["apiVersion"] != (api_version or RESOURCES[kind][0]):
            raise ApiError(404, "NotFound", f"{kind} {name} not found in that group and version")
        return copy.deepcopy(found)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body:
        self._write()
        name = body["metadata"]["name"]
        if kind in self.refuse:
            raise ApiError(403, "Forbidden", f"exceeded quota: no {kind} is admitted")
        if (kind, namespace, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{kind} {name} exists already")
        made = copy.deepcopy({"kind": kind, **body})
        if "kueue.x-k8s.io/queue-name" in _labels(made):
            made["metadata"]["labels"]["kueue.x-k8s.io/managed"] = "true"  # Kueue's webhook
        return self.add(made)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self._write()
        found = self._find(kind, namespace, name)
        return self._store(
            {**found, **{key: value for key, value in body.items() if key not in ("metadata", "status")}}
        )

    async def replace_status(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self._write()
        found = self._find(kind, namespace, name)
        if body["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody wrote in between")
        return self._store({**found, "status": body["status"]})

    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self._write()
        found, version = self._find(kind, namespace, name), body.get("metadata", {}).get("resourceVersion")
        if version not in (None, found["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", "somebody wrote in between")
        return self._store(merged(found, body))

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str = "",
        grace_seconds: float | None = None,
        api_version: str | None = None,
    ) -> None:
        self._write()
        found = self.objects.get((kind, namespace, name))
        if found is not None and uid in ("", found["metadata"]["uid"]):
            self.remove(found, grace_seconds if kind == "Pod" else None)

    async def list(self, kind: str, namespace: str = "", label_selector: str = "", **_: Any) -> list[Body]:
        return (await self.snapshot(kind, namespace, label_selector)).items

    async def snapshot(self, kind: str, namespace: str = "", label_selector: str = "", **_: Any) -> Page:
        label, _, value = label_selector.partition("=")
        found = [
            copy.deepcopy(body)
            for (of, where, _), body in self.objects.items()
            if of == kind and namespace in ("", where) and (not label or _labels(body).get(label) == value)
        ]
        return Page(found, str(self._version))

    async def pages(
        self, kind: str, namespace: str = "", label_selector: str = "", api_version: str | None = None, **_: Any
    ) -> AsyncIterator[Page]:
        found = await self.snapshot(kind, namespace, label_selector)
        yield found._replace(items=[each for each in found.items if api_version in (None, each.get("apiVersion"))])

    async def events_of(self, *_: Any, **__: Any) -> list[Body]:
        """Nobody says anything about anything."""
        return []

    def _find(self, kind: str, namespace: str, name: str) -> Body:
        if (kind, namespace, name) not in self.objects:
            raise ApiError(404, "NotFound", f"{kind} {name} not found")
        return self.objects[kind, namespace, name]

    def _write(self) -> None:
        if self.survive is not None:
            self.survive -= 1
            if self.survive < 0:
                raise Killed
        self.num_writes += 1

    # ---------------------------------------------------------------------------------------- what others may do

    def add(self, body: Mapping[str, Any]) -> Body:
        """Create an object, whoever does; the API server fills in what it knows."""
        made = copy.deepcopy(dict(body))
        stamped = {"uid": f"uid-{self._version + 1}", "creationTimestamp": self._stamp(), "generation": 1}
        made["metadata"] = {**stamped, **made["metadata"]}
        if made["kind"] == "Pod":
            made.setdefault("status", {"phase": "Pending"})
        return self._store(made)

    def change(self, body: Body, **fields: Any) -> None:
        """Replace these fields of an object that may be gone by now."""
        if self.objects.get(_name(body), {}).get("metadata", {}).get("uid") == body["metadata"]["uid"]:
            self._store({**self.objects[_name(body)], **fields})

    def remove(self, body: Body, grace_seconds: float | None = None) -> None:
        """Delete an object: a pod that runs somewhere gets its time, everything else goes at once."""
        runs = body["kind"] == "Pod" and body["spec"].get("nodeName") and not ended(body)
        if not runs or grace_seconds == 0:
            self.forget(body)
            return
        grace = body["spec"].get("terminationGracePeriodSeconds", 30) if grace_seconds is None else grace_seconds
        until = self._stamp(grace)
        before = body["metadata"].get("deletionTimestamp")
        metadata = {**body["metadata"], "deletionTimestamp": min(until, before or until)}
        self.change(body, metadata=metadata)

    def forget(self, body: Body) -> None:
        """It is gone."""
        gone = self.objects.pop(_name(body), None)
        if gone is not None:
            self._version += 1
            last = copy.deepcopy(gone)
            last["metadata"]["resourceVersion"] = str(self._version)
            self.written.append((gone["kind"], last, True))

    def of(self, kind: str, namespace: str | None = None) -> list[Body]:
        return [body for (of, where, _), body in self.objects.items() if of == kind and namespace in (None, where)]

    def _store(self, body: Mapping[str, Any]) -> Body:
        self._version += 1
        stored = copy.deepcopy(dict(body))
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.objects[_name(stored)] = stored
        self.written.append((stored["kind"], copy.deepcopy(stored), False))
        return copy.deepcopy(stored)

    def _stamp(self, after: float = 0.0) -> str:
        at = datetime.datetime.fromtimestamp(self._clock() + after, datetime.UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")

    # ------------------------------------------------------------------------- scheduler, kubelets, controllers

    def bind(self, at_most: int | None = None) -> None:
        """Give nodes to pods that wait for one; to those of a group when all of it are there, or not at all."""
        pods = self.of("Pod")
        of_group = Counter(_group(pod)[0] for pod in pods)
        for pod in [pod for pod in pods if not pod["spec"].get("nodeName")][:at_most]:
            group, size = _group(pod)
            if group and size is None:
                found = self.objects.get(("PodGroup", pod["metadata"]["namespace"], group))
                size = found["spec"]["minMember"] if found is not None else math.inf
            if of_group[group] >= (size or 0):
                self.change(pod, spec={**pod["spec"], "nodeName": "node-1"})

    def run_pods(self) -> None:
        """The kubelets start what has a node, and can mount what it names."""
        for pod in self.of("Pod"):
            if pod["spec"].get("nodeName") and pod["status"].get("phase") == "Pending" and self._can_mount(pod):
                started = container("main")
                started["state"] = {"running": {"startedAt": self._stamp()}}
                self._say(pod, phase="Running", containerStatuses=[started], conditions=_conditions(Ready="True"))

    def _can_mount(self, pod: Body) -> bool:
        namespace = pod["metadata"]["namespace"]
        named = [("ConfigMap", namespace, each["configMap"]["name"]) for each in _volumes(pod, "configMap")]
        named += [("Secret", namespace, each["secret"]["secretName"]) for each in _volumes(pod, "secret")]
        return all(name in self.objects for name in named)

    def end_container(self, pod: Body, exit_code: int) -> None:
        """The main container ends: of a trainer the pod does too, everything else the kubelet starts again."""
        status = {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else "Error"}
        if pod["spec"]["restartPolicy"] == "Never":
            phase = "Succeeded" if exit_code == 0 else "Failed"
            ended_one = container("main", ended=status)
            self._say(pod, phase=phase, containerStatuses=[ended_one], conditions=[])
        else:
            restarts = pod["status"].get("containerStatuses", [{}])[0].get("restartCount", 0) + 1
            again = container("main", before=status, restarts=restarts)
            again["state"] = {"running": {"startedAt": self._stamp()}}
            self._say(pod, containerStatuses=[again])

    def fail(self, pod: Body, reason: str, message: str = "", ran: bool = True, **conditions: Any) -> None:
        """A kubelet ends a pod, or (``ran`` false) does not begin it."""
        ended_one = [container("main", ended={"exitCode": 137})] if ran else []
        given = _conditions(**conditions)
        fields = {"containerStatuses": ended_one, "conditions": given}
        self._say(pod, phase="Failed", reason=reason, message=message, **fields)

    def lose_node(self, pod: Body) -> None:
        """Its node does not answer: it is deleted, in vain, and nobody changes it any more."""
        lost = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        self._say(pod, conditions=[lost])
        self.remove(self.objects[_name(pod)], 30)

    def finish_deletions(self, but: set[str]) -> None:
        """The kubelets end what is deleted; not those of lost nodes (UIDs in ``but``)."""
        for pod in self.of("Pod"):
            if "deletionTimestamp" in pod["metadata"] and pod["metadata"]["uid"] not in but:
                self.forget(pod)

    def run_deployments(self) -> None:
        """Each Deployment has its pods, and says how many are ready; those of a deleted one go."""
        wanted: dict[str, Body] = {}
        for deployment in self.of("Deployment"):
            wanted |= {pod["metadata"]["name"]: pod for pod in _pods_of(deployment)}
            self.change(deployment, status={"readyReplicas": deployment["spec"]["replicas"]})
        for pod in self.of("Pod"):
            if "pod-template-hash" in _labels(pod) and pod["metadata"]["name"] not in wanted:
                self.forget(pod)
        for name, pod in wanted.items():
            if ("Pod", pod["metadata"]["namespace"], name) not in self.objects:
                self.add(pod)

    def _say(self, pod: Body, **status: Any) -> None:
        self.change(pod, status={**pod["status"], **status})


def _group(pod: Body) -> tuple[str, float | None]:
    """Name of the group that a pod is in, empty without one, and what it says of its size."""
    by_kueue, by_scheduler = "kueue.x-k8s.io/pod-group-name", "scheduling.x-k8s.io/pod-group"
    if by_kueue in _labels(pod):
        size = (pod["metadata"].get("annotations") or {}).get("kueue.x-k8s.io/pod-group-total-count", "0")
        return _labels(pod)[by_kueue], int(size)
    by_volcano = (pod["metadata"].get("annotations") or {}).get("scheduling.k8s.io/group-name", "")
    return _labels(pod).get(by_scheduler, by_volcano), None


def _volumes(pod: Body, kind: str) -> list[Body]:
    return [volume for volume in pod["spec"].get("volumes") or [] if kind in volume]


def ended(pod: Body) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _pods_of(deployment: Body) -> Iterator[Body]:
    template, metadata = deployment["spec"]["template"], deployment["metadata"]
    made = f"{metadata['name']}-abc"
    for index in range(deployment["spec"]["replicas"]):
        pod = copy.deepcopy(template)
        pod["metadata"] |= {"name": f"{made}-{index}", "namespace": metadata["namespace"]}
        pod["metadata"]["labels"] |= {"pod-template-hash": "abc"}
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": made, "uid": f"{metadata['uid']}-rs"}
        pod["metadata"]["ownerReferences"] = [owner | {"controller": True}]
        pod["spec"] |= {"nodeName": "node-1", "restartPolicy": "Always"}
        yield {"apiVersion": "v1", "kind": "Pod", **pod, "status": {"phase": "Pending"}}


def _conditions(**given: Any) -> list[Body]:
    return [
        {"type": kind, **(value if isinstance(value, dict) else {"status": value})} for kind, value in given.items()
    ]


def _labels(body: Body) -> Mapping[str, str]:
    found: Mapping[str, str] = body["metadata"].get("labels") or {}
    return found


def _name(body: Body) -> Name:
    return body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]


def merged(into: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(into) if isinstance(into, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def is_of(body: Body, run: Body) -> bool:
    """Whether a run controls an object."""
    return any(
        each.get("controller") and each["uid"] == run["metadata"]["uid"]
        for each in body["metadata"].get("ownerReferences") or []
    )


def run_object(spec: Body, name: str, namespace: str) -> Body:
    """To be added to a cluster."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec}
