"""A folder of storage has one run: the one that was accepted, else the oldest that asks for it. Pure.

``reconcile`` collects the claims of all other runs, ``accept`` asks ``owner`` when a run is new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rz_api.run import ResolvedRun


@dataclass(frozen=True)
class StorageClaim:
    """Another run that the operator knows, and its folder."""

    run: str
    """``namespace/name``."""
    uid: str
    created: float
    """Unix seconds."""
    uri: str
    """As its spec says it."""
    final: bool
    """It succeeded or failed, and writes nothing more."""
    holds: bool = False
    """It was accepted: then the folder is its, whoever is older."""


def owner(run: ResolvedRun, created: float, others: Iterable[StorageClaim]) -> StorageClaim | None:
    """Who has the folder of ``run`` already, created at ``created`` (Unix seconds); None where it is free."""
    folder = _folder(run.spec.storage.uri, run.namespace)
    rivals = [
        other
        for other in others
        if other.uid != run.uid and not other.final and _folder(other.uri, other.run.partition("/")[0]) == folder
        # creationTimestamp has whole seconds: within one the UID decides, for both runs alike.
        if other.holds or (other.created, other.uid) < (created, run.uid)
    ]
    return min(rivals, key=lambda other: (not other.holds, other.created, other.uid), default=None)


def _folder(uri: str, namespace: str) -> tuple[str, str]:
    """What a storage URI names. A path is in a volume, and volumes belong to a namespace; a bucket is everybody's."""
    local = "://" not in uri or uri.startswith("file://")
    path = uri.removeprefix("file://") if local else uri
    return (namespace if local else "", path.rstrip("/"))
