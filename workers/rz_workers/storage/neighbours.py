"""No run begins inside the folder of another one, or around it: it would be listed, kept and deleted with it.

Called by ``RunFolder.claim`` while no gang has written anything. One exclusive create keeps two runs out of one folder,
but a folder and one inside of it have two ``run.json``, and no request of any storage creates the one on the condition
that the other is not there. So each run looks *after* it has written its own: of two that begin at the same time at
least one sees the other, and gives up (docs/decisions/0015).

What is looked at is bounded, because a folder may be the root of a bucket with a million others:

* above: one read in each folder up to the bucket or the root, ``MAX_ABOVE`` at most. What this run's rights do not
  reach is passed over: whoever is there does not reach this folder by rights for its own alone either;
* below: a listing and a read in each folder, nearest first, ``MAX_BELOW`` at most. A fresh folder has none. A run that
  lies further below is not found from here; it was refused itself if it came second.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from rz_workers.runtime import UserError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectMissingError, ObjectStore, StorageError
from rz_workers.storage.retry import is_refusal, is_transient

log = logging.getLogger(__name__)

MAX_ABOVE = 16
MAX_BELOW = 64
_MAX_RUN_BYTES = 1 << 21
"""A ConfigMap, where ``run.json`` comes from, has at most half of that; what is larger is something else."""
_MAX_NAME = 253


@dataclass(frozen=True)
class _Owner:
    """What a ``run.json`` says about whose it is."""

    name: str
    """``namespace/name``."""
    uid: str


def refuse_neighbours(store: ObjectStore, uid: str) -> None:
    """Raises UserError, naming it, when a run other than ``uid`` has a folder above or below that of ``store``;
    StorageError when storage does not answer. Says nothing that is not in the bucket."""
    for outer in store.above()[:MAX_ABOVE]:
        owner = _owner(outer, layout.RUN)
        if owner is not None and owner.uid != uid:
            raise UserError(_words(store.uri, "lies inside", outer.uri, owner))
    for key in _below(store):
        owner = _owner(store, key)
        if owner is not None and owner.uid != uid:
            inner = f"{store.uri.rstrip('/')}/{key.removesuffix(f'/{layout.RUN}')}"
            raise UserError(_words(store.uri, "lies around", inner, owner))


def _below(store: ObjectStore) -> Iterator[str]:
    """Where a ``run.json`` of folders below may be, nearest first."""
    looked, waiting = 0, deque([""])
    while waiting:
        for folder in _folders(store, waiting.popleft()):
            if looked == MAX_BELOW:
                log.warning("%s: of the folders in it, only %d were looked at for other runs", store.uri, MAX_BELOW)
                return
            looked += 1
            yield f"{folder}/{layout.RUN}"
            waiting.append(folder)


def _folders(store: ObjectStore, prefix: str) -> list[str]:
    try:
        found = store.folders(prefix)
    except StorageError as error:
        _raise_unless_out_of_reach(error)
        return []
    # Hidden ones are tools' own (``.rz`` of `rz run`), and to S3 an empty name is a folder's too.
    return [folder for folder in found if not any(part == "" or part[0] == "." for part in folder.split("/"))]


def _owner(store: ObjectStore, key: str) -> _Owner | None:
    """Whose run is at ``key``; None where there is none that may be read. Any version's, so that only what all have in
    common is looked at; a ``run.json`` of another tool is none."""
    try:
        found = json.loads(store.get_range(key, 0, _MAX_RUN_BYTES))
    except (ObjectMissingError, ValueError):
        return None
    except StorageError as error:
        _raise_unless_out_of_reach(error)
        return None
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
        return None
    name, uid = found.get("name"), found.get("uid")
    if not isinstance(name, str) or not isinstance(uid, str):
        return None
    return _Owner(f"{found.get('namespace', 'default')}/{name}"[:_MAX_NAME], uid[:_MAX_NAME])


def _raise_unless_out_of_reach(error: StorageError) -> None:
    cause = error.__cause__
    if cause is None or (is_transient(cause) and not is_refusal(cause)):
        raise error
    log.debug("passed over: %s", error)


def _words(uri: str, lies: str, other: str, owner: _Owner) -> str:
    return (
        f"the storage folder {uri} {lies} {other}, which belongs to run {owner.name} (uid {owner.uid}). A folder that "
        "is neither inside that of another run nor around it is required: point storage.uri at one beside it, or "
        f"delete {other.rstrip('/')}/{layout.RUN} if that run is not needed any more."
    )
