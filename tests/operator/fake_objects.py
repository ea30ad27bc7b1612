"""An API server in memory, as far as ``apply`` speaks to one: objects by kind and name of one namespace."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from rz_operator.apiserver.cluster import ApiError, Page

Body = dict[str, Any]


class FakeCluster:
    """``refuse`` says with what a create is answered; None: it is carried out."""

    def __init__(self, refuse: Callable[[Body], ApiError | None] = lambda body: None) -> None:
        self.objects: dict[tuple[str, str], Body] = {}
        self.requests: list[tuple[str, str, str]] = []
        """Verb, kind and name, in their order."""
        self.most_at_once = 0
        self.refuse = refuse
        self._under_way = 0
        self._numbers = itertools.count(1)

    async def _take(self, verb: str, kind: str, name: str) -> None:
        self.requests.append((verb, kind, name))
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        await asyncio.sleep(0)
        self._under_way -= 1

    def asked(self, verb: str, kind: str) -> list[str]:
        """Names, in order."""
        return [name for each, of, name in self.requests if (each, of) == (verb, kind)]

    def names(self, kind: str) -> list[str]:
        return sorted(name for of, name in self.objects if of == kind)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Body:
        name = body["metadata"]["name"]
        await self._take("create", kind, name)
        refusal = self.refuse(dict(body))
        if refusal is not None:
            raise refusal
        if (kind, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} exists already")
        return self.put(dict(body))

    def put(self, body: Body) -> Body:
        """As somebody else would write it."""
        stored = copy.deepcopy(body)
        number = str(next(self._numbers))
        stored["metadata"] = {"uid": f"uid-{number}"} | stored["metadata"] | {"resourceVersion": number}
        self.objects[body["kind"], body["metadata"]["name"]] = stored
        return copy.deepcopy(stored)

    async def get(self, kind: str, namespace: str, name: str, api_version: str | None = None) -> Body:
        await self._take("get", kind, name)
        return copy.deepcopy(self._find(kind, name))

    def _find(self, kind: str, name: str) -> Body:
        if (kind, name) not in self.objects:
            raise ApiError(404, "NotFound", f"{name} not found")
        return self.objects[kind, name]

    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        await self._take("patch", kind, name)
        found = self._find(kind, name)
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != found["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody wrote in between")
        return self.put(merged(found, body))

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str = "",
        grace_seconds: float | None = None,
        api_version: str | None = None,
    ) -> None:
        await self._take("delete", kind, name)
        if self.objects.get((kind, name), {}).get("metadata", {}).get("uid") == uid:
            del self.objects[kind, name]

    async def pages(
        self, kind: str, namespace: str = "", label_selector: str = "", api_version: str | None = None
    ) -> AsyncIterator[Page]:
        await self._take("list", kind, "")
        label, _, value = label_selector.partition("=")
        found = (body for (of, _), body in self.objects.items() if of == kind and body["apiVersion"] == api_version)
        yield Page([each for each in found if each["metadata"].get("labels", {}).get(label) == value], "1")


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
