"""Whether NetworkPolicies let a connection through, as their specification says. A pure function, for test_connections.

Additive: a pod that no policy selects for a direction is open in it; otherwise one rule of one policy has to match.
Both ends must agree. A node reaches its own pods whatever they say (the kubelet's probes).

An ``ipBlock`` is compared with the addresses of pods too. Plugins differ here (Calico does that, Cilium does not), so
the test's pods have addresses that make the more open reading visible.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """One end of a connection that policies can select."""

    namespace: str
    labels: Mapping[str, str]
    address: str
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    port_names: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """Something outside of the cluster, or a service of the node."""

    address: str


@dataclass(frozen=True)
class Node:
    """The kubelet of the node that a pod runs on."""


End = Pod | Address | Node


def admitted(policies: Sequence[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether ``source`` gets through to ``port`` of ``target``."""
    if isinstance(source, Node):
        return True
    leaves = not isinstance(source, Pod) or _direction(policies, "Egress", source, target, target, port, protocol)
    enters = not isinstance(target, Pod) or _direction(policies, "Ingress", target, source, target, port, protocol)
    return leaves and enters


def _direction(
    policies: Sequence[Object], direction: str, pod: Pod, peer: End, listens: End, port: int, protocol: str
) -> bool:
    key, whose = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not selecting:
        return True
    return any(
        _has_peer(rule.get(whose, []), peer, policy["metadata"]["namespace"])
        and _has_port(rule.get("ports", []), listens, port, protocol)
        for policy in selecting
        for rule in policy["spec"].get(key, [])
    )


def _has_peer(peers: Sequence[Object], end: End, namespace: str) -> bool:
    """No peers at all means everybody."""
    return not peers or any(_is_peer(peer, end, namespace) for peer in peers)


def _is_peer(peer: Object, end: End, namespace: str) -> bool:
    if isinstance(end, Node):
        return False
    if "ipBlock" in peer:
        address, block = ipaddress.ip_address(end.address), peer["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(each) for each in block.get("except", []))
    if not isinstance(end, Pod):
        return False
    if "namespaceSelector" in peer:
        there = selects(peer["namespaceSelector"], end.namespace_labels)
    else:
        there = end.namespace == namespace
    return there and selects(peer.get("podSelector", {}), end.labels)


def _has_port(ports: Sequence[Object], listens: End, port: int, protocol: str) -> bool:
    """No ports at all means all."""
    return not ports or any(_is_port(each, listens, port, protocol) for each in ports)


def _is_port(entry: Object, listens: End, port: int, protocol: str) -> bool:
    if entry.get("protocol", "TCP") != protocol:
        return False
    wanted = entry.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return isinstance(listens, Pod) and listens.port_names.get(wanted) == port
    return bool(wanted <= port <= entry.get("endPort", wanted))


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """A label selector; the empty one selects everything."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        _matches(expression, labels) for expression in selector.get("matchExpressions", [])
    )


def _matches(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case other:
            raise ValueError(f"found the operator {other}, required is In, NotIn, Exists or DoesNotExist")
