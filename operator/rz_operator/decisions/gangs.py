"""Two trainer gangs never wait for each other's nodes for ever: they take turns (gang mode ``operator``). Pure.

``reconcile`` asks ``give_way_to`` before it decides about a run and hands the answer to ``decide`` in the observation;
``upkeep`` asks the rest. The scheduler binds pod by pod, so two gangs that both fit alone could each hold a part for
ever. Where nobody else schedules them as gangs, they stand in line, by creation time and then by name:

| my gang                            | an older one that wants nodes     | then                                        |
|------------------------------------|-----------------------------------|---------------------------------------------|
| wholly bound                       | any                               | it runs on, and is never disturbed          |
| has no pods                        | any, started or not               | it is held back                             |
| has pods, not wholly bound         | has had pods for SETTLE_SECONDS   | it gives all nodes back, and keeps its place|
| has pods, not wholly bound         | has pods since just now, or none  | it goes on: both may fit                    |
| not wholly bound after the timeout | any, or none                      | it gives all back, waits, joins at the end  |
| backing off, suspended, finished   | any                               | it is not in line                           |

Joining the line anew at its end is what keeps the line moving: however many gangs can never fit, each one's turn lasts
one timeout, and whoever is behind them comes next. Which nodes a gang could use is not known here, so a run that waits
for nodes of one kind also holds back a younger one that needs another kind, for one timeout at most (`gang: kueue`
knows such things). A held run's rollouts hold no nodes either: the older gang may need those very ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rz_api.status import FINAL_PHASES, RunStatus
from rz_operator.decisions.members import Observed, Wanted

SETTLE_SECONDS = 10.0
"""How long a gang may have pods without nodes before it is short of them: binding takes a scheduler some milliseconds a
pod, and a cache may be a second behind."""

TURN_SECONDS = 30.0
"""Least back-off of a gang whose time is up: long enough for every waiting run to look again and take its turn."""


@dataclass(frozen=True)
class GangView:
    """One run's trainer gang as the others' turns depend on it."""

    run: str
    created: float
    """Unix seconds: when the run was created."""
    wants_nodes: bool
    """In line: to be started or started in part, and neither suspended, finished nor backing off. Not in line either:
    a gang whose first pod the API server refuses (quota), or it would hold back everybody without a time limit."""
    pods: int
    bound: int
    size: int
    since: float | None
    """Unix seconds: since when it has had pods that wait for nodes; None where there are none."""
    rejoined: float = 0.0
    """Unix seconds: when it joined the line anew (``status.gang.inLineSince``); 0 if it never did."""

    @property
    def place(self) -> tuple[float, str]:
        """Lower comes first."""
        return (max(self.created, self.rejoined), self.run)


def give_way_to(me: GangView, others: Iterable[GangView], now: float) -> str:
    """Name of the run that my gang must let go first, the first one in the line; empty where it is free to go."""
    if not me.wants_nodes:
        return ""
    mine = me.place
    ahead = [other for other in others if other.wants_nodes and other.place < mine]
    if me.pods:
        ahead = [other for other in ahead if _short(other, now)]
    return min(ahead, key=lambda other: other.place).run if ahead else ""


def _short(gang: GangView, now: float) -> bool:
    return gang.since is not None and gang.bound < gang.size and now - gang.since >= SETTLE_SECONDS


def view(
    run: str, created: float, wanted: Wanted, status: RunStatus, members: Iterable[Observed], now: float, refused: bool
) -> GangView:
    """The view of a run in gang mode ``operator``. ``refused``: the API server turned its pods down, and the wait until
    the next try is not over."""
    size = wanted.role("trainer").count
    gang = current_gang(members, status.gang.incarnation, size)
    live = [member for member in gang if member.live]
    going = not wanted.suspend and status.phase not in FINAL_PHASES and now >= status.gang.not_before
    return GangView(
        run=run,
        created=created,
        wants_nodes=going and not wholly_bound(gang, size) and not (refused and not live),
        pods=len(live),
        bound=sum(member.bound for member in live),
        size=size,
        since=waiting_since(gang, size),
        rejoined=status.gang.in_line_since,
    )


def current_gang(members: Iterable[Observed], incarnation: int, size: int) -> list[Observed]:
    """The members of the gang that should exist."""
    return [m for m in members if m.role == "trainer" and m.incarnation == incarnation and m.index < size]


def wholly_bound(gang: Iterable[Observed], size: int) -> bool:
    """Whether every member is there and has a node. Once true it stays true for that gang: pods are not unbound."""
    return sum(member.bound for member in gang) >= size


def waiting_since(gang: Iterable[Observed], size: int) -> float | None:
    """Since when a gang that is not wholly bound has had pods; None where it has none, or is bound."""
    gang = list(gang)
    if wholly_bound(gang, size):
        return None
    return min((m.started_at for m in gang if m.live and m.started_at is not None), default=None)
