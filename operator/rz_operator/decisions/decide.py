"""What is done next about a run follows from what is seen and remembered of it, never from how it came about.

``decide(wanted, status, observation, now) -> Decision`` is pure, total and deterministic. The local runner and the
operator call it in a loop (observe, decide, write the status, act). It is level-triggered: it never asks what happened,
only what is. So it may be killed at any moment, called twice, or shown an old observation:

1. A completed unit or step forgives the failures before it.
2. A finished run: everything that still lives is stopped.
3. A user error of any member, success of all trainer ranks, or hopeless rollouts end the run.
4. Suspended: first the trainers drain, then the rollouts go, then reward and ledger.
5. Otherwise the gang is kept up as one and the others one by one (``upkeep``); where the operator itself schedules
   gangs, one that does not get all its nodes gives them back, in the order of ``gangs``.

Counting: a failure is counted when the observed incarnation is the status's, and the same step raises the status's
incarnation. Seen again, it is an old member that is only removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rz_api import exit_codes, names
from rz_api.conditions import Reason
from rz_api.names import Role
from rz_api.status import FINAL_PHASES, GangState, RunStatus
from rz_operator.decisions.failures import Failure, judge
from rz_operator.decisions.look import KILL_SECONDS, Look
from rz_operator.decisions.members import Action, Event, Observation, Observed, Wanted
from rz_operator.decisions.pruning import pruned
from rz_operator.decisions.upkeep import keep_gang, keep_individuals


@dataclass(frozen=True)
class Decision:
    """What ``decide`` returns."""

    actions: tuple[Action, ...]
    """To be carried out in this order; each is idempotent, and one may be killed after any of them."""
    status: RunStatus
    """To be written before the first action."""
    events: tuple[Event, ...] = ()
    """What a person should know."""


def decide(wanted: Wanted, status: RunStatus, observation: Observation, now: float) -> Decision:
    """The actions that bring the run nearer to what is wanted, and the status to write before they are carried out.

    ``now`` is in Unix seconds. Conditions and progress for people are not its concern.

    Example: SIGKILL has ended one of two trainer ranks. The gang ends as a whole, and the status remembers the failure
    and when the next incarnation may start; the other rank, which waits for its dead peer, is given 5 s.

    >>> from rz_api.spec import FailurePolicy
    >>> from rz_operator.decisions.members import WantedRole
    >>> roles = WantedRole("rollout", 0, "individual", 30.0), WantedRole("trainer", 2, "gang", 600.0)
    >>> wanted = Wanted(roles, FailurePolicy(backoff_seconds=10, max_restarts=3))
    >>> status = RunStatus(phase="Running", gang=GangState(incarnation=7, complete=True))
    >>> killed = Observed("trainer", 0, 7, "failed", signal=9, uid="a")
    >>> other = Observed("trainer", 1, 7, "running", uid="b")
    >>> decision = decide(wanted, status, Observation((killed, other)), now=1000.0)
    >>> for action in decision.actions:
    ...     print(action)
    Stop(role='trainer', index=0, incarnation=7, uid='a', grace_seconds=5.0)
    Stop(role='trainer', index=1, incarnation=7, uid='b', grace_seconds=5.0)
    >>> gang = decision.status.gang
    >>> assert (gang.incarnation, gang.restarts, gang.not_before) == (8, 1, 1010.0)
    >>> print(decision.events[0].message)
    trainer-0 ended (Killed, signal SIGKILL); failure 1 of 3, trainer incarnation 8 starts in 10 s

    Seen again, the failure is not counted again; when both are gone and the wait is over, the next gang starts.

    >>> assert decide(wanted, decision.status, Observation((other,)), now=1005.0).status == decision.status
    >>> [(start.index, start.incarnation) for start in decide(wanted, decision.status, Observation(), 1010.0).actions]
    [(0, 8), (1, 8)]
    """
    look = _forgive(_adopt(Look(wanted, observation, now, status)))
    # In this order: a finished run stays as it finished, and an exit 64 outweighs ranks that succeeded.
    for step in (_already_final, _user_error, _success, _hopeless_rollouts, _out_of_numbers, _drain):
        done = step(look)
        if done is not None:
            return Decision(done.actions, pruned(done).status, done.events)
    look = keep_gang(_resume(look))
    look = _clean_up(replace(look, actions=())) if look.status.phase == "Failed" else keep_individuals(look)
    return Decision(look.actions, pruned(look).status, look.events)


def begin_again(status: RunStatus) -> RunStatus:
    """The status with which a run goes on that a person starts anew: no failure is held against it, no wait is left.

    Called by the local runner at its start, when no member can be alive (they die with the runner).
    """
    incarnation = status.gang.incarnation
    return RunStatus(phase="Suspended", gang=GangState(incarnation=incarnation)) if incarnation else RunStatus()


# ------------------------------------------------------------------------------------------------ what is known


def _adopt(look: Look) -> Look:
    """A member with a higher incarnation than the status's (the status was lost or is old) sets the status's."""
    newest = max((m.incarnation for m in look.of("trainer")), default=0)
    if newest > look.status.gang.incarnation:
        look = look.change_gang(incarnation=newest, complete=False, placed=False, short_since=0.0, grouped_rollouts=0)
    look = _know_the_group(look)
    for member in look.of("ledger", "reward", "rollout"):
        if member.incarnation > look.entry(member.role, member.index).incarnation:
            # A new pod has a count of its own. What it says already may have been counted: never twice.
            look = look.change_entry(
                member.role, member.index, incarnation=member.incarnation, restarts_seen=member.restarts
            )
    return look


def _know_the_group(look: Look) -> Look:
    """The pods of a group must agree on its size. Those that exist have said it; without any it is what is wanted,
    where the status was written by an operator that knows nothing of it."""
    gang = look.status.gang
    if not look.wanted.grouped or look.status.phase != "Running":
        return look
    members = look.of("trainer", "rollout")
    group = [m for m in members if gang.incarnation == (m.incarnation if m.role == "trainer" else m.gang)]
    told = max((m.gang_rollouts for m in group), default=look.wanted.min_rollouts)
    return look.change_gang(grouped_rollouts=told) if told > gang.grouped_rollouts else look


def _forgive(look: Look) -> Look:
    """After a completed unit the individual members' failures start from 0 again, after a completed step the gang's."""
    if look.seen.reached is None:
        return look
    before, mark = look.status.progress_mark, look.seen.reached.mark()
    if before is not None and mark <= before:
        return look
    # The first answer says where the run is, not that it has come further.
    if before is not None:
        members = look.status.members.items()
        look = look.change(
            members={key: entry.model_copy(update={"failures": 0, "ends_in_a_row": 0}) for key, entry in members}
        )
        if mark[0] > before[0]:
            look = look.change_gang(failures_in_a_row=0, disruptions=0)
    return look.change(progress_mark=mark)


def _ends(look: Look) -> Iterator[Failure]:
    """Ends of current members, those that the kubelet made good included."""
    for member in look.seen.members:
        if look.is_current(member) and (not member.live or member.restarts > 0):
            yield judge(member)


# --------------------------------------------------------------------------------------------------- how runs end


def _already_final(look: Look) -> Look | None:
    return _clean_up(look) if look.status.phase in FINAL_PHASES else None


def _user_error(look: Look) -> Look | None:
    error = next((end for end in _ends(look) if end.verdict == "terminal"), None)
    if error is None:
        return None
    return _fail(look, Reason.USER_ERROR, error.last_words or error.text, exit_codes.USER_ERROR)


def _success(look: Look) -> Look | None:
    done = {m.index for m in look.of("trainer") if look.is_current(m) and m.phase == "succeeded"}
    if not look.status.gang.incarnation or len(done) < look.wanted.role("trainer").count:
        return None
    message = "all trainer ranks succeeded"
    look = look.enter("Succeeded", Reason.TRAINER_SUCCEEDED, message, exit_codes.OK)
    return _clean_up(look.tell(Reason.TRAINER_SUCCEEDED, message))


def _hopeless_rollouts(look: Look) -> Look | None:
    """Every rollout failed ``rolloutFailures`` times since the last completed unit, or ended more than
    ``maxDisruptions`` times, ends that are new now included."""
    policy, indices = look.wanted.policy, range(look.wanted.role("rollout").count)
    if look.wanted.suspend or not indices:
        return None
    current = {m.index: m for m in look.of("rollout") if look.is_current(m)}

    def ends(index: int) -> tuple[int, int]:
        """Of this rollout: those that are counted, and all."""
        entry, member = look.entry("rollout", index), current.get(index)
        if member is None:
            return entry.failures, entry.ends_in_a_row
        new = max(0, member.restarts - entry.restarts_seen) if member.live else 1
        counted = new if new and judge(member).verdict == "counted" else 0
        return entry.failures + counted, entry.ends_in_a_row + new

    found = [ends(index) for index in indices]
    if any(failures < policy.rollout_failures and all_ends <= policy.max_disruptions for failures, all_ends in found):
        return None
    last = next((f"; one of the ends: {judge(m).text}" for m in current.values() if not m.live or m.restarts), "")
    if any(failures < policy.rollout_failures for failures, _ in found):
        message = (
            f"every rollout ended again and again, at least one of them more than {policy.max_disruptions} times "
            f"(failurePolicy.maxDisruptions), and no unit was completed in between{last}"
        )
        return _fail(look, Reason.DISRUPTION_LIMIT_EXCEEDED, message)
    message = (
        f"every rollout failed {policy.rollout_failures} times (failurePolicy.rolloutFailures) and no unit was "
        f"completed in between{last}"
    )
    return _fail(look, Reason.ROLLOUTS_FAILING, message)


def _out_of_numbers(look: Look) -> Look | None:
    """Names and objects have room for so many incarnations. Nobody gets there by failing: something wrote a number."""
    members = [key for key, entry in look.status.members.items() if entry.incarnation >= names.MAX_INCARNATION]
    if look.status.gang.incarnation >= names.MAX_INCARNATION:
        members.insert(0, "trainer")
    if not members:
        return None
    message = (
        f"{members[0]} has incarnation {names.MAX_INCARNATION}, after which there is no other: start the run anew "
        "under another name, with model.initFrom its last checkpoint"
    )
    return _fail(look, Reason.INCARNATIONS_USED_UP, message)


def _fail(look: Look, reason: str, message: str, exit_code: int | None = None) -> Look:
    return _clean_up(look.enter("Failed", reason, message, exit_code).warn(reason, message))


def _clean_up(look: Look) -> Look:
    """Nothing of a finished run stays alive. Trainers that have ended stay, for their logs."""
    for wanted in look.wanted.roles:
        members = [m for m in look.of(wanted.role) if m.live or not m.over or wanted.role != "trainer"]
        failed = look.status.phase == "Failed"
        look = look.stop(members, min(wanted.grace_seconds, KILL_SECONDS) if failed else wanted.grace_seconds)
    return look


# ------------------------------------------------------------------------------------------------------- suspend

_DRAIN_STAGES: tuple[tuple[Role, ...], ...] = (("rollout",), ("reward", "ledger"))
"""What goes when the trainers are gone: those that ask before those that answer."""


def _drain(look: Look) -> Look | None:
    """Trainers first: they checkpoint at the next step boundary, and need the other roles until then. Those on a lost
    node hold nobody up, but the run is only suspended when they are gone too."""
    if not look.wanted.suspend:
        return None
    if not look.seen.members:
        if look.status.phase == "Suspended":
            return look
        return look.enter("Suspended", Reason.SUSPEND_REQUESTED).tell(Reason.SUSPEND_REQUESTED, "nothing runs any more")
    if look.status.phase not in ("Suspending", "Suspended"):
        look = look.tell(Reason.SUSPENDING, "stopping the trainer after a checkpoint, then everything else")
    look = look.enter("Suspending", Reason.SUSPEND_REQUESTED)
    trainers = look.of("trainer")
    alive = [member for member in trainers if member.live]
    if any(not look.given_up(member) for member in alive):
        return keep_individuals(_stop_trainers(look, trainers, alive))
    look = look.stop(trainers, KILL_SECONDS)
    for roles in _DRAIN_STAGES:
        for role in roles:
            look = look.stop(look.of(role), look.wanted.role(role).grace_seconds)
        if any(member.live and not look.given_up(member) for member in look.of(*roles)):
            break
    return look


def _stop_trainers(look: Look, trainers: tuple[Observed, ...], alive: list[Observed]) -> Look:
    """Politely, unless one has failed: then the others cannot finish their step either."""
    broken = any(not member.live and judge(member).verdict == "counted" for member in trainers)
    return look.stop(alive, KILL_SECONDS if broken else look.wanted.role("trainer").grace_seconds, hurry=broken)


def _resume(look: Look) -> Look:
    """A run that was suspended, or never started, goes on with the next gang, at once."""
    resumed = look.status.phase in ("Suspending", "Suspended")
    if resumed or not look.status.gang.incarnation:
        # After a gang timeout it lies in the future, which a resumed run need not wait for.
        rejoined = min(look.status.gang.in_line_since, look.now)
        look = look.next_gang(failures_in_a_row=0, disruptions=0, not_before=look.now, in_line_since=rejoined)
        reason, text = (Reason.RESUMED, "going on") if resumed else (Reason.STARTING, "starting")
        look = look.tell(reason, f"{text} with trainer incarnation {look.status.gang.incarnation}")
    return look.enter("Running")
