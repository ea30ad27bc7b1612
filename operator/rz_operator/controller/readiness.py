"""A role is ready when as many of its pods are as are wanted; one that is not says the first thing in its way.

The order in which things are looked at is the order in which they have to happen: what is refused cannot be in a queue,
and what is in a queue cannot lack an image. Pure; ``status_report`` calls ``roles``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rz_api.conditions import Reason
from rz_api.names import Role
from rz_api.status import RunStatus
from rz_operator.controller import words
from rz_operator.controller.facts import Facts, Finding, no, reason_of
from rz_operator.controller.refusal_fields import with_fields
from rz_operator.controller.refusals import refusal, with_side_notes
from rz_operator.controller.seen import SeenPod
from rz_operator.decisions.members import member_key


def roles(status: RunStatus, facts: Facts, now: float) -> dict[Role, Finding]:
    """Whether each role is ready, and if not, why. ``now`` is in Unix seconds."""
    assert facts.plan is not None
    spec = facts.plan.run.spec
    found: dict[Role, Finding] = {
        "ledger": _deployment(status, facts, "ledger", 1),
        "trainer": _trainer(status, facts, now),
        "reward": _deployment(status, facts, "reward", spec.reward.replicas),
    }
    if spec.rollout.placement == "colocated":
        trainer = found["trainer"]
        found["rollout"] = replace(trainer, message=words.colocated(trainer.message))
    else:
        found["rollout"] = _rollouts(status, facts, now)
    if status.phase == "Suspending":
        found = {role: _leaving(finding) for role, finding in found.items()}
    return {role: with_side_notes(finding, status, role) for role, finding in found.items()}


def _leaving(finding: Finding) -> Finding:
    return finding if finding.status == "True" else no(Reason.SUSPENDING, words.BEING_SUSPENDED)


def _deployment(status: RunStatus, facts: Facts, role: Role, wanted: int) -> Finding:
    """Ledger or reward: Kubernetes keeps the pods, we say how that goes."""
    mine = [each for each in facts.children.deployments if each.role == role and each.run_uid == facts.uid]
    found = next(iter(mine), None)
    pods = facts.pods(role)
    # For a moment there are more, after reward.replicas was lowered.
    ready = min(found.ready_replicas, wanted) if found is not None and not found.deleting else 0
    refused = refusal(status, facts, role, ready >= wanted)
    if refused:
        return no(Reason.CREATE_REFUSED, refused)
    if found is None:
        return no(Reason.STARTING, words.NOT_THERE_YET)
    if found.deleting:
        return no(Reason.RESTARTING, words.CREATED_AGAIN)
    count = words.ready(ready, wanted)
    if ready >= wanted:
        return Finding("True", Reason.READY, count)
    if found.refusal:
        return no(Reason.CREATE_REFUSED, count, words.refused_pods(with_fields(found.refusal, role)))
    return _trouble(pods, count, facts) or _unready(ready, any(pod.member.restarts for pod in pods), count)


def _trainer(status: RunStatus, facts: Facts, now: float) -> Finding:
    """The gang of the current incarnation: all of it, or why not."""
    assert facts.plan is not None
    gang, wanted, policy = status.gang, facts.plan.role("trainer").nodes, facts.plan.run.spec.failure_policy
    everyone = facts.pods("trainer")
    pods = [pod for pod in everyone if pod.member.incarnation == gang.incarnation and pod.member.index < wanted]
    ready = len({pod.member.index for pod in pods if pod.ready})
    if ready >= wanted:
        return Finding("True", Reason.READY, words.ready_gang(ready, wanted, gang.incarnation))
    count = words.gang(gang.incarnation, ready, wanted, gang.restarts, policy.max_restarts)
    refused = refusal(status, facts, "trainer")
    if refused:
        return no(Reason.CREATE_REFUSED, count, refused)
    if not any(pod.member.live for pod in pods):
        if now < gang.not_before:
            return no(Reason.BACKING_OFF, count, words.not_before(gang.not_before))
        if facts.give_way_to:
            return no(Reason.WAITING_FOR_GANG, count, words.gives_way(facts.give_way_to))
    trouble = _trouble(pods, count, facts)
    if trouble is not None:
        return trouble
    stopping = sum(pod.member.live and pod.member.incarnation != gang.incarnation for pod in everyone)
    reason = Reason.RESTARTING if gang.restarts or gang.incarnation > 1 else Reason.STARTING
    return no(reason, count, *([words.still_stopping(stopping)] if stopping else []))


def _rollouts(status: RunStatus, facts: Facts, now: float) -> Finding:
    assert facts.plan is not None
    wanted = facts.plan.role("rollout").nodes
    if not wanted:
        return no(Reason.SCALED_TO_ZERO, words.NO_ROLLOUTS)
    pods = [pod for pod in facts.pods("rollout") if pod.member.index < wanted and not pod.member.deleting]
    ready = len({pod.member.index for pod in pods if pod.ready})
    count = words.ready(ready, wanted)
    if ready >= wanted:
        return Finding("True", Reason.READY, count)
    refused = refusal(status, facts, "rollout")
    if refused:
        return no(Reason.CREATE_REFUSED, count, refused)
    if not pods and facts.give_way_to:
        return no(Reason.WAITING_FOR_GANG, count, words.gives_way(facts.give_way_to))
    trouble = _trouble(pods, count, facts)
    if trouble is not None:
        return replace(trouble, reason=Reason.PARTLY_READY) if ready else trouble
    there = {pod.member.index for pod in pods}
    waits = {index: status.members.get(member_key("rollout", index)) for index in range(wanted) if index not in there}
    late = {index: entry.not_before for index, entry in waits.items() if entry is not None and entry.not_before > now}
    if late:
        index = min(late, key=lambda each: (late[each], each))
        reason = Reason.PARTLY_READY if ready else Reason.BACKING_OFF
        return no(reason, count, words.not_before(late[index], member_key("rollout", index)))
    return _unready(ready, any(pod.member.restarts or pod.member.incarnation > 1 for pod in pods), count)


def _trouble(pods: Sequence[SeenPod], count: str, facts: Facts) -> Finding | None:
    """What keeps the first pod that something is wrong with; None where nothing is."""
    troubled = [pod for pod in pods if pod.trouble]
    if not troubled:
        return None
    first, others = troubled[0], len(troubled) - 1
    if first.trouble == "SchedulingGated":
        queue = facts.plan.run.spec.scheduling.queue_name if facts.plan is not None else None
        return no(Reason.WAITING_FOR_QUEUE, count, words.waits_in_queue(first.name, others, queue))
    said = words.trouble(first.name, others, first.trouble, first.trouble_message)
    return no(reason_of(first.trouble), count, said)


def _unready(ready: int, restarted: bool, count: str) -> Finding:
    if ready:
        return no(Reason.PARTLY_READY, count)
    return no(Reason.RESTARTING if restarted else Reason.STARTING, count)
