"""To ``decide`` a process here and a pod on a cluster are the same: a member, which is started and stopped as one.

Its vocabulary: members as they are observed, what is wanted, and what can be done about it. ``local.executor``
makes ``Observed`` from processes, the cluster side from pods; both carry out ``Start`` and ``Stop``. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rz_api.names import Role
from rz_api.spec import FailurePolicy
from rz_api.status import MemberState

ROLES: tuple[Role, ...] = ("ledger", "reward", "rollout", "trainer")
"""In the order in which they are started and shown."""

DEPLOYED: tuple[Role, ...] = ("ledger", "reward")
"""Roles whose pods a Deployment keeps up on a cluster; each is one member there, docs/decisions/0006."""

NEVER_FAILED = MemberState()
"""What is remembered of a member that has no entry in the status."""

RestartStyle = Literal["individual", "gang"]
"""``individual``: a member is replaced alone. ``gang``: one failing member ends all, under a new incarnation."""

MemberPhase = Literal["pending", "running", "succeeded", "failed"]


@dataclass(frozen=True)
class Observed:
    """One member as it was found, perhaps a moment ago (observations may be stale).

    Example, a rank that a signal ended: ``Observed("trainer", 1, 3, "failed", signal=9, uid="4711-8832")``.
    """

    role: Role
    index: int
    """Trainer: rank for a process, node for a pod."""
    incarnation: int
    """What it was started with: of the gang for trainers, of the member for the others."""
    phase: MemberPhase
    exit_code: int | None = None
    """Of its end; of its last one where the kubelet restarted it (then `phase` is not an end). None after a signal."""
    signal: int | None = None
    reason: str = ""
    """CamelCase word from whoever runs it, e.g. OOMKilled, Evicted, Vanished."""
    disrupted: bool = False
    """Whoever runs it ended it for reasons of its own, or did not let it begin, whatever the reason is called."""
    message: str = ""
    """Its last words (termination message, or the end of its log)."""
    uid: str = ""
    """Identity of this very process or pod: deletes name it, so that they never hit a successor."""
    started_at: float | None = None
    """Unix seconds."""
    deleting: bool = False
    """It was told to stop and is still there."""
    restarts: int = 0
    """How often the kubelet restarted it in place; 0 for processes."""
    over: bool = True
    """Of a member that has ended: whether nothing of it holds anything any more. A pod with a sidecar runs on."""
    bound: bool = True
    """Whether it has a node; a process always has."""
    gang: int = 0
    """Of a rollout: what `Start.gang` was."""
    gang_rollouts: int = 0
    """What `Start.gang_rollouts` was."""
    gone_by: float | None = None
    """Unix seconds by which a deletion should be over; None while nobody deletes it, and for processes."""

    @property
    def live(self) -> bool:
        """Whether it may still do something."""
        return self.phase in ("pending", "running")

    @property
    def key(self) -> str:
        return member_key(self.role, self.index)


def member_key(role: Role, index: int) -> str:
    """Name of a member within its run, e.g. ``rollout-3``."""
    return f"{role}-{index}"


@dataclass(frozen=True)
class Reached:
    """How far the run is, as the ledger says. It ends hopeless runs and shortens waits, no more than that."""

    step: int
    """Committed steps."""
    units_done: int
    """Units of the step under way."""
    eval_units_done: int = 0
    incarnation: int | None = None
    """Newest trainer incarnation that the ledger knows of."""

    def mark(self) -> tuple[int, int, int]:
        """Grows whenever a unit or a step is completed."""
        return (self.step, self.units_done, self.eval_units_done)


@dataclass(frozen=True)
class Observation:
    """All that one look at the world gave."""

    members: tuple[Observed, ...] = ()
    reached: Reached | None = None
    """None when the ledger did not answer."""
    give_way_to: str = ""
    """Name of an older run whose gang is short of nodes: ours must not start, and gives back what it holds in part
    (gang `operator`); empty where there is none. `gangs.give_way_to` finds it."""
    scaling_until: float = 0.0
    """Unix seconds until which a cluster's autoscaler may still bring nodes for pods of the gang that wait; 0 where
    none is at work, or nobody asked (gang `operator`)."""


@dataclass(frozen=True)
class WantedRole:
    """How many members a role has, and how they are treated."""

    role: Role
    count: int
    style: RestartStyle
    grace_seconds: float
    """Between the polite and the final signal when it is stopped."""


@dataclass(frozen=True)
class Wanted:
    """What the spec asks for, as far as ``decide`` is concerned."""

    roles: tuple[WantedRole, ...]
    policy: FailurePolicy
    suspend: bool = False
    gang_timeout_seconds: float | None = None
    """Seconds after which a gang of which only a part has nodes is deleted whole; None where somebody else sees to
    gangs (kueue, coscheduling, volcano; one machine)."""
    longest_gang_wait_seconds: float = float("inf")
    """The most that a gang may wait with a part of its nodes, seconds, while an autoscaler is at work included."""
    min_rollouts: int = 0
    """Rollouts that belong to the gang: without them the trainers' nodes are of no use."""
    grouped: bool = False
    """Whether an installed scheduler starts the gang as one group: then its rollouts start and stop with it."""
    lines: frozenset[str] = frozenset()
    """In which it stands for nodes (`gangs.lines_of`); empty without GPUs."""

    def role(self, role: Role) -> WantedRole:
        return next(wanted for wanted in self.roles if wanted.role == role)


@dataclass(frozen=True)
class Start:
    """Start this member. Doing it twice is doing it once: the second finds the first's work and leaves it."""

    role: Role
    index: int
    incarnation: int
    gang: int = 0
    """Of a rollout: incarnation of the trainer gang in whose group it starts; 0: it starts on its own."""
    gang_rollouts: int = 0
    """Of a trainer, or a rollout of its group: how many rollouts are in the group."""


@dataclass(frozen=True)
class Stop:
    """End this very member (`uid`) and forget it. One that has ended, or is gone, is no error."""

    role: Role
    index: int
    incarnation: int
    uid: str
    grace_seconds: float


Action = Start | Stop


@dataclass(frozen=True)
class Event:
    """What a person should know: a Kubernetes event, or a line of ``rz run``."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str
    ended: Role | None = None
    """Role whose member's end it tells of (for the operator's metric of restarts); None for everything else."""
