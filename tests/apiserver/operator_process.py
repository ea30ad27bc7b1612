"""The operator as a child process, as a ServiceAccount that may do what charts/reasonerzero/files/rbac.yaml says.

Used by the ``operator`` fixture of ``conftest.py`` and by ``bench/``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import yaml
from control_plane import ControlPlane, Request
from kube_api import Api, ApiError, Object
from server_process import Server, ServerDiedError, child_environment, free_ports, wait_until_up

ROOT = Path(__file__).parent.parent.parent
RBAC = ROOT / "charts" / "reasonerzero" / "files" / "rbac.yaml"
SYSTEM_NAMESPACE = "reasonerzero-system"
WORKER_IMAGE = "registry.test/worker:1"

QUICK = {
    "RZ_POLL_SECONDS": "1",
    "RZ_RESYNC_SECONDS": "60",
    "RZ_REQUEST_SECONDS": "10",
    "RZ_IMAGE_LEDGER": "registry.test/reward:1",
    "RZ_IMAGE_REWARD": "registry.test/reward:1",
    "RZ_IMAGE_ROLLOUT": WORKER_IMAGE,
    "RZ_IMAGE_TRAINER": WORKER_IMAGE,
}
"""Settings of every operator here, unless a test says otherwise."""


class OperatorProcess:
    """``watch_namespace`` "" serves all namespaces (ClusterRole), else one (Role). Not started before ``start``."""

    def __init__(
        self,
        plane: ControlPlane,
        *,
        watch_namespace: str = "",
        ledger_status_url: str = "",
        env: Mapping[str, str] | None = None,
        account: str = "operator",
    ) -> None:
        self._plane, self.watch_namespace, self.account = plane, watch_namespace, account
        self.user = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{account}"
        self.env = {
            **QUICK,
            "RZ_NAMESPACE": SYSTEM_NAMESPACE,
            "RZ_WATCH_NAMESPACE": watch_namespace,
            "RZ_BIND_HOST": "127.0.0.1",
            **({"RZ_LEDGER_STATUS_URL": ledger_status_url} if ledger_status_url else {}),
            **(env or {}),
        }
        self._server: Server | None = None
        self.url = ""
        """Of /metrics, /healthz and /readyz."""
        self.started = 0.0
        """time.time() of the newest start."""
        grant(plane.api, account, watch_namespace)
        self._kubeconfig = plane.service_account_kubeconfig(SYSTEM_NAMESPACE, account)

    def start(self, *, ready_seconds: float | None = 30.0, **env: str) -> OperatorProcess:
        """Start, with ``env`` on top, and wait for /readyz (None: don't wait)."""
        assert self._server is None, "the operator runs already: stop, kill or restart it"
        self.env |= env
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        environment = child_environment(**self.env, RZ_PORT=str(port), KUBECONFIG=str(self._kubeconfig))
        self.started = time.time()
        name = f"operator-{self.account}-{port}"
        self._server = Server(name, [sys.executable, "-m", "rz_operator"], self._plane.folder, environment)
        if ready_seconds is not None:
            try:
                self.wait_ready(ready_seconds)
            except ServerDiedError:
                self.kill()
                raise
        return self

    def wait_ready(self, seconds: float = 30.0) -> None:
        wait_until_up(self._running(), lambda: self.get("/readyz").is_success, seconds)

    def stop(self, seconds: float = 10.0) -> int:
        """SIGTERM; the exit status. Fine where it has ended already."""
        server, self._server = self._running(), None
        server.stop(seconds)
        assert server.process.returncode is not None
        return server.process.returncode

    def kill(self) -> None:
        """SIGKILL, as a crash of the node."""
        server, self._server = self._running(), None
        server.process.kill()
        server.process.wait()

    def close(self) -> None:
        """Stop it if it runs: what the fixture does at the end."""
        if self._server is not None:
            self.stop()

    def restart(self, **env: str) -> OperatorProcess:
        """Stop, and start with ``env`` on top: an upgrade, where images or defaults are in it."""
        self.close()
        self.env |= env
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: it misses what happens, and holds old reads."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.process.poll() is None

    @property
    def pid(self) -> int:
        return self._running().process.pid

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=5.0)

    def metrics(self) -> str:
        return self.get("/metrics").raise_for_status().text

    def log(self, lines: int = 1_000_000) -> str:
        """Of the process that runs now."""
        return self._running().tail(lines)

    def requests(self) -> list[Request]:
        """Every API request of this operator's ServiceAccount, of all its processes."""
        return self._plane.requests(self.user)

    def denied(self, namespace: str = "") -> list[Request]:
        """Requests that RBAC (or admission) refused: the rules lack something, or the operator asks for what it must
        not need. Of all tests that share its account, unless a namespace is named."""
        inside = f"/{namespace}/" if namespace else "/"
        return [request for request in self.requests() if request.code == 403 and inside in request.path]

    def _running(self) -> Server:
        assert self._server is not None, "the operator is not running"
        return self._server


def grant(api: Api, account: str, watch_namespace: str) -> None:
    """Bind the rules of the chart to the ServiceAccount: a Role in the one namespace, or a ClusterRole."""
    if not RBAC.exists():
        raise FileNotFoundError(f"{RBAC.relative_to(ROOT)} is not there; the operator's RBAC rules are read from it")
    rules = yaml.safe_load(RBAC.read_text())["rules"]
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": account, "namespace": SYSTEM_NAMESPACE}
    kind = "Role" if watch_namespace else "ClusterRole"
    name = f"{account}-test"
    role: Object = {
        "apiVersion": f"{group}/v1",
        "kind": kind,
        "metadata": {"name": name},
        "rules": rules,
    }
    binding: Object = {
        "apiVersion": f"{group}/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": kind, "name": name},
        "subjects": [subject],
    }
    for body in (role, binding):
        existing = api.find(body["kind"], watch_namespace, name)
        if existing is not None:
            api.delete(body["kind"], watch_namespace, name)
        api.create(body, watch_namespace)


def revoke(api: Api, account: str, watch_namespace: str) -> None:
    kind = "Role" if watch_namespace else "ClusterRole"
    for each in (f"{kind}Binding", kind):
        try:
            api.delete(each, watch_namespace, f"{account}-test")
        except ApiError as error:
            if error.code != 404:
                raise


__all__ = ["OperatorProcess", "ServerDiedError", "grant", "revoke"]
