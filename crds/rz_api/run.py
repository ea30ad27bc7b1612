"""What a run's result depends on makes up its identity, which never changes: a run as the workers see it.

Identity plus resolved spec; its JSON is ``run.json`` and the run's ConfigMap.

Who calls this: the operator and the local runner write it when a run is accepted; every worker reads it at its start;
the storage layer compares ``identity_digest`` to decide whether a folder belongs to this run.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rz_api.spec import Name, ReasonerZeroRunSpec, SpecModel

_IDENTITY_SECTIONS: dict[str, tuple[str, ...] | None] = {
    "model": ("name", "revision", "tokenizer", "initFrom"),
    "data": None,
    "algorithm": None,
    "evaluation": None,
    "rollout": ("engine", "samplesPerLease", "groupsPerLease", "sampling"),
    "reward": ("verifier", "timeoutSeconds"),
    "trainer": ("dtype",),
}
"""What a run's result depends on: section -> its fields, or None for the whole section. Everything else (replicas,
images, resources, suspend, retention, ...) may change while a run goes on."""


class ResolvedRun(SpecModel):
    """A run that was accepted: who it is and what it does, with every default filled in."""

    name: Name
    """Name of the run, unique in its namespace."""
    namespace: str = "default"
    """Kubernetes namespace; `local` for `rz run`."""
    uid: str
    """Identity that owns the storage folder: the object's UID, or one derived from the run file for `rz run`."""
    rendering_version: int = 1
    """Version of the rules by which the operator renders this run's children; frozen when the run is accepted."""
    spec: ReasonerZeroRunSpec
    """The resolved spec."""

    def identity(self) -> dict[str, Any]:
        """The part of the spec that the run's result depends on, as plain JSON values (camelCase keys)."""
        spec = self.spec.model_dump(mode="json", by_alias=True)
        picked: dict[str, Any] = {}
        for section, fields in _IDENTITY_SECTIONS.items():
            body = spec[section]
            picked[section] = body if fields is None else {field: body[field] for field in fields}
        for source in [*picked["data"]["train"], *picked["data"]["eval"]]:
            # Credentials are replaced during a run's life, and change no result.
            source.pop("secretName", None)
        return picked

    def identity_digest(self) -> str:
        """sha256 (hex) of ``identity()`` in canonical JSON."""
        # sort_keys: the digest must not depend on the order in which a model declares its fields.
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()
