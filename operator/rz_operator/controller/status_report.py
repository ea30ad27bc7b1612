"""The part of a run's status that is for people: conditions, progress, counts of rollout pods. Pure, decides nothing.

``reconcile`` calls ``report`` with the status as ``decide`` left it, and writes the result if it is not equal to what
the API server holds. So nothing here may change by itself while nothing happens: times in messages are points in time,
and progress is taken over when a step is committed or has lasted for a minute. (Above 500 lines because one table of
reasons reads better in one place than four roles' worth of them in four.)

| condition                  | True when                                      | otherwise it says                      |
|----------------------------|------------------------------------------------|----------------------------------------|
| Accepted                   | the newest spec is what the run does           | what to change                         |
| LedgerReady, RewardReady,  | as many pods are ready as are wanted           | what is in the way: image, nodes,      |
| RolloutsReady              |                                                | queue, quota, an older gang, back-off  |
| TrainerReady               | all pods of the current incarnation are ready  | the same                               |
| Progressing                | the trainer is there, and weights are          | what it waits for                      |
| Stalled                    | no step for failurePolicy.stallSeconds, or no  | that steps come                        |
|                            | answer from the ledger for SILENT_SECONDS      |                                        |
| Succeeded, Failed,         | the phase is                                   | the phase                              |
| Suspended                  |                                                |                                        |
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rz_api import names
from rz_api.conditions import ConditionStatus, ConditionType, Reason, find, set_condition
from rz_api.names import Role
from rz_api.status import FINAL_PHASES, Progress, RolloutStatus, RunStatus
from rz_operator.controller.accept import Verdict
from rz_operator.controller.seen import Children, SeenPod
from rz_operator.decisions.members import DEPLOYED, member_key
from rz_operator.decisions.reached import LedgerStatus
from rz_operator.plan import Plan

PROGRESS_SECONDS = 60.0
"""Age of a step from which its progress is taken over without a commit."""

SILENT_SECONDS = 300.0
"""Without an answer from the ledger, until the run is called stalled."""

MAX_MESSAGE_LENGTH = 2048
"""Of a condition about pods; the words of schedulers, registries and webhooks have no limit of their own."""

_BLOCKED = {
    "rollout": Reason.BLOCKED_BY_ROLLOUT,
    "trainer": Reason.BLOCKED_BY_TRAINER,
    "reward": Reason.BLOCKED_BY_REWARD,
    "storage": Reason.BLOCKED_BY_STORAGE,
}

_CONDITION: Mapping[Role, ConditionType] = {
    "ledger": "LedgerReady",
    "trainer": "TrainerReady",
    "rollout": "RolloutsReady",
    "reward": "RewardReady",
}


@dataclass(frozen=True)
class Facts:
    """What one look at a run gave, besides the status itself (refusals are in its ``retries``)."""

    body: Mapping[str, Any]
    """The run's object."""
    verdict: Verdict
    plan: Plan | None
    """None: nothing may be started."""
    children: Children
    ledger: LedgerStatus | None
    """The ledger's answer; None where there was none."""
    give_way_to: str = ""
    """The older run whose gang ours waits for (``gangs``)."""
    ledger_silent_since: float | None = None
    """Unix seconds of its last answer, where it gives none now (``Ledgers.silent_since``)."""

    @property
    def name(self) -> str:
        return str(self._metadata.get("name") or "")

    @property
    def uid(self) -> str:
        return str(self._metadata.get("uid") or "")

    @property
    def generation(self) -> int | None:
        found = self._metadata.get("generation")
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    @property
    def _metadata(self) -> Mapping[str, Any]:
        found = self.body.get("metadata")
        return found if isinstance(found, Mapping) else {}

    def pods(self, role: Role) -> list[SeenPod]:
        """This run's pods of a role, by index."""
        found = [pod for pod in self.children.of(role) if pod.run_uid == self.uid]
        return sorted(found, key=lambda pod: (pod.member.index, pod.member.incarnation, pod.name))


@dataclass(frozen=True)
class _Finding:
    """One condition to be."""

    status: ConditionStatus
    reason: str
    message: str = ""


def report(status: RunStatus, facts: Facts, now: float) -> RunStatus:
    """``status`` with everything in it that is for people. ``now`` is in Unix seconds."""
    final = status.phase in FINAL_PHASES
    changes: dict[str, Any] = {"observed_generation": facts.generation}
    if facts.verdict.accepted and status.start_time is None:
        changes["start_time"] = _time(now)
    if final and status.completion_time is None:
        changes["completion_time"] = _time(now)
    if facts.plan is not None:
        refused = any(key.startswith("ConfigMap/") for key in status.retries)
        changes["frozen"] = status.frozen or not refused
        changes["rollout"] = _rollout_status(facts)
        changes["restarts"] = _restarts(status, facts)
        changes["progress"] = _progress(status, facts, now)
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
        key, retry = min(status.retries.items())
        return {"reason": Reason.CREATE_REFUSED, "message": _cut(f"{key} was refused: {retry.message}")}
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


def _findings(status: RunStatus, facts: Facts, now: float) -> dict[ConditionType, _Finding]:
    """All conditions; those about pods stay as they are where an accepted run can't be rendered for the moment."""
    verdict = facts.verdict
    found: dict[ConditionType, _Finding] = {
        "Accepted": _Finding("True" if verdict.accepted else "False", verdict.reason, verdict.message)
    }
    idle = _why_idle(status)
    if idle is None and facts.plan is None:
        return found
    if idle is not None:
        found |= dict.fromkeys((*_CONDITION.values(), "Progressing", "Stalled"), idle)
    else:
        roles = _roles(status, facts, now)
        found |= {_CONDITION[role]: finding for role, finding in roles.items()}
        found["Stalled"] = _stalled(status, facts, roles["trainer"], now)
        found["Progressing"] = _progressing(status, facts, roles["trainer"], found["Stalled"])
    return found | _phase_findings(status)


def _why_idle(status: RunStatus) -> _Finding | None:
    """Why no pod is wanted; None while some are."""
    match status.phase:
        case "Pending":
            why = f": {status.message}" if status.reason == Reason.CREATE_REFUSED else ""
            reason = status.reason if why else Reason.NOT_NEEDED
            return _Finding("False", reason, _cut(f"nothing was started yet{why}"))
        case "Suspended":
            return _Finding("False", Reason.SUSPEND_REQUESTED, "the run is suspended")
        case "Succeeded" | "Failed":
            return _Finding("False", Reason.RUN_FINISHED, "the run has finished")
    return None


def _phase_findings(status: RunStatus) -> dict[ConditionType, _Finding]:
    phase, words = status.phase, _Finding("True", status.reason or status.phase, status.message)
    no = _Finding("False", phase)
    failed = succeeded = suspended = no
    if phase == "Succeeded":
        succeeded, failed = words, replace(words, status="False")
    elif phase == "Failed":
        succeeded, failed = replace(words, status="False"), words
    if phase in FINAL_PHASES:
        suspended = _Finding("False", Reason.RUN_FINISHED, "the run has finished")
    elif phase == "Suspended":
        suspended = _Finding("True", Reason.SUSPEND_REQUESTED, "no pod is left; set spec.suspend to false to go on")
    elif phase == "Suspending":
        suspended = _Finding("False", Reason.SUSPENDING, "the trainer stops after a checkpoint, then everything else")
    else:
        before = find(status.conditions, "Suspended")
        if before is not None and before.reason in (Reason.SUSPEND_REQUESTED, Reason.SUSPENDING, Reason.RESUMED):
            suspended = _Finding("False", Reason.RESUMED, "the run was suspended and goes on")
    return {"Succeeded": succeeded, "Failed": failed, "Suspended": suspended}


def _progressing(status: RunStatus, facts: Facts, trainer: _Finding, stalled: _Finding) -> _Finding:
    if status.phase == "Suspending":
        return _Finding("False", Reason.SUSPENDING, "the run is being suspended")
    if stalled.status == "True":
        return _Finding("False", Reason.NO_PROGRESS, stalled.message)
    if trainer.status != "True":
        return _Finding("False", trainer.reason, _cut(f"the trainer is not ready: {trainer.message}"))
    if status.progress.weight_version is None:
        words = "the trainer loads the model and has not published weights yet"
        return _Finding("False", Reason.WAITING_FOR_MODEL, words)
    if status.progress.step == 0:
        return _Finding("True", Reason.STARTING, "the first step is under way")
    return _Finding("True", Reason.STEPS_COMMITTED, "steps are being committed")


def _stalled(status: RunStatus, facts: Facts, trainer: _Finding, now: float) -> _Finding:
    if status.phase != "Running":
        return _Finding("False", Reason.SUSPENDING, "the run is being suspended")
    assert facts.plan is not None
    since, limit = _waiting_since(status, now), facts.plan.run.spec.failure_policy.stall_seconds
    late = since is not None and now - since >= limit
    if facts.ledger is None and (late or _silent(status, facts, now)):
        words = "the ledger does not answer, so nobody knows how far the run is; see the condition LedgerReady"
        return _Finding("True", Reason.LEDGER_UNREACHABLE, words)
    if not late or since is None:
        committed = status.progress.step > 0
        return _Finding("False", Reason.STEPS_COMMITTED if committed else Reason.STARTING)
    words = f"no step was committed since {_stamp(since)} (failurePolicy.stallSeconds is {limit:g})"
    if trainer.status != "True":
        return _Finding(
            "True", Reason.BLOCKED_BY_TRAINER, _cut(f"{words}; the trainer is not ready: {trainer.message}")
        )
    role = _blocking_role(facts.ledger) if facts.ledger is not None else None
    if role is None:
        return _Finding("True", Reason.NO_PROGRESS, words)
    return _Finding("True", _BLOCKED[role], f"{words}; the run waits for: {role}")


def _waiting_since(status: RunStatus, now: float) -> float | None:
    """Unix seconds from which the run has waited for its next step: the last one, its start, or its last resume."""
    times = [status.progress.last_step_time, status.start_time]
    suspended = find(status.conditions, "Suspended")
    if suspended is not None:
        times.append(_time(now) if suspended.status == "True" else suspended.last_transition_time)
    return max((time.timestamp() for time in times if time is not None), default=None)


def _silent(status: RunStatus, facts: Facts, now: float) -> bool:
    """Whether the ledger has not answered for long; a restarted operator, which has only just asked, believes what its
    predecessor found."""
    before = find(status.conditions, "Stalled")
    if before is not None and before.status == "True" and before.reason == Reason.LEDGER_UNREACHABLE:
        return True
    return facts.ledger_silent_since is not None and now - facts.ledger_silent_since >= SILENT_SECONDS


# ----------------------------------------------------------------------------------------------- readiness of roles


def _roles(status: RunStatus, facts: Facts, now: float) -> dict[Role, _Finding]:
    assert facts.plan is not None
    spec = facts.plan.run.spec
    found: dict[Role, _Finding] = {
        "ledger": _deployment(status, facts, "ledger", 1),
        "trainer": _trainer(status, facts, now),
        "reward": _deployment(status, facts, "reward", spec.reward.replicas),
    }
    if spec.rollout.placement == "colocated":
        trainer = found["trainer"]
        found["rollout"] = replace(trainer, message=_cut(f"rollouts run in the trainer pods: {trainer.message}"))
    else:
        found["rollout"] = _rollouts(status, facts, now)
    if status.phase == "Suspending":
        found = {role: _leaving(finding) for role, finding in found.items()}
    return {role: _with_side_notes(finding, status, facts, role) for role, finding in found.items()}


def _leaving(finding: _Finding) -> _Finding:
    if finding.status == "True":
        return finding
    return _Finding("False", Reason.SUSPENDING, "the run is being suspended")


def _deployment(status: RunStatus, facts: Facts, role: Role, wanted: int) -> _Finding:
    """Ledger or reward: Kubernetes keeps the pods, we say how that goes."""
    mine = [each for each in facts.children.deployments if each.role == role and each.run_uid == facts.uid]
    found = next(iter(mine), None)
    pods = facts.pods(role)
    refused = _refusal(status, facts, role)
    if refused:
        return _no(Reason.CREATE_REFUSED, refused)
    if found is None:
        return _no(Reason.STARTING, "its Deployment is not there yet")
    if found.deleting:
        return _no(Reason.RESTARTING, "its Deployment was deleted and is created again when it is gone")
    ready = min(found.ready_replicas, wanted)
    words = _ready_words(ready, wanted)
    if ready >= wanted:
        return _Finding("True", Reason.READY, words)
    if found.refusal:
        return _no(Reason.CREATE_REFUSED, f"{words}; its pods are refused: {found.refusal}")
    return _pod_trouble(pods, words, facts) or _unready(ready, words, any(pod.member.restarts for pod in pods))


def _trainer(status: RunStatus, facts: Facts, now: float) -> _Finding:
    """The gang of the current incarnation: all of it, or why not."""
    assert facts.plan is not None
    gang, wanted, policy = status.gang, facts.plan.role("trainer").nodes, facts.plan.run.spec.failure_policy
    everyone = facts.pods("trainer")
    pods = [pod for pod in everyone if pod.member.incarnation == gang.incarnation and pod.member.index < wanted]
    ready = len({pod.member.index for pod in pods if pod.ready})
    if ready >= wanted:
        return _Finding("True", Reason.READY, f"{_ready_words(ready, wanted)}, incarnation {gang.incarnation}")
    words = f"incarnation {gang.incarnation}: {_ready_words(ready, wanted)}"
    if gang.restarts:
        words += f", after {gang.restarts} of {policy.max_restarts} restarts (failurePolicy.maxRestarts)"
    refused = _refusal(status, facts, "trainer")
    if refused:
        return _no(Reason.CREATE_REFUSED, f"{words}; {refused}")
    if not any(pod.member.live for pod in pods):
        if now < gang.not_before:
            return _no(Reason.BACKING_OFF, f"{words}; it is not started before {_stamp(gang.not_before)}")
        if facts.give_way_to:
            return _no(Reason.WAITING_FOR_GANG, f"{words}; the older run {facts.give_way_to} gets nodes first")
    trouble = _pod_trouble(pods, words, facts)
    if trouble is not None:
        return trouble
    stopping = sum(pod.member.live and pod.member.incarnation != gang.incarnation for pod in everyone)
    if stopping:
        words += f"; {stopping} of an earlier incarnation {'is' if stopping == 1 else 'are'} still stopping"
    return _no(Reason.RESTARTING if gang.restarts or gang.incarnation > 1 else Reason.STARTING, words)


def _rollouts(status: RunStatus, facts: Facts, now: float) -> _Finding:
    assert facts.plan is not None
    wanted = facts.plan.role("rollout").nodes
    if not wanted:
        return _no(Reason.SCALED_TO_ZERO, "spec.rollout.replicas is 0, so nothing is generated: raise it")
    pods = [pod for pod in facts.pods("rollout") if pod.member.index < wanted and not pod.member.deleting]
    ready = len({pod.member.index for pod in pods if pod.ready})
    words = _ready_words(ready, wanted)
    if ready >= wanted:
        return _Finding("True", Reason.READY, words)
    refused = _refusal(status, facts, "rollout")
    if refused:
        return _no(Reason.CREATE_REFUSED, f"{words}; {refused}")
    if not pods and facts.give_way_to:
        return _no(Reason.WAITING_FOR_GANG, f"{words}; the older run {facts.give_way_to} gets nodes first")
    trouble = _pod_trouble(pods, words, facts)
    if trouble is not None:
        return replace(trouble, reason=Reason.PARTLY_READY) if ready else trouble
    there = {pod.member.index for pod in pods}
    waits = {index: status.members.get(member_key("rollout", index)) for index in range(wanted) if index not in there}
    late = {index: entry.not_before for index, entry in waits.items() if entry is not None and entry.not_before > now}
    if late:
        index = min(late, key=lambda each: (late[each], each))
        words += f"; {member_key('rollout', index)} is not started before {_stamp(late[index])}"
        return _no(Reason.PARTLY_READY if ready else Reason.BACKING_OFF, words)
    return _unready(ready, words, any(pod.member.restarts or pod.member.incarnation > 1 for pod in pods))


def _pod_trouble(pods: Sequence[SeenPod], words: str, facts: Facts) -> _Finding | None:
    """What keeps the first pod that something is wrong with; None where nothing is."""
    troubled = [pod for pod in pods if pod.trouble]
    if not troubled:
        return None
    first = troubled[0]
    more = f" (and {len(troubled) - 1} more)" if len(troubled) > 1 else ""
    if first.trouble == "SchedulingGated":
        queue = facts.plan.run.spec.scheduling.queue_name if facts.plan is not None else None
        where = f" {queue}" if queue else ""
        return _no(Reason.WAITING_FOR_QUEUE, f"{words}; {first.name}{more} waits for its turn in the queue{where}")
    said = f": {first.trouble_message}" if first.trouble_message else ""
    return _no(_reason(first.trouble), f"{words}; {first.name}{more}: {first.trouble}{said}")


def _unready(ready: int, words: str, restarted: bool) -> _Finding:
    if ready:
        return _no(Reason.PARTLY_READY, words)
    return _no(Reason.RESTARTING if restarted else Reason.STARTING, words)


def _ready_words(ready: int, wanted: int) -> str:
    return f"{ready} of {wanted} pod{'' if wanted == 1 else 's'} ready"


# -------------------------------------------------------------------------------------------------------- refusals

_EVERYBODY = ("ConfigMap", "Secret")
"""Kinds without which no pod starts."""
_SIDE = {"PodDisruptionBudget": "trainer", "NetworkPolicy": "ledger"}
"""Kinds without which everything runs all the same: kind -> the role whose condition mentions the refusal."""


def _refusal(status: RunStatus, facts: Facts, role: Role) -> str:
    """What the API server refuses and the role needs, as a sentence; empty where there is nothing."""
    refused = [key for key in status.retries if _needed_by(key, status, facts, role)]
    return _refusal_words(status, refused)


def _refusal_words(status: RunStatus, keys: Iterable[str]) -> str:
    first, *others = [*sorted(keys), ""]
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return f"{first} was refused{more}: {status.retries[first].message}" if first else ""


def _needed_by(key: str, status: RunStatus, facts: Facts, role: Role) -> bool:
    kind, _, name = key.partition("/")
    if kind in _EVERYBODY:
        return True
    if kind == "Start":
        return name == role
    if kind in _SIDE or not name.startswith(f"{facts.name}-{role}"):
        return False
    number = status.gang.incarnation
    if role == "trainer" and kind == "Pod":
        pod = names.parse_trainer_pod(facts.name, name)
        return pod is not None and pod[0] == number
    if role == "trainer" and kind == "PodGroup":
        return name == f"{facts.name}-trainer-i{number}"
    if role == "rollout" and facts.plan is not None:
        index = name.rpartition("-")[2]
        return index.isdigit() and int(index) < facts.plan.role("rollout").nodes
    return True


def _with_side_notes(finding: _Finding, status: RunStatus, facts: Facts, role: Role) -> _Finding:
    words = _refusal_words(status, [key for key in status.retries if _SIDE.get(key.partition("/")[0]) == role])
    return replace(finding, message=_cut(f"{finding.message}; {words}")) if words else finding


# -------------------------------------------------------------------------------------------------------- progress


def _progress(status: RunStatus, facts: Facts, now: float) -> Progress:
    """What the ledger says: at once on a new step, otherwise at most once a minute."""
    old, running = status.progress, status.phase in ("Running", "Suspending")
    if status.completion_time is not None:
        return old
    found = _as_progress(old, facts.ledger) if facts.ledger is not None else old
    if found.step != old.step:
        found = found.model_copy(update={"last_step_time": _time(now)})
    elif running and old.update_time is not None and now - old.update_time.timestamp() < PROGRESS_SECONDS:
        found = old
    if not running:
        found = found.model_copy(update={"eta_seconds": None, "blocking_role": None})
    if status.phase == "Succeeded" and found.total_steps is not None:
        found = found.model_copy(update={"step": found.total_steps})  # that is what the trainer's success means
    return old if found == old else found.model_copy(update={"update_time": _time(now)})


def _as_progress(old: Progress, ledger: LedgerStatus) -> Progress:
    """The ledger's answer, of which nothing is believed to have the right type. One that has just started and not read
    storage yet (``waiting``) knows less than we do."""
    if ledger.get("phase") == "waiting" and old.weight_version is not None:
        return old
    metrics, evaluation = ledger.get("metrics"), ledger.get("evaluation")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    evaluation = evaluation if isinstance(evaluation, Mapping) else {}
    eta = _number(ledger.get("eta_seconds"))
    accuracies = ((name[:63], _number(value)) for name, value in list(evaluation.items())[:64] if isinstance(name, str))
    return Progress(
        step=_whole(ledger.get("step")) or 0,
        total_steps=_whole(ledger.get("total_steps")) or None,
        weight_version=_whole(ledger.get("weight_version")),
        reward_mean=_number(metrics.get("reward_mean")),
        response_length_mean=_number(metrics.get("response_length_mean")),
        truncated_fraction=_number(metrics.get("truncated_fraction")),
        evaluation={name: float(f"{value:.4g}") for name, value in accuracies if value is not None},
        tokens_per_second=_number(metrics.get("tokens_per_second_generated")),
        eta_seconds=None if eta is None else round(eta),
        last_checkpoint=_whole(ledger.get("last_checkpoint_step")),
        last_step_time=old.last_step_time,
        update_time=old.update_time,
        blocking_role=_blocking_role(ledger),
    )


def _number(value: Any) -> float | None:
    """A number that is not negative and that an API server can hold; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < 2**53 and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _blocking_role(ledger: LedgerStatus) -> str | None:
    role = ledger.get("blocking_role")
    return role if isinstance(role, str) and role in _BLOCKED else None


# ----------------------------------------------------------------------------------------------------------- words


def _no(reason: str, message: str) -> _Finding:
    return _Finding("False", reason, _cut(message))


def _reason(word: str) -> str:
    """A word from elsewhere, if it can be a condition's reason."""
    return word if re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]{0,200}[A-Za-z0-9_])?", word) else Reason.STARTING


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 3] + "..."


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(microsecond=0)


def _stamp(seconds: float) -> str:
    return _time(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
