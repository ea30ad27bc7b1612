"""Within a namespace a folder of storage has one run: the one that was accepted, else the oldest that asks. Pure.

A courtesy: whoever writes the same URI twice learns it before a pod starts. What keeps two runs apart is ``run.json``
in the bucket, which takes the bucket's rights to write (``rz_workers.storage.run_folder``). A URI in a spec takes none,
so that another namespace's refuses nothing and is named nowhere (docs/decisions/0015).

``reconcile`` collects the claims of all other runs, ``accept`` asks ``owner`` when a run is new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rz_api.run import ResolvedRun
from rz_api.storage_uri import place_of


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
    """Who of the namespace of ``run``, created at ``created`` (Unix seconds), has its folder already, one inside it or
    one around it; None where it is free."""
    place = place_of(run.spec.storage.uri)
    rivals = [
        other
        for other in others
        if other.uid != run.uid and not other.final and other.run.partition("/")[0] == run.namespace
        # creationTimestamp has whole seconds: within one the UID decides, for both runs alike.
        if other.holds or (other.created, other.uid) < (created, run.uid)
        if place_of(other.uri).overlaps(place)
    ]
    return min(rivals, key=lambda other: (not other.holds, other.created, other.uid), default=None)
