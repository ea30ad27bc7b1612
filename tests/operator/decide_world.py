"""A cluster as ``decide`` meets it, in memory: pods that are bound, run, end, are deleted by others or get stuck; an
API server that refuses creates and stale writes; a cache that may be behind; a scheduler that binds pod by pod, or a
group only when it is complete; an operator of an older version. All that is random comes from the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rz_api.names import Role
from rz_api.status import FINAL_PHASES, GangState, RunStatus
from rz_operator.decisions.decide import Decision, decide
from rz_operator.decisions.failures import judge
from rz_operator.decisions.members import Observation, Observed, Reached, Start, Stop, Wanted

Name = tuple[Role, int, int]
"""What is unique on the API server: pods have their incarnation in the name, of Deployments it is 0."""

DEPLOYMENTS: tuple[Role, ...] = ("ledger", "reward")

NEW_FIELDS = ("placed", "short_since", "grouped_rollouts", "disruptions")
"""Of the gang's memory, in this version of the operator."""


@dataclass(frozen=True)
class Picture:
    """What one look at the cache may give."""

    members: tuple[Observed, ...]
    status: RunStatus
    version: int


@dataclass
class World:
    """One run's members as they really are, and the one status that is really stored."""

    wanted: Wanted
    """Changes at any time in `suspend` and the number of rollouts."""
    mode: str = ""
    """Who sees to its gang, and how many rollouts belong to it."""
    now: float = 1_000_000.0
    members: dict[Name, Observed] = field(default_factory=dict)
    status: RunStatus = field(default_factory=RunStatus)
    version: int = 0
    """resourceVersion of the status."""
    units: int = 0
    give_way_to: str = ""
    quota: bool = False
    """While it lasts, the API server refuses every create of a pod."""
    stuck: set[str] = field(default_factory=set)
    """UIDs of pods on lost nodes: deleted, and not gone until the node is back."""
    births: int = 0
    decisions: int = 0
    pictures: list[Picture] = field(default_factory=list)
    trainer_failures: set[int] = field(default_factory=set)
    """Incarnations of which a member ended in a way that deserves to be counted."""
    other_failures: dict[Role, int] = field(default_factory=dict)
    """Ends of individual members that deserve to be counted, by role."""
    groups: dict[int, int] = field(default_factory=dict)
    """Size of each gang's group, as its first pod said it, by incarnation."""
    harmless_restarts: int = 0
    """Restarts by the kubelet that do not deserve it. Of several between two looks it tells the last one's end only, so
    one of these may be taken for what came after it."""

    # ------------------------------------------------------------------------------------------- the operator

    def picture(self) -> Picture:
        return Picture(tuple(self.members.values()), self.status, self.version)

    def remember(self, at_most: int = 6) -> None:
        """Keep the present state, for stale reads."""
        self.pictures.append(self.picture())
        del self.pictures[:-at_most]

    def decide(self, members: Sequence[Observed], status: RunStatus) -> Decision:
        self.decisions += 1
        reached = Reached(self.units // 8, self.units % 8)
        return decide(self.wanted, status, Observation(tuple(members), reached, self.give_way_to), self.now)

    def reconcile(
        self, members_lag: int = 0, status_lag: int = 0, survive: int | None = None, write: bool = True
    ) -> Decision:
        """One turn. The lags say how many pictures old each read is; ``survive`` how many actions are carried out
        before the operator is killed; without ``write`` it dies before the status is written."""
        present = self.picture()
        seen = self.pictures[-members_lag] if members_lag else present
        read = self.pictures[-status_lag] if status_lag else present
        decision = self.decide(seen.members, read.status)
        changed = decision.status != read.status
        if not write or (changed and read.version != self.version):
            return decision
        if changed:
            self.status, self.version = decision.status, self.version + 1
        for action in decision.actions[:survive]:
            self.start(action) if isinstance(action, Start) else self.stop(action)
        return decision

    def start(self, start: Start) -> None:
        deployment = start.role in DEPLOYMENTS
        name = (start.role, start.index, 0 if deployment else start.incarnation)
        if name in self.members or (self.quota and not deployment):
            return
        if gang := self._group_of(start.role, start.incarnation, start.gang):
            size = self.wanted.role("trainer").count + start.gang_rollouts
            begun = any(self._group_of(m.role, m.incarnation, m.gang) == gang for m in self.members.values())
            assert not begun or self.groups[gang] == size, f"the pods of group {gang} disagree on its size"
            self.groups[gang] = size
        self.births += 1
        self.members[name] = Observed(
            start.role,
            start.index,
            start.incarnation,
            "running" if deployment else "pending",
            uid=str(self.births),
            started_at=self.now,
            bound=deployment,
            gang=start.gang,
            gang_rollouts=start.gang_rollouts,
        )

    def _group_of(self, role: Role, incarnation: int, gang: int) -> int:
        """Whose pods are bound together, or not at all; 0: each alone."""
        if not self.wanted.grouped:
            return 0
        return incarnation if role == "trainer" else gang

    def stop(self, stop: Stop) -> None:
        name = next((name for name, member in self.members.items() if member.uid == stop.uid), None)
        if name is not None:
            self.delete(name, stop.grace_seconds)

    # -------------------------------------------------------------------------------------------- the cluster

    def delete(self, name: Name, grace_seconds: float, reason: str = "") -> None:
        """As the API server does it: at once what has no node or has ended, the others when their grace is over."""
        member = self.members[name]
        if member.uid not in self.stuck and (not member.live or not member.bound):
            del self.members[name]
            return
        gone_by = min(self.now + grace_seconds, member.gone_by or float("inf"))
        self.members[name] = replace(member, deleting=True, gone_by=gone_by, reason=reason or member.reason)

    def lose_node(self, name: Name, noticed: bool) -> None:
        """Its node does not answer. ``noticed``: and the node controller has deleted the pod, in vain."""
        self.stuck.add(self.members[name].uid)
        if noticed:
            self.delete(name, 600.0, "NodeLost")

    def finish_deletions(self) -> None:
        self.members = {
            name: m for name, m in self.members.items() if not m.deleting or (m.uid in self.stuck and m.live)
        }

    def bind(self, at_most: int | None = None) -> None:
        of_group = Counter(self._group_of(m.role, m.incarnation, m.gang) for m in self.members.values())
        for name in [name for name, member in self.members.items() if not member.bound][:at_most]:
            member = self.members[name]
            group = self._group_of(member.role, member.incarnation, member.gang)
            if not group or of_group[group] >= self.groups[group]:
                self.members[name] = replace(member, bound=True, phase="running", started_at=self.now)

    def end(self, name: Name, exit_code: int | None, signal: int | None = None, reason: str = "") -> None:
        """A container ends. What that makes of the member depends on who restarts it: nobody, the kubelet, or a
        Deployment, of which only an exit 64 is shown."""
        member = self.members[name]
        if member.role in DEPLOYMENTS:
            if exit_code == 64:
                self.members[name] = replace(member, exit_code=64, restarts=1)
            return
        by_kubelet = member.role == "rollout" and not reason
        if by_kubelet:
            ended = replace(member, exit_code=exit_code, signal=signal, restarts=member.restarts + 1)
        else:
            phase = "succeeded" if exit_code == 0 else "failed"
            ended = replace(member, phase=phase, exit_code=exit_code, signal=signal, reason=reason)  # type: ignore[arg-type]
        self.members[name] = ended
        if judge(ended).verdict != "counted":
            self.harmless_restarts += by_kubelet
        elif member.role == "trainer":
            self.trainer_failures.add(member.incarnation)
        else:
            self.other_failures[member.role] = self.other_failures.get(member.role, 0) + 1

    def forget_what_is_new(self) -> None:
        """An operator of an older version has written the status: without the fields that it does not know."""
        lost = {name: GangState.model_fields[name].default for name in NEW_FIELDS}
        self.status = self.status.model_copy(update={"gang": self.status.gang.model_copy(update=lost)})
        self.version += 1

    def names(self, *roles: Role, bound: bool = True) -> list[Name]:
        """Of the members that live (and have a node)."""
        return [
            name
            for name, m in self.members.items()
            if m.live and (m.bound or not bound) and (not roles or m.role in roles)
        ]

    # --------------------------------------------------------------------------------------------- what must hold

    def check(self) -> None:
        """What holds after every single event."""
        counted = self.status.restarts
        assert counted.get("trainer", 0) == self.status.gang.restarts <= len(self.trainer_failures)
        assert counted.get("rollout", 0) <= self.other_failures.get("rollout", 0) + self.harmless_restarts
        assert not counted.get("ledger", 0)
        assert not counted.get("reward", 0)
        gang = self.status.gang
        assert gang.restarts + gang.disruptions < max(1, gang.incarnation), "each gang ends once"

    def at_rest(self) -> str:
        """Empty when exactly what is wanted is there and lives; otherwise what is wrong."""
        live = {(m.role, m.index, m.incarnation) for m in self.members.values() if m.live}
        if self.status.phase in FINAL_PHASES:
            return f"a {self.status.phase} run has {live}" if live else ""
        if self.wanted.suspend:
            return "" if (self.status.phase, self.members) == ("Suspended", {}) else f"suspended, yet {self.members}"
        entries, gang = self.status.members, self.status.gang.incarnation
        target = {
            (r.role, i, gang if r.style == "gang" else entries[f"{r.role}-{i}"].incarnation)
            if r.style == "gang" or f"{r.role}-{i}" in entries
            else (r.role, i, 1)
            for r in self.wanted.roles
            for i in range(r.count)
        }
        done = {(m.role, m.index, m.incarnation) for m in self.members.values() if m.phase == "succeeded"}
        there = {(m.role, m.index, m.incarnation) for m in self.members.values()}
        if self.status.phase != "Running" or there != target or live | done != target:
            return f"{self.status.phase}: there are {there}, wanted are {target}, live are {live}"
        leaving = [m.key for m in self.members.values() if m.deleting]
        return f"{leaving} are leaving" if leaving else ""

    def calm_down(self, rounds: int = 30) -> None:
        """No more events: nodes are back, deletions end, pods are bound, reads are true, time passes. What is wanted
        must come about within ``rounds`` turns."""
        self.quota, self.give_way_to = False, ""
        self.stuck.clear()
        for _ in range(rounds):
            self.finish_deletions()
            self.bind()
            decision = self.reconcile()
            self.check()
            if not decision.actions and not self.at_rest():
                return
            self.now += 100.0
        raise AssertionError(f"no rest after {rounds} turns: {self.at_rest()}")
