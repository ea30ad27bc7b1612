"""A look never sees an object older than the operator's own last write of it.

The cache has what the watches have shown, reduced: all runs (whole) and their children (``seen``). ``handlers`` feeds
it with events, ``resync`` (in ``main``) with full lists, which repair what a broken watch missed; ``reconcile`` reads
it, and puts in what it has just written itself. It lives in the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

from rz_operator.apiserver.bodies import Body
from rz_operator.controller.observe import seen_deployment, seen_other, seen_pod, seen_service
from rz_operator.controller.seen import Children, RunKey, SeenDeployment, SeenOther, SeenPod, SeenService

Child = SeenPod | SeenDeployment | SeenService | SeenOther
Family = tuple[str, str]
"""Namespace, and UID of the run."""
WatchedKind = Literal["Pod", "Deployment", "Service", "NetworkPolicy"]

GONE_KEPT = 10_000
"""Deleted objects that are remembered, so that a late answer does not bring one back: it comes within seconds."""

REDUCE: Mapping[WatchedKind, Callable[[Body], Child | None]] = {
    "Pod": seen_pod,
    "Deployment": seen_deployment,
    "Service": seen_service,
    "NetworkPolicy": seen_other,
}
"""The kinds of children that are watched, and how each is reduced."""


class Cache:
    """Runs by key, children by namespace and UID of their run: a UID alone can be written into any namespace."""

    def __init__(self) -> None:
        self._runs: dict[RunKey, Body] = {}
        self._children: dict[WatchedKind, dict[Family, dict[str, Child]]] = {kind: {} for kind in REDUCE}
        self._known: dict[str, Child] = {}
        """Every child by its own UID, to notice one that changes hands."""
        self._gone: dict[str, str] = {}
        """UID -> version at its deletion, newest last."""

    # ---------------------------------------------------------------------------------------------------- reading

    def run(self, key: RunKey) -> Body | None:
        return self._runs.get(key)

    def runs(self) -> Iterator[tuple[RunKey, Body]]:
        yield from self._runs.items()

    def children(self, namespace: str, uid: str) -> Children:
        def of(kind: WatchedKind) -> Any:
            return tuple(self._children[kind].get((namespace, uid), {}).values())

        return Children(of("Pod"), of("Deployment"), of("Service"), of("NetworkPolicy"))

    # ---------------------------------------------------------------------------------------------------- changing

    def see_run(self, body: Body, deleted: bool = False) -> RunKey:
        """One event about a run, or the answer to a write of ours."""
        metadata = body.get("metadata") or {}
        key = RunKey(metadata.get("namespace", ""), metadata.get("name", ""))
        old = self._runs.get(key)
        if deleted:
            self._bury(_uid(body), _version(body))
            if old is not None and _uid(old) == _uid(body):
                del self._runs[key]
        elif self._is_gone(_uid(body), _version(body)):
            pass
        elif old is None or _uid(old) != _uid(body) or not is_older(_version(body), _version(old)):
            self._runs[key] = body
        return key

    def see_child(self, kind: WatchedKind, body: Body, deleted: bool = False) -> RunKey | None:
        """One event about a child, or the answer to a create of ours; None if it is nobody's, and was nobody's."""
        child, known = REDUCE[kind](body), self._known.get(_uid(body))
        if known is not None and not deleted and is_older(_version(body), known.resource_version):
            return known.key  # overtaken: it says nothing about today, not even whose it is
        if known is not None and (child is None or _place(child) != _place(known)):
            self._drop(kind, known)  # its labels or its owner were changed: it is no longer whose child it was
        if child is None:
            return known.key if known is not None else None
        old = self._children[kind].get(_family(child), {}).get(child.name)
        if deleted:
            self._bury(uid_of(child), child.resource_version)
            if old is not None and uid_of(old) == uid_of(child):
                self._drop(kind, old)
        elif not self._is_gone(uid_of(child), child.resource_version) and (
            old is None or not is_older(child.resource_version, old.resource_version)
        ):
            if old is not None:
                self._drop(kind, old)
            self._children[kind].setdefault(_family(child), {})[child.name] = child
            self._known[uid_of(child)] = child
        return child.key

    def _drop(self, kind: WatchedKind, child: Child) -> None:
        siblings = self._children[kind].get(_family(child), {})
        if siblings.get(child.name) == child:
            del siblings[child.name]
            if not siblings:
                del self._children[kind][_family(child)]
        self._known.pop(uid_of(child), None)

    def _bury(self, uid: str, version: str) -> None:
        self._gone[uid] = version
        if len(self._gone) > GONE_KEPT:
            del self._gone[next(iter(self._gone))]

    def _is_gone(self, uid: str, version: str) -> bool:
        """Whether this is the answer to a write (or a list) from before the deletion, overtaken by the watch. What is
        newer is there all the same: a watch by label calls it deleted when the label goes, too."""
        return uid in self._gone and is_older(version, self._gone[uid])

    def forget_child(self, kind: WatchedKind, family: Family, name: str, uid: str) -> None:
        """A child that the API server says is gone."""
        child = self._children[kind].get(family, {}).get(name)
        if child is not None and uid_of(child) == uid:
            self._drop(kind, child)

    def replace_runs(self, bodies: Iterable[Body], version: str, unlisted: Collection[str] = ()) -> set[RunKey]:
        """A full list of the runs, as of ``version``; returns the keys of those that are gone. Nothing is known of the
        ``unlisted`` namespaces."""
        listed = {self.see_run(body) for body in bodies}
        # One that is younger than the list was created while it was read.
        gone = {
            key
            for key, body in self._runs.items()
            if key not in listed and key.namespace not in unlisted and is_older(_version(body), version)
        }
        for key in gone:
            del self._runs[key]
        return gone

    def keep_only(
        self, kind: WatchedKind, present: set[str], version: str, unlisted: Collection[str] = ()
    ) -> set[RunKey]:
        """Drop the children that a full list as of ``version`` did not have: ``present`` holds the UIDs of those that
        it had, and nothing is known of the ``unlisted`` namespaces. Returns the runs that lost one."""
        touched = set()
        for (namespace, _), siblings in list(self._children[kind].items()):
            if namespace in unlisted:
                continue
            for child in list(siblings.values()):
                if uid_of(child) not in present and is_older(child.resource_version, version):
                    self._drop(kind, child)
                    touched.add(child.key)
        return touched


def _family(child: Child) -> Family:
    return child.key.namespace, child.run_uid


def _place(child: Child) -> tuple[Family, str]:
    return _family(child), child.name


def is_older(version: str, than: str) -> bool:
    """Whether a resourceVersion is certainly older. They are to be compared for equality only, says the API's
    convention (until 1.35), so what is no number is never called older: then the newest arrival counts."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def uid_of(child: Child) -> str:
    return child.member.uid if isinstance(child, SeenPod) else child.uid


def _uid(body: Body) -> str:
    return str((body.get("metadata") or {}).get("uid", ""))


def _version(body: Body) -> str:
    return str((body.get("metadata") or {}).get("resourceVersion", ""))
