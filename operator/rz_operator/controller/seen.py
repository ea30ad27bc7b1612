"""Of a run's objects nothing is kept but what decisions and status need: whole pods of thousands of runs would not fit
into a small operator. Values only.

``observe`` makes these from API objects, ``cache`` keeps them, ``reconcile`` and ``status_report`` read them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rz_api.names import Role
from rz_operator.decisions.members import Observed


@dataclass(frozen=True)
class RunKey:
    """Which run: ``str`` is ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class SeenPod:
    """One pod of a run, those that belong to its Deployments included."""

    key: RunKey
    run_uid: str
    """From the label ``reasonerzero.dev/run-uid``."""
    name: str
    resource_version: str
    member: Observed
    """The pod as ``decide`` takes it. Of a Deployment's pod only the end of its last container life is used."""
    created: float
    """Unix seconds."""
    ready: bool = False
    node: str = ""
    creating_since: float | None = None
    """Unix seconds from which it has a node, and no container yet; None once one was created."""
    trouble: str = ""
    """CamelCase word for why it does not get going: Unschedulable, SchedulingGated, ImagePullBackOff, ErrImagePull,
    CreateContainerConfigError, CrashLoopBackOff, ...; empty where nothing is wrong."""
    trouble_message: str = ""


@dataclass(frozen=True)
class SeenDeployment:
    """The Deployment of the ledger or of the reward role."""

    key: RunKey
    run_uid: str
    name: str
    resource_version: str
    role: Role
    uid: str
    replicas: int
    """Of its spec."""
    ready_replicas: int = 0
    deleting: bool = False
    gone_by: float | None = None
    refusal: str = ""
    """Message of its ReplicaFailure condition: the API server refuses its pods (quota, a webhook)."""
    refused_since: float = 0.0
    """Unix seconds: since when it has that condition."""
    nudged: float = 0.0
    """Unix seconds of the annotation ``reasonerzero.dev/try-again``; 0 where there is none."""


@dataclass(frozen=True)
class SeenService:
    """A Service of a run."""

    key: RunKey
    run_uid: str
    name: str
    resource_version: str
    uid: str
    leads_to: Role | None = None
    """The role whose pods answer behind it: it selects this run's pods of that role. None for one that somebody has
    bent to lead elsewhere."""
    digest: str = ""
    """Of what its spec means (``specs.spec_digest``)."""


@dataclass(frozen=True)
class SeenOther:
    """A child of which nothing matters but that it is there, and as it was rendered."""

    key: RunKey
    run_uid: str
    name: str
    resource_version: str
    uid: str
    digest: str = ""
    """Of what its spec means (``specs.spec_digest``)."""


@dataclass(frozen=True)
class Children:
    """Everything that was seen of one run (by UID)."""

    pods: tuple[SeenPod, ...] = ()
    deployments: tuple[SeenDeployment, ...] = ()
    services: tuple[SeenService, ...] = ()
    policies: tuple[SeenOther, ...] = ()
    """NetworkPolicies."""

    def of(self, *roles: Role) -> tuple[SeenPod, ...]:
        """The pods of these roles."""
        return tuple(pod for pod in self.pods if pod.member.role in roles)
