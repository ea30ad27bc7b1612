"""``rz submit``: a run file becomes an object on a cluster, or changes the one there. Called by ``cli``."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_api.resource import SpecError, load_run
from rz_api.rules import immutable_violations, show
from rz_api.spec import ReasonerZeroRunSpec
from rz_api.status import FINAL_PHASES
from rz_api.storage_uri import LOCAL_SCHEMES
from rz_operator.apiserver.bodies import at
from rz_operator.apiserver.cluster import ApiError, Body
from rz_operator.commands.cluster.access import ClusterApi, RemoteError, is_without_crd
from rz_operator.controller.spec_changes import LIVE
from rz_operator.errors import UserError

TRIES = 5
"""Writes that may lose against somebody else's."""
CHANGES_SHOWN = 20
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


# ---------------------------------------------------------------------------------------------------- paths


@dataclass(frozen=True)
class Paths:
    """What a run's paths mean on a cluster."""

    problems: tuple[str, ...]
    """Paths that no pod can follow."""
    warnings: tuple[str, ...]
    """Paths that some pods can follow if something is there."""


def check_paths(
    spec: ReasonerZeroRunSpec, is_folder: Callable[[str], bool] = lambda path: Path(path).is_dir()
) -> Paths:
    """Look at every URI of a spec. ``is_folder``: whether there is such a folder on the user's machine."""
    problems, warnings = [], []
    for path, uri, hub, roles in _uris(spec):
        local = _local_path(uri)
        if local is None:
            continue
        if hub and _HUB_ID.fullmatch(uri):
            if is_folder(uri):
                warnings.append(f"spec.{path}: {uri} is a folder here, but pods take it for a Hugging Face id")
        elif not local.startswith("/"):
            problems.append(
                f"spec.{path}: found {uri}, a path relative to a folder of this machine; pods have no such folder: use "
                "a URL of a bucket (s3://, gs://, az://), or the absolute path of a volume that podTemplate mounts"
            )
        else:
            without = [role for role in roles if not _is_mounted(spec, role, local)]
            if without:
                warnings.append(
                    f"spec.{path}: {uri} is a path inside the pods, and the podTemplate of {', '.join(without)} mounts "
                    "no volume there: mount one that all of them share, or use a bucket (s3://, gs://, az://)"
                )
    return Paths(tuple(problems), tuple(warnings))


def _uris(spec: ReasonerZeroRunSpec) -> Iterator[tuple[str, str, bool, tuple[Role, ...]]]:
    """(path below spec, URI, whether it may be a hub id, roles that open it)."""
    apart: tuple[Role, ...] = ("rollout",) if spec.rollout.placement == "separate" else ()
    yield "storage.uri", spec.storage.uri, False, ("ledger", *apart, "trainer")
    yield "model.name", spec.model.name, True, ("trainer",)
    for field, uri, hub in (("tokenizer", spec.model.tokenizer, True), ("initFrom", spec.model.init_from, False)):
        if uri is not None:
            yield f"model.{field}", uri, hub, ("trainer",)
    if spec.algorithm.critic.init_from is not None:
        yield "algorithm.critic.initFrom", spec.algorithm.critic.init_from, True, ("trainer",)
    for section, sources in (("train", spec.data.train), ("eval", spec.data.eval)):
        for index, source in enumerate(sources):
            yield f"data.{section}[{index}].uri", source.uri, False, ("trainer",)


def _local_path(uri: str) -> str | None:
    """The path in a file system that ``uri`` means; None where it means something else."""
    last = uri.rpartition("::")[2]
    scheme, separator, path = last.partition("://")
    if not separator:
        return last
    return path if scheme.lower() in LOCAL_SCHEMES else None


def _is_mounted(spec: ReasonerZeroRunSpec, role: Role, path: str) -> bool:
    options = {"ledger": spec.ledger, "reward": spec.reward, "rollout": spec.rollout, "trainer": spec.trainer}[role]
    containers = at(options.pod_template, "spec", "containers")
    for container in containers if isinstance(containers, list) else ():
        mounts = at(container, "volumeMounts")
        for mount in mounts if isinstance(mounts, list) else ():
            folder = str(at(mount, "mountPath") or "").rstrip("/")
            if folder and f"{path}/".startswith(f"{folder}/"):
                return True
    return False


# --------------------------------------------------------------------------------------------------- submit


def object_of(document: Mapping[str, Any], namespace: str | None) -> Body:
    """What is sent: identity and spec, nothing that only a server writes. Raises UserError when the file and
    ``namespace`` disagree."""
    metadata = document.get("metadata") or {}
    kept = {key: copy.deepcopy(metadata[key]) for key in ("name", "labels", "annotations") if metadata.get(key)}
    own = metadata.get("namespace")
    if namespace and own and own != namespace:
        raise UserError(
            f"found namespace {own} in the file and --namespace {namespace}; one of them is required: remove the other"
        )
    if own or namespace:
        kept["namespace"] = own or namespace
    spec = copy.deepcopy(document["spec"])
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": kept, "spec": spec}


async def submit(api: ClusterApi, namespace: str, body: Mapping[str, Any], dry_run: bool = False) -> list[str]:
    """Create the run, or give the existing one this spec. Returns what was done, line by line. Raises UserError."""
    name = body["metadata"]["name"]
    body = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
    label = f"run {namespace}/{name}"
    for _ in range(TRIES):
        found = await _find(api, namespace, name)
        try:
            if found is None:
                await api.create(names.KIND, namespace, body, dry_run)
                return [f"{label} would be created" if dry_run else f"{label} created"]
            new = merged(found, body)
            changes = [*differences(found.get("spec"), new["spec"], "spec")]
            other = found["metadata"] != new["metadata"]
            if not changes and not other:
                return [f"{label} is as the file says: nothing changed"]
            if not dry_run:
                # ``new`` has the resourceVersion that was read: who wrote in between is not overwritten.
                await api.replace(names.KIND, namespace, name, new)
            return [f"{label} would be changed" if dry_run else f"{label} changed", *_words(found, changes)]
        except ApiError as error:
            if not error.conflict:
                raise
    raise RemoteError(f"{label} was changed by somebody else {TRIES} times in a row: try again")


async def _find(api: ClusterApi, namespace: str, name: str) -> Body | None:
    try:
        return await api.get(names.KIND, namespace, name)
    except ApiError as error:
        if not error.not_found or is_without_crd(error):
            raise
        return None


def merged(found: Mapping[str, Any], body: Mapping[str, Any]) -> Body:
    """The stored object with the file's spec, labels and annotations.

    ``rollout.replicas`` stays where the file says nothing of it: it may be an autoscaler's. Raises UserError for a run
    that is being deleted, and for a change that a run which has started does not take.
    """
    metadata = dict(found["metadata"])
    name = metadata["name"]
    if metadata.get("deletionTimestamp"):
        raise UserError(f"the run {name} is being deleted: wait until it is gone, then submit it again")
    for key in ("labels", "annotations"):
        if body["metadata"].get(key):
            metadata[key] = {**(metadata.get(key) or {}), **body["metadata"][key]}
    spec = copy.deepcopy(body["spec"])
    replicas = at(found, "spec", "rollout", "replicas")
    if replicas is not None and at(spec, "rollout", "replicas") is None:
        spec["rollout"] = {**(spec.get("rollout") or {}), "replicas": replicas}
    if (at(found, "status", "phase") or "Pending") != "Pending":
        _refuse_immutable(name, found.get("spec"), spec)
    return {**found, "metadata": metadata, "spec": spec}


def _refuse_immutable(name: str, old: Any, new: Mapping[str, Any]) -> None:
    """As the API server does where it knows CEL; an older one leaves it to the operator, which says it later."""
    envelope = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}}
    try:
        before, after = (load_run({**envelope, "spec": spec}).spec for spec in (old, new))
    except SpecError:
        return  # what is stored is no good spec: nothing to compare with
    broken = immutable_violations(before, after)
    if broken:
        raise UserError(f"{name}: " + "\n".join(str(each) for each in broken))


def differences(old: Any, new: Any, path: str) -> Iterator[str]:
    """``spec.trainer.nodes: 5 -> 6`` for each value in which two JSON documents differ; a section that is absent is as
    good as an empty one."""
    old, new = (
        {} if value is None and isinstance(other, Mapping) else value for value, other in ((old, new), (new, old))
    )
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in (*old, *(key for key in new if key not in old)):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}")
    elif old != new and not (old in (None, []) and new in (None, [])):
        yield f"{path}: {show(old)} -> {show(new)}"


def _words(found: Mapping[str, Any], changes: list[str]) -> list[str]:
    lines = [f"  {change}" for change in changes[:CHANGES_SHOWN]]
    if len(changes) > CHANGES_SHOWN:
        lines.append(f"  and {len(changes) - CHANGES_SHOWN} more")
    name, phase = found["metadata"]["name"], at(found, "status", "phase")
    if phase in FINAL_PHASES:
        lines.append(
            f"the run has finished ({phase}), so nothing is started: to go on from its folder, delete it and submit it "
            "again with storage.adopt true"
        )
    elif phase in ("Running", "Suspending") and not all(_is_live(change) for change in changes):
        lines.append(
            f"what is not live acts with the next trainer gang; to have it act now: rz suspend {name} --wait, then rz "
            f"resume {name}"
        )
    return lines


def _is_live(change: str) -> bool:
    path = change.partition(":")[0]
    return any(path == f"spec.{live}" or path.startswith(f"spec.{live}.") for live in LIVE)
