"""A run that starts again has the items that it was started with, whatever its library would make of them now.

What the run's folder holds of data that are made and not read: the items of procedural tasks. Called by the trainer's
start, which hands it to ``prompt_table.prepare``, and by ``prompt_table.publish_data``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from rz_api.spec import ReasonerZeroRunSpec
from rz_api.verifiers import REASONING_GYM_URI
from rz_workers.storage import layout
from rz_workers.storage.objects import data_entry
from rz_workers.storage.records import FileEntry
from rz_workers.storage.run_folder import RunFolder, check_entry


@dataclass(frozen=True)
class Earlier:
    """Of the run's first start; empty when this is it."""

    items: Mapping[str, bytes] = field(default_factory=dict)
    """URI of a task -> what ``procedural.make`` made."""
    dropped: frozenset[str] = frozenset()
    """Ids of the prompts that were too long."""


def read_earlier(folder: RunFolder | None, spec: ReasonerZeroRunSpec) -> Earlier:
    manifest = folder.data_manifest() if folder is not None else None
    if folder is None or manifest is None:
        return Earlier()
    items = {}
    for source in (*spec.data.train, *spec.data.eval):
        key = _key(source.uri)
        # An earlier release stored none.
        if source.uri.startswith(REASONING_GYM_URI) and (entry := manifest.files.get(key.removeprefix("data/"))):
            items[source.uri] = folder.store.get(key)
            check_entry(f"{folder.store.uri}: {key}", data_entry(items[source.uri]), entry)
    return Earlier(items, frozenset(prompt.prompt_id for prompt in manifest.dropped))


def store_items(folder: RunFolder, items: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Store them; their names below ``data/`` and entries, for the manifest that makes them count."""
    entries = {}
    for uri, made in items.items():
        folder.store.put(_key(uri), made)
        entries[_key(uri).removeprefix("data/")] = data_entry(made)
    return entries


def _key(uri: str) -> str:
    return layout.items_key(hashlib.sha256(uri.encode()).hexdigest())
