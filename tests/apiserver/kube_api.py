"""The API server as these tests speak to it: plain HTTP and plain dicts (httpx), no client library in between.

Used by every module of this folder and by the tests. What a test reads is what the server sent.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from rz_api import names

Object = dict[str, Any]

PLURALS: dict[str, tuple[str, str]] = {
    "ConfigMap": ("v1", "configmaps"),
    "Event": ("v1", "events"),
    "Namespace": ("v1", "namespaces"),
    "Node": ("v1", "nodes"),
    "Pod": ("v1", "pods"),
    "ResourceQuota": ("v1", "resourcequotas"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Deployment": ("apps/v1", "deployments"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy/v1beta1", "poddisruptionbudgets"),
    "PodGroup": ("scheduling.x-k8s.io/v1alpha1", "podgroups"),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses"),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "ValidatingWebhookConfiguration": ("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"),
    "MutatingWebhookConfiguration": ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"),
    names.KIND: (names.API_VERSION, names.PLURAL),
}
"""Version that is assumed where none is given, and the plural, of each kind."""

PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


class ApiError(Exception):
    """A refusal of the server, as its Status object tells it."""

    def __init__(self, code: int, reason: str, message: str, causes: list[dict[str, str]]) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message, self.causes = code, reason, message, causes
        """``causes``: one {field, reason, message} for each invalid field."""


class Api:
    """One user's view of one API server. Safe to use from several threads."""

    def __init__(self, server: str, token: str = "", ca_file: str | None = None) -> None:
        """``server``: ``https://…``, or ``http://…`` of a ``kubectl proxy``, which needs no token."""
        self._http = httpx.Client(
            base_url=server,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=ssl.create_default_context(cafile=ca_file),
            timeout=30.0,
            limits=httpx.Limits(max_connections=32),
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, kind: str, namespace: str, name: str, **where: str) -> Object:
        return self.request("GET", path_of(kind, namespace, name, **where))

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """None when there is none."""
        try:
            return self.get(kind, namespace, name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def list(
        self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None, **where: str
    ) -> list[Object]:
        """All of a kind (``namespace`` "" for every namespace), with kind and apiVersion put in each."""
        found = self.list_response(kind, namespace, labels, **where)
        identity = {"apiVersion": found["apiVersion"], "kind": kind}
        return [identity | item for item in found["items"]]

    def list_response(
        self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None, **where: str
    ) -> Object:
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        return self.request(
            "GET", path_of(kind, namespace, **where), params={"labelSelector": selector} if selector else {}
        )

    def create(self, body: Object, namespace: str = "", **params: str) -> Object:
        """``namespace`` wins over the body's."""
        where = namespace or body["metadata"].get("namespace", "")
        path = path_of(body["kind"], where, api_version=body["apiVersion"])
        return self.request("POST", path, body, params=params)

    def replace(self, body: Object, subresource: str = "") -> Object:
        meta = body["metadata"]
        where = {"api_version": body["apiVersion"], "subresource": subresource}
        return self.request("PUT", path_of(body["kind"], meta.get("namespace", ""), meta["name"], **where), body)

    def patch(self, kind: str, namespace: str, name: str, body: Any, how: str = "merge", **where: str) -> Object:
        """``how``: merge, strategic or json. ``subresource="status"`` or ``"scale"`` as needed."""
        path = path_of(kind, namespace, name, **where)
        return self.request("PATCH", path, body, headers={"Content-Type": PATCHES[how]})

    def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        grace: int | None = None,
        policy: str = "Background",
    ) -> None:
        """Ask for the deletion; one that is gone already (or is another object than ``uid``) is fine."""
        options: Object = {"propagationPolicy": policy}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.request("DELETE", path_of(kind, namespace, name), options)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    def watch(self, kind: str, resource_version: str, seconds: int) -> Iterator[Object]:
        """Events of all namespaces for ``seconds``; ends early when the server closes the stream."""
        params = {"watch": "1", "resourceVersion": resource_version, "timeoutSeconds": str(seconds)}
        with self._http.stream("GET", path_of(kind), params=params, timeout=seconds + 10) as response:
            for line in response.iter_lines():
                yield json.loads(line)

    def text(self, path: str) -> str:
        response = self._http.get(path)
        response.raise_for_status()
        return response.text

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        """Any request; raises ApiError for an answer of 400 or more."""
        content = None if body is None else json.dumps(body)
        kinds = {"Content-Type": "application/json"} if content else {}
        response = self._http.request(
            method, path, content=content, params=dict(params or {}), headers=kinds | dict(headers or {})
        )
        if response.status_code < 400:
            answer: Object = response.json()
            return answer
        try:
            status = response.json()
        except ValueError:
            status = {"message": response.text}
        causes = (status.get("details") or {}).get("causes") or []
        raise ApiError(response.status_code, status.get("reason", ""), status.get("message", ""), causes)


def path_of(kind: str, namespace: str = "", name: str = "", *, api_version: str = "", subresource: str = "") -> str:
    default, plural = PLURALS.get(kind, ("", f"{kind.lower()}s"))
    version = api_version or default
    assert version, f"{kind} is not in PLURALS: give its api_version"
    parts = ["api" if "/" not in version else "apis", version]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (plural, name, subresource) if part]
    return "/" + "/".join(parts)
