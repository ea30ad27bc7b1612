"""A run keeps the code of its own verifiers as it keeps its prompts: as it was when the run started.

The files that ``PLACE.py:FUNCTION`` names (``rz_api.verifiers``): the trainer reads them from where the user put them
and stores them with the prompt tables; the ledger reads them back and hands them to the reward service, which has no
credentials for storage.
"""

from __future__ import annotations

import hashlib

from rz_workers.storage import layout
from rz_workers.storage.objects import data_entry
from rz_workers.storage.records import FileEntry
from rz_workers.storage.run_folder import RunFolder, check_entry


def digest(code: bytes) -> str:
    """sha256, hex."""
    return hashlib.sha256(code).hexdigest()


def store_code(folder: RunFolder, code: bytes) -> tuple[str, FileEntry]:
    """Store a file under its digest; its key below ``data/`` and its entry, for the manifest that makes it count."""
    key = layout.verifier_key(digest(code))
    folder.store.put(key, code)
    return key.removeprefix("data/"), data_entry(code)


def read_code(folder: RunFolder, sha256: str) -> bytes:
    """The file with that digest, checked against the manifest, which names it."""
    manifest = folder.data_manifest()
    assert manifest is not None, "the digest is from the manifest"
    key = layout.verifier_key(sha256)
    code = folder.store.get(key)
    check_entry(f"{folder.store.uri}: {key}", data_entry(code), manifest.files[key.removeprefix("data/")])
    return code
