"""The profiles beside the chart: what Helm makes of each, the pods of a run under it, and how both differ from the
defaults. ``python tests/charts/update_golden.py`` writes the golden files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from helm import CHART, Helm, Object, one
from manifest_builders import BASIC, EVERYTHING_INSTALLED, UID, differences, readable

from rz_api import names
from rz_operator.controller.accept import accept
from rz_operator.controller.completion import Completion
from rz_operator.manifests import Context, all_of
from rz_operator.plan import plan
from rz_operator.service.settings import Settings

PROFILES = CHART.parent / "profiles"
GOLDEN = Path(__file__).parent / "golden"
NAMES = ("restricted", "openshift", "shared-cluster")


def values_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    return found


def chart(helm: Helm, values: dict[str, Any]) -> list[Object]:
    """What is installed, without the CRD."""
    return [body for body in helm.template(values) if body["kind"] != "CustomResourceDefinition"]


def run(helm: Helm, values: dict[str, Any], **sections: Any) -> tuple[Object, ...]:
    """All objects of a run that an operator accepts which was installed with ``values``."""
    (container,) = one(helm.template(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    options = Settings.from_environment({e["name"]: e["value"] for e in container["env"] if "value" in e}).options
    metadata = {"name": "small", "namespace": "team", "uid": UID}
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": {**BASIC, **sections}}
    verdict = accept(body, None, Completion(options.images, options.run_defaults), (), False)
    assert verdict.run is not None, verdict.message
    return all_of(Context(plan(verdict.run), "team", UID, EVERYTHING_INSTALLED))


def pods(objects: tuple[Object, ...] | list[Object]) -> Iterator[tuple[str, Object]]:
    """(name, pod or pod template) of everything that makes pods."""
    for body in objects:
        if body["kind"] in ("Deployment", "Pod"):
            yield body["metadata"]["name"], body["spec"]["template"] if body["kind"] == "Deployment" else body


def golden_text(helm: Helm, name: str) -> str:
    """What the profile changes: of each object that is there with it or without, every place that differs."""
    values = values_of(name)
    document = {
        "chart": _changes(chart(helm, {}), chart(helm, values)),
        "run": _changes(list(run(helm, {})), list(run(helm, values))),
    }
    head = f"# What charts/profiles/{name}.yaml changes. Written by: python tests/charts/update_golden.py\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _changes(before: list[Object], after: list[Object]) -> dict[str, Any]:
    old, new = ({_key(body): readable(_shown(body)) for body in bodies} for bodies in (before, after))
    found: dict[str, Any] = {}
    for key in dict.fromkeys((*old, *new)):
        if key not in new:
            found[key] = "gone"
        elif key not in old:
            found[key] = new[key]
        elif changes := dict(differences(old[key], new[key])):
            found[key] = changes
    return found


def _key(body: Object) -> str:
    namespace = body["metadata"].get("namespace")
    return f"{body['kind']} {f'{namespace}/' if namespace else ''}{body['metadata']['name']}"


def _shown(body: Object) -> Object:
    """A rule of rights and a frozen run say here that they are there."""
    if body["kind"] == "ConfigMap":
        return body | {"data": sorted(body["data"])}
    return body | ({"rules": f"({len(body['rules'])} rules)"} if "rules" in body else {})
