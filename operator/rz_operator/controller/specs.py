"""Somebody who opens a run's NetworkPolicy, or points a Service elsewhere, is undone; what a server fills in is left.

Which of a Service or NetworkPolicy is as it was rendered, and the patch that makes it so again. Pure: ``observe``
takes the digest of what is there, ``apply`` compares it with that of what should be, and corrects.

A NetworkPolicy has nothing that a server fills in beyond what is rendered (types and protocols are named), and each
word more in a rule opens something: its spec is compared whole. A Service has addresses, families and policies of the
cluster's own: of it only ``_OF_A_SERVICE`` are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Body = Mapping[str, Any]

_OF_A_SERVICE: Mapping[str, Any] = {
    "type": "ClusterIP",
    "selector": {},
    "ports": [],
    "externalIPs": [],
    "externalName": "",
    "publishNotReadyAddresses": False,
    "sessionAffinity": "None",
}
"""Fields of a Service that say where traffic goes, and what each is where nobody names it."""

_OF_A_PORT = ("name", "port", "targetPort", "protocol")


def spec_digest(body: Body) -> str:
    """Equal for two objects of one kind whose specs mean the same; never raises."""
    text = json.dumps(_compared(body), sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def correction(found: Body, wanted: Body) -> dict[str, Any]:
    """Merge patch that makes ``found`` (which is not looked at again: it names its version) mean what ``wanted``
    does."""
    metadata = {
        "labels": wanted["metadata"]["labels"],
        "resourceVersion": (found.get("metadata") or {}).get("resourceVersion"),
    }
    have, want = _spec(found), _spec(wanted)
    if wanted["kind"] == "Service":
        before, after = _compared(found), _compared(wanted)
        fields = [name for name in _OF_A_SERVICE if before[name] != after[name]]
        spec = {name: _exactly(have.get(name), want.get(name)) for name in fields}
    else:
        spec = _exactly(have, want)
    return {"metadata": metadata, "spec": spec}


def _compared(body: Body) -> Any:
    spec = _spec(body)
    if body.get("kind", "Service" if "ports" in spec else "") != "Service":
        return {key: value for key, value in spec.items() if value is not None}
    # None and empty are what a server writes, or leaves out, for the default.
    found = {name: spec.get(name) or default for name, default in _OF_A_SERVICE.items()}
    found["headless"] = spec.get("clusterIP") == "None"
    ports = found["ports"] if isinstance(found["ports"], list) else []
    found["ports"] = [_port(each) if isinstance(each, Mapping) else each for each in ports]
    return found


def _port(port: Body) -> dict[str, Any]:
    found = {key: port.get(key) for key in _OF_A_PORT}
    return found | {"protocol": found["protocol"] or "TCP"}


def _exactly(have: Any, want: Any) -> Any:
    """As a merge patch: a null removes."""
    if not isinstance(have, Mapping) or not isinstance(want, Mapping):
        return want
    gone = {key: None for key in have if key not in want}
    return gone | {key: _exactly(have.get(key), value) for key, value in want.items()}


def _spec(body: Body) -> Body:
    spec = body.get("spec")
    return spec if isinstance(spec, Mapping) else {}
