"""A real etcd and kube-apiserver on loopback: started in seconds, no root, all state in one temporary folder.

Used by ``conftest.py`` (once for all tests) and by ``bench/``; ``tests/cluster`` puts a node beside it. There are no
controllers, no scheduler and no kubelet: ``players.py`` does what these would do. Authorization is RBAC; the
administrator has a fixed token, everyone else is a ServiceAccount whose token comes from the TokenRequest API. Every
request of a ServiceAccount is in the audit log.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kube_api import Api, ApiError, Object
from kube_binaries import API_SERVER, ETCD
from server_process import Server, ServerDiedError, free_ports, wait_until_up

from rz_api import crd

TRIES = 3
"""A free port may be taken by someone else between finding and using it."""
NO_CONTROLLERS = ("ServiceAccount",)
"""Admission that can't work without controllers: it would wait for token Secrets that nobody makes."""
OLDEST_WITH_CEL = 25
SERVICE_RANGE = "10.0.0.0/16"
SERVED_SECONDS = 60.0
"""Within which a CRD is served, on a busy machine too."""


@dataclass(frozen=True)
class Request:
    """One line of the audit log."""

    user: str
    verb: str
    path: str
    code: int
    seconds_since_epoch: float


class ControlPlane:
    """``with ControlPlane(binaries) as plane:``; ``plane.api`` is the administrator."""

    def __init__(self, binaries: Path, address: str = "127.0.0.1", flags: Mapping[str, object] | None = None) -> None:
        """``address``: where the API server listens. ``flags``: over those that it gets here; None leaves one out."""
        self._binaries, self._address, self._flags = binaries, address, flags or {}
        self._temporary = tempfile.TemporaryDirectory(prefix="rz-control-plane-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._servers: list[Server] = []
        self._apis: list[Api] = []
        self.admin_token = secrets.token_hex(16)
        self.url = self.etcd_url = ""
        self.api: Api
        self.minor = 0
        """Of the server's version: 20 for 1.20."""

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        self._write_files()
        for attempt in range(1, TRIES + 1):
            try:
                self._start_once()
                break
            except ServerDiedError as died:
                self._stop_servers()
                if attempt == TRIES or "address already in use" not in str(died):
                    self._temporary.cleanup()
                    raise
        version = self.api.request("GET", "/version")
        self.minor = int(version["gitVersion"].split(".")[1])

    def _start_once(self) -> None:
        etcd_port, peer_port, api_port = free_ports(3)
        self.etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
        self.url = f"https://{self._address}:{api_port}"
        etcd_flags = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": self.etcd_url,
            "advertise-client-urls": self.etcd_url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"default={peer_url}",
        }
        etcd = self.run(ETCD, [str(self._binaries / ETCD), *_flags(etcd_flags)])
        wait_until_up(etcd, lambda: httpx.get(f"{self.etcd_url}/health", trust_env=False).is_success)
        api_flags = {
            "etcd-servers": self.etcd_url,
            "bind-address": self._address,
            "advertise-address": self._address,
            "endpoint-reconciler-type": "none",
            "secure-port": api_port,
            "cert-dir": self.folder / "certificates",
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": self.folder / "accounts.pub",
            "service-account-signing-key-file": self.folder / "accounts.key",
            "service-cluster-ip-range": SERVICE_RANGE,
            "disable-admission-plugins": ",".join(NO_CONTROLLERS),
            "audit-policy-file": self.folder / "audit-policy.yaml",
            "audit-log-path": self.folder / "audit.log",
            # Priority and fairness would slow the tests' own burst of requests, not only the operator's.
            "enable-priority-and-fairness": "false",
            "max-requests-inflight": 1000,
            "max-mutating-requests-inflight": 500,
            **self._flags,
        }
        server = self.run(API_SERVER, [str(self._binaries / API_SERVER), *_flags(api_flags)])
        self._wait_for_certificate(server)
        self.api = self.client(self.admin_token)
        wait_until_up(server, lambda: self.api.text("/readyz") == "ok")

    def _wait_for_certificate(self, server: Server) -> None:
        """The server writes its own certificate before it listens."""
        wait_until_up(server, lambda: self.ca_file.exists() and self.ca_file.stat().st_size > 0)

    def stop(self) -> None:
        """Kill what was started, newest first, by pid (nothing in it is to be kept); remove the folder."""
        self._stop_servers()
        self._temporary.cleanup()

    def _stop_servers(self) -> None:
        while self._apis:
            self._apis.pop().close()
        while self._servers:
            self._servers.pop().kill()

    def run(self, name: str, command: list[str]) -> Server:
        server = Server(name, command, self.folder)
        self._servers.append(server)
        return server

    def _write_files(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        (self.folder / "accounts.key").write_bytes(private)
        (self.folder / "accounts.pub").write_bytes(public)
        (self.folder / "tokens.csv").write_text(f"{self.admin_token},admin,admin,system:masters\n")
        rules = [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
        (self.folder / "audit-policy.yaml").write_text(yaml.safe_dump(policy))

    # -------------------------------------------------------------------------------------------------- clients

    @property
    def ca_file(self) -> Path:
        return self.folder / "certificates" / "apiserver.crt"

    def client(self, token: str) -> Api:
        made = Api(self.url, token, str(self.ca_file))
        self._apis.append(made)
        return made

    def admin_kubeconfig(self) -> Path:
        return self._kubeconfig("admin", self.admin_token, "default")

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Kubeconfig of a ServiceAccount; the account is made if there is none. Valid for a day."""
        return self._kubeconfig(f"{namespace}-{name}", self.service_account_token(namespace, name), namespace)

    def service_account_token(self, namespace: str, name: str) -> str:
        if self.api.find("ServiceAccount", namespace, name) is None:
            self.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace)
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86_400},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token: str = self.api.request("POST", path, asked)["status"]["token"]
        return token

    def _kubeconfig(self, name: str, token: str, namespace: str) -> Path:
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig(self.url, str(self.ca_file), token, namespace)))
        return path

    # ------------------------------------------------------------------------------------------- contents

    def apply_crd(self) -> None:
        """Install or update crds/reasonerzeroruns.yaml and wait until it is served."""
        body = yaml.safe_load(crd.PATH.read_text())
        if self.minor < OLDEST_WITH_CEL:
            body = without_validations(body)
        apply_crd(self.api, body)

    def create_namespace(self, name: str) -> str:
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def remove_namespace(self, name: str, kinds: Iterable[str]) -> None:
        """What the namespace controller would do: delete the contents (of ``kinds``), then the namespace."""
        for kind in kinds:
            for item in self.api.list(kind, name):
                meta = item["metadata"]
                if meta.get("finalizers"):
                    with contextlib.suppress(ApiError):
                        self.api.patch(kind, name, meta["name"], {"metadata": {"finalizers": None}})
                self.api.delete(kind, name, meta["name"], grace=0)
        self.api.delete("Namespace", "", name)
        left = self.api.find("Namespace", "", name)
        if left is not None:
            with contextlib.suppress(ApiError):
                self.api.replace(left | {"spec": {"finalizers": []}}, subresource="finalize")

    def requests(self, user: str = "") -> list[Request]:
        """What ServiceAccounts have asked (those whose name contains ``user``), oldest first; watches too."""
        path = self.folder / "audit.log"
        lines = path.read_text().splitlines() if path.exists() else []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line may be half written
                event = json.loads(line)
                if event["stage"] in ("ResponseComplete", "ResponseStarted") and user in event["user"]["username"]:
                    found.append(_request(event))
        return found


def _request(event: Object) -> Request:
    when = datetime.fromisoformat(event["requestReceivedTimestamp"])
    return Request(
        user=event["user"]["username"],
        verb=event["verb"],
        path=event["requestURI"],
        code=(event.get("responseStatus") or {}).get("code", 0),
        seconds_since_epoch=when.timestamp(),
    )


def apply_crd(api: Api, body: Object) -> None:
    """Create or replace a CRD through ``api``; back when it is established."""
    name = body["metadata"]["name"]
    existing = api.find("CustomResourceDefinition", "", name)
    if existing is None:
        api.create(body)
    else:
        version = {"resourceVersion": existing["metadata"]["resourceVersion"]}
        api.replace(body | {"metadata": body["metadata"] | version})
    end = time.monotonic() + SERVED_SECONDS
    while True:
        status = api.get("CustomResourceDefinition", "", name).get("status", {})
        conditions = {item["type"]: item for item in status.get("conditions") or []}
        if conditions.get("Established", {}).get("status") == "True" and _served(api, body["spec"]):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"the CRD {name} is not served after {SERVED_SECONDS:.0f} s: {conditions}")
        time.sleep(0.05)


def _served(api: Api, spec: Object) -> bool:
    version = next(each["name"] for each in spec["versions"] if each["served"])
    try:
        api.request("GET", f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")
    except ApiError:
        return False
    return True


def without_validations(body: Any) -> Any:
    """A copy with no ``x-kubernetes-validations``, which servers before 1.25 don't know."""
    if isinstance(body, dict):
        return {key: without_validations(value) for key, value in body.items() if key != "x-kubernetes-validations"}
    if isinstance(body, list):
        return [without_validations(item) for item in body]
    return body


def kubeconfig(server: str, ca_file: str, token: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": ca_file}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
    }


def _flags(flags: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]
