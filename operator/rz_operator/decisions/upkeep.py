"""Of the trainer gang all ranks of one incarnation are kept up or none, and everybody else is kept up one by one.

Pure; called by ``decide``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rz_api.conditions import Reason
from rz_operator.decisions.backoff import backoff_seconds
from rz_operator.decisions.failures import Failure, judge, removal, root_cause
from rz_operator.decisions.gangs import TURN_SECONDS, current_gang, waiting_since, wholly_bound
from rz_operator.decisions.look import KILL_SECONDS, Look
from rz_operator.decisions.members import DEPLOYED, Observed, Start, WantedRole

STUCK_SECONDS = 30.0
"""How long the next gang waits for the old one to be gone. After that it starts beside it (a pod on a lost node stays
Terminating for as long as the node is lost); fencing keeps the old one from doing harm."""


# ------------------------------------------------------------------------------------------------------ the gang


def keep_gang(look: Look) -> Look:
    """Keep the trainer gang up: all ranks of one incarnation, or none. Enters Failed when it failed too often."""
    count, before = look.wanted.role("trainer").count, look.status.gang.incarnation
    current = {m.index: m for m in current_gang(look.seen.members, before, count)}
    failures = _failures(look, current, count)
    if failures:
        look = _break_gang(look, root_cause(failures))
    elif current and look.wanted.gang_timeout_seconds is not None and not wholly_bound(current.values(), count):
        look = _give_back(look, current, look.wanted.gang_timeout_seconds)
    if look.status.gang.incarnation != before:
        current = {}
    elif len(current) == count:
        look = look.change_gang(complete=True)
    others = [m for m in look.of("trainer") if not look.is_current(m) or m.index >= count]
    # Ranks without their peer hang in a collective: a longer grace would save nothing.
    look = look.stop(others, KILL_SECONDS, hurry=bool(failures))
    missing = [index for index in range(count) if index not in current]
    if not missing or look.status.phase == "Failed" or not _may_start(look, current, others):
        return look
    return look.do(*(Start("trainer", index, look.status.gang.incarnation) for index in missing))


def _may_start(look: Look, current: Mapping[int, Observed], others: Sequence[Observed]) -> bool:
    """Not during the back-off, nor while the old gang ends (unless it hangs), nor while it is another run's turn."""
    gang = look.status.gang
    in_the_way = any(member.live and not look.given_up(member) for member in others)
    if look.now < gang.not_before or (in_the_way and look.now < gang.not_before + STUCK_SECONDS):
        return False
    # A gang that has begun is completed: where it must give way, ``_give_back`` has ended it.
    return bool(current) or not stands_back(look)


def _failures(look: Look, current: Mapping[int, Observed], count: int) -> list[Failure]:
    """Why the gang cannot go on; nothing while it can. A member that someone else deletes is waited for as long as it
    may end in order; when another one fails meanwhile, that is why."""
    failed = [judge(member) for member in current.values() if member.phase == "failed"]
    if look.status.gang.complete:
        missing = [index for index in range(count) if index not in current]
        failed += [judge(_vanished(index, look.status.gang.incarnation)) for index in missing]
    leaving = [member for member in current.values() if member.live and member.deleting]
    return [removal(member) for member in leaving if failed or look.given_up(member)] + failed


def _vanished(index: int, incarnation: int) -> Observed:
    return Observed("trainer", index, incarnation, "failed", reason="Vanished")


def _break_gang(look: Look, cause: Failure) -> Look:
    """Count the failure of the gang (once: the next incarnation is set in the same stroke)."""
    policy, gang = look.wanted.policy, look.status.gang
    counted = cause.verdict == "counted"
    restarts = gang.restarts + counted
    in_a_row = gang.failures_in_a_row + (not cause.superseded)
    # At least one: a superseded gang adds no failure, and must not run hot.
    wait = backoff_seconds(max(1, in_a_row), policy.backoff_seconds, policy.max_backoff_seconds)
    look = _next_gang(
        look.count_restarts("trainer", int(counted)),
        restarts=restarts,
        failures_in_a_row=in_a_row,
        not_before=look.now + wait,
    )
    if restarts > policy.max_restarts:
        message = (
            f"the trainer failed {restarts} times, failurePolicy.maxRestarts is {policy.max_restarts}; the last time: "
            f"{cause.text}"
        )
        failed = look.enter("Failed", Reason.BACKOFF_LIMIT_EXCEEDED, message)
        return failed.warn(Reason.BACKOFF_LIMIT_EXCEEDED, message, "trainer")
    number = f"failure {restarts} of {policy.max_restarts}" if counted else "not counted"
    return look.warn(
        cause.reason,
        f"{cause.text}; {number}, trainer incarnation {look.status.gang.incarnation} starts in {wait:g} s",
        "trainer",
    )


# --------------------------------------------------------------------------------- turns (gang mode `operator`)


def stands_back(look: Look) -> bool:
    """Whether it is another run's turn to get nodes: this one's gang has none, and its rollouts may have none."""
    if look.wanted.gang_timeout_seconds is None:
        return False
    gang, count = look.status.gang, look.wanted.role("trainer").count
    whole = wholly_bound(current_gang(look.seen.members, gang.incarnation, count), count)
    return not whole and (bool(look.seen.give_way_to) or look.now < gang.in_line_since)


def _give_back(look: Look, current: Mapping[int, Observed], timeout: float) -> Look:
    """A gang that is not wholly bound goes as a whole when its time is up, or when an older one is short of nodes."""
    count = look.wanted.role("trainer").count
    since = waiting_since(current.values(), count)
    if since is not None and look.now - since > timeout:
        policy, in_a_row = look.wanted.policy, look.status.gang.failures_in_a_row + 1
        wait = max(TURN_SECONDS, backoff_seconds(in_a_row, policy.backoff_seconds, policy.max_backoff_seconds))
        then = look.now + wait
        bound = sum(member.bound for member in current.values())
        message = (
            f"{bound} of the {count} trainer pods had a node after {timeout:g} s (scheduling.gangTimeoutSeconds): all "
            f"are given back, trainer incarnation {look.next_incarnation()} tries again in {wait:g} s"
        )
        return _next_gang(look, failures_in_a_row=in_a_row, not_before=then, in_line_since=then).warn(
            Reason.GANG_TIMEOUT, message
        )
    if look.seen.give_way_to:
        message = f"the older run {look.seen.give_way_to} is short of nodes: those of this run's gang are given back"
        return _next_gang(look, not_before=look.now).tell(Reason.GAVE_WAY, message)
    return look


def _next_gang(look: Look, **fields: Any) -> Look:
    return look.change_gang(incarnation=look.next_incarnation(), complete=False, **fields)


# ------------------------------------------------------------------------------------------------ everybody else


def keep_individuals(look: Look) -> Look:
    """Keep ledger, reward and rollouts up, each member on its own. On a cluster ledger and reward are Deployments, one
    member each: what restarts within them is the Deployment's business, and only an exit 64 is shown here."""
    for wanted in look.wanted.roles:
        if wanted.style == "individual":
            count = 0 if wanted.role == "rollout" and stands_back(look) else wanted.count
            surplus = [m for m in look.of(wanted.role) if m.index >= count]
            look = look.stop(surplus, wanted.grace_seconds)
            for index in range(count):
                look = _keep_individual(look, wanted, [m for m in look.of(wanted.role) if m.index == index], index)
    return look


def _keep_individual(look: Look, wanted: WantedRole, members: list[Observed], index: int) -> Look:
    """The successor waits while its predecessor ends, whose GPU it may need. For one on a lost node nobody waits: a
    rollout has its incarnation in its name. A Deployment has not, and is repaired by Kubernetes."""
    current = next((member for member in members if look.is_current(member)), None)
    old = [member for member in members if member is not current]
    look = look.stop(old, wanted.grace_seconds)
    if current is None:
        entry = look.entry(wanted.role, index)
        if any(_in_the_way(look, member) for member in old) or look.now < entry.not_before:
            return look
        return look.do(Start(wanted.role, index, entry.incarnation))
    if current.live and not (wanted.role not in DEPLOYED and look.given_up(current)):
        return _count_kubelet_restarts(look, current)
    return _replace(look, wanted, current)


def _in_the_way(look: Look, old: Observed) -> bool:
    there = old.live or old.deleting
    return there and (old.role in DEPLOYED or not look.given_up(old))


def _replace(look: Look, wanted: WantedRole, ended: Observed) -> Look:
    """Remove a member that has ended, or that nobody waits for any more, and set when its successor starts. One that
    ended well is replaced too: its role ends only when the run does."""
    policy, entry = look.wanted.policy, look.entry(ended.role, ended.index)
    end = removal(ended) if ended.live else judge(ended)
    counted = end.verdict == "counted"
    ends = entry.ends_in_a_row + 1
    wait = backoff_seconds(ends, policy.backoff_seconds, policy.max_backoff_seconds)
    look = look.count_restarts(ended.role, int(counted)).change_entry(
        ended.role,
        ended.index,
        incarnation=entry.incarnation + 1,
        failures=entry.failures + counted,
        ends_in_a_row=ends,
        restarts_seen=0,
        not_before=look.now + wait,
    )
    look = look.stop([ended], wanted.grace_seconds)
    message = f"{end.text}; replaced in {wait:g} s"
    return (look.warn if counted else look.tell)(end.reason, message, ended.role)


def _count_kubelet_restarts(look: Look, member: Observed) -> Look:
    """A member that the kubelet restarted in place: its failures count, the waiting is the kubelet's."""
    entry, end = look.entry(member.role, member.index), judge(member)
    fresh = member.restarts - entry.restarts_seen
    if fresh <= 0:
        return look
    counted = fresh if end.verdict == "counted" else 0
    look = look.count_restarts(member.role, counted).change_entry(
        member.role, member.index, failures=entry.failures + counted, restarts_seen=member.restarts
    )
    return look.warn(end.reason, f"{end.text}; the kubelet restarted it", member.role)
