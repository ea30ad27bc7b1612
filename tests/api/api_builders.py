"""Small objects for the tests of the contract: a smallest run, and one with something changed in it."""

from __future__ import annotations

import copy
from typing import Any

SMALLEST: dict[str, Any] = {
    "apiVersion": "reasonerzero.dev/v1alpha1",
    "kind": "ReasonerZeroRun",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"name": "models/tiny"},
        "data": {"train": [{"uri": "data/train.jsonl"}]},
        "storage": {"uri": "runs/tiny"},
    },
}


def document(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest run with ``changes``: dotted paths (numbers index lists) to values; sections are made as needed."""
    made = copy.deepcopy(SMALLEST)
    for path, value in (changes or {}).items():
        *sections, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        at: Any = made
        for key in sections:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        at[last] = value
    return made
