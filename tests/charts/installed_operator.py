"""The operator that is installed in an API server: the process that its Deployment describes, and what is played of it.

Used by ``test_release.py`` and by the tests of the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from control_plane import ControlPlane
from helm import Object
from kube_api import Api
from kubelet_double import Kubelet
from server_process import Server, ServerDiedError, child_environment, free_ports, wait_until_up


@dataclass
class Each:
    """A player that is one function."""

    tick: Callable[[], int]


def start(plane: ControlPlane, deployment: Object, ledger_status_url: str) -> tuple[Server, str]:
    """What the kubelet would start: the Deployment's container, as its ServiceAccount. The process, and its URL."""
    namespace, spec = deployment["metadata"]["namespace"], deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    env = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    fields = {"metadata.namespace": namespace}
    env |= {
        each["name"]: fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container["env"]
        if "valueFrom" in each
    }
    (port,) = free_ports(1)
    # Asked for first: a token would be given for an account that is not there, too.
    plane.api.get("ServiceAccount", namespace, spec["serviceAccountName"])
    account = plane.service_account_kubeconfig(namespace, spec["serviceAccountName"])
    here = {
        "RZ_PORT": str(port),
        "RZ_BIND_HOST": "127.0.0.1",
        "RZ_LEDGER_STATUS_URL": ledger_status_url,
        "RZ_POLL_SECONDS": "1",
        "KUBECONFIG": str(account),
    }
    command = [sys.executable, *container["command"][1:]]
    server = Server(f"operator-{port}", command, plane.folder, child_environment(**env | here))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(server, lambda: httpx.get(f"{url}/readyz", trust_env=False, timeout=5).status_code == 200)
    except ServerDiedError:
        server.kill()
        raise
    return server, url


def available(api: Api, namespace: str) -> int:
    """The conditions of a Deployment that ``helm --wait`` waits for."""
    changes = 0
    for body in api.list("Deployment", namespace):
        status = body.get("status", {})
        if status.get("readyReplicas") and not status.get("conditions"):
            reasons = {"Available": "MinimumReplicasAvailable", "Progressing": "NewReplicaSetAvailable"}
            conditions = [{"type": kind, "status": "True", "reason": why} for kind, why in reasons.items()]
            patch = {"status": {"conditions": conditions}}
            api.patch("Deployment", namespace, body["metadata"]["name"], patch, subresource="status")
            changes += 1
    return changes


def end_of_test(kubelet: Kubelet, namespace: str) -> int:
    """The next pod that ``helm test`` makes succeeds."""
    for pod in kubelet.api.list("Pod", namespace):
        component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if component in ("test", "test-policies") and pod["status"].get("phase") == "Running":
            kubelet.succeed(namespace, pod["metadata"]["name"])
            return 1
    return 0
