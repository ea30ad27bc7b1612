"""Other pods reach nothing of a run but its status ports, which take no orders.

Services and the NetworkPolicy, which a run has as long as it lives; ``statics`` calls these. The NetworkPolicy limits
who may come in, not what the workers reach (buckets, the hub):

- The run's own pods reach each other on every port: NCCL and gloo choose theirs.
- The status ports admit every pod of the cluster, unless the operator's owner names peers (``service.settings``): then
  those alone, and the operator itself, which reads the ledger's. They are read-only and show figures, no text of the
  model's and no secret; Prometheus must scrape them, wherever it runs.
- The API ports of ledger and reward admit the run's pods alone, and those need the run's token besides.

The kubelet's probes come from the node, which network plugins let through. Pods on the host's network are outside of
any policy.
"""

from __future__ import annotations

from rz_api import names
from rz_api.names import Role
from rz_operator.manifests.context import Body, Context
from rz_operator.manifests.place import API_PORT, RENDEZVOUS_PORT, STATUS_PORT

EVERYBODY: tuple[Body, ...] = ({"namespaceSelector": {}},)
"""Every pod of the cluster."""


def role_service(context: Context, role: Role, name: str) -> Body:
    """ClusterIP Service of the ledger or the reward role."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": context.metadata(name, role),
        "spec": {
            "type": "ClusterIP",
            **_families(context),
            "selector": context.selector(role),
            "ports": [_port("api", API_PORT), _port("status", STATUS_PORT)],
        },
    }


def rendezvous_service(context: Context, incarnation: int) -> Body:
    """Headless: gives the trainer pods of this incarnation (0: of any) their host names, before they are ready, because
    being ready takes all of them."""
    of_gang = {names.LABEL_INCARNATION: str(incarnation)} if incarnation else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": context.metadata(names.trainer_service(context.name), "trainer"),
        "spec": {
            "clusterIP": "None",
            **_families(context),
            "publishNotReadyAddresses": True,
            "selector": context.selector("trainer") | of_gang,
            "ports": [_port("rendezvous", RENDEZVOUS_PORT)],
        },
    }


def network_policy(context: Context) -> Body:
    processes = max((len(each) for each in context.processes.values()), default=1)
    status_ports = [{"protocol": "TCP", "port": STATUS_PORT + position} for position in range(processes)]
    own = {"matchLabels": context.selector()}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": context.metadata(names.network_policy(context.name)),
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                {"from": [dict(peer) for peer in context.status_peers or EVERYBODY], "ports": status_ports},
            ],
        },
    }


def _families(context: Context) -> Body:
    """An address of each family that the cluster has. A server before 1.20 would drop the field; 1.20 has it behind a
    gate and is asked for nothing."""
    return {"ipFamilyPolicy": "PreferDualStack"} if context.capabilities.minor > 20 else {}


def _port(name: str, port: int) -> Body:
    """The target is a number: pods that do not declare a named one would get no DNS name of a headless Service."""
    return {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
