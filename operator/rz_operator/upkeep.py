"""Keeping a run's members up: the trainer gang as one, everybody else one by one. Pure; called by ``decide``."""

from __future__ import annotations

from rz_api.conditions import Reason
from rz_operator.backoff import backoff_seconds
from rz_operator.failures import Failure, judge, root_cause
from rz_operator.look import KILL_SECONDS, Look
from rz_operator.members import Observed, Start, WantedRole

STUCK_SECONDS = 30.0
"""How long the next gang waits for the old one to be gone. After that it starts beside it (a pod on a lost node stays
Terminating for as long as the node is lost); fencing keeps the old one from doing harm."""


def keep_gang(look: Look) -> Look:
    """Keep the trainer gang up: all ranks of one incarnation, or none. Enters Failed when it failed too often."""
    count = look.wanted.role("trainer").count
    current = {m.index: m for m in look.of("trainer") if look.is_current(m) and m.index < count}
    missing = [index for index in range(count) if index not in current]
    failures = [judge(member) for member in current.values() if member.phase == "failed"]
    if look.status.gang.complete:
        failures += [judge(_vanished(index, look.status.gang.incarnation)) for index in missing]
    if failures:
        look = _break_gang(look, root_cause(failures))
        missing = list(range(count))
    elif not missing:
        look = look.change_gang(complete=True)
    others = [m for m in look.of("trainer") if not look.is_current(m) or m.index >= count]
    look = look.stop(others, KILL_SECONDS)
    gang = look.status.gang
    in_the_way = any(member.live for member in others) and look.now < gang.not_before + STUCK_SECONDS
    if not missing or look.status.phase == "Failed" or look.now < gang.not_before or in_the_way:
        return look
    return look.do(*(Start("trainer", index, gang.incarnation) for index in missing))


def _vanished(index: int, incarnation: int) -> Observed:
    return Observed("trainer", index, incarnation, "failed", reason="Vanished")


def _break_gang(look: Look, cause: Failure) -> Look:
    """Count the failure of the gang (once: the next incarnation is set in the same stroke)."""
    policy, gang = look.wanted.policy, look.status.gang
    counted = cause.verdict == "counted"
    restarts = gang.restarts + counted
    in_a_row = gang.failures_in_a_row + (not cause.superseded)
    wait = backoff_seconds(max(1, in_a_row), policy.backoff_seconds, policy.max_backoff_seconds)
    look = look.count_restarts("trainer", int(counted)).change_gang(
        incarnation=look.next_incarnation(),
        complete=False,
        restarts=restarts,
        failures_in_a_row=in_a_row,
        not_before=look.now + wait,
    )
    if restarts > policy.max_restarts:
        message = (
            f"the trainer failed {restarts} times, failurePolicy.maxRestarts is {policy.max_restarts}; the last time: "
            f"{cause.text}"
        )
        return look.enter("Failed", Reason.BACKOFF_LIMIT_EXCEEDED, message).warn(Reason.BACKOFF_LIMIT_EXCEEDED, message)
    number = f"failure {restarts} of {policy.max_restarts}" if counted else "not counted"
    return look.warn(
        cause.reason,
        f"{cause.text}; {number}, trainer incarnation {look.status.gang.incarnation} starts in {wait:g} s",
    )


# ------------------------------------------------------------------------------------------------ everybody else


def keep_individuals(look: Look) -> Look:
    """Keep ledger, reward and rollouts up, each member on its own."""
    for wanted in look.wanted.roles:
        if wanted.style == "individual":
            surplus = [m for m in look.of(wanted.role) if m.index >= wanted.count]
            look = look.stop(surplus, wanted.grace_seconds)
            for index in range(wanted.count):
                look = _keep_individual(look, wanted, [m for m in look.of(wanted.role) if m.index == index], index)
    return look


def _keep_individual(look: Look, wanted: WantedRole, members: list[Observed], index: int) -> Look:
    current = next((member for member in members if look.is_current(member)), None)
    old = [member for member in members if member is not current]
    look = look.stop(old, wanted.grace_seconds)
    if current is None:
        entry = look.entry(wanted.role, index)
        if any(member.live for member in old) or look.now < entry.not_before:
            return look
        return look.do(Start(wanted.role, index, entry.incarnation))
    return _count_kubelet_restarts(look, current) if current.live else _replace(look, wanted, current)


def _replace(look: Look, wanted: WantedRole, ended: Observed) -> Look:
    """Remove an ended member and set when its successor starts. One that ended well is replaced too: its role ends only
    when the run does."""
    policy, end, entry = look.wanted.policy, judge(ended), look.entry(ended.role, ended.index)
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
    return look.warn(end.reason, message) if counted else look.tell(end.reason, message)


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
    return look.warn(end.reason, f"{end.text}; the kubelet restarted it")
