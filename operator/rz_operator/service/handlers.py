"""kopf only watches, and never writes: no finalizer, no annotation, no peering, no events of its own.

It tells the cache and the work queue of runs and their children; nothing else happens here. Only ``on.event``: kopf
would swallow an exception of more, and timers, daemons or ``on.delete`` would put finalizers and annotations onto the
objects. Children are watched by label, on the server's side.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_args

import kopf

from rz_api import names
from rz_operator.apiserver.cluster import LIST_CHUNK, RESOURCES
from rz_operator.controller.cache import Cache, WatchedKind
from rz_operator.controller.seen import RunKey
from rz_operator.service.settings import Settings

OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
"""Selects the children that are watched."""


def registry(
    cache: Cache, enqueue: Callable[[RunKey], None], credentials: Callable[[], Awaitable[dict[str, Any]]]
) -> kopf.OperatorRegistry:
    """Handlers that feed ``cache`` and call ``enqueue`` with the run that an event is about."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.TEMPORARY, backoff=5)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**await credentials())

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=handlers)
    async def see_run(event: Any, **_: Any) -> None:
        enqueue(cache.see_run(dict(event["object"]), deleted=event["type"] == "DELETED"))

    def watch(kind: WatchedKind) -> None:
        api_version, plural = RESOURCES[kind]
        group, _, version = api_version.rpartition("/")

        @kopf.on.event(group, version, plural, id=f"see_{plural}", registry=handlers)
        async def see_child(event: Any, **_: Any) -> None:
            key = cache.see_child(kind, event["object"], deleted=event["type"] == "DELETED")
            if key is not None:
                enqueue(key)

    for kind in get_args(WatchedKind):
        watch(kind)
    return handlers


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """kopf as a mere watcher, within the rights of one namespace where that is all there is."""
    found = kopf.OperatorSettings()
    found.peering.standalone = True
    found.posting.enabled = False
    found.scanning.disabled = True  # neither CRDs nor namespaces are watched, so no right to them is needed
    found.watching.chunk_size = LIST_CHUNK
    found.watching.server_timeout = 300
    found.networking.request_timeout = settings.request_seconds
    # kopf keeps a task for each object for this long after its last event (5 s by default).
    found.queueing.idle_timeout = 1.0
    found.persistence.diffbase_storage = _NoDiffs()
    found.persistence.progress_storage = _NoProgress()
    for kind in get_args(WatchedKind):
        api_version, plural = RESOURCES[kind]
        found.watching.label_selectors[api_version.rpartition("/")[0], plural] = OURS
    return found


class _NoDiffs(kopf.DiffBaseStorage):
    """Nobody asks for differences: without this, each event of each object is copied twice to look for some."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing."""


class _NoProgress(kopf.ProgressStorage):
    """``on.event`` handlers have no progress."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing."""

    def purge(self, **_: Any) -> None:
        """Nothing."""

    def touch(self, **_: Any) -> None:
        """Nothing."""

    def clear(self, *, essence: Any) -> Any:
        return essence
