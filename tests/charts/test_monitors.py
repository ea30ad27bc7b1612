"""ServiceMonitor, PodMonitor and PrometheusRule, as the Prometheus operator takes them.

Its CRDs cannot be had from a package registry; its published Go types can, as schemas (``monitors/package.json``):
these check types, enums, patterns and what is required. Unknown fields are looked for in the type declarations of the
same package.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chart_cases import CASES
from helm import Helm, Object, one
from manifest_builders import cases

from rz_operator.manifests import all_of

TYPES = "node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1"
PREFIX = r"IComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1(\w+)"
ON = {"enabled": True}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "an action that there is not": (
        {"podMetricsEndpoints": [{"relabelings": [{"action": "kep"}]}], "selector": {}},
        "must be equal to one of the allowed values",
    ),
    "an interval without a unit": ({"podMetricsEndpoints": [{"interval": "15"}], "selector": {}}, "must match pattern"),
    "no selector": ({"podMetricsEndpoints": []}, "must have required property selector"),
}


def monitors(helm: Helm, values: dict[str, Any]) -> list[Object]:
    return [body for body in helm.template(values) if body["apiVersion"] == "monitoring.coreos.com/v1"]


def judge(folder: Path, objects: list[Object]) -> list[str]:
    command = ["node", str(folder / "validate.mjs")]
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@functools.cache
def fields(folder: Path, kind: str) -> dict[str, str]:
    """Field -> its TypeScript type, of one published type; those of the types that it extends too."""
    text = (folder / TYPES / f"{kind}.d.ts").read_text()
    found: dict[str, str] = {}
    for base in re.findall(rf"export interface I{kind} extends {PREFIX}", text):
        found |= fields(folder, base)
    return found | dict(re.findall(r'^    "(\w+)"\??: (.*)$', text, re.MULTILINE))


def unknown(folder: Path, kind: str, value: Any, path: str) -> list[str]:
    """Paths of fields that the published type does not have. Kubernetes' own types are not looked into."""
    if isinstance(value, list):
        return [each for item in value for each in unknown(folder, kind, item, path)]
    if not isinstance(value, dict):
        return []
    known, found = fields(folder, kind), []
    for name, part in value.items():
        if name not in known:
            found.append(f"{path}.{name}")
        elif inner := re.search(PREFIX, known[name]):
            found += unknown(folder, inner[1], part, f"{path}.{name}")
    return found


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_is_what_the_published_types_take(helm: Helm, schemas_of_monitors: Path, values: dict[str, Any]) -> None:
    enabled = {"serviceMonitor": ON, "podMonitor": ON, "prometheusRule": ON}
    objects = monitors(helm, values if "metrics" in values else values | {"metrics": enabled})
    assert sorted(body["kind"] for body in objects) == ["PodMonitor", "PrometheusRule", "ServiceMonitor"]
    assert judge(schemas_of_monitors, objects) == ["", "", ""]
    assert [each for body in objects for each in unknown(schemas_of_monitors, body["kind"], body, body["kind"])] == []


@pytest.mark.parametrize(("spec", "words"), BROKEN.values(), ids=BROKEN)
def test_the_schemas_see_what_is_wrong(schemas_of_monitors: Path, spec: dict[str, Any], words: str) -> None:
    body = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"}, "spec": spec}
    (wrong,) = judge(schemas_of_monitors, [body])
    assert words in wrong


def test_an_unknown_field_is_seen(schemas_of_monitors: Path) -> None:
    spec = {"podMetricsEndpoints": [{"port": "a", "relabelings": [{"sourceLabel": []}]}], "selectors": {}}
    found = unknown(schemas_of_monitors, "PodMonitor", {"spec": spec}, "PodMonitor")
    assert found == [
        "PodMonitor.spec.podMetricsEndpoints.relabelings.sourceLabel",
        "PodMonitor.spec.selectors",
    ]


def test_the_service_monitor_finds_the_service(helm: Helm) -> None:
    objects = helm.template({"metrics": {"serviceMonitor": ON}})
    monitor, service = one(objects, "ServiceMonitor")["spec"], one(objects, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize("name", cases())
def test_every_process_of_every_pod_of_a_run_is_scraped_once_with_its_labels(helm: Helm, name: str) -> None:
    (endpoint,) = one(helm.template({"metrics": {"podMonitor": ON}}), "PodMonitor")["spec"]["podMetricsEndpoints"]
    context = cases()[name]
    for body in all_of(context):
        pod = body if body["kind"] == "Pod" else body["spec"]["template"] if body["kind"] == "Deployment" else None
        if pod is None:
            continue
        targets = [scraped(endpoint, pod["metadata"]["labels"], port) for port in pod["spec"]["containers"][0]["ports"]]
        role = pod["metadata"]["labels"]["reasonerzero.dev/role"]
        processes = context.processes[role, 0]
        kept = [target for target in targets if target is not None]
        assert [each["endpoint"] for each in kept] == [
            f"status-{number}" if number else "status" for number in range(len(processes))
        ]
        assert {(each["run"], each["role"]) for each in kept} == {(context.name, role)}


def scraped(endpoint: Object, labels: dict[str, str], port: Object) -> dict[str, str] | None:
    """The labels that Prometheus gives to one container port; None where a rule drops it."""
    meta = {f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}": value for key, value in labels.items()}
    meta["__meta_kubernetes_pod_container_port_name"] = port["name"]
    target: dict[str, str] = {}
    for rule in endpoint["relabelings"]:
        value = ";".join(meta.get(label, "") for label in rule["sourceLabels"])
        if rule["action"] == "keep":
            if re.fullmatch(rule["regex"], value) is None:
                return None
        else:
            target[rule["targetLabel"]] = value
    return target


def test_runs_of_other_namespaces_are_left_alone_in_a_single_one(helm: Helm) -> None:
    def where(values: dict[str, Any]) -> Object:
        found: Object = one(helm.template({"metrics": {"podMonitor": ON}} | values), "PodMonitor")["spec"]
        return dict(found["namespaceSelector"])

    assert where({}) == {"any": True}
    assert where({"watchNamespace": "team"}) == {"matchNames": ["team"]}
