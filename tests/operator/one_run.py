"""One run, and an operator that looks at it when a test says so: for tests of what a look does, request by request.

``AskedCluster`` is the cluster in memory with a record of what it was asked; ``World`` is the operator's process around
a ``Reconciler``, and what kubelets do (``start_pods``).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from cluster_in_memory import Body, ClusterInMemory
from kube_builders import IMAGES, NAME, NAMESPACE, SPEC, START, container, run_body

from rz_api import names
from rz_operator.apiserver.cluster import ApiError
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.cache import REDUCE, Cache
from rz_operator.controller.options import Options
from rz_operator.controller.reconcile import Reconciler
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.members import Event

KEY = RunKey(NAMESPACE, NAME)


class AskedCluster(ClusterInMemory):
    """Refuses in words that a test chooses, has events, and lets nobody read a Secret."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.words: dict[str, str] = {}
        """Kinds whose creation is refused, and in which words."""
        self.events: dict[str, list[Body]] = {}
        """By the UID of the object that they are about."""
        self.asked: list[tuple[str, str, str]] = []
        """Verb, kind and name of every request, but for statuses."""

    async def get(self, kind: str, namespace: str, name: str, api_version: str | None = None) -> Body:
        self.asked.append(("get", kind, name))
        assert kind != "Secret", "the operator may not read Secrets"
        return await super().get(kind, namespace, name, api_version)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body:
        self.asked.append(("create", kind, body["metadata"]["name"]))
        if kind in self.words:
            raise ApiError(403, "Forbidden", self.words[kind])
        return await super().create(kind, namespace, body, dry_run)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self.asked.append(("replace", kind, name))
        return await super().replace(kind, namespace, name, body)

    async def events_of(self, namespace: str, uid: str, *_: Any, **__: Any) -> list[Body]:
        self.asked.append(("list", "Event", uid))
        return self.events.get(uid, [])

    def one(self, kind: str, name: str) -> Body | None:
        """An object of the run's namespace, if it is there."""
        return self.objects.get((kind, NAMESPACE, name))

    def names_of(self, kind: str) -> list[str]:
        return sorted(name for found, _, name in self.objects if found == kind)


class _NoLedger:
    async def read(self, key: RunKey) -> Body | None:
        return None

    def silent_since(self, key: RunKey) -> float | None:
        return None

    def forget(self, key: RunKey) -> None: ...


class _Nobody:
    def tell(self, body: Any, event: Event) -> None: ...
    def refused(self, kind: str) -> None: ...


class World:
    """``spec``: of the run, ``SPEC`` where none is given."""

    def __init__(self, spec: Any = None) -> None:
        self.now = START
        self.cluster = AskedCluster(lambda: self.now)
        self.cluster.add(run_body(copy.deepcopy(SPEC) if spec is None else spec))
        self.restart()

    def restart(self, images: Mapping[Any, str] = IMAGES) -> None:
        """Another life of the operator, which knows what the API server has."""
        self._cache = Cache()
        cluster: Any = self.cluster
        self.reconciler = Reconciler(
            cluster, self._cache, Options(images), Capabilities(minor=30), _NoLedger(), _Nobody(), lambda: self.now
        )

    def look(self, times: int = 1) -> None:
        """Everything that the API server has is seen, then the run is looked at; what is told to go is gone."""
        for _ in range(times):
            self.cluster.finish_deletions(set())
            self._see()
            asyncio.run(self.reconciler.reconcile(KEY))
        self.cluster.finish_deletions(set())

    def _see(self) -> None:
        version = str(self.cluster._version)
        self._cache.replace_runs([self.run], version)
        for kind in REDUCE:
            found = [copy.deepcopy(body) for body in self.cluster.of(kind)]
            for body in found:
                self._cache.see_child(kind, body)
            # Of now: what was there before and is not in the list has gone.
            self._cache.keep_only(kind, {body["metadata"]["uid"] for body in found}, str(int(version) + 1))

    # --------------------------------------------------------------------------------------------- what happens

    def edit(self, spec: Any) -> None:
        """Somebody replaces the run's spec."""
        self.cluster.change(self.run, spec=spec)

    def start_pods(self) -> None:
        """Every pod gets a node and runs."""
        for body in self.cluster.of("Pod"):
            if not body["spec"].get("nodeName"):
                conditions = [{"type": "Ready", "status": "True"}]
                status = {"phase": "Running", "containerStatuses": [container("main", running=1)]}
                spec = {**body["spec"], "nodeName": "node-1"}
                self.cluster.change(body, spec=spec, status={**status, "conditions": conditions})
        for body in self.cluster.of("Deployment"):
            self.cluster.change(body, status={"readyReplicas": body["spec"]["replicas"]})

    # --------------------------------------------------------------------------------------------- what is seen

    @property
    def run(self) -> Body:
        found = self.cluster.one(names.KIND, NAME)
        assert found is not None
        return found

    @property
    def pods(self) -> list[str]:
        """Names of the trainer and rollout pods, without the run's."""
        return [name.removeprefix(f"{NAME}-") for name in self.cluster.names_of("Pod")]

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        found = next(each for each in self.run["status"]["conditions"] if each["type"] == kind)
        return found["status"], found["reason"], found.get("message", "")
