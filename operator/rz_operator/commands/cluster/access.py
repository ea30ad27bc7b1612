"""A command on a cluster fails in one of two ways: ``UserError`` (exit code 64: only the user can help), or
``RemoteError`` (exit code 1: the cluster, and another try may help).

What those commands share: how a cluster is reached, what may be asked, errors in words. ``cli`` calls ``call`` with a
piece of work (``submit``, ``status``, ``logs``); the work sees ``ClusterApi`` alone, so that tests give it a fake.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rz_api import names
from rz_operator.apiserver.cluster import ApiError, Body
from rz_operator.errors import UserError

REQUEST_SECONDS = 15.0
"""Time limit of one request: somebody waits for the answer."""
_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAMES_SHOWN = 20

T = TypeVar("T")
Say = Callable[[str], None]


class RemoteError(Exception):
    """The cluster did not do what was asked, and the user did nothing wrong."""


class NoClusterError(UserError):
    """There is no kubeconfig that says which cluster is meant."""


class ClusterApi(Protocol):
    """The part of ``cluster.Cluster`` that the commands need."""

    async def get(self, kind: str, namespace: str, name: str) -> Body: ...
    async def list(self, kind: str, namespace: str = "", label_selector: str = "") -> list[Body]: ...
    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> Body: ...
    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body: ...
    async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> Body: ...
    def pod_log(
        self,
        namespace: str,
        name: str,
        container: str = "",
        follow: bool = False,
        tail_lines: int | None = None,
        previous: bool = False,
    ) -> AsyncIterator[str]: ...


@dataclass(frozen=True)
class Target:
    """Which cluster, and where in it."""

    namespace: str | None = None
    """None: the context's."""
    context: str | None = None
    kubeconfig: str | None = None


Work = Callable[[ClusterApi, str], Awaitable[T]]
"""Gets the cluster and the namespace."""


def call(target: Target, work: Work[T]) -> T:
    """Do ``work`` on the cluster. Raises UserError and RemoteError, in words for a person."""
    namespace = target.namespace or default_namespace(target, os.environ, Path.home())
    paths = _kubeconfigs(target, os.environ, Path.home())
    if paths is not None and not any(path.exists() for path in paths):
        raise NoClusterError(
            f"found no kubeconfig ({', '.join(map(str, paths))}), which says where the cluster is: set --kubeconfig or "
            "KUBECONFIG to one"
        )
    try:
        return asyncio.run(_connected(target, namespace, work))
    except ApiError as error:
        raise explained(error, namespace) from None
    except ModuleNotFoundError as error:
        # They belong to an extra, which ``rz run`` does not need.
        if error.name not in ("kubernetes", "aiohttp"):
            raise
        raise UserError(
            f"found no Python package {error.name}, which commands on a cluster need: install reasonerzero[operator]"
        ) from None


async def _connected(target: Target, namespace: str, work: Work[T]) -> T:
    from rz_operator.apiserver.cluster import Cluster

    async with Cluster.connect(target.kubeconfig, target.context, REQUEST_SECONDS) as cluster:
        return await work(cluster, namespace)


def default_namespace(target: Target, environment: Mapping[str, str], home: Path) -> str:
    """The namespace of the kubeconfig's context, as ``kubectl`` finds it: of several files the first that says a thing
    is believed. Raises UserError for a kubeconfig that is no YAML mapping."""
    paths = _kubeconfigs(target, environment, home)
    if paths is None:
        return _ACCOUNT_NAMESPACE.read_text().strip()
    configs = [_kubeconfig(path) for path in paths]
    current = target.context or next((each["current-context"] for each in configs if each.get("current-context")), None)
    for config in configs:
        for entry in config.get("contexts") or []:
            if isinstance(entry, Mapping) and entry.get("name") == current:
                return str((entry.get("context") or {}).get("namespace") or "default")
    return "default"


def _kubeconfigs(target: Target, environment: Mapping[str, str], home: Path) -> list[Path] | None:
    """The files that are looked at; None in a pod, which has its ServiceAccount."""
    files = [target.kubeconfig] if target.kubeconfig else environment.get("KUBECONFIG", "").split(os.pathsep)
    paths = [Path(file).expanduser() for file in files if file]
    if not paths and not target.context and _ACCOUNT_NAMESPACE.exists():
        return None
    return paths or [home / ".kube" / "config"]


def _kubeconfig(path: Path) -> Mapping[str, Any]:
    """Nothing where there is no such file: ``Cluster.connect`` says so if it is needed."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except OSError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: found no YAML ({error}); a kubeconfig is required: repair it, or name another"
        ) from None
    if found is not None and not isinstance(found, Mapping):
        raise UserError(f"{path}: found a {type(found).__name__}; a kubeconfig is required: name another file")
    return found or {}


# ------------------------------------------------------------------------------------------------------- errors


def explained(error: ApiError, namespace: str) -> UserError | RemoteError:
    """What the user can do about what the API server said."""
    said = error.message.strip() or error.reason
    if error.reason == "NoCredentials":
        return NoClusterError(said)
    if error.status == 0:
        return RemoteError(
            f"the API server gives no answer ({said}): check the server's address in the kubeconfig, the network, and "
            "that the cluster is up"
        )
    if error.status == 401:
        return UserError(
            f"the API server does not know who you are ({said}): log in again, or choose another --context or "
            "--kubeconfig"
        )
    if error.status == 403:
        return UserError(
            f"the API server refuses: {said}; ask for that right in namespace {namespace}, or choose another "
            "--namespace or --context"
        )
    if is_without_crd(error):
        return UserError(
            f"this cluster does not know the kind {names.KIND}: install the operator and its CRD "
            "(crds/reasonerzeroruns.yaml), or choose another --context"
        )
    if error.status in (400, 404, 409, 413, 422):
        return UserError(f"the API server refuses: {said}")
    return RemoteError(f"the API server failed ({error.status} {error.reason}: {said}): try again")


def is_without_crd(error: ApiError) -> bool:
    """Whether it is the kind that was not found, and not an object: then the server answers with no name."""
    return error.not_found and '"' not in error.message


async def get_run(api: ClusterApi, namespace: str, name: str) -> Body:
    """The run's object. Raises UserError that says which runs there are."""
    try:
        return await api.get(names.KIND, namespace, name)
    except ApiError as error:
        if not error.not_found or is_without_crd(error):
            raise
    there = sorted(run["metadata"]["name"] for run in await api.list(names.KIND, namespace))
    shown = ", ".join(there[:_NAMES_SHOWN]) + (", ..." if len(there) > _NAMES_SHOWN else "")
    raise UserError(
        f"found no run {name} in namespace {namespace} (there: {shown or 'none'}): correct the name, or choose another "
        "--namespace or --context"
    )


async def list_or_nothing(api: ClusterApi, kind: str, namespace: str, label_selector: str = "") -> list[Body]:
    """What only adds to the picture: nothing where the user may not see it."""
    try:
        return await api.list(kind, namespace, label_selector)
    except ApiError as error:
        if error.status != 403:
            raise
        return []
