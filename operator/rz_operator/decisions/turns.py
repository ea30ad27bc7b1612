"""A gang that has only a part of its nodes gives them back, when its time is up or when it is an older run's turn.

Gang mode ``operator``, and what any gang remembers of its nodes; pure, called by ``upkeep``. Whose turn it is says
``gangs``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

from rz_api.conditions import Reason
from rz_operator.decisions.backoff import backoff_seconds
from rz_operator.decisions.gangs import TURN_SECONDS, Nodes, nodes, short_since
from rz_operator.decisions.look import Look
from rz_operator.decisions.members import Observed


def stands_back(look: Look) -> bool:
    """Whether it is another run's turn to get nodes: this one's gang has none, and its rollouts may have none."""
    gang = look.status.gang
    if look.wanted.gang_timeout_seconds is None or gang.placed or has(look).all:
        return False
    return bool(look.seen.give_way_to) or look.now < gang.in_line_since


def has(look: Look) -> Nodes:
    """What the current gang has of its nodes."""
    return nodes(look.seen.members, look.wanted, look.status, look.now)


def mind_nodes(look: Look, current: Mapping[int, Observed]) -> Look:
    """Remember whether the gang, of which these trainers are there, has all its nodes, and since when it has not. It
    goes as a whole when its time is up, or when an older one is short of nodes."""
    gang, found = look.status.gang, has(look)
    if not current:
        look = look.change_gang(short_since=0.0) if gang.short_since else look
    elif found.all:
        if not gang.placed or gang.short_since:
            look = look.change_gang(placed=True, short_since=0.0)
    elif look.wanted.gang_timeout_seconds is not None:
        since = short_since(current.values(), look.status)
        look = _give_back(look, found, look.now if since is None else since, spread(current.values()))
    return _group_that_can_come(look)


def spread(gang: Iterable[Observed]) -> float:
    """In [0, 1), of the pods' UIDs: another for each try of each gang. Two gangs in different lines that took a part of
    each other's nodes at the same time must not come back at the same time for ever."""
    uids = sorted(member.uid for member in gang)
    return zlib.crc32("".join(uids).encode()) / 2**32


def _give_back(look: Look, found: Nodes, since: float, spread: float) -> Look:
    assert look.wanted.gang_timeout_seconds is not None
    timeout, longest = look.wanted.gang_timeout_seconds, look.wanted.longest_gang_wait_seconds
    at_most = look.now - since > longest
    # While an autoscaler is at work the clock stands still, but not for ever: it may try again and again in vain.
    if at_most or look.now - max(since, look.seen.scaling_until) > timeout:
        policy, in_a_row = look.wanted.policy, look.status.gang.failures_in_a_row + 1
        wait = max(TURN_SECONDS, backoff_seconds(in_a_row, policy.backoff_seconds, policy.max_backoff_seconds))
        wait *= 1.0 + spread
        then = look.now + wait
        limit = f"{timeout:g} s (scheduling.gangTimeoutSeconds)"
        if at_most:
            limit = f"{longest:g} s (the operator's maxGangTimeoutSeconds)"
        message = (
            f"{found} had a node after {limit}: all are given back, trainer incarnation {look.next_incarnation()} "
            f"tries again in {wait:.0f} s"
        )
        return look.next_gang(failures_in_a_row=in_a_row, not_before=then, in_line_since=then).warn(
            Reason.GANG_TIMEOUT, message
        )
    if look.seen.give_way_to and not look.status.gang.placed:
        message = f"the older run {look.seen.give_way_to} is short of nodes: those of this run's gang are given back"
        return look.next_gang(not_before=look.now).tell(Reason.GAVE_WAY, message)
    return look if look.status.gang.short_since else look.change_gang(short_since=since)


def _group_that_can_come(look: Look) -> Look:
    """A group that waits for rollouts that are not wanted any more (``rollout.replicas``) would wait for ever."""
    gang, least = look.status.gang, look.wanted.min_rollouts
    if not look.wanted.grouped or gang.placed or gang.grouped_rollouts <= least:
        return look
    message = (
        f"rollout.replicas is below the {gang.grouped_rollouts} rollouts that the gang's group waits for: the gang "
        f"starts anew with {least}, as trainer incarnation {look.next_incarnation()}"
    )
    return look.next_gang(not_before=look.now).tell(Reason.RESTARTING, message)
