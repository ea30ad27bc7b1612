"""The part of a new control plane that a CRD server asks for its ValidatingAdmissionPolicies: policies, bindings and
namespaces, over plain HTTP. With it the server's own admission plugin evaluates the chart's expressions.

The control plane of these tests is too old to hold them. Used by ``test_admission.py`` alone.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kube_api import Object

ADMISSION = "/apis/admissionregistration.k8s.io/v1/"
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
NO_STREAM = {**NOT_FOUND, "reason": "Invalid", "code": 422, "message": "sendInitialEvents is not known here"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class PolicyDouble:
    """What it has never changes: a watch of it is silent until it ends."""

    def __init__(self, policies: Sequence[Object], namespaces: Sequence[str], folder: Path) -> None:
        def of(kind: str) -> tuple[str, str, list[Object]]:
            found = [_stored(each, number) for number, each in enumerate(policies) if each["kind"] == kind]
            return "admissionregistration.k8s.io/v1", kind, found

        lists: dict[str, tuple[str, str, list[Object]]] = {
            "/api/v1/namespaces": ("v1", "Namespace", [_namespace(name) for name in namespaces]),
            "/api/v1/services": ("v1", "Service", []),  # of conversion webhooks
            f"{ADMISSION}validatingadmissionpolicies": of("ValidatingAdmissionPolicy"),
            f"{ADMISSION}validatingadmissionpolicybindings": of("ValidatingAdmissionPolicyBinding"),
        }
        ended = self._ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
                if path not in lists:
                    name = path.removeprefix("/api/v1/namespaces/")
                    found = [body for body in lists["/api/v1/namespaces"][2] if body["metadata"]["name"] == name]
                    self._answer(found[0] if found else NOT_FOUND)
                elif "sendInitialEvents" in query:
                    self._answer(NO_STREAM)
                elif query.get("watch") in (["true"], ["1"]):
                    self._head(200)
                    ended.wait(600)
                else:
                    version, kind, items = lists[path]
                    metadata = {"resourceVersion": "1"}
                    self._answer({"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": items})

            def _answer(self, body: Object) -> None:
                self._head(body.get("code", 200))
                self.wfile.write(json.dumps(body).encode())

            def _head(self, code: int) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="policies", daemon=True)
        self._thread.start()
        self.kubeconfig = folder / "policies.kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self._server.server_port}"}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": "test", "user": {}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _namespace(name: str) -> Object:
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata | {"labels": _named(name)}}


def _named(name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name}


def _stored(body: Object, number: int) -> Object:
    """As the API server stores it: with what it fills in."""
    added = {"uid": f"uid-{number}", "resourceVersion": "1", "generation": 1}
    spec = body["spec"]
    if body["kind"] == "ValidatingAdmissionPolicy":
        everything: Object = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"}
        spec = spec | {"matchConstraints": everything | _scoped(spec["matchConstraints"])}
    else:
        everything = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"}
        spec = spec | {"matchResources": everything | spec.get("matchResources", {})}
    return body | {"metadata": body["metadata"] | added, "spec": spec}


def _scoped(constraints: Object) -> Object:
    return constraints | {"resourceRules": [each | {"scope": "*"} for each in constraints["resourceRules"]]}
