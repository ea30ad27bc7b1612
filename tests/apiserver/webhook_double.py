"""A validating webhook of somebody else's, as an HTTPS server of the test: it denies pods, and says why.

Used by ``test_lifecycle_refusals.py``: ``with DenyingWebhook(api, namespace, {label: value}, "no trainers today"):``.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

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


class DenyingWebhook:
    """Denies every create of a pod with these labels in this namespace while the ``with`` block lasts."""

    def __init__(self, api: Api, namespace: str, labels: Mapping[str, str], words: str) -> None:
        self._api, self._namespace, self._labels, self._words = api, namespace, dict(labels), words
        self.name = f"{namespace}.webhook.test"

    def __enter__(self) -> Self:
        certificate, key = _certificate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder, "chain.pem")
            chain.write_bytes(key + certificate)
            context.load_cert_chain(chain)
        self._server = _Server(("127.0.0.1", 0), _handler(self._words))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="webhook", daemon=True)
        self._thread.start()
        self._api.patch("Namespace", "", self._namespace, {"metadata": {"labels": {LABEL: self._namespace}}})
        url = f"https://127.0.0.1:{self._server.server_port}/"
        self._api.create(self._configuration(url, certificate))
        self._wait_until_it_acts()
        return self

    def __exit__(self, *_: object) -> None:
        self._api.delete("ValidatingWebhookConfiguration", "", self.name)
        self._wait_until_it_acts(acts=False)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _configuration(self, url: str, certificate: bytes) -> dict[str, Any]:
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
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
            try:
                self._api.create(body, self._namespace, dryRun="All")
                denied = False
            except ApiError as error:
                denied = "denied the request" in error.message
            if denied is acts:
                return
            end.wait(0.02)
        raise AssertionError(f"the API server has not seen the change of the webhook {self.name} after 10 s")


def _handler(words: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = {"code": 403, "message": words}
            response = {"uid": review["request"]["uid"], "allowed": False, "status": status}
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
