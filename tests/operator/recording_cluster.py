"""A cluster in memory that notes what it is asked: how often, in which order, how much at a time. It refuses what a
test wants refused, has events, and lets nobody read a Secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from cluster_in_memory import ClusterInMemory
from kube_builders import NAMESPACE, START

from rz_operator.apiserver.cluster import ApiError, Page

Body = dict[str, Any]


class RecordingCluster(ClusterInMemory):
    """``answer`` says with what a create is refused; None: it is carried out."""

    def __init__(self, clock: Callable[[], float] = lambda: START) -> None:
        super().__init__(clock)
        self.requests: list[tuple[str, str, str]] = []
        """Verb, kind and name of every request but the writes of a status, in their order."""
        self.events: dict[str, list[Body]] = {}
        """By the UID of the object that they are about."""
        self.most_at_once = 0
        self.answer: Callable[[Body], ApiError | None] = lambda body: None
        self._under_way = 0

    def refuse_with(self, refusal: ApiError, *kinds: str, after: int = 0) -> None:
        """These kinds are refused, once there are ``after`` of them."""

        def refuse(body: Body) -> ApiError | None:
            return refusal if body["kind"] in kinds and len(self.names(body["kind"])) >= after else None

        self.answer = refuse

    def admit_all(self) -> None:
        self.answer = lambda body: None

    async def _note(self, verb: str, kind: str, name: str) -> None:
        self.requests.append((verb, kind, name))
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        await asyncio.sleep(0)
        self._under_way -= 1

    def asked(self, verb: str, kind: str) -> list[str]:
        """Names, in order."""
        return [name for each, of, name in self.requests if (each, of) == (verb, kind)]

    def names(self, kind: str) -> list[str]:
        return sorted(body["metadata"]["name"] for body in self.of(kind))

    def object(self, kind: str, name: str) -> Body:
        return self.objects[kind, NAMESPACE, name]

    def overwrite(self, body: Body) -> Body:
        """As somebody else would."""
        return self._store(body)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body:
        await self._note("create", kind, body["metadata"]["name"])
        refusal = self.answer(dict(body))
        if refusal is not None:
            raise refusal
        return await super().create(kind, namespace, body, dry_run)

    async def get(self, kind: str, namespace: str, name: str, api_version: str | None = None) -> Body:
        await self._note("get", kind, name)
        assert kind != "Secret", "the operator may not read Secrets"
        return await super().get(kind, namespace, name, api_version)

    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        await self._note("patch", kind, name)
        return await super().patch(kind, namespace, name, body)

    async def delete(self, kind: str, namespace: str, name: str, *args: Any, **options: Any) -> None:
        await self._note("delete", kind, name)
        await super().delete(kind, namespace, name, *args, **options)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        await self._note("replace", kind, name)
        return await super().replace(kind, namespace, name, body)

    async def snapshot(self, kind: str, *args: Any, **options: Any) -> Page:
        await self._note("list", kind, "")
        return await super().snapshot(kind, *args, **options)

    async def events_of(self, namespace: str, uid: str, *_: Any, **__: Any) -> list[Body]:
        await self._note("list", "Event", uid)
        return self.events.get(uid, [])
