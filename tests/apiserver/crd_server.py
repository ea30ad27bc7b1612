"""The CRD-only server of a new Kubernetes, beside the control plane and on the same etcd: it evaluates CEL.

Used by the ``crd_server`` fixture. It has custom resources and nothing else (no ``/api``, so no kubectl); who is
asking, and what they may do, it asks the control plane.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from control_plane import ControlPlane, apply_crd
from kube_api import Api, Object
from server_process import ServerDiedError, free_ports, wait_until_up

from rz_api import crd

OTHER_SERVERS_KINDS = (
    "NamespaceLifecycle",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "MutatingAdmissionPolicy",
)
"""Admission that reads kinds which an older control plane has not, or namespaces that need not exist here."""


class CrdServer:
    """``api``: the administrator. Namespaces are only names."""

    def __init__(self, plane: ControlPlane, binary: Path, policies: Path | None = None) -> None:
        """``policies``: kubeconfig of a server that has ValidatingAdmissionPolicies, which are then evaluated. Of one
        plane, a server with and one without have the same objects."""
        (port,) = free_ports(1)
        name = "crd-server" if policies is None else "crd-server-with-policies"
        folder = plane.folder / name
        left_out = [kind for kind in OTHER_SERVERS_KINDS if policies is None or kind != "ValidatingAdmissionPolicy"]
        kubeconfig = str(plane.admin_kubeconfig())
        flags = {
            "etcd-servers": plane.etcd_url,
            "etcd-prefix": "/ext",
            "bind-address": "127.0.0.1",
            "secure-port": str(port),
            "cert-dir": str(folder),
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "kubeconfig": str(policies or kubeconfig),
            "authentication-skip-lookup": "true",
            "enable-priority-and-fairness": "false",
            "disable-admission-plugins": ",".join(left_out),
        }
        self._server = plane.run(name, [str(binary), *(f"--{name}={value}" for name, value in flags.items())])
        certificate = folder / "apiserver.crt"
        wait_until_up(self._server, lambda: certificate.exists() and certificate.stat().st_size > 0)
        token = yaml.safe_load(Path(kubeconfig).read_text())["users"][0]["user"]["token"]
        self._url, self._certificate = f"https://127.0.0.1:{port}", str(certificate)
        self._clients: list[Api] = []
        self.api = self.client(token)
        try:
            wait_until_up(self._server, lambda: self.api.text("/readyz") == "ok")
        except ServerDiedError:
            self.stop()
            raise

    def apply_crd(self) -> None:
        """Install crds/reasonerzeroruns.yaml, CEL and all. Raises ApiError with what the server dislikes in it."""
        body: Object = yaml.safe_load(crd.PATH.read_text())
        apply_crd(self.api, body)

    def client(self, token: str) -> Api:
        """Somebody else, as the control plane knows them."""
        made = Api(self._url, token, self._certificate)
        self._clients.append(made)
        return made

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._server.kill()
