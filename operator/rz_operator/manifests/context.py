"""Every child of a run is owned by it and labelled alike: ``Context.metadata`` is where that comes from.

A ``Context`` is what every object of a run is rendered from: the plan, who owns it, and what the server has.
``reconcile`` makes one for each version of a run; all modules of ``manifests`` take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_api.run import ResolvedRun
from rz_api.run_defaults import RunDefaults
from rz_api.spec import PodOptions, PodResourceClaim
from rz_operator.apiserver.versions import Capabilities
from rz_operator.plan import Plan, Process

Body = dict[str, Any]
"""A Kubernetes object, or a part of one, in camelCase."""


@dataclass(frozen=True)
class Context:
    """A run as it is rendered."""

    plan: Plan
    """Its ``run`` is the frozen run with the live fields laid over."""
    namespace: str
    run_uid: str
    """UID of the run's object: owner of every child, and its label ``reasonerzero.dev/run-uid``."""
    capabilities: Capabilities
    status_peers: tuple[Mapping[str, Any], ...] = ()
    """NetworkPolicyPeers that reach its status ports; none: everybody of the cluster."""

    @property
    def run(self) -> ResolvedRun:
        return self.plan.run

    @property
    def name(self) -> str:
        return self.plan.run.name

    def options(self, role: Role) -> PodOptions:
        """What the spec says of the pods of a role."""
        spec = self.run.spec
        by_role: Mapping[Role, PodOptions] = {
            "ledger": spec.ledger,
            "reward": spec.reward,
            "rollout": spec.rollout,
            "trainer": spec.trainer,
        }
        return by_role[role]

    @cached_property
    def defaults(self) -> RunDefaults:
        """What was frozen of the owner's defaults; a run without has those of an operator that was told nothing."""
        return self.run.pod_defaults or RunDefaults()

    def claims(self, role: Role) -> tuple[PodResourceClaim, ...]:
        """Devices that the pods of a role claim."""
        return tuple(claim for claim in self.run.spec.scheduling.resource_claims if role in claim.roles)

    @cached_property
    def processes(self) -> Mapping[tuple[Role, int], tuple[Process, ...]]:
        """The processes of each pod, by hosting role and node: the host's own first, then those that it hosts."""
        found: dict[tuple[Role, int], list[Process]] = {}
        # The host's first: its ports are the first of the pod, and the probes ask there.
        for own in (True, False):
            for role in self.plan.roles:
                if (role.hosted_by == role.role) == own:
                    for process in role.processes:
                        found.setdefault((role.hosted_by, process.node), []).append(process)
        return {node: tuple(processes) for node, processes in found.items()}

    @cached_property
    def positions(self) -> Mapping[tuple[Role, int], int]:
        """Position of each process in its pod, by role and index; its status port counts from it."""
        return {
            (process.role, process.index): position
            for processes in self.processes.values()
            for position, process in enumerate(processes)
        }

    @property
    def annotations(self) -> dict[str, str]:
        """What every child says about how it was rendered."""
        return {names.ANNOTATION_RENDERING_VERSION: str(self.run.rendering_version)}

    def selector(self, role: Role | None = None, incarnation: int | None = None) -> dict[str, str]:
        """Labels that select this run's pods, and none of an earlier run of the same name."""
        return names.selector(self.name, role, incarnation) | {names.LABEL_RUN_UID: self.run_uid}

    def metadata(
        self, name: str, role: Role | None = None, index: int | None = None, incarnation: int | None = None
    ) -> Body:
        """Metadata of a child. Deletion is the garbage collector's, so there is never a finalizer; and no
        ``blockOwnerDeletion``, which would let a child hold up the deletion of its run."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": names.labels(self.name, role, index, incarnation, uid=self.run_uid),
            "annotations": self.annotations,
            "ownerReferences": [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "name": self.name,
                    "uid": self.run_uid,
                    "controller": True,
                }
            ],
        }
