"""Every pod that the chart or the operator makes is admitted at the level *restricted*, but for written exceptions."""

from __future__ import annotations

from typing import Any

import pytest
from chart_cases import CASES
from helm import ROOT, Helm
from manifest_builders import cases
from pod_security import violations

from rz_operator.manifests import all_of

EXCEPTIONS = {
    "variant-pod-template": [
        "hostNetwork is true",
        "main: adds the capability IPC_LOCK",
        "main: allowPrivilegeEscalation is not false",
        "volume cache is a hostPath",
    ],
}
"""RDMA by a user's podTemplate: the host's network, locked memory, a cache on the node; its ``securityContext``, which
replaces the operator's, forgets about privilege escalation. docs/security.md names them, and shows how it is better."""

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "c",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}


def container(**security: Any) -> dict[str, Any]:
    own = GOOD["containers"][0]
    return GOOD | {"containers": [own | {"securityContext": own["securityContext"] | security}]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the host's network": (GOOD | {"hostNetwork": True}, "hostNetwork is true"),
    "a path of the host": (GOOD | {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume v is a hostPath"),
    "a sysctl": (
        GOOD | {"securityContext": GOOD["securityContext"] | {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
        "sysctl kernel.msgmax",
    ),
    "escalation": (container(allowPrivilegeEscalation=None), "c: allowPrivilegeEscalation is not false"),
    "root": (container(runAsUser=0), "c: runAsUser is 0"),
    "a container that may be root": (container(runAsNonRoot=False), "c: runAsNonRoot is not true"),
    "a capability": (
        container(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        "c: adds the capability SYS_ADMIN",
    ),
    "capabilities that are kept": (container(capabilities={}), "c: does not drop ALL capabilities"),
    "no seccomp": (GOOD | {"securityContext": {"runAsNonRoot": True}}, "c: no seccompProfile"),
    "privilege": (container(privileged=True), "c: privileged"),
    "a port of the host": (
        GOOD | {"containers": [GOOD["containers"][0] | {"ports": [{"hostPort": 80}]}]},
        "c: hostPort 80",
    ),
}


def test_a_good_pod_is_admitted() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(("spec", "why"), REFUSED.values(), ids=REFUSED)
def test_the_checker_refuses(spec: dict[str, Any], why: str) -> None:
    assert violations(spec) == [why]


def test_an_init_container_is_looked_at_too() -> None:
    assert violations(GOOD | {"initContainers": [{"name": "i"}]}) == [
        "i: allowPrivilegeEscalation is not false",
        "i: does not drop ALL capabilities",
    ]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_charts_pods_are_restricted(helm: Helm, values: dict[str, Any]) -> None:
    bodies = helm.template(values)
    specs = [body["spec"]["template"]["spec"] for body in bodies if body["kind"] == "Deployment"]
    specs += [body["spec"] for body in bodies if body["kind"] == "Pod"]
    assert len(specs) == 4, "the operator's, and three of `helm test`"
    for spec in specs:
        assert violations(spec) == []
        for each in spec["containers"]:
            assert each["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", cases())
def test_the_pods_of_a_run_are_restricted_or_a_written_exception(name: str) -> None:
    found = set()
    for body in all_of(cases()[name]):
        if body["kind"] in ("Pod", "Deployment"):
            spec = body["spec"] if body["kind"] == "Pod" else body["spec"]["template"]["spec"]
            found |= set(violations(spec))
    assert sorted(found) == EXCEPTIONS.get(name, [])


def test_the_documentation_names_the_exception() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    assert [each for each in ("hostNetwork", "IPC_LOCK", "hostPath") if each not in text] == []
