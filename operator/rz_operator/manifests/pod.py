"""Every pod of a run is hardened and probed, unless the user's ``podTemplate`` takes that away.

The pod of one node of a role: metadata and spec, with the ``podTemplate`` over it. ``workloads`` makes Pods and
Deployments of it. Everything here holds for all roles; what differs is in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_operator.manifests import credentials, defaults, environment
from rz_operator.manifests.context import Body, Context
from rz_operator.manifests.place import (
    API_PORT,
    MODEL_FOLDER,
    RENDEZVOUS_PORT,
    RUN_FOLDER,
    SCRATCH_FOLDER,
    STATUS_PORT,
    TERMINATION_LOG,
    TOKEN_FOLDER,
    TRANSFER_PORT,
)
from rz_operator.manifests.pod_template import merge
from rz_operator.manifests.scheduling import Group, add_scheduling
from rz_operator.plan import RUN_FILE, Process

WITH_MODEL: frozenset[Role] = frozenset(("rollout", "trainer"))
"""Roles that hold a model: a folder for downloads, and shared memory for their processes."""


@dataclass(frozen=True)
class Probes:
    """Seconds. The kubelet asks ``/healthz`` of the status port, which answers from a thread of its own."""

    start_seconds: int
    """How long a process may take until its status port answers first. A kill in the middle of a download would start
    it all over, so these are limits for what is certainly broken."""
    dead_seconds: int
    """How long ``/healthz`` may fail before the container is restarted (trainer: the gang). Long, because native code
    may keep Python from answering; hangs are for the workers' own watchdogs, this is for when those hang too."""
    period_seconds: int = 10
    timeout_seconds: int = 6
    """The ledger takes up to 5 s to say that its event loop does not answer."""


PROBES: Mapping[Role, Probes] = {
    "ledger": Probes(start_seconds=300, dead_seconds=120, period_seconds=5),
    "reward": Probes(start_seconds=300, dead_seconds=120, period_seconds=5),
    "rollout": Probes(start_seconds=900, dead_seconds=600),
    "trainer": Probes(start_seconds=4 * 3600, dead_seconds=1200),  # its port opens once the model is loaded and sharded
}


def pod(context: Context, role: Role, node: int, incarnation: int, metadata: Body, group: Group | None = None) -> Body:
    """``metadata`` and ``spec`` of the pod, one of ``group`` if it has one. Raises UserError for a podTemplate that
    cannot be merged."""
    role_set, options = context.plan.role(role), context.options(role)
    processes = context.processes[role, node]
    secrets = credentials.secret_names(context.run.spec, frozenset(process.role for process in processes))
    metadata, soft = defaults.metadata(context, role, metadata)
    spec: Body = {
        # A rank that is restarted alone finds no peers: the gang begins anew as one.
        "restartPolicy": "Never" if role_set.style == "gang" else "Always",
        "terminationGracePeriodSeconds": round(role_set.grace_seconds),
        # Else each Service of the namespace puts a handful of variables into every container.
        "enableServiceLinks": False,
        # No worker asks the API server, and identities of clouds bring tokens of their own (docs/clouds.md).
        "automountServiceAccountToken": False,
        "securityContext": defaults.security_context(context),
        "containers": [_container(context, role, processes, incarnation, secrets)],
        "volumes": [*_volumes(context, role, secrets), *defaults.volumes(context)],
    }
    if role_set.style == "gang":
        # Only both together give a pod a name in DNS, below its headless Service.
        spec |= {"hostname": metadata["name"], "subdomain": names.trainer_service(context.name)}
    if options.service_account_name is not None:
        spec["serviceAccountName"] = options.service_account_name
    spec |= defaults.placement(context, role)
    claims = list(defaults.resource_claims(context, role))
    if claims:
        spec["resourceClaims"] = claims
    rendered = {"metadata": metadata, "spec": spec}
    add_scheduling(context, rendered, role, incarnation, group)
    return merge(rendered, options.pod_template, role, soft)


def _container(
    context: Context, role: Role, processes: Sequence[Process], incarnation: int, secrets: tuple[str, ...]
) -> Body:
    role_set, options = context.plan.role(role), context.options(role)
    assert options.image, "images are filled in when a run is accepted"
    container: Body = {
        "name": names.MAIN_CONTAINER,
        "image": options.image,
        "command": environment.command(processes),
        "env": environment.container_environment(context, processes, incarnation),
        "ports": _ports(processes),
        **_probes(PROBES[role]),
        "resources": defaults.resources(context, role_set),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        # A process that a signal kills writes no last words: the end of its log takes their place.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*_mounts(role, secrets), *defaults.mounts(context)],
    }
    if options.image_pull_policy is not None:
        container["imagePullPolicy"] = options.image_pull_policy
    # The user's own sources come last: of two that have a key, the kubelet takes the last.
    sources = [*context.defaults.env_from, *credentials.env_from(secrets), *environment.env_from(context, processes)]
    if sources:
        container["envFrom"] = sources
    return container


def _ports(processes: Sequence[Process]) -> list[Body]:
    """Named, as scrapers find them: ``api``, ``rendezvous``, and ``status``, ``status-1``, ... of each process;
    ``transfer``, ``transfer-1``, ... where it broadcasts weights."""
    ports = [("api", API_PORT)] if "api" in processes[0].ports else []
    for number in range(len(processes)):
        ports.append((f"status-{number}" if number else "status", STATUS_PORT + number))
    ports += [("rendezvous", RENDEZVOUS_PORT)] if "rendezvous" in processes[0].ports else []
    for number, process in enumerate(processes):
        if "transfer" in process.ports:
            ports.append((f"transfer-{number}" if number else "transfer", TRANSFER_PORT + number))
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports]


def _probes(probes: Probes) -> dict[str, Body]:
    """Of the first process of the pod: where one of several dies, the node process sees to it."""

    def probe(seconds: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": "/healthz", "port": "status"},
            "periodSeconds": probes.period_seconds,
            "timeoutSeconds": probes.timeout_seconds,
            "failureThreshold": max(1, seconds // probes.period_seconds),
        }

    return {
        "startupProbe": probe(probes.start_seconds),
        "readinessProbe": probe(3 * probes.period_seconds),
        "livenessProbe": probe(probes.dead_seconds),
    }


def _volumes(context: Context, role: Role, secrets: tuple[str, ...]) -> list[Body]:
    """No sizes: how much a model takes is not ours to guess, and a ``podTemplate`` replaces a volume by its name."""
    token = names.token_secret(context.name, context.run_uid)
    run_file = [{"key": RUN_FILE, "path": RUN_FILE}]
    found: list[Body] = [
        {"name": "run", "configMap": {"name": names.config_map(context.name), "items": run_file}},
        {"name": "token", "secret": {"secretName": token, "defaultMode": credentials.READABLE_BY_GROUP}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if role in WITH_MODEL:
        found += [{"name": "model", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    return found + credentials.volumes(secrets)


def _mounts(role: Role, secrets: tuple[str, ...]) -> list[Body]:
    found: list[Body] = [
        {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        {"name": "scratch", "mountPath": SCRATCH_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if role in WITH_MODEL:
        found += [{"name": "model", "mountPath": MODEL_FOLDER}, {"name": "shm", "mountPath": "/dev/shm"}]
    return found + credentials.mounts(secrets)
