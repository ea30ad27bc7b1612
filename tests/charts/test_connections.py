"""Who reaches whom: each row of the table in docs/security.md, evaluated over the policies of the chart and of runs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from chart_cases import CASES
from helm import NAMESPACE, RELEASE, ROOT, Helm, Object, one
from manifest_builders import BASIC, context
from network_policies import Address, End, Node, Pod, admitted, selects
from pod_security import violations

from rz_operator.manifests import Context, all_of
from rz_operator.service.settings import Settings

DOCUMENT = (ROOT / "docs" / "security.md").read_text()
ROWS = re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| (\d+)(?:/(TCP|UDP))? \| (yes|no) \| (yes|no) \|$", DOCUMENT)
VALUES: dict[str, dict[str, Any]] = {
    "as installed": {},
    "narrow": {
        "networkPolicy": {
            "operator": CASES["narrow NetworkPolicies"]["networkPolicy"]["operator"],
            "runs": CASES["narrow NetworkPolicies"]["networkPolicy"]["runs"],
            "workers": {"enabled": True, "namespaces": ["team", "rivals"]},
        }
    },
}


def run(uid: str, namespace: str = "team", name: str = "small") -> Context:
    """Two trainer nodes of eight processes, so that there are status ports 9400 to 9407."""
    document = {"apiVersion": "reasonerzero.dev/v1alpha1", "kind": "ReasonerZeroRun", "metadata": {"name": name}}
    of_gpus = context(document | {"spec": {**BASIC, "trainer": {"nodes": 2, "gpusPerNode": 8}}})
    return replace(of_gpus, run_uid=uid, namespace=namespace)


OURS, NEIGHBOUR = run("1"), run("2", name="neighbour")
EARLIER, RIVAL = run("0"), run("3", namespace="rivals")
RUNS = {"ours": OURS, "neighbour": NEIGHBOUR, "rival": RIVAL}


def worker(of: Context, role: str, address: str, index: int = 0) -> Pod:
    """A pod as it is rendered."""
    pods = [body for body in all_of(of) if body["kind"] == "Pod"]
    pods += [body["spec"]["template"] for body in all_of(of) if body["kind"] == "Deployment"]
    labels = [pod["metadata"]["labels"] for pod in pods]
    found = [each for each in labels if each["reasonerzero.dev/role"] == role]
    return Pod(of.namespace, found[index], address, namespace_labels(of.namespace))


def namespace_labels(name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name}


def elsewhere(namespace: str, address: str, **labels: str) -> Pod:
    return Pod(namespace, labels, address, namespace_labels(namespace))


def ends(objects: list[Object]) -> dict[str, End]:
    """The words of the table."""
    operator = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    tester = one(objects, "Pod", "-test")["metadata"]["labels"]
    ledger, reward = worker(OURS, "ledger", "10.1.0.1"), worker(OURS, "reward", "10.1.0.2")
    trainer, rollout = worker(OURS, "trainer", "10.1.0.3"), worker(OURS, "rollout", "10.1.0.5")
    return {
        "the operator": Pod(NAMESPACE, operator, "10.1.1.1", namespace_labels(NAMESPACE)),
        "`helm test`": Pod(NAMESPACE, tester, "10.1.1.2", namespace_labels(NAMESPACE)),
        "Prometheus": elsewhere("monitoring", "10.1.2.1", app="prometheus"),
        "any other pod": elsewhere("web", "10.1.2.2", app="web"),
        "DNS": elsewhere("kube-system", "10.1.2.3", **{"k8s-app": "kube-dns"}),
        "DNS cache of the node": Address("169.254.20.10"),
        "kubelet (probes)": Node(),
        "API server": Address("10.0.0.1"),
        "bucket": Address("203.0.113.10"),
        "metadata 169.254.169.254": Address("169.254.169.254"),
        "metadata fd00:ec2::254": Address("fd00:ec2::254"),
        "a ledger": ledger,
        "its ledger": ledger,
        "a reward service": reward,
        "its reward service": reward,
        "a trainer": trainer,
        "its trainer": trainer,
        "its other node": worker(OURS, "trainer", "10.1.0.4", index=1),
        "a rollout": rollout,
        "a neighbour's rollout": worker(NEIGHBOUR, "rollout", "10.1.0.6"),
        "an earlier run of the same name": worker(EARLIER, "rollout", "10.1.0.7"),
        "a run of another namespace": worker(RIVAL, "rollout", "10.1.0.8"),
    }


def operators_settings(objects: list[Object]) -> Settings:
    """As the operator reads them in the pod that the chart makes."""
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return Settings.from_environment({each["name"]: each["value"] for each in container["env"] if "value" in each})


def policies(objects: list[Object]) -> list[Object]:
    """Of the chart, and of the runs that exist, as an operator with the chart's settings makes them."""
    found = [body for body in objects if body["kind"] == "NetworkPolicy"]
    peers = operators_settings(objects).options.status_peers
    runs = [replace(of, status_peers=peers) for of in RUNS.values()]
    return found + [body for of in runs for body in all_of(of) if body["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("column", VALUES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} to {row[1]} {row[2]}{row[3]}")
def test_the_connection_is_as_documented(helm: Helm, row: tuple[str, ...], column: str) -> None:
    source, target, port, protocol, *verdicts = row
    documented = dict(zip(VALUES, verdicts, strict=True))[column]
    objects = helm.template(VALUES[column])
    by_name = ends(objects)
    found = admitted(policies(objects), by_name[source], by_name[target], int(port), protocol or "TCP")
    assert found is (documented == "yes")


def test_the_table_has_the_rows_that_were_asked_for() -> None:
    table = DOCUMENT.split("| as installed | narrow |\n")[1].split("\n\n")[0]
    assert len(ROWS) == len(table.splitlines()) - 1, "a row that is not understood"
    sources, targets = {row[0] for row in ROWS}, {row[1] for row in ROWS}
    assert {"Prometheus", "kubelet (probes)", "a neighbour's rollout"} <= sources
    assert {"DNS", "bucket", "metadata 169.254.169.254", "metadata fd00:ec2::254"} <= targets


METADATA = ("169.254.169.254", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23")


WITH_POLICY = {
    name: values
    for name, values in CASES.items()
    if values.get("networkPolicy", {}).get("operator", {}).get("enabled", True)
}


@pytest.mark.parametrize("values", WITH_POLICY.values(), ids=WITH_POLICY)
@pytest.mark.parametrize("address", METADATA)
def test_the_operator_never_reaches_metadata(helm: Helm, values: dict[str, Any], address: str) -> None:
    objects = helm.template(values)
    operator = ends(objects)["the operator"]
    for port in (80, 443, 988, 6443, 8080):
        assert not admitted(policies(objects), operator, Address(address), port)


SERVERS = {"1.20.2": {}, "1.21.0": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}


@pytest.mark.parametrize(("server", "namespace"), SERVERS.items(), ids=SERVERS)
def test_the_operator_always_reaches_the_status_ports_of_runs(
    helm: Helm, server: str, namespace: dict[str, Any]
) -> None:
    """Servers before 1.21 do not label namespaces with their names: a peer that asks for it would lock it out there."""
    values = {"networkPolicy": {"runs": {"scrapeFrom": [{"podSelector": {"matchLabels": {"app": "scraper"}}}]}}}
    objects = helm.template(values, kube_version=server)
    assert operators_settings(objects).options.status_peers[-1]["namespaceSelector"] == namespace
    by_name, known = ends(objects), policies(objects)
    operator = by_name["the operator"]
    assert isinstance(operator, Pod)
    unlabelled = {} if server == "1.20.2" else operator.namespace_labels
    assert admitted(known, replace(operator, namespace_labels=unlabelled), by_name["a ledger"], 9400)
    scraper = elsewhere("team", "10.1.2.3", app="scraper")
    assert admitted(known, scraper, by_name["a trainer"], 9407), "a peer without a namespaceSelector is in the run's"
    assert not admitted(known, replace(scraper, namespace="web"), by_name["a trainer"], 9407)
    assert not admitted(known, by_name["Prometheus"], by_name["a trainer"], 9400)
    assert not admitted(known, scraper, by_name["a ledger"], 8080)


def test_workload_identity_and_a_bucket_inside_can_be_let_through(helm: Helm) -> None:
    objects = helm.template(CASES["workers of two namespaces, with workload identity and a bucket inside"])
    trainer, known = ends(objects)["a trainer"], policies(objects)
    minio = replace(elsewhere("storage", "10.1.3.1"), namespace_labels={"name": "minio"})
    assert admitted(known, trainer, Address("169.254.169.254"), 80)
    assert admitted(known, trainer, Address("fd00:ec2::23"), 80)
    assert admitted(known, trainer, minio, 9000)
    assert admitted(known, trainer, Address("203.0.113.7"), 443)
    assert not admitted(known, trainer, Address("198.51.100.7"), 443)


def test_the_policies_of_the_chart_select_the_pods_that_they_are_for(helm: Helm) -> None:
    objects = helm.template(VALUES["narrow"])
    operator = one(objects, "NetworkPolicy", "-operator")
    by_name = ends(objects)
    assert [name for name, end in by_name.items() if _is_selected(operator, end)] == ["the operator"]
    for namespace in ("team", "rivals"):
        workers = [b for b in objects if b["kind"] == "NetworkPolicy" and b["metadata"]["namespace"] == namespace]
        assert [policy["metadata"]["name"] for policy in workers] == [f"{RELEASE}-reasonerzero-workers"]


def _is_selected(policy: Object, end: End) -> bool:
    if not isinstance(end, Pod) or end.namespace != policy["metadata"]["namespace"]:
        return False
    return selects(policy["spec"]["podSelector"], end.labels)


def test_the_rdma_example_is_restricted_but_for_what_it_is_for() -> None:
    (block,) = [each for each in re.findall(r"(?s)```yaml\n(.*?)```", DOCUMENT) if "hostNetwork" in each]
    trainer = yaml.safe_load(block)["trainer"] | {"nodes": 1, "gpusPerNode": 8}
    pods = [body for body in all_of(context(trainer=trainer)) if body["kind"] == "Pod"]
    found = {wrong for body in pods for wrong in violations(body["spec"])}
    assert found == {"hostNetwork is true", "main: adds the capability IPC_LOCK"}


# -------------------------------------------------------------------------------------------- the evaluator itself

A, B = elsewhere("one", "10.2.0.1", app="a"), elsewhere("two", "10.2.0.2", app="b")


def policy(namespace: str = "two", **spec: Any) -> Object:
    return {"metadata": {"namespace": namespace}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]} | spec}


EVALUATED: dict[str, tuple[list[Object], bool]] = {
    "nothing selects it": ([], True),
    "a policy of another namespace": ([policy("three")], True),
    "a policy without rules": ([policy()], False),
    "one empty rule": ([policy(ingress=[{}])], True),
    "pods of its own namespace": ([policy(ingress=[{"from": [{"podSelector": {}}]}])], False),
    "any namespace": ([policy(ingress=[{"from": [{"namespaceSelector": {}}]}])], True),
    "any namespace, but other pods": (
        [policy(ingress=[{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "c"}}}]}])],
        False,
    ),
    "its address": ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]}])], True),
    "all addresses but its own": (
        [policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.2.0.0/16", "except": ["10.2.0.1/32"]}}]}])],
        False,
    ),
    "another port": ([policy(ingress=[{"ports": [{"port": 81}]}])], False),
    "a range of ports": ([policy(ingress=[{"ports": [{"port": 70, "endPort": 90}]}])], True),
    "another protocol": ([policy(ingress=[{"ports": [{"port": 80, "protocol": "UDP"}]}])], False),
    "two policies of which one lets it in": ([policy(), policy(ingress=[{}])], True),
    "a source that may not leave": ([policy("one", policyTypes=["Egress"]), policy(ingress=[{}])], False),
}


@pytest.mark.parametrize(("known", "verdict"), EVALUATED.values(), ids=EVALUATED)
def test_the_evaluator(known: list[Object], verdict: bool) -> None:
    assert admitted(known, A, B, 80) is verdict
