"""The status for people: why a role is not ready, how far the run is, and that nothing changes by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kube_builders import (
    IMAGES,
    SPEC,
    START,
    container,
    deployment_body,
    pod_body,
    ready_pod,
    run_body,
    stamp,
)

from rz_api.conditions import Condition, Reason, find
from rz_api.status import GangState, MemberState, RetryState, RunStatus
from rz_operator.controller.accept import accept
from rz_operator.controller.completion import Completion
from rz_operator.controller.facts import Facts
from rz_operator.controller.observe import seen_deployment, seen_pod
from rz_operator.controller.seen import Children
from rz_operator.controller.status_report import report
from rz_operator.controller.storage_claims import StorageClaim
from rz_operator.plan import plan

NOW = START + 1000
NO_VERDICTS = "rollout-0-5f2c waits for verdicts: the reward service at http://orz-reward fails (503 no child)"

EVERYONE: tuple[dict[str, Any], ...] = (
    deployment_body("ledger"),
    ready_pod("ledger"),
    deployment_body("reward"),
    ready_pod("reward"),
    *(ready_pod("rollout", index) for index in range(3)),
    *(ready_pod("trainer", index) for index in range(2)),
)

LEDGER: dict[str, Any] = {
    "run": "orz",
    "phase": "running",
    "step": 12,
    "total_steps": 60,
    "weight_version": 13,
    "incarnation": 1,
    "units_done": 3,
    "units_total": 32,
    "metrics": {
        "reward_mean": 0.412345,
        "response_length_mean": 812.5,
        "truncated_fraction": 0.01,
        "tokens_per_second_generated": 9800.4,
    },
    "evaluation": {"math500": 0.54321},
    "last_checkpoint_step": 10,
    "blocking_role": "rollout",
    "eta_seconds": 5400.4,
    "fruitless_steps": 0,
    "fruitless_sign": None,
}


def without(*names: str) -> list[dict[str, Any]]:
    """Everyone but the pods and Deployments whose names begin so."""
    return [
        body for body in EVERYONE if not body["metadata"]["name"].startswith(tuple(f"orz-{name}" for name in names))
    ]


def facts(bodies: Any = EVERYONE, ledger: Any = LEDGER, spec: Any = None, generation: int = 1, **fields: Any) -> Facts:
    body = run_body({**SPEC, **(spec or {})}, generation=generation)
    verdict = accept(body, None, Completion(IMAGES), (), False)
    children = Children(
        tuple(pod for each in bodies if "replicas" not in each["spec"] and (pod := seen_pod(each))),
        tuple(found for each in bodies if "replicas" in each["spec"] and (found := seen_deployment(each))),
    )
    planned = plan(verdict.run) if verdict.run is not None else None
    return Facts(body, verdict, planned, children, ledger, **fields)


def running(**fields: Any) -> RunStatus:
    """A status as ``decide`` leaves it of a run that goes on."""
    return RunStatus(**{"phase": "Running", "gang": GangState(incarnation=1), **fields})


def refused(name: str, message: str = "exceeded quota") -> dict[str, RetryState]:
    return {name: RetryState(failures=1, not_before=NOW + 60, message=message)}


def condition(status: RunStatus, kind: Any) -> Condition:
    found = find(status.conditions, kind)
    assert found is not None, kind
    return found


def shown(status: RunStatus) -> dict[str, str]:
    """``{"TrainerReady": "True Ready"}``"""
    return {each.type: f"{each.status} {each.reason}" for each in status.conditions}


# ------------------------------------------------------------------------------------------------ all conditions

ALL: dict[str, tuple[RunStatus, Facts, dict[str, str]]] = {
    "a run that goes well": (
        running(),
        facts(),
        {
            "Accepted": "True SpecValid",
            "LedgerReady": "True Ready",
            "TrainerReady": "True Ready",
            "RewardReady": "True Ready",
            "RolloutsReady": "True Ready",
            "Stalled": "False StepsCommitted",
            "Progressing": "True StepsCommitted",
            "Learning": "True RewardsDiffer",
            "Succeeded": "False Running",
            "Failed": "False Running",
            "Suspended": "False Running",
        },
    ),
    "a run that was not accepted": (
        RunStatus(),
        facts((), None, {"trainer": {"nodes": 0}}),
        {
            "Accepted": "False SpecInvalid",
            "LedgerReady": "False NotNeeded",
            "TrainerReady": "False NotNeeded",
            "RewardReady": "False NotNeeded",
            "RolloutsReady": "False NotNeeded",
            "Stalled": "False NotNeeded",
            "Progressing": "False NotNeeded",
            "Succeeded": "False Pending",
            "Failed": "False Pending",
            "Suspended": "False Pending",
        },
    ),
    "a run that has just begun": (
        running(),
        facts((), None),
        {
            "Accepted": "True SpecValid",
            "LedgerReady": "False Starting",
            "TrainerReady": "False Starting",
            "RewardReady": "False Starting",
            "RolloutsReady": "False Starting",
            "Stalled": "False Starting",
            "Progressing": "False Starting",
            "Succeeded": "False Running",
            "Failed": "False Running",
            "Suspended": "False Running",
        },
    ),
    "a run that is being suspended": (
        running(phase="Suspending", reason="SuspendRequested"),
        facts(without("trainer-i1-1"), spec={"suspend": True}),
        {
            "Accepted": "True SpecValid",
            "LedgerReady": "True Ready",
            "TrainerReady": "False Suspending",
            "RewardReady": "True Ready",
            "RolloutsReady": "True Ready",
            "Stalled": "False Suspending",
            "Progressing": "False Suspending",
            "Learning": "True RewardsDiffer",
            "Succeeded": "False Suspending",
            "Failed": "False Suspending",
            "Suspended": "False Suspending",
        },
    ),
    "a suspended run": (
        running(phase="Suspended", reason="SuspendRequested"),
        facts((), None, {"suspend": True}),
        {
            "Accepted": "True SpecValid",
            **dict.fromkeys(
                ("LedgerReady", "TrainerReady", "RewardReady", "RolloutsReady", "Stalled", "Progressing"),
                "False SuspendRequested",
            ),
            "Succeeded": "False Suspended",
            "Failed": "False Suspended",
            "Suspended": "True SuspendRequested",
        },
    ),
    "a run that failed": (
        running(phase="Failed", reason="UserError", message="no such model", exit_code=64),
        facts((), None),
        {
            "Accepted": "True SpecValid",
            **dict.fromkeys(
                ("LedgerReady", "TrainerReady", "RewardReady", "RolloutsReady", "Stalled", "Progressing"),
                "False RunFinished",
            ),
            "Succeeded": "False UserError",
            "Failed": "True UserError",
            "Suspended": "False RunFinished",
        },
    ),
    "a run that succeeded": (
        running(phase="Succeeded", reason="TrainerSucceeded", message="all trainer ranks succeeded"),
        facts((), None),
        {
            "Accepted": "True SpecValid",
            **dict.fromkeys(
                ("LedgerReady", "TrainerReady", "RewardReady", "RolloutsReady", "Stalled", "Progressing"),
                "False RunFinished",
            ),
            "Succeeded": "True TrainerSucceeded",
            "Failed": "False TrainerSucceeded",
            "Suspended": "False RunFinished",
        },
    ),
}


@pytest.mark.parametrize(("status", "seen", "expected"), ALL.values(), ids=ALL)
def test_all_conditions(status: RunStatus, seen: Facts, expected: dict[str, str]) -> None:
    found = report(status, seen, NOW)
    assert shown(found) == expected
    assert all(each.observed_generation == 1 for each in found.conditions)
    assert report(found, seen, NOW + 3600 if found.phase != "Running" else NOW + 30) == found
    assert RunStatus.model_validate(found.to_dict(), by_alias=True, by_name=False) == found


# ----------------------------------------------------------------------------------------------- why not ready


def pending(role: Any, index: int = 0, **fields: Any) -> dict[str, Any]:
    return pod_body(role, index, phase="Pending", **fields)


def unscheduled(role: Any, index: int, reason: str, message: str) -> dict[str, Any]:
    why = {"PodScheduled": {"status": "False", "reason": reason, "message": message}}
    return pending(role, index, node="", conditions=why)


def no_image(role: Any, index: int = 0) -> dict[str, Any]:
    return pending(role, index, containers=[container("main", waiting="ImagePullBackOff", said='image "x" not found')])


def with_refusal(body: dict[str, Any], message: str) -> dict[str, Any]:
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": message}]
    return {**body, "status": {**body["status"], "conditions": conditions}}


WHY: dict[str, tuple[str, RunStatus, Facts, str, str]] = {
    # name: (condition, status, facts, "status reason", the message or a part of it)
    "all trainers are ready": ("TrainerReady", running(), facts(), "True Ready", "2 of 2 pods ready, incarnation 1"),
    "one trainer pod is not there yet": (
        "TrainerReady",
        running(),
        facts(without("trainer-i1-1")),
        "False Starting",
        "incarnation 1: 1 of 2 pods ready",
    ),
    "a trainer's image": (
        "TrainerReady",
        running(),
        facts([*without("trainer-i1-1"), no_image("trainer", 1)]),
        "False ImagePullBackOff",
        'orz-trainer-i1-1: ImagePullBackOff: image "x" not found',
    ),
    "no node for the trainer, in the scheduler's words": (
        "TrainerReady",
        running(),
        facts(
            [unscheduled("trainer", i, "Unschedulable", "0/5 nodes are available: 5 Insufficient gpu") for i in (0, 1)]
        ),
        "False Unschedulable",
        "orz-trainer-i1-0 (and 1 more): Unschedulable: 0/5 nodes are available: 5 Insufficient gpu",
    ),
    "a queue": (
        "TrainerReady",
        running(),
        facts(
            [unscheduled("trainer", i, "SchedulingGated", "gated") for i in (0, 1)],
            spec={"scheduling": {"gang": "kueue", "queueName": "research"}},
        ),
        "False WaitingForQueue",
        "waits for its turn in the queue research",
    ),
    "an older gang": (
        "TrainerReady",
        running(),
        facts((), give_way_to="team/older"),
        "False WaitingForGang",
        "the older run team/older gets nodes first",
    ),
    "a quota": (
        "TrainerReady",
        running(retries=refused("Pod/orz-trainer-i1-1")),
        facts(without("trainer-i1-1")),
        "False CreateRefused",
        "Pod/orz-trainer-i1-1 was refused: exceeded quota",
    ),
    "a refusal of an earlier incarnation is over": (
        "TrainerReady",
        running(gang=GangState(incarnation=2), retries=refused("Pod/orz-trainer-i1-1")),
        facts(()),
        "False Restarting",
        "incarnation 2: 0 of 2 pods ready",
    ),
    "a pod group that is refused": (
        "TrainerReady",
        running(retries=refused("PodGroup/orz-trainer-i1", "no such kind")),
        facts(()),
        "False CreateRefused",
        "PodGroup/orz-trainer-i1 was refused: no such kind",
    ),
    "a token that is refused holds up everybody": (
        "RewardReady",
        running(retries=refused("Secret/orz-token-u-1")),
        facts(()),
        "False CreateRefused",
        "Secret/orz-token-u-1 was refused: exceeded quota",
    ),
    "a back-off, with the restart's number": (
        "TrainerReady",
        running(gang=GangState(incarnation=3, restarts=2, not_before=NOW + 40)),
        facts(without("trainer")),
        "False BackingOff",
        "0 of 2 pods ready, after 2 of 10 restarts (failurePolicy.maxRestarts); it is not started before "
        + stamp(1040),
    ),
    "a restart": (
        "TrainerReady",
        running(gang=GangState(incarnation=3, restarts=2)),
        facts([ready_pod("trainer", 0, 3), pod_body("trainer", 1, 3)]),
        "False Restarting",
        "incarnation 3: 1 of 2 pods ready, after 2 of 10 restarts (failurePolicy.maxRestarts)",
    ),
    "the earlier gang still stops": (
        "TrainerReady",
        running(gang=GangState(incarnation=2)),
        facts([ready_pod("trainer", 0, 1, deleted=10)]),
        "False Restarting",
        "incarnation 2: 0 of 2 pods ready; 1 of an earlier incarnation is still stopping",
    ),
    "a budget that is refused is mentioned": (
        "TrainerReady",
        running(retries=refused("PodDisruptionBudget/orz-trainer", "denied")),
        facts(),
        "True Ready",
        "2 of 2 pods ready, incarnation 1; PodDisruptionBudget/orz-trainer was refused: denied",
    ),
    "rollouts scaled to zero": (
        "RolloutsReady",
        running(),
        facts(without("rollout"), spec={"rollout": {"replicas": 0}}),
        "False ScaledToZero",
        "spec.rollout.replicas is 0",
    ),
    "some rollouts": (
        "RolloutsReady",
        running(),
        facts(without("rollout-i1-2")),
        "False PartlyReady",
        "2 of 3 pods ready",
    ),
    "some rollouts, and why not all": (
        "RolloutsReady",
        running(),
        facts([*without("rollout-i1-2"), no_image("rollout", 2)]),
        "False PartlyReady",
        "2 of 3 pods ready; orz-rollout-i1-2: ImagePullBackOff",
    ),
    "no rollout's image": (
        "RolloutsReady",
        running(),
        facts([*without("rollout"), *(no_image("rollout", index) for index in range(3))]),
        "False ImagePullBackOff",
        "orz-rollout-i1-0 (and 2 more)",
    ),
    "a rollout that is refused": (
        "RolloutsReady",
        running(retries=refused("Pod/orz-rollout-i1-2")),
        facts(without("rollout-i1-2")),
        "False CreateRefused",
        "2 of 3 pods ready; Pod/orz-rollout-i1-2 was refused",
    ),
    "a rollout that was refused before it was scaled away": (
        "RolloutsReady",
        running(retries=refused("Pod/orz-rollout-i1-7")),
        facts(),
        "True Ready",
        "3 of 3 pods ready",
    ),
    "all rollouts back off": (
        "RolloutsReady",
        running(members={"rollout-1": MemberState(not_before=NOW + 20)}),
        facts(without("rollout")),
        "False BackingOff",
        "0 of 3 pods ready; rollout-1 is not started before " + stamp(1020),
    ),
    "a held run's rollouts": (
        "RolloutsReady",
        running(),
        facts((), give_way_to="team/older"),
        "False WaitingForGang",
        "the older run team/older",
    ),
    "colocated rollouts are as ready as the trainer": (
        "RolloutsReady",
        running(),
        facts(without("rollout"), spec={"rollout": {"placement": "colocated"}}),
        "True Ready",
        "rollouts run in the trainer pods: 2 of 2 pods ready",
    ),
    "a ledger whose pods are refused": (
        "LedgerReady",
        running(),
        facts([with_refusal(deployment_body("ledger", ready=0), "exceeded quota")]),
        "False CreateRefused",
        "0 of 1 pod ready; its pods are refused: exceeded quota",
    ),
    "a ledger that crashes": (
        "LedgerReady",
        running(),
        facts(
            [
                deployment_body("ledger", ready=0),
                pod_body(
                    "ledger",
                    containers=[
                        container("main", waiting="CrashLoopBackOff", said="wait", restarts=4),
                    ],
                ),
            ]
        ),
        "False CrashLoopBackOff",
        "orz-ledger-abc-0: CrashLoopBackOff: wait",
    ),
    "a ledger's Service that is refused": (
        "LedgerReady",
        running(retries=refused("Service/orz-ledger")),
        facts(),
        "False CreateRefused",
        "Service/orz-ledger was refused",
    ),
    "a ledger without a network policy": (
        "LedgerReady",
        running(retries=refused("NetworkPolicy/orz-run", "denied")),
        facts(),
        "True Ready",
        "1 of 1 pod ready; NetworkPolicy/orz-run was refused: denied",
    ),
    "a ledger that somebody deleted": (
        "LedgerReady",
        running(),
        facts([deployment_body("ledger", deletionTimestamp=stamp(0))]),
        "False Restarting",
        "is created again",
    ),
    "some reward pods": (
        "RewardReady",
        running(),
        facts([deployment_body("reward", ready=1, replicas=3)], spec={"reward": {"replicas": 3}}),
        "False PartlyReady",
        "1 of 3 pods ready",
    ),
    "another run's pods do not count": (
        "TrainerReady",
        running(),
        facts([ready_pod("trainer", index, uid="u-0") for index in range(2)]),
        "False Starting",
        "0 of 2 pods ready",
    ),
    "the model is being loaded": (
        "Progressing",
        running(),
        facts(ledger={**LEDGER, "phase": "waiting", "step": 0, "weight_version": None}),
        "False WaitingForModel",
        "has not published weights yet",
    ),
    "storage that is full": (
        "Progressing",
        running(),
        facts(ledger={**LEDGER, "storage_trouble": "the storage s3://runs/orz is full (507)"}),
        "False BlockedByStorage",
        "the storage s3://runs/orz is full (507)",
    ),
    "a word about storage that is no text": (
        "Progressing",
        running(),
        facts(ledger={**LEDGER, "storage_trouble": ["full"]}),
        "True StepsCommitted",
        "",
    ),
    "verdicts that do not come": (
        "Progressing",
        running(),
        facts(ledger={**LEDGER, "blocking_role": "reward", "reward_trouble": NO_VERDICTS}),
        "False BlockedByReward",
        NO_VERDICTS,
    ),
    "a step that teaches something": ("Learning", running(), facts(), "True RewardsDiffer", ""),
    "the first steps": (
        "Learning",
        running(),
        facts(ledger={**LEDGER, "step": 4, "fruitless_steps": 4, "fruitless_sign": "zero"}),
        "Unknown Starting",
        "too few steps",
    ),
    "a run that learns nothing": (
        "Learning",
        running(),
        facts(ledger={**LEDGER, "fruitless_steps": 12, "fruitless_sign": "truncated"}),
        "False AllTruncated",
        "from any step since step 0: responses reach the token limit, and rewards are all 0. Likely cause: rollout.",
    ),
    "the first step": ("Progressing", running(), facts(ledger={**LEDGER, "step": 0}), "True Starting", "first step"),
    "no trainer, no progress": (
        "Progressing",
        running(),
        facts([*without("trainer"), no_image("trainer")]),
        "False ImagePullBackOff",
        "the trainer is not ready: incarnation 1",
    ),
}


@pytest.mark.parametrize(("kind", "status", "seen", "expected", "words"), WHY.values(), ids=WHY)
def test_a_condition_says_why(kind: Any, status: RunStatus, seen: Facts, expected: str, words: str) -> None:
    found = report(status, seen, NOW)
    assert shown(found)[kind] == expected
    assert words in condition(found, kind).message
    assert report(found, seen, NOW + 19) == found


def test_a_long_message_is_bounded() -> None:
    found = report(running(retries=refused("Pod/orz-trainer-i1-0", "x" * 4000)), facts(()), NOW)
    assert len(condition(found, "TrainerReady").message) == 2048


def test_a_frozen_run_that_can_not_be_written_says_so() -> None:
    seen = facts(())
    found = report(RunStatus(retries=refused("ConfigMap/orz-run")), seen, NOW)
    assert (found.frozen, found.phase, found.reason) == (False, "Pending", Reason.CREATE_REFUSED)
    assert shown(found)["TrainerReady"] == "False CreateRefused"
    assert "ConfigMap/orz-run was refused: exceeded quota" in found.message
    assert report(running(), seen, NOW).frozen


def test_a_refused_run_says_why_it_is_pending() -> None:
    body = run_body()
    claim = StorageClaim("team/older", "u-0", START - 1, "s3://runs/orz", False)
    verdict = accept(body, None, Completion(IMAGES), [claim], False)
    found = report(RunStatus(), Facts(body, verdict, None, Children(), None), NOW)
    assert (found.phase, found.reason, found.message) == ("Pending", Reason.STORAGE_REFUSED, verdict.message)
    assert (found.start_time, found.frozen) == (None, False)
    assert condition(found, "Accepted").message == verdict.message


def test_a_run_that_can_not_be_rendered_keeps_its_other_conditions() -> None:
    good = report(running(), facts(), NOW)
    seen = facts()
    refusal = replace(seen.verdict, accepted=False, reason=Reason.SPEC_INVALID, message="no such container")
    found = report(good, replace(seen, verdict=refusal, plan=None), NOW + 5)
    assert shown(found) == {**shown(good), "Accepted": "False SpecInvalid"}


# ------------------------------------------------------------------------------------------------- progress


def test_progress_is_the_ledgers() -> None:
    found = report(running(), facts(), NOW).to_dict()["progress"]
    assert found == {
        "step": 12,
        "totalSteps": 60,
        "weightVersion": 13,
        "rewardMean": 0.4123,
        "responseLengthMean": 812.5,
        "truncatedFraction": 0.01,
        "evaluation": {"math500": 0.5432},
        "tokensPerSecond": 9800.0,
        "etaSeconds": 5400,
        "lastCheckpoint": 10,
        "lastStepTime": stamp(1000),
        "updateTime": stamp(1000),
        "blockingRole": "rollout",
    }


RATE: dict[str, tuple[dict[str, Any] | None, float, bool]] = {
    "the same answer": (LEDGER, 300, False),
    "no answer": (None, 30, False),
    "another role blocks, a moment later": ({**LEDGER, "blocking_role": "trainer"}, 59, False),
    "another role blocks for a minute": ({**LEDGER, "blocking_role": "trainer"}, 60, True),
    "a step is committed": ({**LEDGER, "step": 13}, 1, True),
    "only units are completed": ({**LEDGER, "units_done": 9, "tokens_generated": 7}, 300, False),
    "a ledger that has just started knows nothing": ({**LEDGER, "phase": "waiting", "step": 0}, 300, False),
}


@pytest.mark.parametrize(("ledger", "later", "changes"), RATE.values(), ids=RATE)
def test_progress_changes_with_a_step_or_after_a_minute(ledger: Any, later: float, changes: bool) -> None:
    before = report(running(), facts(), NOW)
    after = report(before, facts(ledger=ledger), NOW + later)
    assert (after.progress != before.progress) is changes
    assert (after != before) is changes


def test_only_a_committed_step_moves_the_time_of_the_last_step() -> None:
    first = report(running(), facts(), NOW)
    later = report(first, facts(ledger={**LEDGER, "blocking_role": "trainer"}), NOW + 100)
    assert later.progress.last_step_time == first.progress.last_step_time
    last = report(later, facts(ledger={**LEDGER, "step": 13}), NOW + 120)
    assert last.to_dict()["progress"]["lastStepTime"] == stamp(1120)


def test_a_run_that_succeeded_has_all_its_steps_and_stays_as_it_is() -> None:
    before = report(running(), facts(), NOW)
    done = before.model_copy(update={"phase": "Succeeded", "reason": "TrainerSucceeded"})
    found = report(done, facts(ledger={**LEDGER, "step": 59}), NOW + 10)
    assert (found.progress.step, found.progress.eta_seconds, found.progress.blocking_role) == (60, None, None)
    assert found.to_dict()["completionTime"] == stamp(1010)
    assert report(found, facts(ledger={**LEDGER, "step": 59}), NOW + 20) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*LEDGER]), JSON))
@example({"total_steps": 0.5})
def test_whatever_a_ledger_says_can_be_written(ledger: dict[str, Any]) -> None:
    seen = facts(ledger={**LEDGER, **ledger})
    found = report(running(), seen, NOW)
    assert RunStatus.model_validate(found.to_dict(), by_alias=True, by_name=False) == found
    assert report(found, seen, NOW + 10) == found


# -------------------------------------------------------------------------------------------------- stalled

STALLS: dict[str, tuple[Any, Any, float, dict[str, Any], str]] = {
    # name: (bodies, ledger, seconds since the last step, further facts, "status reason")
    "steps come": (EVERYONE, LEDGER, 3599, {}, "False StepsCommitted"),
    "the rollouts block": (EVERYONE, LEDGER, 3600, {}, "True BlockedByRollout"),
    "the trainer blocks": (EVERYONE, {**LEDGER, "blocking_role": "trainer"}, 3600, {}, "True BlockedByTrainer"),
    "the reward blocks": (EVERYONE, {**LEDGER, "blocking_role": "reward"}, 3600, {}, "True BlockedByReward"),
    "storage blocks": (EVERYONE, {**LEDGER, "blocking_role": "storage"}, 3600, {}, "True BlockedByStorage"),
    "nobody blocks": (EVERYONE, {**LEDGER, "blocking_role": "none"}, 3600, {}, "True NoProgress"),
    "the trainer is not there": (without("trainer-i1-1"), LEDGER, 3600, {}, "True BlockedByTrainer"),
    "the ledger does not answer for a moment": (
        EVERYONE,
        None,
        1000,
        {"ledger_silent_since": NOW + 800},
        "False StepsCommitted",
    ),
    "the ledger does not answer": (EVERYONE, None, 1000, {"ledger_silent_since": NOW + 700}, "True LedgerUnreachable"),
    "no answer and no step": (EVERYONE, None, 3600, {}, "True LedgerUnreachable"),
}


@pytest.mark.parametrize(("bodies", "ledger", "later", "more", "expected"), STALLS.values(), ids=STALLS)
def test_stalled_names_who_blocks(bodies: Any, ledger: Any, later: float, more: dict[str, Any], expected: str) -> None:
    before = report(running(), facts(), NOW)
    seen = facts(bodies, ledger, **more)
    found = report(before, seen, NOW + later)
    assert shown(found)["Stalled"] == expected
    assert shown(found)["Progressing"].startswith("True") is expected.startswith("False")
    if expected.startswith("True"):
        assert report(found, seen, NOW + later + 600) == found


def test_a_run_that_stalls_over_its_verdicts_says_why_they_do_not_come() -> None:
    ledger = {**LEDGER, "blocking_role": "reward", "reward_trouble": NO_VERDICTS}
    found = report(report(running(), facts(), NOW), facts(ledger=ledger), NOW + 3600)
    assert condition(found, "Stalled").message.endswith(f"the run waits for: reward; {NO_VERDICTS}")


def test_a_restarted_operator_does_not_forget_that_the_ledger_is_silent() -> None:
    before = report(running(), facts(), NOW)
    silent = report(before, facts(ledger=None, ledger_silent_since=NOW), NOW + 400)
    restarted = report(silent, facts(ledger=None, ledger_silent_since=NOW + 401), NOW + 402)
    assert shown(restarted)["Stalled"] == "True LedgerUnreachable"
    assert shown(report(restarted, facts(), NOW + 410))["Stalled"] == "False StepsCommitted"


def test_a_resumed_run_is_not_stalled_for_the_time_of_its_pause() -> None:
    before = report(running(), facts(), NOW)
    paused = report(before.model_copy(update={"phase": "Suspended"}), facts((), None), NOW + 10)
    resumed = report(paused.model_copy(update={"phase": "Running"}), facts(), NOW + 90_000)
    assert shown(resumed)["Stalled"] == "False StepsCommitted"
    assert shown(resumed)["Suspended"] == "False Resumed"
    later = report(resumed, facts(), NOW + 93_599)
    assert shown(later)["Stalled"] == "False StepsCommitted"
    assert shown(report(later, facts(), NOW + 93_600))["Stalled"] == "True BlockedByRollout"


# ---------------------------------------------------------------------------------------------------- counts


def test_rollout_pods_are_counted_for_the_scale_subresource() -> None:
    bodies = [*without("rollout"), ready_pod("rollout", 0), pod_body("rollout", 1), ready_pod("rollout", 2, deleted=5)]
    found = report(running(), facts(bodies), NOW).rollout
    assert (found.replicas, found.ready_replicas) == (2, 1)
    assert found.selector == "reasonerzero.dev/run=orz,reasonerzero.dev/role=rollout"


def test_restarts_of_ledger_and_reward_are_what_their_pods_say() -> None:
    bodies = [
        deployment_body("reward", replicas=2),
        *(pod_body("reward", i, containers=[container("main", running=1, restarts=2)]) for i in (0, 1)),
    ]
    status = running(restarts={"trainer": 3, "ledger": 9})
    assert report(status, facts(bodies), NOW).restarts == {"trainer": 3, "reward": 4}


def test_times_and_generation() -> None:
    found = report(running(), facts(), NOW)
    assert found.to_dict()["startTime"] == stamp(1000)
    later = report(found, facts(generation=4), NOW + 5)
    assert later.start_time == found.start_time
    assert later.observed_generation == 4
    assert {each.observed_generation for each in later.conditions} == {4}
