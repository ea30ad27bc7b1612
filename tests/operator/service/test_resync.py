"""Full lists: what they put right, and what they leave alone where a namespace cannot be listed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster_in_memory import run_object
from kube_builders import SPEC, owned_by_run, service_body
from recording_cluster import RecordingCluster

from rz_operator.apiserver.cluster import ApiError, Page
from rz_operator.controller.cache import Cache
from rz_operator.controller.seen import RunKey
from rz_operator.service.main import resync

NAMESPACES = ("a", "b", "c")


class Refusing(RecordingCluster):
    """Lists nothing of these namespaces, or of these kinds in them."""

    def __init__(self) -> None:
        super().__init__()
        self.unlisted: dict[str, ApiError] = {}
        self.kinds: set[str] | None = None

    async def snapshot(self, kind: str, namespace: str = "", *args: Any, **options: Any) -> Page:
        if namespace in self.unlisted and (self.kinds is None or kind in self.kinds):
            raise self.unlisted[namespace]
        return await super().snapshot(kind, namespace, *args, **options)


class Scene:
    """A run with a Service in each of three namespaces, of which everything has been listed once."""

    def __init__(self) -> None:
        self.cluster, self.cache, self.looked_at = Refusing(), Cache(), list[RunKey]()
        self.uids: dict[str, str] = {}
        for namespace in NAMESPACES:
            run = self.cluster.add(run_object(SPEC, "orz", namespace))
            self.uids[namespace] = uid = run["metadata"]["uid"]
            service = service_body("orz-ledger", {}, uid, owned_by_run("orz", uid)) | {"kind": "Service"}
            service["metadata"] |= {"namespace": namespace, "uid": f"service-of-{namespace}"}
            service["apiVersion"] = "v1"
            self.cluster.add(service)
        self.resync()

    def add(self, key: RunKey) -> None:
        self.looked_at.append(key)

    def resync(self, *namespaces: str) -> None:
        self.looked_at.clear()
        asyncio.run(resync(self.cluster, self.cache, self, namespaces or NAMESPACES))  # type: ignore[arg-type]

    def delete_everything(self) -> None:
        for body in list(self.cluster.objects.values()):
            self.cluster.forget(body)
        self.cluster.add(run_object(SPEC, "new", "c"))

    @property
    def known(self) -> list[str]:
        """Namespaces of which the run or its Service is known."""
        runs = {key.namespace for key, _ in self.cache.runs() if key.name == "orz"}
        return sorted(runs | {each for each in NAMESPACES if self.cache.children(each, self.uids[each]).services})


GONE = {
    "403, since the RoleBinding went with it": ApiError(403, "Forbidden", "cannot list"),
    "404": ApiError(404, "NotFound", "no such namespace"),
}


@pytest.mark.parametrize("error", GONE.values(), ids=GONE)
@pytest.mark.parametrize("first", ["a", "b"])
def test_one_namespace_that_is_gone_keeps_no_other_from_being_listed(first: str, error: ApiError) -> None:
    scene = Scene()
    scene.cluster.unlisted = {first: error}
    scene.delete_everything()
    scene.resync()
    assert scene.known == [first], "nobody said that anything of it is gone"
    assert RunKey("c", "new") in scene.looked_at


def test_a_kind_that_may_not_be_listed_in_one_namespace_is_kept_there() -> None:
    scene = Scene()
    scene.cluster.unlisted, scene.cluster.kinds = {"b": GONE["404"]}, {"Service"}
    scene.delete_everything()
    scene.resync()
    assert scene.known == ["b"]


@pytest.mark.parametrize(
    ("served", "unlisted"),
    [(("a",), {"a": 403}), (("a", "b"), {"a": 404, "b": 403}), (NAMESPACES, {"b": 500})],
    ids=["the only one", "all of them", "another error"],
)
def test_where_nothing_is_served_or_the_server_fails_the_list_is_tried_again(
    served: tuple[str, ...], unlisted: dict[str, int]
) -> None:
    scene = Scene()
    scene.cluster.unlisted = {name: ApiError(status, "Reason", "no list") for name, status in unlisted.items()}
    with pytest.raises(ApiError, match="no list"):
        scene.resync(*served)
    assert scene.known == list(NAMESPACES)
