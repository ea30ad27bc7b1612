"""What the chart's ServiceAccount may do, asked of a real API server as a person would: ``kubectl auth can-i``.

One table of what is allowed in the namespace that is served, and of the rest a sweep: every other verb on every other
resource that the server has is denied.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane, apply_crd
from helm import CHART, NAMESPACE, RELEASE, Helm
from kube_api import Api

OURS, THEIRS = "team", "rivals"
RUNS = "reasonerzeroruns.reasonerzero.dev"
NEEDED: dict[str, str] = {
    RUNS: "get list watch delete",
    f"{RUNS}/status": "update",
    "pods": "get list watch create delete",
    "services": "get list watch create patch",
    "configmaps": "get create update",
    "secrets": "create",
    "events": "get list create patch",
    "deployments.apps": "get list watch create delete patch",
    "networkpolicies.networking.k8s.io": "get list watch create patch",
    "poddisruptionbudgets.policy": "get list create delete",
    "podgroups.scheduling.x-k8s.io": "get list create delete",
    "podgroups.scheduling.volcano.sh": "get list create delete",
    "podgroups.scheduling.run.ai": "get list create delete",
    "podgroups.scheduling.k8s.io": "get list create delete",
}
"""Resource -> verbs. Written down a second time, on purpose: who changes the rules has to change this too."""
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
SPECIAL = [
    ("impersonate", "", "users"),
    ("impersonate", "", "serviceaccounts"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("use", "policy", "podsecuritypolicies"),
    ("approve", "certificates.k8s.io", "signers"),
    ("create", "", "pods/exec"),
    ("create", "", "pods/ephemeralcontainers"),
    ("update", "reasonerzero.dev", "reasonerzeroruns/finalizers"),
    ("update", "reasonerzero.dev", "reasonerzeroruns/scale"),
    ("*", "*", "*"),
]
EVERYBODY = {
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
    ("create", "authorization.k8s.io", "selfsubjectrulesreviews"),
}
"""What Kubernetes gives to whoever is logged in."""

GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"]

Kubectl = Callable[..., Any]


@pytest.fixture(scope="module", params=["", OURS], ids=["cluster-wide", "a single namespace"])
def watched(request: pytest.FixtureRequest, control_plane: ControlPlane, helm: Helm) -> Iterator[str]:
    """The namespace that is watched, with what the chart renders for it in the server: its rights, the CRD."""
    api, single = control_plane.api, request.param
    if api.find("Namespace", "", OURS) is None:
        for name in (OURS, THEIRS):
            control_plane.create_namespace(name)
        for group in ("scheduling.x-k8s.io", "scheduling.volcano.sh", "scheduling.run.ai"):
            apply_crd(api, pod_group(group))
    objects = helm.template({"watchNamespace": single}, kube_version=f"1.{control_plane.minor}.0")
    made = [body for body in objects if "Role" in body["kind"] or body["kind"] in ("ServiceAccount", CRD)]
    for body in made:
        if body["kind"] != CRD:
            api.create(body)
        elif api.find(CRD, "", body["metadata"]["name"]) is None:
            apply_crd(api, body)  # kubectl says no to what the server does not serve yet
    yield single
    for body in made:
        if body["kind"] != CRD:
            api.delete(body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"])


def pod_group(group: str) -> dict[str, Any]:
    """The CRD of PodGroups: kubectl asks of no resource that the server does not have."""
    names = {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup", "listKind": "PodGroupList"}
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": CRD,
        "metadata": {"name": f"podgroups.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


CRD = "CustomResourceDefinition"
USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-reasonerzero-operator"


def can_i(kubectl: Kubectl, verb: str, resource: str, namespace: str) -> bool:
    name, _, subresource = resource.partition("/")
    words = ["auth", "can-i", verb, name, "--as", USER]
    words += ["--namespace", namespace] if namespace else ["--all-namespaces"]
    words += ["--subresource", subresource] if subresource else []
    done = kubectl(*words)
    answer = done.stdout.strip()
    assert answer in ("yes", "no") or answer.startswith("no "), done.stderr
    return bool(answer == "yes")


def test_the_list_is_the_table(kubectl: Kubectl, watched: str) -> None:
    done = kubectl("auth", "can-i", "--list", "--no-headers", "--as", USER, "--namespace", OURS)
    lines = [re.fullmatch(r"(\S+) +\[.*\] +\[.*\] +\[(.*)\]", line) for line in done.stdout.splitlines()]
    found = {line[1]: set(line[2].split()) for line in lines if line and not line[1].startswith("self")}
    assert found == {resource: set(verbs.split()) for resource, verbs in NEEDED.items()}


ROWS = [
    # verb, resource, namespace, allowed: None for "only where the operator serves the whole cluster"
    ("list", RUNS, OURS, True),
    ("update", f"{RUNS}/status", OURS, True),
    ("update", RUNS, OURS, False),
    ("update", f"{RUNS}/finalizers", OURS, False),
    ("create", "secrets", OURS, True),
    ("get", "secrets", OURS, False),
    ("list", "secrets", OURS, False),
    ("update", "secrets", OURS, False),
    ("delete", "secrets", OURS, False),
    ("create", "pods", OURS, True),
    ("patch", "pods", OURS, False),
    ("create", "pods/exec", OURS, False),
    ("create", "podgroups.scheduling.x-k8s.io", OURS, True),
    ("create", "podgroups.scheduling.volcano.sh", OURS, True),
    ("create", "podgroups.scheduling.run.ai", OURS, True),
    ("list", RUNS, THEIRS, None),
    ("create", "pods", THEIRS, None),
    ("create", "secrets", THEIRS, None),
    ("get", "secrets", THEIRS, False),
    ("list", "nodes", "", False),
    ("list", "namespaces", "", False),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", "", False),
]


@pytest.mark.parametrize(("verb", "resource", "namespace", "expected"), ROWS)
def test_can_i(kubectl: Kubectl, watched: str, verb: str, resource: str, namespace: str, expected: bool | None) -> None:
    assert can_i(kubectl, verb, resource, namespace) is (not watched if expected is None else expected)


USERS = {
    "view": {("get", RUNS): True, ("get", f"{RUNS}/status"): True, ("create", RUNS): False, ("get", "secrets"): False},
    "edit": {
        ("create", RUNS): True,
        ("delete", RUNS): True,
        ("patch", f"{RUNS}/scale"): True,
        ("update", f"{RUNS}/status"): False,
        ("update", f"{RUNS}/finalizers"): False,
        ("create", "pods"): False,
    },
}


@pytest.mark.parametrize("role", USERS)
def test_what_users_get_is_about_runs_alone(control_plane: ControlPlane, helm: Helm, watched: str, role: str) -> None:
    """Bound here as they are; in a cluster they are added to ``view``, ``edit`` and ``admin`` by a controller."""
    api, user = control_plane.api, f"{role}er"
    (body,) = [each for each in helm.template() if each["metadata"]["name"].endswith(f"-user-{role}")]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": body["metadata"]["name"]},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }
    if watched:
        assert api.find("ClusterRole", "", body["metadata"]["name"]) is None, "a single namespace makes none"
        return
    api.create(binding, OURS)
    end = time.monotonic() + 10
    while True:  # the authorizer learns of the binding from a watch of its own
        found = {(verb, what): may(api, verb, *_parts(what), OURS, user) for verb, what in USERS[role]}
        if found == USERS[role] or time.monotonic() > end:
            break
        time.sleep(0.1)
    assert found == USERS[role]


def _parts(resource: str) -> tuple[str, str]:
    """``runs.group/status`` as group and ``runs/status``."""
    whole, _, subresource = resource.partition("/")
    name, _, group = whole.partition(".")
    return group, f"{name}/{subresource}" if subresource else name


def test_everything_else_is_denied(kubectl: Kubectl, control_plane: ControlPlane, watched: str) -> None:
    needed = set()
    for resource, verbs in NEEDED.items():
        needed |= {(verb, *_parts(resource)) for verb in verbs.split()}
    known = resources(control_plane.api)
    asked = {(verb, group, name) for group, name in known for verb in VERBS} | set(SPECIAL)
    for namespace in (OURS, THEIRS, ""):
        everywhere = needed if not watched or namespace == watched else set()
        allowed = {each for each in asked if may(control_plane.api, *each, namespace)}
        assert allowed - EVERYBODY == everywhere & asked
    print(f"\n{len(known)} resources of the server, {3 * len(asked)} questions")


def resources(api: Api) -> set[tuple[str, str]]:
    """(group, resource or resource/subresource) of everything that the server has."""
    paths = {"": "/api/v1"}
    for group in api.request("GET", "/apis")["groups"]:
        paths[group["name"]] = f"/apis/{group['preferredVersion']['groupVersion']}"
    return {(group, each["name"]) for group, path in paths.items() for each in api.request("GET", path)["resources"]}


def may(api: Api, verb: str, group: str, resource: str, namespace: str, user: str = "") -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user or USER,
            "groups": ["system:authenticated", *([] if user else GROUPS)],
            "resourceAttributes": attributes,
        },
    }
    answer = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    found: bool = answer["status"]["allowed"]
    return found


def test_the_table_is_the_chart_s_rules() -> None:
    rules = yaml.safe_load((CHART / "files" / "rbac.yaml").read_text())["rules"]
    written = {
        (f"{resource}.{group}".rstrip(".") if "/" not in resource else resource.replace("/", f".{group}/")): set(
            rule["verbs"]
        )
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert written == {resource: set(verbs.split()) for resource, verbs in NEEDED.items()}
