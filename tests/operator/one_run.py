"""One run, and an operator that looks at it when a test says so: for tests of what a look does, request by request.

``World`` is the operator's process around a ``Reconciler``, and what kubelets do (``start_pods``).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from kube_builders import IMAGES, NAME, NAMESPACE, SPEC, START, container, run_body
from recording_cluster import Body, RecordingCluster

from rz_api import names
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.cache import REDUCE, Cache
from rz_operator.controller.options import Options
from rz_operator.controller.reconcile import Reconciler
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.members import Event

KEY = RunKey(NAMESPACE, NAME)


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
        self.cluster = RecordingCluster(lambda: self.now)
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
        self._cache.replace_runs(self.cluster.of(names.KIND), version)
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
        return self.cluster.object(names.KIND, NAME)

    @property
    def pods(self) -> list[str]:
        """Names of the trainer and rollout pods, without the run's."""
        return [name.removeprefix(f"{NAME}-") for name in self.cluster.names("Pod")]

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        found = next(each for each in self.run["status"]["conditions"] if each["type"] == kind)
        return found["status"], found["reason"], found.get("message", "")
