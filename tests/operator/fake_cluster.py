"""An API server in memory, and a world in which the reconciler looks at one run again and again.

``FakeCluster`` stores what is created and refuses what a test wants refused; it knows no admission and no controllers.
``World`` is the operator's process around a ``Reconciler``: cache, clock, and what kubelets would do (``start_pods``).
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kube_builders import IMAGES, NAME, NAMESPACE, SPEC, START, container, run_body, stamp

from rz_api import names
from rz_operator.apiserver.cluster import ApiError, Page
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.cache import REDUCE, Cache
from rz_operator.controller.options import Options
from rz_operator.controller.reconcile import Reconciler
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.members import Event

Body = dict[str, Any]
KEY = RunKey(NAMESPACE, NAME)


class FakeCluster:
    """What ``rz_operator.apiserver.cluster.Cluster`` is to the controller."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Body] = {}
        """By kind and name; there is one namespace."""
        self.refused: dict[str, str] = {}
        """Kinds whose creation is refused, and in which words."""
        self.events: dict[str, list[Body]] = {}
        """By the UID of the object that they are about."""
        self.asked: list[tuple[str, str, str]] = []
        """Verb, kind and name of every request."""
        self._numbers = itertools.count(100)

    def names_of(self, kind: str) -> list[str]:
        return sorted(name for found, name in self.objects if found == kind)

    async def get(self, kind: str, namespace: str, name: str) -> Body:
        self.asked.append(("get", kind, name))
        assert kind != "Secret", "the operator may not read Secrets"
        return copy.deepcopy(self._find(kind, name))

    async def snapshot(self, kind: str, namespace: str = "", label_selector: str = "") -> Page:
        items = [copy.deepcopy(body) for (found, _), body in self.objects.items() if found == kind]
        return Page(items, str(next(self._numbers)))

    async def pages(self, kind: str, namespace: str = "", label_selector: str = "", **_: Any) -> AsyncIterator[Page]:
        yield await self.snapshot(kind, namespace, label_selector)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body:
        name = body["metadata"]["name"]
        self.asked.append(("create", kind, name))
        if kind in self.refused:
            raise ApiError(403, "Forbidden", self.refused[kind])
        if (kind, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} already exists")
        created: Body = copy.deepcopy(dict(body))
        created["metadata"] |= {"uid": f"{kind}-{name}-{next(self._numbers)}", "creationTimestamp": stamp(0)}
        return self.put(kind, created)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self.asked.append(("replace", kind, name))
        self._find(kind, name)
        return self.put(kind, copy.deepcopy(dict(body)))

    async def replace_status(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        found = self._find(kind, name)
        return self.put(kind, {**found, "status": copy.deepcopy(body["status"])})

    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        return self.put(kind, _merged(self._find(kind, name), body))

    async def delete(self, kind: str, namespace: str, name: str, uid: str = "", **how: Any) -> None:
        self.asked.append(("delete", kind, name))
        self.objects.pop((kind, name), None)

    async def events_of(self, namespace: str, uid: str) -> list[Body]:
        self.asked.append(("list", "Event", uid))
        return self.events.get(uid, [])

    def put(self, kind: str, body: Body) -> Body:
        """Store an object, as its newest version."""
        body = {**body, "metadata": body["metadata"] | {"resourceVersion": str(next(self._numbers))}}
        self.objects[kind, body["metadata"]["name"]] = body
        return copy.deepcopy(body)

    def _find(self, kind: str, name: str) -> Body:
        if (kind, name) not in self.objects:
            raise ApiError(404, "NotFound", f"{name} not found")
        return self.objects[kind, name]


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


class _NoLedger:
    async def read(self, key: RunKey) -> dict[str, Any] | None:
        return None

    def silent_since(self, key: RunKey) -> float | None:
        return None

    def forget(self, key: RunKey) -> None: ...


class _Watcher:
    def tell(self, body: Any, event: Event) -> None: ...
    def refused(self, kind: str) -> None: ...


class World:
    """One run, and an operator that looks at it when a test says so."""

    def __init__(self, spec: Any = None) -> None:
        self.cluster = FakeCluster()
        self.now = START
        self.cluster.put(names.KIND, run_body(copy.deepcopy(SPEC) if spec is None else spec))
        self.restart()

    def restart(self, images: Mapping[Any, str] = IMAGES) -> None:
        """Another life of the operator, which knows what the API server has."""
        self._cache = Cache()
        cluster: Any = self.cluster
        self._reconciler = Reconciler(
            cluster, self._cache, Options(images), Capabilities(minor=30), _NoLedger(), _Watcher(), lambda: self.now
        )

    def look(self, times: int = 1) -> None:
        """Everything that the API server has is seen, then the run is looked at."""
        for _ in range(times):
            self._see()
            asyncio.run(self._reconciler.reconcile(KEY))

    def _see(self) -> None:
        version = str(next(self.cluster._numbers))
        self._cache.replace_runs([self.run], version)
        for kind in REDUCE:
            present = set()
            for (found, _), body in self.cluster.objects.items():
                if found == kind:
                    self._cache.see_child(kind, copy.deepcopy(body))
                    present.add(body["metadata"]["uid"])
            self._cache.keep_only(kind, present, version)

    # --------------------------------------------------------------------------------------------- what happens

    def edit(self, spec: Any) -> None:
        """Somebody replaces the run's spec."""
        self.cluster.put(names.KIND, {**self.run, "spec": spec})

    def start_pods(self) -> None:
        """Every pod gets a node and runs."""
        for (kind, _), body in list(self.cluster.objects.items()):
            if kind == "Pod" and "status" not in body:
                running = {"phase": "Running", "containerStatuses": [container("main", running=1)]}
                conditions = [{"type": "Ready", "status": "True"}]
                bound = {**body["spec"], "nodeName": "node-1"}
                self.cluster.put("Pod", {**body, "spec": bound, "status": {**running, "conditions": conditions}})
            if kind == "Deployment":
                self.cluster.put(kind, {**body, "status": {"readyReplicas": body["spec"]["replicas"]}})

    # --------------------------------------------------------------------------------------------- what is seen

    @property
    def run(self) -> Body:
        return self.cluster.objects[names.KIND, NAME]

    @property
    def pods(self) -> list[str]:
        """Names of the trainer and rollout pods, without the run's."""
        return [name.removeprefix(f"{NAME}-") for name in self.cluster.names_of("Pod")]

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        found = next(each for each in self.run["status"]["conditions"] if each["type"] == kind)
        return found["status"], found["reason"], found.get("message", "")
