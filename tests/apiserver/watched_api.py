"""A client whose unrestricted lists come from memory, kept up to date by watches: for players that tick all the time.

Used by ``bench/`` (500 runs have 5,000 children, which must not be listed at every tick). A list sees this client's own
writes at once, so that a player never repeats what it did; the writes of others come with the watch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import httpx
from control_plane import ControlPlane
from kube_api import Api, ApiError, Object
from players import OWNED_KINDS

from rz_api import names

WATCH_SECONDS = 3600


class WatchedApi(Api):
    """``with WatchedApi(plane) as api:`` and give ``api`` to the players."""

    def __init__(self, plane: ControlPlane, kinds: tuple[str, ...] = (*OWNED_KINDS, names.KIND)) -> None:
        super().__init__(plane.url, plane.admin_token, str(plane.ca_file))
        self._mirrors = {kind: _Mirror(kind) for kind in kinds}
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(mirror,), name=f"watch {kind}", daemon=True)
            for kind, mirror in self._mirrors.items()
        ]

    def __enter__(self) -> WatchedApi:
        for thread in self._threads:
            thread.start()
        for mirror in self._mirrors.values():
            assert mirror.listed.wait(30), f"no list of {mirror.kind} after 30 s"
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.close()

    def list(
        self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None, **where: str
    ) -> list[Object]:
        mirror = self._mirrors.get(kind)
        if mirror is None or namespace or labels or where:
            return super().list(kind, namespace, labels, **where)
        return mirror.snapshot()

    def create(self, body: Object, namespace: str = "", **params: str) -> Object:
        return self._note(super().create(body, namespace, **params))

    def patch(self, kind: str, namespace: str, name: str, body: object, how: str = "merge", **where: str) -> Object:
        return self._note(super().patch(kind, namespace, name, body, how, **where))

    def _note(self, written: Object) -> Object:
        mirror = self._mirrors.get(written["kind"])
        if mirror is not None:
            mirror.put(written)
        return written

    def _follow(self, mirror: _Mirror) -> None:
        while not self._closing.is_set():
            try:
                found = self.list_response(mirror.kind)
                mirror.reset(found)
                for event in self.watch(mirror.kind, found["metadata"]["resourceVersion"], WATCH_SECONDS):
                    if event["type"] == "ERROR":
                        break
                    mirror.apply(event)
            except (httpx.HTTPError, ApiError, RuntimeError):
                # RuntimeError: the client was closed under the watch.
                if not self._closing.wait(0.2):
                    continue


class _Mirror:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.listed = threading.Event()
        self._lock = threading.Lock()
        self._items: dict[str, Object] = {}
        self._gone: set[str] = set()
        """UIDs of what was deleted: a late answer to our own write must not bring it back."""

    def snapshot(self) -> list[Object]:
        with self._lock:
            return list(self._items.values())

    def reset(self, found: Object) -> None:
        identity = {"apiVersion": found["apiVersion"], "kind": self.kind}
        with self._lock:
            self._items = {item["metadata"]["uid"]: identity | item for item in found["items"]}
        self.listed.set()

    def apply(self, event: Object) -> None:
        if event["type"] == "DELETED":
            with self._lock:
                self._gone.add(event["object"]["metadata"]["uid"])
                self._items.pop(event["object"]["metadata"]["uid"], None)
        elif event["type"] in ("ADDED", "MODIFIED"):
            self.put(event["object"])

    def put(self, item: Object) -> None:
        uid = item["metadata"]["uid"]
        with self._lock:
            old = self._items.get(uid)
            if uid not in self._gone and (old is None or _version(old) < _version(item)):
                self._items[uid] = item


def _version(item: Object) -> int:
    """Versions of one server can be compared: they are etcd's revisions."""
    return int(item["metadata"]["resourceVersion"])
