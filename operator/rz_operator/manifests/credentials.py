"""A role gets the Secrets of the URIs that it reads, and no others. ``pod`` mounts them, as files and as environment.

Storage is read and written by ledger, rollout and trainer; data and model are read by the trainer alone (rank 0
downloads them, everyone else reads the run's folder); the reward role reads none.
"""

from __future__ import annotations

import hashlib
import re

from rz_api.names import Role
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.manifests.context import Body
from rz_operator.manifests.place import SECRETS_FOLDER

_LONGEST_LABEL = 63
# Files of a Secret belong to root; the group is the pod's ``fsGroup``.
READABLE_BY_GROUP = 0o440


def secret_names(spec: ReasonerZeroRunSpec, roles: frozenset[Role]) -> tuple[str, ...]:
    """Secrets of a pod that holds these roles: model, data, storage, each once.

    Storage comes last and so wins where two Secrets have the same key: ``envFrom`` takes the last, and without storage
    nothing works. Sources whose credentials differ under the same names need their own files (``secrets/NAME/KEY``).
    """
    found: list[str | None] = []
    if "trainer" in roles:
        found += [spec.model.secret_name]
        found += [source.secret_name for source in (*spec.data.train, *spec.data.eval)]
    storage = spec.storage.secret_name if roles & {"ledger", "rollout", "trainer"} else None
    others = [name for name in found if name is not None and name != storage]
    return (*dict.fromkeys(others), *([storage] if storage is not None else []))


def env_from(secrets: tuple[str, ...]) -> list[Body]:
    return [{"secretRef": {"name": name}} for name in secrets]


def volumes(secrets: tuple[str, ...]) -> list[Body]:
    return [
        {"name": volume_name(name), "secret": {"secretName": name, "defaultMode": READABLE_BY_GROUP}}
        for name in secrets
    ]


def mounts(secrets: tuple[str, ...]) -> list[Body]:
    return [{"name": volume_name(name), "mountPath": f"{SECRETS_FOLDER}/{name}", "readOnly": True} for name in secrets]


def volume_name(secret: str) -> str:
    """``secret-NAME``; a name that is no label (dots, or too long: Secrets may have 253 characters) is shortened, with
    a digest that keeps it unique."""
    name = f"secret-{secret}"
    if len(name) <= _LONGEST_LABEL and "." not in secret:
        return name
    digest = hashlib.sha256(secret.encode()).hexdigest()[:8]
    return f"{re.sub(r'[.]', '-', name)[: _LONGEST_LABEL - 9].rstrip('-')}-{digest}"
