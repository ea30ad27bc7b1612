"""Of the trainer gang all ranks of one incarnation are kept up or none, and everybody else is kept up one by one.

Rollouts stand between: each is replaced alone, but the first few of them (``scheduling.minRollouts``) belong to the
gang when it is a question of nodes. Where an installed scheduler starts the gang as a group, they start and stop with
it: a group is a promise about pods that do not exist yet, and what is left of an older group keeps its quota.

Pure; called by ``decide``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rz_api.conditions import Reason
from rz_operator.decisions.backoff import backoff_seconds
from rz_operator.decisions.failures import Failure, judge, removal, root_cause
from rz_operator.decisions.gangs import current_gang
from rz_operator.decisions.look import KILL_SECONDS, Look
from rz_operator.decisions.members import DEPLOYED, Observed, Start, WantedRole
from rz_operator.decisions.turns import mind_nodes, stands_back

STUCK_SECONDS = 30.0
"""How long the next gang waits for the old one to be gone. After that it starts beside it (a pod on a lost node stays
Terminating for as long as the node is lost); fencing keeps the old one from doing harm."""


# ------------------------------------------------------------------------------------------------------ the gang


def keep_gang(look: Look) -> Look:
    """Keep the trainer gang up: all ranks of one incarnation, or none. Enters Failed when it failed too often."""
    count, before, placed = look.wanted.role("trainer").count, look.status.gang.incarnation, look.status.gang.placed
    current = {m.index: m for m in current_gang(look.seen.members, before, count)}
    failures = _failures(look, current, count)
    look = _break_gang(look, root_cause(failures)) if failures else mind_nodes(look, current)
    if look.status.gang.incarnation != before:
        current = {}
    elif len(current) == count:
        look = look.change_gang(complete=True)
    others = [m for m in look.of("trainer") if not look.is_current(m) or m.index >= count]
    # Ranks without their peer hang in a collective: a longer grace would save nothing. Those that have worked and are
    # given back for want of a rollout can checkpoint.
    given_back = placed and not failures and look.status.gang.incarnation != before
    grace = look.wanted.role("trainer").grace_seconds if given_back else KILL_SECONDS
    look = look.stop(others, grace, hurry=bool(failures))
    missing = [index for index in range(count) if index not in current]
    if not missing or look.status.phase == "Failed" or not _may_start(look, current, others):
        return look
    gang = look.status.gang
    group = gang.grouped_rollouts if look.wanted.grouped else 0
    return look.do(*(Start("trainer", index, gang.incarnation, gang_rollouts=group) for index in missing))


def _may_start(look: Look, current: Mapping[int, Observed], others: Sequence[Observed]) -> bool:
    """Not during the back-off, nor while the old gang ends (unless it hangs), nor while it is another run's turn."""
    gang = look.status.gang
    in_the_way = any(member.live and not look.given_up(member) for member in others)
    if look.now < gang.not_before or (in_the_way and look.now < gang.not_before + STUCK_SECONDS):
        return False
    # A gang that has begun is completed: where it must give way, ``mind_nodes`` has ended it.
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
    restarts, disruptions = gang.restarts + counted, gang.disruptions + (not counted)
    in_a_row = gang.failures_in_a_row + (not cause.superseded)
    # At least one: a superseded gang adds no failure, and must not run hot.
    wait = backoff_seconds(max(1, in_a_row), policy.backoff_seconds, policy.max_backoff_seconds)
    look = look.count_restarts("trainer", int(counted)).next_gang(
        restarts=restarts,
        failures_in_a_row=in_a_row,
        disruptions=disruptions,
        not_before=look.now + wait,
    )
    if restarts > policy.max_restarts:
        message = (
            f"the trainer failed {restarts} times, failurePolicy.maxRestarts is {policy.max_restarts}; the last time: "
            f"{cause.text}"
        )
        failed = look.enter("Failed", Reason.BACKOFF_LIMIT_EXCEEDED, message)
        return failed.warn(Reason.BACKOFF_LIMIT_EXCEEDED, message, "trainer")
    if disruptions > policy.max_disruptions:
        message = (
            f"the trainer was ended {disruptions} times by what is not counted, with no completed step in between, "
            f"failurePolicy.maxDisruptions is {policy.max_disruptions}; the last time: {cause.text}"
        )
        failed = look.enter("Failed", Reason.DISRUPTION_LIMIT_EXCEEDED, message)
        return failed.warn(Reason.DISRUPTION_LIMIT_EXCEEDED, message, "trainer")
    number = f"failure {restarts} of {policy.max_restarts}" if counted else "not counted"
    return look.warn(
        cause.reason,
        f"{cause.text}; {number}, trainer incarnation {look.status.gang.incarnation} starts in {wait:g} s",
        "trainer",
    )


# ------------------------------------------------------------------------------------------------ everybody else


def keep_individuals(look: Look) -> Look:
    """Keep ledger, reward and rollouts up, each member on its own. On a cluster ledger and reward are Deployments, one
    member each: what restarts within them is the Deployment's business, and only an exit 64 is shown here."""
    for wanted in look.wanted.roles:
        if wanted.style == "individual":
            count = 0 if wanted.role == "rollout" and stands_back(look) else wanted.count
            surplus = [m for m in look.of(wanted.role) if m.index >= count]
            look = look.stop(surplus, wanted.grace_seconds)
            members: dict[int, list[Observed]] = {}
            for member in look.of(wanted.role):
                members.setdefault(member.index, []).append(member)
            for index in range(count):
                look = _keep_individual(look, wanted, members.get(index, []), index)
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
        return _start(look, wanted, index)
    if current.live and _is_of_another_gang(look, current):
        look = look.change_entry(wanted.role, index, incarnation=current.incarnation + 1, restarts_seen=0)
        return look.stop([current], wanted.grace_seconds)
    if current.live and not (wanted.role not in DEPLOYED and look.given_up(current)):
        return _count_kubelet_restarts(look, current)
    return _replace(look, wanted, current)


def _start(look: Look, wanted: WantedRole, index: int) -> Look:
    incarnation = look.entry(wanted.role, index).incarnation
    if not _is_of_the_group(look, wanted, index):
        return look.do(Start(wanted.role, index, incarnation))
    gang = look.status.gang
    begun = [m for m in look.of("trainer") if look.is_current(m)]
    begins = [action for action in look.actions if isinstance(action, Start) and action.role == "trainer"]
    # Not before its group, which comes with the first trainer.
    if not begun and not begins:
        return look
    return look.do(Start(wanted.role, index, incarnation, gang.incarnation, gang.grouped_rollouts))


def _is_of_the_group(look: Look, wanted: WantedRole, index: int) -> bool:
    """Whether a rollout that starts now is of the gang's group: only until that has its nodes once. Who comes later
    replaces one, and a scheduler would call it one too many."""
    gang = look.status.gang
    return look.wanted.grouped and wanted.role == "rollout" and not gang.placed and index < gang.grouped_rollouts


def _is_of_another_gang(look: Look, member: Observed) -> bool:
    group = _is_of_the_group(look, look.wanted.role(member.role), member.index)
    return group and member.gang != look.status.gang.incarnation


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
        member.role,
        member.index,
        failures=entry.failures + counted,
        ends_in_a_row=entry.ends_in_a_row + fresh,
        restarts_seen=member.restarts,
    )
    return look.warn(end.reason, f"{end.text}; the kubelet restarted it", member.role)
