"""kopf only watches, and never writes: no finalizer, no annotation, no peering, no events of its own.

It tells ``kopf_thread`` of runs and their children; nothing else happens here. Only ``on.event``: kopf would swallow an
exception of more, and timers, daemons or ``on.delete`` would put finalizers and annotations onto the objects. Children
are watched by label, on the server's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import kopf

from rz_api import names
from rz_operator.apiserver.cluster import LIST_CHUNK, RESOURCES
from rz_operator.controller.cache import WatchedKind
from rz_operator.service.login import Login
from rz_operator.service.pulse import Limits
from rz_operator.service.settings import Settings

OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
"""Selects the children that are watched."""

WATCHED: tuple[str, ...] = (names.KIND, *get_args(WatchedKind))
CONNECT_SECONDS = 10.0

Tell = Callable[[str, dict[str, Any], bool], None]
"""Told of each event: kind, object, whether it is deleted. In kopf's thread."""


def registry(tell: Tell, login: Login) -> kopf.OperatorRegistry:
    """Handlers that pass every event on to ``tell``."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.TEMPORARY, backoff=5)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return await login()

    def watch(kind: str) -> None:
        api_version, plural = RESOURCES[kind]
        group, _, version = api_version.rpartition("/")

        @kopf.on.event(group, version, plural, id=f"see_{plural}", registry=handlers)
        async def see(event: Any, **_: Any) -> None:
            tell(kind, dict(event["object"]), event["type"] == "DELETED")

    for kind in WATCHED:
        watch(kind)
    return handlers


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """kopf as a mere watcher, within the rights of one namespace where that is all there is."""
    found = kopf.OperatorSettings()
    limits = Limits(settings.watch_seconds)
    found.process.ultimate_exiting_timeout = None  # it would kill the process some time after kopf has ended
    found.peering.standalone = True
    found.posting.enabled = False
    found.scanning.disabled = True  # neither CRDs nor namespaces are watched, so no right to them is needed
    found.watching.chunk_size = LIST_CHUNK
    found.watching.server_timeout = limits.watch_seconds
    found.watching.client_timeout = limits.client_seconds
    # Later than the client's limit, which ends a read alone: this one cancels the watcher's task wherever it is, and
    # where that is not in a read, kopf goes on without this watch and without a word.
    found.watching.inactivity_timeout = limits.dead_seconds
    found.watching.connect_timeout = found.networking.connect_timeout = min(CONNECT_SECONDS, settings.request_seconds)
    found.networking.request_timeout = settings.request_seconds
    found.networking.error_backoffs = Endless(limits.retry_seconds)
    # kopf keeps a task for each object for this long after its last event (5 s by default).
    found.queueing.idle_timeout = 1.0
    found.persistence.diffbase_storage = _NoDiffs()
    found.persistence.progress_storage = _NoProgress()
    for kind in get_args(WatchedKind):
        api_version, plural = RESOURCES[kind]
        found.watching.label_selectors[api_version.rpartition("/")[0], plural] = OURS
    return found


class Endless:
    """Seconds between two tries of a request that gets no answer, a 403, 429 or 5xx: doubled up to ``most``, and never
    given up. kopf's own list ends after 54 s, and kopf with it; RBAC that is applied anew, or an API server behind a
    balancer, is away for longer."""

    def __init__(self, most: float) -> None:
        self.most = most

    def __iter__(self) -> Iterator[float]:
        seconds = self.most / 10
        while True:
            yield seconds
            seconds = min(2 * seconds, self.most)


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
