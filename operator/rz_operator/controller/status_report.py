"""While nothing happens, nothing in a status changes: what is for people costs no write and decides nothing. Pure.

``reconcile`` calls ``report`` with the status as ``decide`` left it, and writes the result if it is not equal to what
the API server holds. So times in messages are points in time, and progress is taken over when a step is committed or
has lasted for a minute. What is for people: conditions, progress, counts of rollout pods.

| condition                  | True when                                      | otherwise it says                      |
|----------------------------|------------------------------------------------|----------------------------------------|
| Accepted                   | the newest spec is what the run does           | what to change                         |
| LedgerReady, RewardReady,  | as many pods are ready as are wanted           | what is in the way: image, nodes,      |
| RolloutsReady              |                                                | queue, quota, an older gang, back-off  |
| TrainerReady               | all pods of the current incarnation are ready  | the same                               |
| Progressing                | the trainer is there, and weights are          | what it waits for: storage, verdicts,  |
|                            |                                                | then the rest                          |
| Stalled                    | no step for failurePolicy.stallSeconds, or no  | that steps come                        |
|                            | answer from the ledger for SILENT_SECONDS      |                                        |
| Learning                   | rewards differ; Unknown in the first steps     | why no step of the last five and more  |
|                            |                                                | teaches anything, and the likely cause |
| Succeeded, Failed,         | the phase is                                   | the phase                              |
| Suspended                  |                                                |                                        |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rz_api import learning, names
from rz_api.conditions import ConditionType, Reason, find, set_condition
from rz_api.names import Role
from rz_api.status import FINAL_PHASES, RolloutStatus, RunStatus
from rz_operator.controller import words
from rz_operator.controller.accept import Verdict
from rz_operator.controller.facts import Facts, Finding, no
from rz_operator.controller.observe import api_time
from rz_operator.controller.progress import BLOCKED, blocking_role, progress, trouble
from rz_operator.controller.readiness import roles
from rz_operator.decisions.members import DEPLOYED

SILENT_SECONDS = 300.0
"""Without an answer from the ledger, until the run is called stalled."""

_CONDITION: Mapping[Role, ConditionType] = {
    "ledger": "LedgerReady",
    "trainer": "TrainerReady",
    "rollout": "RolloutsReady",
    "reward": "RewardReady",
}


def report(status: RunStatus, facts: Facts, now: float) -> RunStatus:
    """``status`` with everything in it that is for people. ``now`` is in Unix seconds."""
    final = status.phase in FINAL_PHASES
    changes: dict[str, Any] = {"observed_generation": facts.generation}
    if facts.verdict.accepted and status.start_time is None:
        changes["start_time"] = api_time(now)
    if final and status.completion_time is None:
        changes["completion_time"] = api_time(now)
    if facts.plan is not None:
        refused = any(key.startswith("ConfigMap/") for key in status.retries)
        # Once true it stays: it is how this run holds its folder against others (``storage_claims``).
        changes["frozen"] = status.frozen or not refused
        changes["rollout"] = _rollout_status(facts)
        changes["restarts"] = _restarts(status, facts)
        changes["progress"] = progress(status, facts, now)
    if status.phase == "Pending":
        changes |= _why_pending(status, facts.verdict)
    status = status.model_copy(update=changes)
    found = status.conditions
    for kind, finding in _findings(status, facts, now).items():
        found = set_condition(
            found,
            kind,
            finding.status,
            reason=finding.reason,
            message=finding.message,
            now=now,
            generation=facts.generation,
        )
    return status.model_copy(update={"conditions": found})


def _why_pending(status: RunStatus, verdict: Verdict) -> dict[str, str]:
    if not verdict.accepted:
        return {"reason": verdict.reason, "message": verdict.message}
    if status.retries:
        first = min(status.retries)
        return {"reason": Reason.CREATE_REFUSED, "message": words.cut(words.refusals([first], status.retries))}
    return {"reason": "", "message": ""}


def _rollout_status(facts: Facts) -> RolloutStatus:
    pods = [pod for pod in facts.pods("rollout") if pod.member.live and not pod.member.deleting]
    return RolloutStatus(
        replicas=len(pods),
        ready_replicas=sum(pod.ready for pod in pods),
        selector=names.selector_string(facts.name, "rollout"),
    )


def _restarts(status: RunStatus, facts: Facts) -> dict[str, int]:
    """Ledger and reward by level, as the kubelets count them for the pods that exist; the others are ``decide``'s."""
    found = dict(status.restarts)
    for role in DEPLOYED:
        found.pop(role, None)
        count = sum(pod.member.restarts for pod in facts.pods(role))
        if count:
            found[role] = count
    return found


# ------------------------------------------------------------------------------------------------------ conditions


def _findings(status: RunStatus, facts: Facts, now: float) -> dict[ConditionType, Finding]:
    """All conditions; those about pods stay as they are where an accepted run can't be rendered for the moment."""
    verdict = facts.verdict
    found: dict[ConditionType, Finding] = {
        "Accepted": Finding("True" if verdict.accepted else "False", verdict.reason, verdict.message)
    }
    idle = _why_idle(status)
    if idle is None and facts.plan is None:
        return found
    if idle is not None:
        found |= dict.fromkeys((*_CONDITION.values(), "Progressing", "Stalled"), idle)
    else:
        of_roles = roles(status, facts, now)
        found |= {_CONDITION[role]: finding for role, finding in of_roles.items()}
        found["Stalled"] = _stalled(status, facts, of_roles["trainer"], now)
        found["Progressing"] = _progressing(status, facts, of_roles["trainer"], found["Stalled"])
        if (learns := _learning(facts)) is not None:
            found["Learning"] = learns
    return found | _phase_findings(status)


def _why_idle(status: RunStatus) -> Finding | None:
    """Why no pod is wanted; None while some are."""
    match status.phase:
        case "Pending":
            why = status.message if status.reason == Reason.CREATE_REFUSED else ""
            reason = Reason.CREATE_REFUSED if why else Reason.NOT_NEEDED
            return no(reason, words.not_started(why))
        case "Suspended":
            return no(Reason.SUSPEND_REQUESTED, words.SUSPENDED)
        case "Succeeded" | "Failed":
            return no(Reason.RUN_FINISHED, words.FINISHED)
    return None


def _phase_findings(status: RunStatus) -> dict[ConditionType, Finding]:
    phase, said = status.phase, Finding("True", status.reason or status.phase, status.message)
    not_so = Finding("False", phase)
    failed = succeeded = suspended = not_so
    if phase == "Succeeded":
        succeeded, failed = said, replace(said, status="False")
    elif phase == "Failed":
        succeeded, failed = replace(said, status="False"), said
    if phase in FINAL_PHASES:
        suspended = no(Reason.RUN_FINISHED, words.FINISHED)
    elif phase == "Suspended":
        suspended = Finding("True", Reason.SUSPEND_REQUESTED, words.FULLY_SUSPENDED)
    elif phase == "Suspending":
        suspended = no(Reason.SUSPENDING, words.HOW_IT_IS_SUSPENDED)
    else:
        before = find(status.conditions, "Suspended")
        if before is not None and before.reason in (Reason.SUSPEND_REQUESTED, Reason.SUSPENDING, Reason.RESUMED):
            suspended = no(Reason.RESUMED, words.RESUMED)
    return {"Succeeded": succeeded, "Failed": failed, "Suspended": suspended}


def _learning(facts: Facts) -> Finding | None:
    """What the newest steps say; None where the ledger says nothing, so that the condition stays as it is. One of a run
    that has ended stays for good: how it ended is what people look for."""
    if facts.ledger is None or facts.ledger.get("phase") == "waiting":
        return None
    found = learning.finding(facts.ledger)
    if found.learns is None:
        return Finding("Unknown", Reason.STARTING, words.TOO_FEW_STEPS)
    return Finding("True", Reason.REWARDS_DIFFER) if found.learns else no(found.reason, found.message)


def _progressing(status: RunStatus, facts: Facts, trainer: Finding, stalled: Finding) -> Finding:
    if status.phase == "Suspending":
        return no(Reason.SUSPENDING, words.BEING_SUSPENDED)
    # Before the rest: it is why, and nothing but a person mends it.
    if storage := trouble(facts.ledger, "storage"):
        return no(Reason.BLOCKED_BY_STORAGE, storage)
    if reward := trouble(facts.ledger, "reward"):
        return no(Reason.BLOCKED_BY_REWARD, reward)
    if stalled.status == "True":
        return no(Reason.NO_PROGRESS, stalled.message)
    if trainer.status != "True":
        return no(trainer.reason, words.trainer_is_not_ready(trainer.message))
    if status.progress.weight_version is None:
        return no(Reason.WAITING_FOR_MODEL, words.MODEL_IS_LOADED)
    if status.progress.step == 0:
        return Finding("True", Reason.STARTING, words.FIRST_STEP)
    return Finding("True", Reason.STEPS_COMMITTED, words.STEPS_COME)


def _stalled(status: RunStatus, facts: Facts, trainer: Finding, now: float) -> Finding:
    if status.phase != "Running":
        return no(Reason.SUSPENDING, words.BEING_SUSPENDED)
    assert facts.plan is not None
    since, limit = _waiting_since(status, now), facts.plan.run.spec.failure_policy.stall_seconds
    late = since is not None and now - since >= limit
    if facts.ledger is None and (late or _silent(status, facts, now)):
        return Finding("True", Reason.LEDGER_UNREACHABLE, words.NO_LEDGER)
    if not late or since is None:
        return Finding("False", Reason.STEPS_COMMITTED if status.progress.step > 0 else Reason.STARTING)
    said = words.no_step_since(since, limit)
    if trainer.status != "True":
        message = words.cut(f"{said}; {words.trainer_is_not_ready(trainer.message)}")
        return Finding("True", Reason.BLOCKED_BY_TRAINER, message)
    role = blocking_role(facts.ledger) if facts.ledger is not None else None
    if role is None:
        return Finding("True", Reason.NO_PROGRESS, said)
    message = words.cut("; ".join(filter(None, (said, words.waits_for(role), trouble(facts.ledger, "reward")))))
    return Finding("True", BLOCKED[role], message)


def _waiting_since(status: RunStatus, now: float) -> float | None:
    """Unix seconds from which the run has waited for its next step: the last one, its start, or its last resume."""
    times = [status.progress.last_step_time, status.start_time]
    suspended = find(status.conditions, "Suspended")
    if suspended is not None:
        # While suspended the clock stands still, and a resume starts it anew.
        times.append(api_time(now) if suspended.status == "True" else suspended.last_transition_time)
    return max((time.timestamp() for time in times if time is not None), default=None)


def _silent(status: RunStatus, facts: Facts, now: float) -> bool:
    """Whether the ledger has not answered for long; a restarted operator, which has only just asked, believes what its
    predecessor found."""
    before = find(status.conditions, "Stalled")
    if before is not None and before.status == "True" and before.reason == Reason.LEDGER_UNREACHABLE:
        return True
    return facts.ledger_silent_since is not None and now - facts.ledger_silent_since >= SILENT_SECONDS
