"""A cluster in memory for the tests of ``rz``'s cluster commands: ``remote.ClusterApi`` over a dict of objects."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from rz_api import names
from rz_operator.apiserver.cluster import ApiError

Body = dict[str, Any]
T = TypeVar("T")
NAMESPACE, UID = "team", "u-1"
SPEC: Body = {
    "model": {"name": "Qwen/Qwen2.5-7B"},
    "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
    "storage": {"uri": "s3://runs/tiny"},
}


def now(work: Awaitable[T]) -> T:
    """Run what never really waits."""

    async def whole() -> T:
        return await work

    return asyncio.run(whole())


def run(name: str = "tiny", *, spec: Mapping[str, Any] | None = None, **status: Any) -> Body:
    """A run as the server has it; ``status`` in camelCase. Looked at by the operator unless it has no status."""
    body: Body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {**copy.deepcopy(SPEC), **(spec or {})},
    }
    if status:
        body["status"] = {"observedGeneration": 1, **status}
    return body


def pod(role: str, index: int, incarnation: int = 1, *, ready: bool = True, uid: str = UID, **status: Any) -> Body:
    conditions = [{"type": "Ready", "status": str(ready)}]
    deployed = role in ("ledger", "reward")
    name = f"tiny-{role}-abc-{index}" if deployed else f"tiny-{role}-i{incarnation}-{index}"
    labels = names.labels("tiny", role, 0 if deployed else index, incarnation, uid=uid)  # type: ignore[arg-type]
    run = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "tiny", "uid": uid}
    replica_set = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"tiny-{role}-abc", "uid": "r-1"}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "creationTimestamp": f"2026-01-01T00:00:{index:02}Z",
            "labels": {**labels, "pod-template-hash": "abc"} if deployed else labels,
            "ownerReferences": [{**(replica_set if deployed else run), "controller": True}],
        },
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


class FakeCluster:
    """Objects by (kind, namespace, name); what a test changes between two requests is in ``between``."""

    def __init__(self, *objects: Body) -> None:
        self.objects = {
            (each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]): each for each in objects
        }
        self.logs: dict[str, list[str] | ApiError] = {}
        self.writes: list[tuple[str, Body]] = []
        self.errors: dict[str, list[ApiError]] = {}
        """By verb and kind (``replace``, ``list Event``): what is raised, once each, before it works."""
        self.asked_logs: list[dict[str, Any]] = []

    def _maybe_fail(self, verb: str, kind: str) -> None:
        for key in (verb, f"{verb} {kind}"):
            if self.errors.get(key):
                raise self.errors[key].pop(0)

    async def get(self, kind: str, namespace: str, name: str) -> Body:
        self._maybe_fail("get", kind)
        if (kind, namespace, name) not in self.objects:
            raise not_found(name)
        return copy.deepcopy(self.objects[kind, namespace, name])

    async def list(self, kind: str, namespace: str = "", label_selector: str = "") -> list[Body]:
        self._maybe_fail("list", kind)
        wanted = dict(pair.split("=") for pair in label_selector.split(",") if pair)
        return [
            copy.deepcopy(body)
            for (its_kind, its_namespace, _), body in self.objects.items()
            if its_kind == kind and namespace in ("", its_namespace)
            if wanted.items() <= (body["metadata"].get("labels") or {}).items()
        ]

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body:
        self._maybe_fail("create", kind)
        name = body["metadata"]["name"]
        if (kind, namespace, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f'{names.PLURAL} "{name}" already exists')
        if not dry_run:
            self._write("create", kind, namespace, name, body)
        return dict(body)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self._maybe_fail("replace", kind)
        stored = self.objects[kind, namespace, name]["metadata"]["resourceVersion"]
        assert body["metadata"]["resourceVersion"] == stored, "a write without having read"
        return self._write("replace", kind, namespace, name, body)

    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self._maybe_fail("patch", kind)
        stored = self.objects[kind, namespace, name]
        spec = {**stored["spec"], **body["spec"]}
        metadata = {**stored["metadata"], "generation": stored["metadata"]["generation"] + 1}
        self.writes.append(("patch", dict(body)))
        self.objects[kind, namespace, name] = {**stored, "metadata": metadata, "spec": spec}
        return self.objects[kind, namespace, name]

    async def pod_log(
        self,
        namespace: str,
        name: str,
        container: str = "",
        follow: bool = False,
        tail_lines: int | None = None,
        previous: bool = False,
    ) -> AsyncIterator[str]:
        self.asked_logs.append({"name": name, "follow": follow, "tail": tail_lines, "previous": previous})
        assert container == names.MAIN_CONTAINER
        found = self.logs.get(name, [])
        if isinstance(found, ApiError):
            raise found
        for line in found if tail_lines is None else found[len(found) - tail_lines :]:
            yield line

    def _write(self, verb: str, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        self.writes.append((verb, copy.deepcopy(dict(body))))
        self.objects[kind, namespace, name] = copy.deepcopy(dict(body))
        return dict(body)

    def set_status(self, name: str = "tiny", **status: Any) -> None:
        """As the operator does: it has looked at the newest spec."""
        stored = self.objects[names.KIND, NAMESPACE, name]
        stored["status"] = {"observedGeneration": stored["metadata"]["generation"], **status}


def not_found(name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{names.PLURAL}.{names.GROUP} "{name}" not found')


class Steps:
    """A clock whose sleeps carry out the next step of a story instead of waiting."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.steps:
            self.steps.pop(0)()
