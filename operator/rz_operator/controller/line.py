"""Whoever gives way to an older gang is woken when it is their turn, or else looks again by themselves soon.

The lines for nodes: who gives way to whom now, and who is woken when somebody leaves one. Each is of one namespace, one
queue and one kind of node (``gangs.lines_of``), so that nobody waits for a stranger, or hears of one.

``gangs`` has the policy, as pure functions of one run's view and the others'; this makes the views from what the cache
has of every run, for ``reconcile``. What it remembers is lost with the process without harm: whoever waits looks again
by itself, only later.
"""

from __future__ import annotations

from collections.abc import Callable

from rz_api.names import Role
from rz_api.spec import FailurePolicy
from rz_api.status import RunStatus
from rz_operator.apiserver.bodies import Body, Statuses, at, uid_of
from rz_operator.controller.cache import Cache
from rz_operator.controller.observe import unix_seconds
from rz_operator.controller.refusals import holds_up
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.gangs import GangView, give_way_to, lines_of, view
from rz_operator.decisions.members import Wanted, WantedRole

HELD_SECONDS = 5.0
"""Until a run that gives way looks again by itself, at least: who comes next is woken when the line moves."""
HELD_SECONDS_A_RUN = 0.02
"""... for each run that is held, where that is longer: a long line must not keep every worker busy."""

NEW_SECONDS = 60.0
"""How long a run without a status counts as new. One that has none for longer is in trouble, and holds nobody up."""


class Line:
    """``wake`` has a run looked at soon."""

    def __init__(self, cache: Cache, statuses: Statuses, wake: Callable[[RunKey], None]) -> None:
        self._cache = cache
        self._statuses = statuses
        self._wake = wake
        self._held: dict[RunKey, str] = {}
        """Runs that give way, and to whom, as of their last look."""
        self._asked: dict[RunKey, Wanted] = {}
        """What each run does really, whatever its spec has been changed to meanwhile, as of its last look."""

    def give_way_to(self, key: RunKey, body: Body, status: RunStatus, asked: Wanted, now: float) -> str:
        """Name of the run that this one must let go first; empty where it is free to go."""
        self._asked[key] = asked
        older = self._older(key, body, status, asked, now)
        if older:
            self._held[key] = older
        else:
            self._held.pop(key, None)
        return older

    def wait_seconds(self) -> float:
        """Until a run that gives way looks again."""
        return max(HELD_SECONDS, HELD_SECONDS_A_RUN * len(self._held))

    def leave(self, key: RunKey, now: float) -> None:
        """A run is gone, or going."""
        self._held.pop(key, None)
        self._asked.pop(key, None)
        self.move(key, now)

    def move(self, key: RunKey, now: float) -> None:
        """If somebody gives way to this run, and need not any longer, wake who comes next."""
        if str(key) not in self._held.values():
            return
        body = self._cache.run(key)
        mine = None if body is None or at(body, "metadata", "deletionTimestamp") else self._view_of(key, body, now)
        if mine is not None and mine.wants_nodes:
            return
        behind = {str(other): other for other, whom in self._held.items() if whom == str(key)}
        bodies = ((other, self._cache.run(other)) for other in behind.values())
        views = [self._view_of(other, found, now) for other, found in bodies if found is not None]
        waiting = [each for each in views if each is not None and each.wants_nodes]
        lines = {line for each in waiting for line in each.lines}
        for first in {min((v for v in waiting if line in v.lines), key=lambda v: v.place).run for line in lines}:
            self._wake(behind[first])

    def _older(self, key: RunKey, body: Body, status: RunStatus, asked: Wanted, now: float) -> str:
        if asked.gang_timeout_seconds is None:
            return ""
        me = self._view(key, body, status, asked, now)
        if not me.wants_nodes or not me.lines:
            return ""
        neighbours = (
            (other, found)
            for other, found in self._cache.runs()
            if other != key and other.namespace == key.namespace and self._lines_of(other, found) & me.lines
        )
        others = (self._view_of(other, found, now) for other, found in neighbours)
        return give_way_to(me, (other for other in others if other is not None), now)

    def _lines_of(self, key: RunKey, body: Body) -> frozenset[str]:
        asked = self._asked.get(key)
        return asked.lines if asked is not None else lines_of(at(body, "spec") or {})

    def _view_of(self, key: RunKey, body: Body, now: float) -> GangView | None:
        """Another run's gang; None for one that is no matter here: not running, or scheduled by somebody else."""
        asked = self._asked.get(key) or _asked_by(body)
        if asked.gang_timeout_seconds is None or at(body, "metadata", "deletionTimestamp"):
            return None
        if at(body, "status", "phase") != "Running" and not self._is_new(body, now):
            return None
        return self._view(key, body, self._statuses.of(body), asked, now)

    @staticmethod
    def _is_new(body: Body, now: float) -> bool:
        """Whether it was not looked at yet and will be in a moment: of runs that come at once the oldest goes first."""
        created = unix_seconds(at(body, "metadata", "creationTimestamp"))
        return not at(body, "status") and created is not None and now - created < NEW_SECONDS

    def _view(self, key: RunKey, body: Body, status: RunStatus, asked: Wanted, now: float) -> GangView:
        pods = self._cache.children(key.namespace, uid_of(body)).of("trainer", "rollout")
        refused = {
            role
            for role in _OF_A_GANG
            for refusal, retry in status.retries.items()
            if now < retry.not_before and holds_up(refusal, key.name, role)
        }
        created = unix_seconds(at(body, "metadata", "creationTimestamp")) or 0.0
        return view(str(key), created, asked, status, (pod.member for pod in pods), now, refused)


_OF_A_GANG: tuple[Role, ...] = ("trainer", "rollout")


def _asked_by(body: Body) -> Wanted:
    """What another run asks for that was not looked at yet, as far as its place in the line depends on it."""
    spec = at(body, "spec")
    # ``workload`` may be ``operator`` on this server; until its first look it had better stand in line.
    by_us = (at(spec, "scheduling", "gang") or "operator") in ("operator", "workload")
    colocated = at(spec, "rollout", "placement") == "colocated"
    trainers, rollouts = _count(at(spec, "trainer", "nodes")), _count(at(spec, "rollout", "replicas"))
    roles = (WantedRole("rollout", 0 if colocated else rollouts, "individual", 0.0),)
    return Wanted(
        (*roles, WantedRole("trainer", trainers, "gang", 0.0)),
        FailurePolicy(),
        at(spec, "suspend") is True,
        gang_timeout_seconds=0.0 if by_us else None,
        min_rollouts=0 if colocated else min(rollouts, _count(at(spec, "scheduling", "minRollouts"))),
        lines=lines_of(spec or {}),
    )


def _count(found: object) -> int:
    """Of what has 1 for a default."""
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 1
