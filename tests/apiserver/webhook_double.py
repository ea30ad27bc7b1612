"""Webhooks of somebody else's, as HTTPS servers of the test: one denies pods, and says why, one labels them.

``with DenyingWebhook(api, namespace, {label: value}, "no trainers today"):`` and, for what Kueue does,
``with LabellingWebhook(api, namespace, {queue: name}, "kueue.x-k8s.io/managed"):``.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from kube_api import Api, ApiError

LABEL = "test.reasonerzero.dev/webhook"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: the API server leaves its connections open."""


class Webhook:
    """Somebody's answer to every create of a pod with these labels in this namespace, while ``with`` lasts."""

    kind: ClassVar[str]
    """``Validating`` or ``Mutating``."""

    def __init__(self, api: Api, namespace: str, labels: Mapping[str, str]) -> None:
        self._api, self._namespace, self._labels = api, namespace, dict(labels)
        self.name = f"{namespace}.{self.kind.lower()}.webhook.test"

    def respond(self, review: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields of the AdmissionReview's response."""
        raise NotImplementedError

    def is_seen(self, answer: Mapping[str, Any] | ApiError) -> bool:
        """Whether the server's answer to a create shows that the webhook acts."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        certificate, key = _certificate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder, "chain.pem")
            chain.write_bytes(key + certificate)
            context.load_cert_chain(chain)
        self._server = _Server(("127.0.0.1", 0), _handler(self.respond))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="webhook", daemon=True)
        self._thread.start()
        self._api.patch("Namespace", "", self._namespace, {"metadata": {"labels": {LABEL: self._namespace}}})
        url = f"https://127.0.0.1:{self._server.server_port}/"
        self._api.create(self._configuration(url, certificate))
        self._wait_until_it_acts()
        return self

    def __exit__(self, *_: object) -> None:
        self._api.delete(f"{self.kind}WebhookConfiguration", "", self.name)
        self._wait_until_it_acts(acts=False)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _configuration(self, url: str, certificate: bytes) -> dict[str, Any]:
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": f"{self.kind}WebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": [
                {
                    "name": "pods.webhook.test",
                    "clientConfig": {"url": url, "caBundle": base64.b64encode(certificate).decode()},
                    "rules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ],
                    "namespaceSelector": {"matchLabels": {LABEL: self._namespace}},
                    "objectSelector": {"matchLabels": self._labels},
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": 5,
                }
            ],
        }

    def _wait_until_it_acts(self, acts: bool = True) -> None:
        """The API server reads its configuration by a watch: a moment later."""
        end = threading.Event()
        metadata = {"name": "webhook-probe", "labels": self._labels}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        body["spec"] = {"containers": [{"name": "c", "image": "image"}]}
        for _ in range(500):
            answer: Mapping[str, Any] | ApiError
            try:
                answer = self._api.create(body, self._namespace, dryRun="All")
            except ApiError as error:
                answer = error
            if self.is_seen(answer) is acts:
                return
            end.wait(0.02)
        raise AssertionError(f"the API server has not seen the change of the webhook {self.name} after 10 s")


class DenyingWebhook(Webhook):
    """Denies them, in these words."""

    kind = "Validating"

    def __init__(self, api: Api, namespace: str, labels: Mapping[str, str], words: str) -> None:
        super().__init__(api, namespace, labels)
        self._words = words

    def respond(self, review: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"allowed": False, "status": {"code": 403, "message": self._words}}

    def is_seen(self, answer: Mapping[str, Any] | ApiError) -> bool:
        return isinstance(answer, ApiError) and "denied the request" in answer.message


class LabellingWebhook(Webhook):
    """Puts a label onto them, as Kueue's integration of pods does."""

    kind = "Mutating"

    def __init__(self, api: Api, namespace: str, labels: Mapping[str, str], key: str, value: str = "true") -> None:
        super().__init__(api, namespace, labels)
        self._key, self._value = key, value

    def respond(self, review: Mapping[str, Any]) -> Mapping[str, Any]:
        path = "/metadata/labels/" + self._key.replace("~", "~0").replace("/", "~1")
        patch = json.dumps([{"op": "add", "path": path, "value": self._value}])
        return {"allowed": True, "patchType": "JSONPatch", "patch": base64.b64encode(patch.encode()).decode()}

    def is_seen(self, answer: Mapping[str, Any] | ApiError) -> bool:
        return not isinstance(answer, ApiError) and self._key in answer["metadata"].get("labels", {})


def _handler(respond: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            response = {"uid": review["request"]["uid"], **respond(review)}
            answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    return Handler


def _certificate() -> tuple[bytes, bytes]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key, in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private
