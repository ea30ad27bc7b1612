"""Whether a Service or a NetworkPolicy is as it was rendered, and what makes it so again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from cluster_in_memory import merged

from rz_operator.controller.specs import correction, spec_digest

Body = dict[str, Any]

SERVICE: Body = {
    "kind": "Service",
    "metadata": {"name": "orz-ledger", "labels": {"a": "b"}},
    "spec": {
        "type": "ClusterIP",
        "selector": {"role": "ledger"},
        "ports": [{"name": "api", "port": 8080, "targetPort": 8080, "protocol": "TCP"}],
    },
}
HEADLESS: Body = {
    "kind": "Service",
    "metadata": {"name": "orz-trainer", "labels": {"a": "b"}},
    "spec": {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"role": "trainer", "incarnation": "2"},
        "ports": [{"name": "rendezvous", "port": 29500, "targetPort": 29500, "protocol": "TCP"}],
    },
}
POLICY: Body = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "orz-run", "labels": {"a": "b"}},
    "spec": {
        "podSelector": {"matchLabels": {"run": "orz"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"run": "orz"}}}]}],
    },
}


def stored(body: Body) -> Body:
    """As an API server keeps it."""
    found = copy.deepcopy(body)
    found["metadata"] |= {"uid": "u", "resourceVersion": "7", "managedFields": []}
    if body["kind"] == "Service":
        address = found["spec"].get("clusterIP", "10.0.0.7")
        found["spec"] |= {
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "type": "ClusterIP",
        }
        found["status"] = {"loadBalancer": {}}
    return found


@pytest.mark.parametrize("body", [SERVICE, HEADLESS, POLICY], ids=lambda body: body["metadata"]["name"])
def test_what_the_server_fills_in_is_no_difference(body: Body) -> None:
    assert spec_digest(stored(body)) == spec_digest(body)


def edited(body: Body, edit: Callable[[Body], object]) -> Body:
    found = stored(body)
    edit(found["spec"])
    return found


EDITS: dict[str, tuple[Body, Callable[[Body], object]]] = {
    "everybody is let in": (POLICY, lambda spec: spec.update(ingress=[{}])),
    "one more is let in": (POLICY, lambda spec: spec["ingress"].append({"from": [{"namespaceSelector": {}}]})),
    "the same peers from everywhere": (POLICY, lambda spec: spec["ingress"][0]["from"][0].update(namespaceSelector={})),
    "it is for other pods": (POLICY, lambda spec: spec["podSelector"].update(matchLabels={"run": "other"})),
    "it is for fewer pods": (POLICY, lambda spec: spec["podSelector"].update(matchExpressions=[{"key": "x"}])),
    "egress, too": (POLICY, lambda spec: spec.update(policyTypes=["Ingress", "Egress"], egress=[])),
    "another selector": (SERVICE, lambda spec: spec["selector"].update(role="mine")),
    "a narrower selector": (SERVICE, lambda spec: spec["selector"].update(app="mine")),
    "another target": (SERVICE, lambda spec: spec["ports"][0].update(targetPort=1)),
    "a port more": (SERVICE, lambda spec: spec["ports"].append({"name": "x", "port": 1, "targetPort": 1})),
    "open to the outside": (SERVICE, lambda spec: spec.update(type="LoadBalancer", loadBalancerIP="1.2.3.4")),
    "an address of the outside": (SERVICE, lambda spec: spec.update(externalIPs=["1.2.3.4"])),
    "names of pods that are ready only": (HEADLESS, lambda spec: spec.update(publishNotReadyAddresses=False)),
    "another incarnation": (HEADLESS, lambda spec: spec["selector"].update(incarnation="1")),
}


@pytest.mark.parametrize(("body", "edit"), EDITS.values(), ids=EDITS)
def test_an_edit_is_seen_and_undone(body: Body, edit: Callable[[Body], object]) -> None:
    found = edited(body, edit)
    assert spec_digest(found) != spec_digest(body)
    patch = correction(found, body)
    assert patch["metadata"] == {"labels": {"a": "b"}, "resourceVersion": "7"}
    assert spec_digest(merged(found, patch)) == spec_digest(body)


def test_addresses_of_a_service_are_never_in_the_patch() -> None:
    found = edited(SERVICE, lambda spec: spec["selector"].update(role="mine"))
    assert correction(found, SERVICE)["spec"] == {"selector": {"role": "ledger"}}


@pytest.mark.parametrize("spec", [None, 7, [], {"ports": 3}, {"ports": [1, None]}, {"selector": [1]}, {"type": {}}])
def test_whatever_is_stored_has_a_digest(spec: Any) -> None:
    for kind in ("Service", "NetworkPolicy"):
        assert spec_digest({"kind": kind, "spec": spec})
