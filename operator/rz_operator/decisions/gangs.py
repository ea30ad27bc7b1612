"""Two gangs never wait for each other's nodes for ever: they take turns (gang mode ``operator``). Pure.

A gang is all trainer pods and as many rollouts as a run needs to get on (``scheduling.minRollouts``): trainers without
a rollout hold their nodes for nothing. ``reconcile`` asks ``give_way_to`` before it decides about a run and hands the
answer to ``decide`` in the observation; ``upkeep`` asks the rest. The scheduler binds pod by pod, so two gangs that
both fit alone could each hold a part for ever. Where nobody else schedules them as gangs, they stand in line, by
creation time and then by name:

| my gang                            | an older one that wants nodes     | then                                        |
|------------------------------------|-----------------------------------|---------------------------------------------|
| has had all its nodes              | any                               | it runs on, and gives way to nobody         |
| has no pods                        | any, started or not               | it is held back                             |
| has pods, not all nodes            | has had pods for SETTLE_SECONDS   | it gives all nodes back, and keeps its place|
| has pods, not all nodes            | has pods since just now, or none  | it goes on: both may fit                    |
| not all nodes after the timeout    | any, or none                      | it gives all back, waits, joins at the end  |
| backing off, suspended, finished   | any                               | it is not in line                           |

The timeout is for a gang that had its nodes and lost some, too: its last rollout is gone and finds no node.

**Which line.** Only runs of one namespace that name the same queue and ask for the same kind of node (``lines_of``)
wait for each other; runs without GPUs stand in no line. So nobody is held up by a stranger, nor by a run that needs
other nodes. What two lines do to each other has a limit: the timeout, which the operator's owner limits
(``operator.maxGangTimeoutSeconds``), ends every half-bound gang, in whichever line it is.

Joining the line anew at its end is what keeps the line moving: however many gangs can never fit, each one's turn lasts
one timeout, and whoever is behind them comes next. A held run's rollouts hold no nodes either: the older gang may need
those very ones.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rz_api.names import Role
from rz_api.status import FINAL_PHASES, RunStatus
from rz_operator.decisions.members import NEVER_FAILED, Observed, Wanted, member_key

SETTLE_SECONDS = 10.0
"""How long a gang may have pods without nodes before it is short of them: binding takes a scheduler some milliseconds a
pod, and a cache may be a second behind."""

TURN_SECONDS = 30.0
"""Least back-off of a gang whose time is up: long enough for every waiting run to look again and take its turn. Up to
as much again is added (``turns.spread``)."""

DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
"""What a spec that was not looked at yet asks for where it names no other."""


@dataclass(frozen=True)
class GangView:
    """One run's gang as the others' turns depend on it."""

    run: str
    created: float
    """Unix seconds: when the run was created."""
    wants_nodes: bool
    """In line: to be started or started in part, and neither suspended, finished nor backing off. Not in line either:
    a gang whose first pod the API server refuses (quota), or it would hold back everybody without a time limit."""
    pods: int
    """Trainer pods that live."""
    bound: int
    """Of the gang, with a node."""
    size: int
    """Trainers and the rollouts that it needs."""
    since: float | None
    """Unix seconds: since when it has had pods that wait for nodes; None where there are none."""
    rejoined: float = 0.0
    """Unix seconds: when it joined the line anew (``status.gang.inLineSince``); 0 if it never did."""
    placed: bool = False
    """It has had all its nodes once."""
    lines: frozenset[str] = frozenset()
    """In which it stands."""

    @property
    def place(self) -> tuple[float, str]:
        """Lower comes first."""
        return (max(self.created, self.rejoined), self.run)


def give_way_to(me: GangView, others: Iterable[GangView], now: float) -> str:
    """Name of the run that my gang must let go first, the first one in the line; empty where it is free to go."""
    if not me.wants_nodes or me.placed:
        return ""
    mine = me.place
    ahead = [other for other in others if other.wants_nodes and other.lines & me.lines and other.place < mine]
    if me.pods:
        ahead = [other for other in ahead if _short(other, now)]
    return min(ahead, key=lambda other: other.place).run if ahead else ""


def _short(gang: GangView, now: float) -> bool:
    return gang.since is not None and gang.bound < gang.size and now - gang.since >= SETTLE_SECONDS


def view(
    run: str,
    created: float,
    wanted: Wanted,
    status: RunStatus,
    members: Iterable[Observed],
    now: float,
    refused: Collection[Role],
) -> GangView:
    """The view of a run in gang mode ``operator``. ``refused``: roles whose pods the API server turned down, while the
    wait until the next try is not over."""
    members = tuple(members)
    has, gang = nodes(members, wanted, status, now), status.gang
    live = [m for m in current_gang(members, gang.incarnation, has.of_trainers) if m.live]
    going = not wanted.suspend and status.phase not in FINAL_PHASES and now >= gang.not_before
    return GangView(
        run=run,
        created=created,
        wants_nodes=going and not has.all and not _lacks_what_is_refused(has, live, refused),
        pods=len(live),
        bound=has.trainers + has.rollouts,
        size=has.of_trainers + has.of_rollouts,
        since=None if has.all else short_since(live, status),
        rejoined=gang.in_line_since,
        placed=gang.placed,
        lines=wanted.lines,
    )


def _lacks_what_is_refused(has: Nodes, live: Sequence[Observed], refused: Collection[Role]) -> bool:
    """Whether no node would help: what is missing does not come to a scheduler."""
    if "trainer" in refused and not live:
        return True
    return "rollout" in refused and has.trainers >= has.of_trainers


# ----------------------------------------------------------------------------------------------- what a gang has


@dataclass(frozen=True)
class Nodes:
    """Members of a gang that have a node."""

    trainers: int
    of_trainers: int
    rollouts: int
    """At most ``of_rollouts``: more are welcome, and not needed."""
    of_rollouts: int

    @property
    def all(self) -> bool:
        return self.trainers >= self.of_trainers and self.rollouts >= self.of_rollouts

    def __str__(self) -> str:
        """``2 of the 4 trainer pods and 0 of the 1 rollouts that it needs``"""
        trainers = f"{self.trainers} of the {self.of_trainers} trainer pods"
        rollouts = f" and {self.rollouts} of the {self.of_rollouts} rollouts that it needs"
        return trainers + (rollouts if self.of_rollouts else "")


def nodes(members: Iterable[Observed], wanted: Wanted, status: RunStatus, now: float) -> Nodes:
    """What the current gang has. A rollout that waits out its own back-off is as good as one with a node: no node is
    missing for it."""
    members = tuple(members)
    count = wanted.role("trainer").count
    bound = sum(member.bound for member in current_gang(members, status.gang.incarnation, count))
    needed, indices = wanted.min_rollouts, range(wanted.role("rollout").count)
    if not needed:
        return Nodes(bound, count, 0, 0)
    there = {(m.index, m.incarnation): m.bound for m in members if m.role == "rollout"}

    def has_node(index: int) -> bool:
        entry = status.members.get(member_key("rollout", index), NEVER_FAILED)
        return there.get((index, entry.incarnation), now < entry.not_before)

    return Nodes(bound, count, min(needed, sum(map(has_node, indices))), needed)


def current_gang(members: Iterable[Observed], incarnation: int, size: int) -> list[Observed]:
    """The trainers of the gang that should exist."""
    return [m for m in members if m.role == "trainer" and m.incarnation == incarnation and m.index < size]


def short_since(trainers: Iterable[Observed], status: RunStatus) -> float | None:
    """Since when a gang that has not all its nodes has had pods: as remembered, else since its first pod. None where it
    has none of these ``trainers``, or lost a node just now."""
    live = [m for m in trainers if m.live]
    if not live:
        return None
    if status.gang.short_since:
        return status.gang.short_since
    return None if status.gang.placed else min((m.started_at for m in live if m.started_at is not None), default=None)


# ----------------------------------------------------------------------------------------------------- which line


def lines_of(spec: Mapping[str, Any]) -> frozenset[str]:
    """The lines in which a run of this spec stands within its namespace: its queue, and each kind of node that its GPU
    pods ask for. Empty without GPUs. ``spec`` is in camelCase and may be anything that JSON can say.

    Example: trainers on H100 and rollouts wherever there is a GPU make two lines.
    """
    gpus = _at(spec, "trainer", "gpusPerNode")
    if gpus == 0:
        return frozenset()
    scheduling = _at(spec, "scheduling")
    queue, resource, claims = (_at(scheduling, key) for key in ("queueName", "gpuResource", "resourceClaims"))
    named = [
        _at(claim, key)
        for claim in (claims if isinstance(claims, list) else [])
        for key in ("resourceClaimTemplateName", "resourceClaimName")
    ]
    of_all = [queue, DEFAULT_GPU_RESOURCE if resource is None else resource, named]
    of = ["trainer"] if _at(spec, "rollout", "placement") == "colocated" else ["trainer", "rollout"]
    return frozenset(_text([*of_all, _kind(_at(spec, role))]) for role in of)


def _kind(pods: Any) -> list[Any]:
    """What these pods ask of a node, but for how much of it."""
    template = _at(pods, "podTemplate", "spec")
    found = [
        _at(pods, "nodeSelector"),
        _at(pods, "tolerations"),
        _at(template, "nodeSelector"),
        _at(template, "tolerations"),
        _at(template, "affinity", "nodeAffinity"),
    ]
    return [each or None for each in found]  # an empty list says as little as none


def _at(body: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(body, Mapping):
            return None
        body = body.get(key)
    return body


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
