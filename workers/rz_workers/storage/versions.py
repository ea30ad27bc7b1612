"""A weight version counts from the moment that its manifest is there, and no earlier.

Which ones are published, read from storage without torch. Called by ledger, trainer and report.
"""

from __future__ import annotations

from rz_workers.protocol.messages import Publication, WeightsInfo
from rz_workers.storage import layout
from rz_workers.storage.records import WeightsManifest
from rz_workers.storage.run_folder import RunFolder


def published(folder: RunFolder) -> list[WeightsInfo]:
    """Every version whose manifest is there, by version and then incarnation: the last one is the newest."""
    return [publication.weights for publication in publications(folder)]


def publications(folder: RunFolder) -> list[Publication]:
    """As ``published``, each with its canary: what the trainer announced."""
    prefixes = {}
    for key in folder.store.list(layout.WEIGHTS):
        place = layout.parse_weights(key)
        if place is not None and key == layout.manifest_key(layout.weights_prefix(*place)):
            prefixes[place] = layout.weights_prefix(*place)
    found = []
    for _, prefix in sorted(prefixes.items()):
        manifest = folder.document(layout.manifest_key(prefix), WeightsManifest)
        if manifest is not None:  # None: retention has deleted it since the listing
            found.append(Publication(weights=weights_info(manifest), canary=manifest.canary))
    return found


def weights_info(manifest: WeightsManifest) -> WeightsInfo:
    """The message that stands for a manifest."""
    return WeightsInfo(
        version=manifest.version,
        digest=manifest.digest,
        incarnation=manifest.incarnation,
        prefix=layout.weights_prefix(manifest.version, manifest.incarnation),
    )
