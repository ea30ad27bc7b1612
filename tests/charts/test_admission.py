"""The chart's ValidatingAdmissionPolicies: rendered for the servers that have them, and evaluated by Kubernetes' own
admission plugin in a server of custom resources (``policy_double`` gives it the policies)."""

from __future__ import annotations

import copy
import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from api_builders import document
from control_plane import ControlPlane, apply_crd
from crd_server import CrdServer
from helm import CHART, NAMESPACE, ROOT, Helm, HelmError, Object
from kube_api import Api, ApiError
from kube_binaries import BinariesMissingError, crd_server_binary
from kubernetes_schemas import errors
from policy_double import PolicyDouble

from rz_api import names

SERVER = "1.31.0"
RUNS: list[dict[str, Any]] = [
    {
        "namespaces": ["team"],
        "images": ["registry.example.com/rz/", "mirror.example.com/vllm:1"],
        "podTemplate": [
            "spec.tolerations",
            "spec.containers",
            "spec.initContainers",
            "spec.volumes",
            "metadata.labels",
        ],
        "trustRemoteCode": False,
        "storage": ["s3://team/", "gs://shared/team/"],
    },
    {"namespaces": ["rivals", "others"], "podTemplate": []},
    {"namespaces": ["trusting"], "trustRemoteCode": True, "images": ["registry.example.com/"]},
]
VALUES = {"admissionPolicy": {"enabled": True, "runs": RUNS}}
NAMESPACES = ("team", "rivals", "others", "trusting", "free")
SECONDS = 60.0
"""For the server to have the policies: it compiles them once a second."""


def policies(helm: Helm, values: dict[str, Any] = VALUES, server: str = SERVER) -> list[Object]:
    objects = helm.template(values, kube_version=server)
    return [body for body in objects if body["kind"].startswith("ValidatingAdmissionPolicy")]


# -------------------------------------------------------------------------------------------------------- rendered


def test_there_is_none_unless_it_is_asked_for(helm: Helm) -> None:
    assert policies(helm, {}) == []
    assert [body["metadata"]["name"] for body in policies(helm, {"admissionPolicy": {"enabled": True}})] == [
        "rz-reasonerzero-operator-rz-system-children"
    ] * 2


def test_the_example_of_the_document_is_taken(helm: Helm) -> None:
    document = (ROOT / "docs" / "security.md").read_text()
    (block,) = [each for each in re.findall(r"(?s)```yaml\n(.*?)```", document) if "admissionPolicy" in each]
    assert len(policies(helm, yaml.safe_load(block))) == 4


@pytest.mark.parametrize("server", ["1.31", "1.37"])
def test_they_are_valid_and_each_is_bound(helm: Helm, server: str) -> None:
    found = policies(helm, server=f"{server}.0")
    assert [wrong for body in found for wrong in errors(body, server)] == []
    bound = [body["spec"]["policyName"] for body in found if body["kind"].endswith("Binding")]
    assert sorted(bound) == sorted(body["metadata"]["name"] for body in found if not body["kind"].endswith("Binding"))
    assert len(bound) == 1 + len(RUNS)


@pytest.mark.parametrize("actions", [["Deny"], ["Audit", "Warn"]])
def test_what_follows_is_the_values(helm: Helm, actions: list[str]) -> None:
    found = policies(helm, {"admissionPolicy": {**VALUES["admissionPolicy"], "validationActions": actions}})
    assert {tuple(body["spec"]["validationActions"]) for body in found if body["kind"].endswith("Binding")} == {
        tuple(actions)
    }


def test_the_operator_is_held_in_all_that_it_may_create(helm: Helm) -> None:
    """Whatever is added to rbac.yaml is in the policy by itself; events are about a run, not of it."""
    rules = yaml.safe_load((CHART / "files" / "rbac.yaml").read_text())["rules"]
    created = {
        (group, kind)
        for rule in rules
        if "create" in rule["verbs"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
    }
    (policy,) = [body for body in policies(helm) if body["metadata"]["name"].endswith("-children")][:1]
    held = {
        (group, kind)
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
    }
    assert held == created - {("", "events")}
    assert {("", "pods"), ("", "secrets"), ("apps", "deployments")} <= held


REFUSED: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "a server that has no policies": ({}, "1.29.0", ["the server is v1.29.0", "needs Kubernetes 1.30 or newer"]),
    "an entry without a namespace": ({"runs": [{"podTemplate": []}]}, SERVER, ["missing property 'namespaces'"]),
    "an entry without a rule": (
        {"runs": [{"namespaces": ["team"], "trustRemoteCode": True}]},
        SERVER,
        ["admissionPolicy.runs[0] has namespaces and no rule", "add it, or remove the entry"],
    ),
    "a folder without its last slash": (
        {"runs": [{"namespaces": ["team"], "storage": ["s3://team"]}]},
        SERVER,
        ["at '/admissionPolicy/runs/0/storage/0'", "does not match pattern"],
    ),
    "a quote in an image": (
        {"runs": [{"namespaces": ["team"], "images": ["a'"]}]},
        SERVER,
        ["at '/admissionPolicy/runs/0/images/0'", "does not match pattern"],
    ),
    "a field that is none of a pod": (
        {"runs": [{"namespaces": ["team"], "podTemplate": ["tolerations"]}]},
        SERVER,
        ["at '/admissionPolicy/runs/0/podTemplate/0'", "does not match pattern"],
    ),
    "a rule that there is not": (
        {"runs": [{"namespaces": ["team"], "image": ["a"]}]},
        SERVER,
        ["at '/admissionPolicy/runs/0'", "'image' not allowed"],
    ),
}


@pytest.mark.parametrize(("values", "server", "words"), REFUSED.values(), ids=REFUSED)
def test_values_are_refused_in_words_that_help(
    helm: Helm, values: dict[str, Any], server: str, words: list[str]
) -> None:
    with pytest.raises(HelmError) as refused:
        policies(helm, {"admissionPolicy": {"enabled": True, **values}}, server)
    assert [each for each in words if each not in str(refused.value)] == [], refused.value


# ------------------------------------------------------------------------------------------------------- evaluated

CHILDREN = "children.example.com"
"""Pods of this group stand for those of the core, which the server of custom resources does not have."""
FREE = {
    "spec.storage.uri": "s3://elsewhere/x",
    "spec.trainer.image": "docker.io/other:1",
    "spec.model.trustRemoteCode": True,
}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def servers(helm: Helm, control_plane: ControlPlane) -> Iterator[tuple[CrdServer, CrdServer]]:
    """A server that holds runs and the operator to the policies, and one beside it that does not."""
    try:
        binary = crd_server_binary(build=False)
    except BinariesMissingError as missing:
        pytest.skip(str(missing))
    found = copy.deepcopy(policies(helm))
    for body in found:
        if body["metadata"]["name"].endswith("-children"):
            for rule in body["spec"].get("matchConstraints", {}).get("resourceRules", []):
                rule["apiGroups"] = [CHILDREN]
    double = PolicyDouble(found, NAMESPACES, control_plane.folder)
    with_policies = CrdServer(control_plane, binary, double.kubeconfig)
    without = CrdServer(control_plane, binary)
    try:
        without.apply_crd()
        apply_crd(without.api, pods_crd())
        with_policies.apply_crd()
        apply_crd(with_policies.api, pods_crd())
        end = time.monotonic() + SECONDS
        while not refused(with_policies.api, "rivals", {"spec.trainer.podTemplate": {"metadata": {"labels": {}}}}):
            assert time.monotonic() < end, "the server does not have the policies"
            time.sleep(0.1)
        yield with_policies, without
    finally:
        with_policies.stop()
        without.stop()
        double.close()


def pods_crd() -> Object:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"pods.{CHILDREN}"},
        "spec": {
            "group": CHILDREN,
            "scope": "Namespaced",
            "names": {"plural": "pods", "singular": "pod", "kind": "Pod", "listKind": "PodList"},
            "versions": [version],
        },
    }


def refused(api: Api, namespace: str, changes: dict[str, Any]) -> str:
    """What the server says to a run; empty where it takes it. Nothing is stored."""
    try:
        api.create(document(changes), namespace, dryRun="All")
    except ApiError as error:
        return str(error)
    return ""


INSIDE = {"spec.storage.uri": "s3://team/orz"}


def container(kind: str, image: str) -> dict[str, Any]:
    return {"spec.rollout.podTemplate": {"spec": {kind: [{"name": "side"}, {"name": "other", "image": image}]}}}


RULES: dict[str, tuple[str, dict[str, Any], str]] = {
    "as the operator's defaults have it": ("team", INSIDE, ""),
    "an image below a folder": ("team", {**INSIDE, "spec.trainer.image": "registry.example.com/rz/worker:2"}, ""),
    "an image in full": ("team", {**INSIDE, "spec.ledger.image": "mirror.example.com/vllm:1"}, ""),
    "another image": ("team", {**INSIDE, "spec.trainer.image": "docker.io/w:1"}, "found the image docker.io/w:1"),
    "a folder that only begins like it": (
        "team",
        {**INSIDE, "spec.reward.image": "registry.example.com/rz-other/worker:2"},
        "found the image registry.example.com/rz-other/worker:2, one of registry.example.com/rz/ mirror",
    ),
    "an image that only begins like it": (
        "team",
        {**INSIDE, "spec.ledger.image": "mirror.example.com/vllm:10"},
        "found the image mirror.example.com/vllm:10",
    ),
    "a known image in a podTemplate": (
        "team",
        {**INSIDE, **container("containers", "registry.example.com/rz/side:1")},
        "",
    ),
    "another image in a podTemplate": (
        "team",
        {**INSIDE, **container("containers", "x.io/a")},
        "found the image x.io/a",
    ),
    "one that initializes": ("team", {**INSIDE, **container("initContainers", "x.io/b")}, "found the image x.io/b"),
    "one that is a volume": (
        "team",
        {
            **INSIDE,
            "spec.rollout.podTemplate": {"spec": {"volumes": [{"name": "v", "image": {"reference": "x.io/c"}}]}},
        },
        "found the image x.io/c",
    ),
    "fields that a podTemplate may have": (
        "team",
        {
            **INSIDE,
            "spec.trainer.podTemplate": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"tolerations": [{"operator": "Exists"}], "volumes": [{"name": "v", "emptyDir": {}}]},
            },
        },
        "",
    ),
    "a field that it may not have": (
        "team",
        {**INSIDE, "spec.trainer.podTemplate": {"spec": {"tolerations": [], "hostNetwork": True}}},
        "found spec.hostNetwork in a podTemplate, only spec.tolerations spec.containers",
    ),
    "metadata that it may not have": (
        "team",
        {**INSIDE, "spec.reward.podTemplate": {"metadata": {"annotations": {"a": "b"}}}},
        "found metadata.annotations in a podTemplate",
    ),
    "a part that is nothing that can be looked through": (
        "team",
        {**INSIDE, "spec.trainer.podTemplate": {"spec": {"containers": "all of them"}}},
        "denied request",
    ),
    "any podTemplate where none is allowed": (
        "others",
        {"spec.ledger.podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}},
        "found spec.nodeSelector in a podTemplate, none may be given",
    ),
    "everything else there": ("others", FREE, ""),
    "code from a hub": (
        "team",
        {**INSIDE, "spec.model.trustRemoteCode": True},
        "found spec.model.trustRemoteCode: true; code from a hub may not run in this namespace",
    ),
    "code from a hub said not to be": ("team", {**INSIDE, "spec.model.trustRemoteCode": False}, ""),
    "code from a hub where it is trusted": ("trusting", {"spec.model.trustRemoteCode": True}, ""),
    "the folder itself": ("team", {"spec.storage.uri": "s3://team"}, ""),
    "a folder deep below": ("team", {"spec.storage.uri": "gs://shared/team/a/b"}, ""),
    "another bucket": (
        "team",
        {"spec.storage.uri": "s3://other/x"},
        "found spec.storage.uri: s3://other/x, a folder below one of s3://team/ gs://shared/team/ is required",
    ),
    "a bucket that only begins like it": ("team", {"spec.storage.uri": "s3://team-b/x"}, "found spec.storage.uri"),
    "the way up again": ("team", {"spec.storage.uri": "s3://team/../other"}, "found spec.storage.uri"),
    "the way up at the end": ("team", {"spec.storage.uri": "gs://shared/team/.."}, "found spec.storage.uri"),
    "another scheme of the same bucket": ("team", {"spec.storage.uri": "gs://team/x"}, "found spec.storage.uri"),
    "anything where there are no rules": ("free", {**FREE, **container("containers", "x.io/a")}, ""),
}


@pytest.mark.parametrize(("namespace", "changes", "words"), RULES.values(), ids=RULES)
def test_a_run_is_what_its_namespace_allows(
    servers: tuple[CrdServer, CrdServer], namespace: str, changes: dict[str, Any], words: str
) -> None:
    said = refused(servers[0].api, namespace, changes)
    assert (words in said) if words else said == ""


BEFORE = {**FREE, "spec.rollout.podTemplate": {"spec": {"hostNetwork": True}}}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "it can be suspended": ({"suspend": True}, ""),
    "it can be scaled": ({"rollout": {"replicas": 3}}, ""),
    "it can become what is allowed": ({"model": {"trustRemoteCode": False}}, ""),
    "another image is no part of that": ({"trainer": {"image": "docker.io/other:2"}}, "found the image"),
    "nor another field": ({"rollout": {"podTemplate": {"spec": {"hostPID": True}}}}, "in a podTemplate"),
    "nor another folder": ({"storage": {"uri": "s3://elsewhere/y"}}, "found spec.storage.uri"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_what_a_run_had_before_the_policy_it_keeps(
    servers: tuple[CrdServer, CrdServer], change: dict[str, Any], words: str
) -> None:
    name = f"before-{next(_numbers)}"
    with_policies, without = servers
    without.api.create(document({**BEFORE, "metadata.name": name}), "team")
    said = ""
    try:
        with_policies.api.patch(names.KIND, "team", name, {"spec": change})
    except ApiError as error:
        said = str(error)
    assert (words in said) if words else said == ""


# ---------------------------------------------------------------------------------------------- the operator's account

UID = "7f0c1d5e-3a52-4c1b-9d5e-0a6b8c1f2e3d"
OWNER = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "orz", "uid": UID, "controller": True}
WORDS = "without a ReasonerZeroRun as its controller"
OWNED: dict[str, tuple[dict[str, Any], str]] = {
    "a pod that a run owns": ({}, ""),
    "one that a run of a later version owns": ({"owners": [OWNER | {"apiVersion": "reasonerzero.dev/v1beta1"}]}, ""),
    "one that others own too": ({"owners": [{**OWNER, "controller": False, "kind": "Other"}, OWNER]}, ""),
    "one that nobody owns": ({"owners": []}, WORDS),
    "one that a run does not control": ({"owners": [OWNER | {"controller": False}]}, WORDS),
    "one whose owner does not say": ({"owners": [{k: v for k, v in OWNER.items() if k != "controller"}]}, WORDS),
    "one of another kind": ({"owners": [OWNER | {"kind": "Job"}]}, WORDS),
    "one of another group": ({"owners": [OWNER | {"apiVersion": "reasonerzero.dev.example.com/v1"}]}, WORDS),
    "one that is labelled as another run's": ({"labels": {names.LABEL_RUN_UID: "another"}}, WORDS),
    "one without labels": ({"labels": {}}, WORDS),
}


def pod(name: str, owners: list[Any] | None = None, labels: dict[str, str] | None = None) -> Object:
    return {
        "apiVersion": f"{CHILDREN}/v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team",
            "labels": {names.LABEL_RUN_UID: UID} if labels is None else labels,
            "ownerReferences": [OWNER] if owners is None else owners,
        },
    }


@pytest.fixture(scope="module")
def accounts(servers: tuple[CrdServer, CrdServer], control_plane: ControlPlane) -> dict[str, Api]:
    """The operator, and somebody else; both may do everything, as far as RBAC is concerned."""
    made = {}
    for account in ("rz-reasonerzero-operator", "somebody"):
        token = control_plane.service_account_token(NAMESPACE, account)
        made[account.removeprefix("rz-reasonerzero-")] = servers[0].client(token)
        group = "rbac.authorization.k8s.io"
        subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        role = {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"}
        body = {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"all-{account}"}}
        control_plane.api.create(body | {"roleRef": role, "subjects": [subject]})
    return made


def path(name: str = "") -> str:
    return f"/apis/{CHILDREN}/v1/namespaces/team/pods" + (f"/{name}" if name else "")


def said_to(api: Api, verb: str, name: str, body: Object | None = None) -> str:
    try:
        api.request(verb, path(name), body)
    except ApiError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("parts", "words"), OWNED.values(), ids=OWNED)
def test_the_operator_makes_only_what_a_run_owns(accounts: dict[str, Api], parts: dict[str, Any], words: str) -> None:
    name = f"pod-{next(_numbers)}"
    said = said_to(accounts["operator"], "POST", "", pod(name, **parts))
    assert (words in said and name in said) if words else said == ""


def test_others_make_what_they_like(accounts: dict[str, Api]) -> None:
    assert said_to(accounts["somebody"], "POST", "", pod(f"pod-{next(_numbers)}", owners=[])) == ""


def test_the_operator_leaves_alone_what_no_run_owns(accounts: dict[str, Api]) -> None:
    name = f"pod-{next(_numbers)}"
    operator, somebody = accounts["operator"], accounts["somebody"]
    assert said_to(somebody, "POST", "", pod(name, owners=[])) == ""
    assert WORDS in said_to(operator, "DELETE", name)
    adopted = pod(name)
    adopted["metadata"]["resourceVersion"] = somebody.request("GET", path(name))["metadata"]["resourceVersion"]
    assert WORDS in said_to(operator, "PUT", name, adopted), "it does not adopt either"
    assert said_to(somebody, "DELETE", name) == ""


def test_the_operator_changes_and_deletes_what_a_run_owns(accounts: dict[str, Api]) -> None:
    name = f"pod-{next(_numbers)}"
    operator = accounts["operator"]
    stored = operator.request("POST", path(), pod(name))
    given_away = copy.deepcopy(stored)
    given_away["metadata"]["ownerReferences"] = []
    assert WORDS in said_to(operator, "PUT", name, given_away)
    stored["spec"] = {"replicas": 2}
    assert said_to(operator, "PUT", name, stored) == ""
    assert said_to(operator, "DELETE", name) == ""
