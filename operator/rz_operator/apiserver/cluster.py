"""Every call to the API server goes through here, and has a time limit unless it follows a log.

Objects are plain dicts. For the operator (``reconcile``, ``service``) and for the commands of ``rz`` that work on a
cluster. Built on ``kubernetes.aio`` for what is tedious and easily wrong (kubeconfig, exec plugins, token refresh,
TLS); its typed models are not used, because fields that a newer server has must survive a read and a write. Bodies are
never logged: Secrets pass through here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from rz_api import names
from rz_operator.apiserver.credentials import Credentials, NoCredentialsError
from rz_operator.apiserver.rate import Bucket
from rz_operator.apiserver.versions import OF_OTHER_KINDS, Capabilities, choose

Body = dict[str, Any]

REQUEST_SECONDS = 30.0
LIST_CHUNK = 500
"""Objects of one page of a list: bounds the memory that a list of thousands of pods takes."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has token and certificate authority of its ServiceAccount."""

RESOURCES: Mapping[str, tuple[str, str]] = {
    names.KIND: (names.API_VERSION, names.PLURAL),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Event": ("v1", "events"),
    "Deployment": ("apps/v1", "deployments"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "PodGroup": ("scheduling.x-k8s.io/v1alpha1", "podgroups"),
}
"""apiVersion and plural by kind. An object's own apiVersion goes first (policy/v1beta1, Volcano's PodGroup)."""


class ApiError(Exception):
    """The API server said no, or nothing. ``status`` is the HTTP status, 0 where there was no answer."""

    def __init__(self, status: int, reason: str, message: str, request: str = ""):
        super().__init__(f"{request}: {status or 'no answer'} {reason}: {message}".removeprefix(": "))
        self.status = status
        self.reason = reason
        """The server's CamelCase word (NotFound, Conflict, AlreadyExists, Forbidden, Invalid, ...)."""
        self.message = message
        """The server's sentence."""

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Of a write: somebody else wrote in between. Of a create: the name is taken."""
        return self.status == 409

    @property
    def refused(self) -> bool:
        """The request was understood and is not wanted (quota, a webhook, an invalid object), or a webhook that must be
        asked does not answer: again is no use soon."""
        return self.status in (400, 403, 422) or (self.status >= 500 and "failed calling webhook" in self.message)


class Page(NamedTuple):
    """One page of a list, and the version that the whole list shows."""

    items: list[Body]
    resource_version: str


Query = Sequence[tuple[str, str]]

Observer = Callable[[str, str, int, float], None]
"""Told of each request: verb, kind, HTTP status (0: none), seconds."""


class Cluster:
    """One API server. ``async with Cluster.connect() as cluster: ...``"""

    def __init__(
        self,
        api: Any,
        source: Credentials,
        request_seconds: float = REQUEST_SECONDS,
        observer: Observer | None = None,
        bucket: Bucket | None = None,
    ):
        """``bucket`` holds back requests that are too many; None: none."""
        self._api = api
        self._source = source
        self._bucket = bucket
        self._seconds = request_seconds
        self._observer = observer or (lambda verb, kind, status, seconds: None)

    @staticmethod
    @asynccontextmanager
    async def connect(
        kubeconfig: str | None = None,
        context: str | None = None,
        request_seconds: float = REQUEST_SECONDS,
        observer: Observer | None = None,
        service_account: Path = SERVICE_ACCOUNT,
        bucket: Bucket | None = None,
    ) -> AsyncIterator[Cluster]:
        """A connection as ``kubectl`` makes it: the given kubeconfig, $KUBECONFIG, the pod's own ServiceAccount, or
        ~/.kube/config. Raises ApiError (status 0) when none of them can be used."""
        from kubernetes.aio import client

        configuration = client.Configuration()
        source = Credentials(configuration, kubeconfig, context, service_account)
        await _read(source)
        configuration.connection_pool_maxsize = 64
        async with client.ApiClient(configuration) as api:
            api.user_agent = names.MANAGER
            yield Cluster(api, source, request_seconds, observer, bucket)

    async def credentials(self) -> dict[str, Any]:
        """What kopf's own client needs to know: the fields of its ``ConnectionInfo``, read anew. Raises ApiError as
        ``connect`` does."""
        await _read(self._source)
        configuration = self._api.configuration
        scheme, _, token = (await self._source.header()).partition(" ")
        return {
            "server": configuration.host,
            "ca_path": configuration.ssl_ca_cert,
            "insecure": not configuration.verify_ssl,
            "token": token or None,
            "scheme": scheme or None,
            "certificate_path": configuration.cert_file,
            "private_key_path": configuration.key_file,
        }

    # ---------------------------------------------------------------------------------------------------- objects

    async def get(self, kind: str, namespace: str, name: str, api_version: str | None = None) -> Body:
        """``api_version``: of a kind that there is in several groups (PodGroup) or versions."""
        return await self._json("GET", kind, _path(kind, api_version, namespace, name))

    async def list(self, kind: str, namespace: str = "", label_selector: str = "") -> list[Body]:
        """All objects of a kind; ``namespace`` empty: of all namespaces."""
        return (await self.snapshot(kind, namespace, label_selector)).items

    async def snapshot(
        self, kind: str, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Page:
        """``list`` with the version that it shows, for a cache that goes on from there."""
        items: list[Body] = []
        async for page in self.pages(kind, namespace, label_selector, field_selector):
            items += page.items
            version = page.resource_version
        return Page(items, version)

    async def pages(
        self,
        kind: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        api_version: str | None = None,
    ) -> AsyncIterator[Page]:
        """The list in pages of at most ``LIST_CHUNK`` objects; at least one page."""
        api_version = api_version or RESOURCES[kind][0]
        chosen = (("labelSelector", label_selector), ("fieldSelector", field_selector))
        query = [("limit", str(LIST_CHUNK)), *(each for each in chosen if each[1])]
        proceed = ""
        while True:
            more = [("continue", proceed)] if proceed else []
            path = _path(kind, api_version, namespace)
            found = await self._json("GET", kind, path, query + more, verb="LIST")
            items = found.get("items") or []
            for item in items:  # lists leave them out
                item.setdefault("apiVersion", api_version)
                item.setdefault("kind", kind)
            metadata = found.get("metadata") or {}
            yield Page(items, str(metadata.get("resourceVersion", "")))
            proceed = metadata.get("continue") or ""
            if not proceed:
                return

    async def events_of(self, namespace: str, uid: str) -> Sequence[Body]:
        """Some events (at most ``LIST_CHUNK``) about the object with this UID."""
        query = [("fieldSelector", f"involvedObject.uid={uid}"), ("limit", str(LIST_CHUNK))]
        found = await self._json("GET", "Event", _path("Event", None, namespace), query, verb="LIST")
        return [item for item in found.get("items") or [] if isinstance(item, dict)]

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body:
        path = _path(kind, body.get("apiVersion"), namespace)
        return await self._json("POST", kind, path, [("dryRun", "All")] if dry_run else [], body, verb="CREATE")

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        """PUT; with a resourceVersion in ``body`` it is refused (409) when somebody else wrote in between."""
        return await self._json("PUT", kind, _path(kind, body.get("apiVersion"), namespace, name), [], body)

    async def replace_status(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        """PUT of the status subresource; only ``body["status"]`` is taken."""
        path = _path(kind, body.get("apiVersion"), namespace, name) + "/status"
        return await self._json("PUT", kind, path, [], body)

    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        """JSON merge patch: null removes a field, lists are replaced."""
        path = _path(kind, None, namespace, name)
        return await self._json("PATCH", kind, path, [], body, "application/merge-patch+json")

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str = "",
        grace_seconds: float | None = None,
        api_version: str | None = None,
    ) -> None:
        """Delete exactly the object with this UID; that it is gone already, or is another by now, is no error."""
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            # Names are used again: without it a late delete would hit the successor.
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = max(0, round(grace_seconds))
        try:
            await self._json("DELETE", kind, _path(kind, api_version, namespace, name), [], options)
        except ApiError as error:
            if not error.not_found and not (uid and error.conflict):
                raise

    async def pod_log(
        self,
        namespace: str,
        name: str,
        container: str = "",
        follow: bool = False,
        tail_lines: int | None = None,
        previous: bool = False,
    ) -> AsyncIterator[str]:
        """The lines of a container's log; with ``follow`` as they come, until the container ends."""
        query = [("follow", str(follow).lower()), ("previous", str(previous).lower())]
        query += [("container", container)] if container else []
        query += [("tailLines", str(tail_lines))] if tail_lines is not None else []
        path = _path("Pod", None, namespace, name) + "/log"
        response = await self._request("GET", "Pod", path, query, seconds=None if follow else self._seconds)
        rest = b""
        try:
            async for chunk in response.content.iter_any():
                # A chunk ends anywhere, also within a character: only whole lines are decoded.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
        except _transport_errors() as error:
            raise ApiError(0, "BrokenAnswer", str(error) or type(error).__name__, f"GET {path}") from error
        finally:
            response.release()
        if rest:
            yield rest.decode(errors="replace")

    # ----------------------------------------------------------------------------------------------------- server

    async def probe(self) -> Capabilities:
        """What this server has (``versions.choose``)."""
        version = await self._json("GET", "Version", "/version")
        listed = await self._json("GET", "APIGroupList", "/apis")
        groups = {
            group["name"]: [each["version"] for each in group.get("versions") or []]
            for group in listed.get("groups") or []
        }
        others: list[str] = []
        group, _, of_group = OF_OTHER_KINDS.partition("/")
        if of_group in groups.get(group, ()):
            found = await self._json("GET", "APIResourceList", f"/apis/{OF_OTHER_KINDS}")
            others = [str(each.get("name")) for each in found.get("resources") or []]
        return choose(version, groups, others)

    async def _json(
        self,
        method: str,
        kind: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        verb: str = "",
    ) -> Body:
        response = await self._request(method, kind, path, query, body, content_type, verb=verb)
        broken: tuple[type[Exception], ...] = (*_transport_errors(), ValueError)
        try:
            found = json.loads(await response.read())
        except broken as error:
            raise ApiError(0, "BrokenAnswer", str(error) or type(error).__name__, f"{method} {path}") from error
        if not isinstance(found, dict):
            raise ApiError(0, "BrokenAnswer", f"found {type(found).__name__}, an object is required", path)
        return found

    async def _request(
        self,
        method: str,
        kind: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        *,
        verb: str = "",
        seconds: float | None = 0,
    ) -> Any:
        """The raw answer (aiohttp); raises ApiError unless it is a success. ``seconds``: 0 is the usual limit, None
        none. Credentials that are refused are read again, and used if they have changed: a 401 has done nothing."""
        if self._bucket is not None:
            await self._bucket.take()  # before the time limit begins: the server is not to blame
        limit = self._seconds if seconds == 0 else seconds
        for may_renew in (True, False):
            began, status, is_renewed = time.monotonic(), 0, False
            try:
                # aiohttp's limit below goes on while the body is read; this one has the refresh of a token in it.
                async with asyncio.timeout(limit):
                    header = await self._source.header()
                    headers = {"Accept": "application/json", "Content-Type": content_type, **self._api.default_headers}
                    headers |= {"Authorization": header} if header else {}
                    # Not call_api: it would copy every body, field by field, in search of typed models.
                    response = await self._api.request(
                        method,
                        self._api.configuration.host + path,
                        query_params=query or None,
                        headers=headers,
                        body=body,
                        _preload_content=False,
                        _request_timeout=limit,
                    )
                    status = response.status
                    if status < 300:
                        return response
                    text = await response.text()
                    is_renewed = status == 401 and may_renew and await self._source.renew(header)
            except _transport_errors() as error:
                what = str(error) or f"{type(error).__name__} after {time.monotonic() - began:.1f} s"
                raise ApiError(0, "Unreachable", what, f"{method} {path}") from error
            finally:
                self._observer(verb or method, kind, status, time.monotonic() - began)
            if not is_renewed:
                break
        raise _refusal(status, text, f"{method} {path}")


async def _read(source: Credentials) -> None:
    try:
        await source.read()
    except NoCredentialsError as error:
        raise ApiError(0, "NoCredentials", str(error)) from error


def _refusal(status: int, text: str, request: str) -> ApiError:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        found = {}
    return ApiError(status, str(found.get("reason") or "Error"), str(found.get("message") or text[:1000]), request)


def _transport_errors() -> tuple[type[Exception], ...]:
    import aiohttp

    return (aiohttp.ClientError, OSError, TimeoutError)


def _path(kind: str, api_version: str | None, namespace: str, name: str = "") -> str:
    """``/apis/apps/v1/namespaces/team/deployments/x``."""
    default_version, plural = RESOURCES[kind]
    version = api_version or default_version
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{quote(name, safe='')}" if name else "")
