"""A decision in the making is a value: a step of it gives a new one, and leaves the old one as it was.

It holds what is wanted and seen, and the actions, status and events so far. Used by ``decide`` and the modules that it
is made of (``upkeep``); nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_api.status import MemberState, Phase, RunStatus
from rz_operator.decisions.failures import NODE_LOST
from rz_operator.decisions.members import NEVER_FAILED, Action, Event, Observation, Observed, Stop, Wanted, member_key

KILL_SECONDS = 5.0
"""Grace of a member that has nothing left to save: its gang is broken, or its run has failed (storage is fenced)."""

LATE_SECONDS = 10.0
"""How long after the end of its grace a deleted member may still be there: the kubelet kills at the end of the grace,
then unmounts volumes and reports, which takes some seconds."""


def is_given_up(member: Observed, now: float | None) -> bool:
    """Whether nobody can expect this member to end any more: it was told to stop, and its node is lost or its time is
    long over (Unix seconds; None: only a lost node counts). A pod on a lost node stays Terminating for as long as the
    node is lost."""
    late = now is not None and member.gone_by is not None and now > member.gone_by + LATE_SECONDS
    return member.deleting and (late or member.reason in NODE_LOST)


@dataclass(frozen=True)
class Look:
    """Each method returns a new one, with something added or changed."""

    wanted: Wanted
    seen: Observation
    now: float
    """Unix seconds."""
    status: RunStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()

    # --------------------------------------------------------------------------------------------- reading

    def of(self, *roles: Role) -> tuple[Observed, ...]:
        """The observed members of these roles."""
        return tuple(member for member in self.seen.members if member.role in roles)

    def entry(self, role: Role, index: int) -> MemberState:
        """What is remembered of a member of an individual role; the same for all that never failed."""
        return self.status.members.get(member_key(role, index), NEVER_FAILED)

    def is_current(self, member: Observed) -> bool:
        """Whether this is the member that should exist, not a predecessor."""
        if member.role == "trainer":
            return member.incarnation == self.status.gang.incarnation
        return member.incarnation == self.entry(member.role, member.index).incarnation

    def given_up(self, member: Observed) -> bool:
        return is_given_up(member, self.now)

    def next_incarnation(self) -> int:
        """Above the status's and above what the ledger found in storage: a lost status need not climb one by one. The
        last number is never exceeded; a run that reached it has failed (``decide``)."""
        known = self.seen.reached.incarnation if self.seen.reached else None
        return min(max(self.status.gang.incarnation, known or 0) + 1, names.MAX_INCARNATION)

    # --------------------------------------------------------------------------------------------- changing

    def do(self, *actions: Action) -> Look:
        return replace(self, actions=self.actions + actions) if actions else self

    def stop(self, members: Sequence[Observed], grace_seconds: float, hurry: bool = False) -> Look:
        """Stop these; those that are on their way already are left alone unless ``hurry`` shortens their grace."""
        end = self.now + grace_seconds
        chosen = [m for m in members if not m.deleting or (hurry and (m.gone_by is None or m.gone_by > end))]
        return self.do(*(Stop(m.role, m.index, m.incarnation, m.uid, grace_seconds) for m in chosen))

    def tell(self, reason: str, message: str, ended: Role | None = None) -> Look:
        return replace(self, events=(*self.events, Event("Normal", reason, message, ended)))

    def warn(self, reason: str, message: str, ended: Role | None = None) -> Look:
        return replace(self, events=(*self.events, Event("Warning", reason, message, ended)))

    def change(self, **fields: Any) -> Look:
        """With these fields of the status replaced."""
        return replace(self, status=self.status.model_copy(update=fields))

    def enter(self, phase: Phase, reason: str = "", message: str = "", exit_code: int | None = None) -> Look:
        return self.change(phase=phase, reason=reason, message=message, exit_code=exit_code)

    def change_gang(self, **fields: Any) -> Look:
        return self.change(gang=self.status.gang.model_copy(update=fields))

    def next_gang(self, **fields: Any) -> Look:
        """With the next incarnation as the gang that should exist, and these fields of it."""
        new = {"incarnation": self.next_incarnation(), "complete": False, "placed": False, "short_since": 0.0}
        new["grouped_rollouts"] = self.wanted.min_rollouts if self.wanted.grouped else 0
        return self.change_gang(**new, **fields)

    def change_entry(self, role: Role, index: int, **fields: Any) -> Look:
        entry = self.entry(role, index).model_copy(update=fields)
        return self.change(members=self.status.members | {member_key(role, index): entry})

    def count_restarts(self, role: Role, number: int) -> Look:
        """``number`` more counted failures of a role."""
        before = self.status.restarts
        return self.change(restarts=before | {role: before.get(role, 0) + number}) if number else self
