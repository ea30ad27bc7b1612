"""What the chart renders: valid for Kubernetes in every case of ``chart_cases.py``, and what it says it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from chart_cases import CASES, MONITORED
from helm import CHART, NAMESPACE, RELEASE, Helm, Object, kinds, one
from kubernetes_schemas import errors

from rz_api import names
from rz_api.document import parse
from rz_api.resource import load_run

SERVERS = ["1.25", "1.31", "1.37"]
"""The oldest and the newest that kubernetes-validate has, and one between."""
NOT_KUBERNETES_OWN = ("monitoring.coreos.com/", names.GROUP)


def each_case() -> Any:
    return pytest.mark.parametrize("values", CASES.values(), ids=CASES)


@each_case()
def test_lint_finds_nothing(helm: Helm, values: dict[str, Any]) -> None:
    assert "0 chart(s) failed" in helm.lint(values)


@pytest.mark.parametrize("server", SERVERS)
@each_case()
def test_is_valid_by_the_schemas_of_kubernetes(
    helm: Helm, chart_with_dashboards: Path, values: dict[str, Any], server: str
) -> None:
    objects = helm.template(values, chart=chart_with_dashboards, kube_version=f"{server}.0")
    own = [body for body in objects if not body["apiVersion"].startswith(NOT_KUBERNETES_OWN)]
    assert {
        f"{body['kind']} {body['metadata']['name']}: {wrong}" for body in own for wrong in errors(body, server)
    } == set()


@each_case()
def test_every_object_is_labelled_and_named_once(helm: Helm, values: dict[str, Any]) -> None:
    objects = helm.template(values)
    for body in objects:
        labels = body["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        if body["kind"] != "Pod":  # of `helm test`: a hook, which Helm deletes itself
            assert labels["app.kubernetes.io/managed-by"] == "Helm"
            assert {**labels, **values.get("commonLabels", {})} == labels
    identity = [(b["kind"], b["metadata"].get("namespace"), b["metadata"]["name"]) for b in objects]
    assert len(identity) == len(set(identity))


@each_case()
def test_no_object_selects_the_pods_of_a_run_by_mistake(helm: Helm, values: dict[str, Any]) -> None:
    """Pods of runs are of the same application, and a run may be called as the release is: the component differs."""
    pod = names.labels(RELEASE, "trainer", 0, 1, uid="u")
    objects = helm.template(values)
    selectors = [b["spec"]["selector"] for b in objects if b["kind"] == "Service"]
    selectors += [
        b["spec"]["selector"]["matchLabels"] for b in objects if b["kind"] in ("Deployment", "ServiceMonitor")
    ]
    for selector in selectors:
        assert not selector.items() <= pod.items()


def test_one_operator_at_a_time(helm: Helm) -> None:
    spec = one(helm.template(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_its_probes_are_those_that_the_operator_answers(helm: Helm) -> None:
    (container,) = one(helm.template(), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    (port,) = container["ports"]
    assert port["containerPort"] == int({e["name"]: e.get("value") for e in container["env"]}["RZ_PORT"])


def test_a_single_namespace_has_nothing_of_the_cluster_but_the_crd(helm: Helm) -> None:
    objects = helm.template({"watchNamespace": "team"})
    assert kinds(objects) & {"ClusterRole", "ClusterRoleBinding"} == set()
    role, binding = one(objects, "Role"), one(objects, "RoleBinding")
    assert (role["metadata"]["namespace"], binding["metadata"]["namespace"]) == ("team", "team")
    assert binding["subjects"][0]["namespace"] == NAMESPACE
    assert "CustomResourceDefinition" in kinds(objects)


def test_an_installer_without_rights_to_the_cluster_makes_only_what_is_in_its_namespace(helm: Helm) -> None:
    objects = helm.template(CASES["an installer without rights to the cluster"])
    assert {body["metadata"]["namespace"] for body in objects} == {NAMESPACE}
    assert kinds(objects) == {"Deployment", "Service", "NetworkPolicy", "Pod"}


def test_two_releases_of_one_name_share_no_object_of_the_cluster(helm: Helm) -> None:
    def cluster_wide(namespace: str) -> set[str]:
        flags = ("--namespace", namespace)
        objects = helm.template({"crd": {"install": False}}, flags=flags)
        return {body["metadata"]["name"] for body in objects if "namespace" not in body["metadata"]}

    assert cluster_wide("one")
    assert not cluster_wide("one") & cluster_wide("two")


def test_the_crd_stays_unless_it_must_not(helm: Helm) -> None:
    gone = one(helm.template({"crd": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in gone["metadata"]
    assert "CustomResourceDefinition" not in kinds(helm.template({"crd": {"install": False}}))


@pytest.mark.parametrize(("server", "version"), [("1.20.2", "policy/v1beta1"), ("1.21.0", "policy/v1")])
def test_the_disruption_budget_is_of_the_servers_version(helm: Helm, server: str, version: str) -> None:
    objects = helm.template({"podDisruptionBudget": {"enabled": True}}, kube_version=server)
    assert one(objects, "PodDisruptionBudget")["apiVersion"] == version


@pytest.mark.parametrize(("server", "policy"), [("1.20.2", None), ("1.21.0", "PreferDualStack")])
def test_its_service_has_an_address_of_each_family(helm: Helm, server: str, policy: str | None) -> None:
    assert one(helm.template(kube_version=server), "Service")["spec"].get("ipFamilyPolicy") == policy


def test_several_namespaces_have_a_role_each_and_nothing_of_the_cluster_but_the_crd(helm: Helm) -> None:
    objects = helm.template({"watchNamespaces": ["a", "b"], "watchNamespace": "c"})
    assert kinds(objects) & {"ClusterRole", "ClusterRoleBinding"} == set()
    for kind in ("Role", "RoleBinding"):
        assert [each["metadata"]["namespace"] for each in objects if each["kind"] == kind] == ["c", "a", "b"]


def test_a_platform_that_chooses_users_is_not_told_one(helm: Helm) -> None:
    spec = one(helm.template(CASES["a platform that chooses users"]), "Deployment")["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_defaults_make_nothing_that_needs_another_operator(helm: Helm) -> None:
    assert {body["apiVersion"] for body in helm.template() if "coreos" in body["apiVersion"]} == set()


def test_dashboards_are_config_maps_with_the_sidecars_label(helm: Helm, chart_with_dashboards: Path) -> None:
    objects = [b for b in helm.template(MONITORED, chart=chart_with_dashboards) if b["kind"] == "ConfigMap"]
    assert [b["metadata"]["name"] for b in objects] == [
        "rz-reasonerzero-dashboard-fleet-view",
        "rz-reasonerzero-dashboard-training",
    ]
    for body in objects:
        assert body["metadata"]["namespace"] == "monitoring"
        assert body["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert body["metadata"]["annotations"] == {"grafana_folder": "Reasoning"}
        ((name, text),) = body["data"].items()
        assert text.strip() == (chart_with_dashboards / "files/dashboards" / name).read_text().strip()


def test_without_any_dashboard_there_is_no_config_map(helm: Helm, tmp_path: Path) -> None:
    chart = tmp_path / CHART.name
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("dashboards"))
    assert "ConfigMap" not in kinds(helm.template({"dashboards": {"enabled": True}}, chart=chart))


NOTES = {
    "the defaults": ["images.registry is empty", "serves runs of all namespaces", "helm -n rz-system test rz"],
    "a single namespace": ["serves runs of the namespace team", "-n team get rzr"],
    "an installer without rights to the cluster": ["crd.install is false", "rbac.create is false", "rz-system/given"],
    "other names, and no CRD that stays": ["WARNING  crd.keep is false", "deployment/orz-operator"],
}


@pytest.mark.parametrize("case", NOTES)
def test_notes_say_what_to_do_next(helm: Helm, case: str) -> None:
    text = notes(helm, CASES[case])
    assert [words for words in NOTES[case] if words not in text] == []


def test_the_run_of_the_notes_is_a_run(helm: Helm) -> None:
    text = notes(helm, {})
    block = text.split("apply -f - <<EOF\n")[1].split("     EOF")[0]
    lines = [line.removeprefix("     ") for line in block.splitlines()]
    run = load_run(parse("\n".join(lines)))
    assert run.metadata.name == "orz-7b"


def notes(helm: Helm, values: dict[str, Any]) -> str:
    """``helm template`` shows none; ``install --dry-run=client`` needs no server either."""
    return helm.run("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", values=values)


def test_the_test_pod_asks_the_service(helm: Helm) -> None:
    objects = helm.template(CASES["settings of the operator"])
    pod: Object = one(objects, "Pod", "-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    service = one(objects, "Service")
    (container,) = pod["spec"]["containers"]
    host = f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert {"name": "URL", "value": f"http://{host}:9090"} in container["env"]
