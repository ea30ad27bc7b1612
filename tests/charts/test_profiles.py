"""The three profiles beside the chart do what they are for, and change what a person has reviewed."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from helm import Helm, kinds
from kubernetes_schemas import errors
from pod_security import violations
from profiles import GOLDEN, NAMES, PROFILES, chart, golden_text, pods, run, values_of

each_profile = pytest.mark.parametrize("name", NAMES)
OF_OTHERS = ("monitoring.coreos.com/", "reasonerzero.dev/", "scheduling.")
FIXED = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")


def test_every_profile_is_tested() -> None:
    assert {path.stem for path in PROFILES.glob("*.yaml")} == set(NAMES) == {path.stem for path in GOLDEN.glob("*")}


@each_profile
def test_what_a_profile_changes_is_what_was_reviewed(helm: Helm, name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    reviewed, rendered = path.read_text(encoding="utf-8") if path.exists() else "", golden_text(helm, name)
    if rendered != reviewed:
        changes = difflib.unified_diff(
            reviewed.splitlines(), rendered.splitlines(), "reviewed", "rendered", lineterm=""
        )
        pytest.fail("\n".join([*changes, "", "if so wanted: python tests/charts/update_golden.py"]))


@each_profile
@pytest.mark.parametrize("server", ["1.25", "1.37"])
def test_chart_and_run_are_valid_by_the_schemas_of_kubernetes(helm: Helm, name: str, server: str) -> None:
    values = values_of(name)
    objects = [*chart(helm, values), *run(helm, values)]
    own = [body for body in objects if not body["apiVersion"].startswith(OF_OTHERS)]
    assert [f"{body['kind']}: {wrong}" for body in own for wrong in errors(body, server)] == []


@each_profile
def test_every_pod_of_a_profile_is_restricted(helm: Helm, name: str) -> None:
    values = values_of(name)
    found = dict(pods([*chart(helm, values), *run(helm, values)]))
    assert len(found) == 8
    assert {pod: violations(body["spec"]) for pod, body in found.items()} == {pod: [] for pod in found}


def test_the_restricted_operator_has_rights_in_its_namespaces_alone_and_narrow_networks(helm: Helm) -> None:
    objects = chart(helm, values_of("restricted"))
    assert {kind for kind in kinds(objects) if kind.startswith("Cluster")} == set()
    assert {body["metadata"]["namespace"] for body in objects if body["kind"] in ("Role", "RoleBinding")} == {"team"}
    policies = {body["metadata"]["namespace"]: body["spec"] for body in objects if body["kind"] == "NetworkPolicy"}
    assert set(policies) == {"rz-system", "team"}
    assert all("namespaceSelector" not in peer or peer["namespaceSelector"] for peer in _ingress(policies["rz-system"]))


def _ingress(policy: dict[str, Any]) -> list[dict[str, Any]]:
    return [peer for rule in policy["ingress"] for peer in rule["from"]]


def test_openshift_is_told_no_user(helm: Helm) -> None:
    values = values_of("openshift")
    for name, body in pods([*chart(helm, values), *run(helm, values)]):
        contexts = [body["spec"]["securityContext"], *(each["securityContext"] for each in body["spec"]["containers"])]
        assert [key for context in contexts for key in FIXED if key in context] == [], name
        assert contexts[0]["runAsNonRoot"] is True, name


def test_a_shared_cluster_has_a_role_in_each_namespace_and_every_pod_of_a_run_has_its_defaults(helm: Helm) -> None:
    values = values_of("shared-cluster")
    roles = [body["metadata"]["namespace"] for body in chart(helm, values) if body["kind"] == "Role"]
    assert roles == ["team-a", "team-b"]
    for name, body in pods(run(helm, values)):
        spec = body["spec"]
        (container,) = spec["containers"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert body["metadata"]["labels"]["sidecar.istio.io/inject"] == "false", name
        assert spec["imagePullSecrets"] == [{"name": "registry"}], name
        assert container["image"].startswith("registry.example.com/"), name
        assert env["NO_PROXY"] == env["no_proxy"] == "localhost,127.0.0.1,::1,.svc,.cluster.local,.internal.example.com"
        assert env["SSL_CERT_FILE"] == env["AWS_CA_BUNDLE"] == "/etc/reasonerzero/ca/ca-bundle.crt", name
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"], name


def test_an_image_of_a_run_comes_from_the_registry_unless_it_names_one(helm: Helm) -> None:
    images = {"rollout": {"image": "team-a/worker:1"}, "ledger": {"image": "quay.example.com/slim@sha256:0a"}}
    bodies = dict(pods(run(helm, values_of("shared-cluster"), **images)))
    found = {name: body["spec"]["containers"][0]["image"] for name, body in bodies.items()}
    assert found["small-rollout-i1-0"] == "registry.example.com/mirror/team-a/worker:1"
    assert found["small-ledger"] == "quay.example.com/slim@sha256:0a"
