"""``decide`` as tables of named steps: what is seen at a time, and what must follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from operator_builders import member, wanted

from rz_api.status import RunStatus
from rz_operator.decisions.decide import Decision, begin_again, decide
from rz_operator.decisions.members import Observation, Observed, Reached, Stop, Wanted

OTHERS = (member("ledger-0"), member("reward-0"), member("rollout-0"), member("rollout-1"))
GANG = (member("trainer-0"), member("trainer-1"))
ALL = (*OTHERS, *GANG)


@dataclass
class Run:
    """A run under the tests' control: keeps the status from one step to the next."""

    wanted: Wanted
    status: RunStatus
    decision: Decision | None = None

    def see(self, *members: Observed, at: float = 0.0, reached: Reached | None = None) -> list[str]:
        """Decide on this observation; returns the actions as words, e.g. ``stop trainer-0 i1``."""
        self.decision = decide(self.wanted, self.status, Observation(members, reached), at)
        self.status = self.decision.status
        return [action_text(action) for action in self.decision.actions]

    @property
    def events(self) -> str:
        assert self.decision
        return "\n".join(event.message for event in self.decision.events)


def action_text(action: Any) -> str:
    verb = "stop" if isinstance(action, Stop) else "start"
    return f"{verb} {action.role}-{action.index} i{action.incarnation}"


def running(**options: Any) -> Run:
    """A run that is up and complete, at time 0."""
    run = Run(wanted(**options), RunStatus())
    run.see(at=0)
    assert run.see(*ALL, at=1) == []
    assert run.status.gang.complete
    return run


def without(members: Iterable[Observed], *keys: str) -> tuple[Observed, ...]:
    return tuple(each for each in members if each.key not in keys)


# -------------------------------------------------------------------------------------------------------- start


def test_everything_is_started_at_once() -> None:
    run = Run(wanted(), RunStatus())
    assert sorted(run.see(at=5)) == [
        "start ledger-0 i1",
        "start reward-0 i1",
        "start rollout-0 i1",
        "start rollout-1 i1",
        "start trainer-0 i1",
        "start trainer-1 i1",
    ]
    assert (run.status.phase, run.status.gang.incarnation) == ("Running", 1)


def test_a_gang_of_which_only_a_part_was_started_is_completed() -> None:
    run = Run(wanted(), RunStatus())
    run.see(at=0)
    assert run.see(*OTHERS, member("trainer-0"), at=1) == ["start trainer-1 i1"]


def test_nothing_to_do_means_no_action_no_event_and_an_equal_status() -> None:
    run = running()
    before = run.status
    assert run.see(*ALL, at=99) == []
    assert run.status == before
    assert run.events == ""


# --------------------------------------------------------------------------------------------------------- gang


def test_a_failing_rank_takes_the_whole_gang_with_it_and_is_counted_once() -> None:
    run = running()
    dead = member("trainer-1", phase="failed", signal=9)
    assert run.see(*OTHERS, member("trainer-0"), dead, at=100) == ["stop trainer-0 i1", "stop trainer-1 i1"]
    gang = run.status.gang
    assert (gang.incarnation, gang.restarts, gang.not_before, run.status.restarts) == (2, 1, 110.0, {"trainer": 1})
    assert "failure 1 of 10" in run.events

    # the same observation again, as a stale cache gives it: removed again, not counted again
    assert run.see(*OTHERS, member("trainer-0"), dead, at=101) == ["stop trainer-0 i1", "stop trainer-1 i1"]
    assert run.status.gang.restarts == 1

    # gone, but the back-off is not over
    assert run.see(*OTHERS, at=109.9) == []
    assert run.see(*OTHERS, at=110) == ["start trainer-0 i2", "start trainer-1 i2"]


def test_the_back_off_grows_until_a_step_is_completed() -> None:
    run = running()
    waits = []
    for incarnation in (1, 2, 3):
        ranks = [member(f"trainer-{i}", incarnation, "failed", exit_code=70) for i in (0, 1)]
        run.see(*OTHERS, *ranks, at=1000 * incarnation, reached=Reached(4, 0))
        waits.append(run.status.gang.not_before - 1000 * incarnation)
    assert waits == [10, 20, 40]
    fourth = [member(f"trainer-{i}", 4) for i in (0, 1)]
    run.see(*OTHERS, *fourth, at=5000, reached=Reached(5, 0))
    run.see(*OTHERS, *(replace(m, phase="failed", exit_code=70) for m in fourth), at=6000)
    assert run.status.gang.not_before == 6010
    assert run.status.gang.restarts == 4


def test_the_failure_after_the_last_allowed_restart_ends_the_run() -> None:
    run = running(maxRestarts=1)
    run.see(*OTHERS, *(member(f"trainer-{i}", 1, "failed", exit_code=70) for i in (0, 1)), at=10)
    assert run.status.phase == "Running"
    second = [member("trainer-0", 2, "failed", exit_code=70, message="boom"), member("trainer-1", 2)]
    actions = run.see(*OTHERS, *second, at=50)
    assert (run.status.phase, run.status.reason) == ("Failed", "BackoffLimitExceeded")
    assert "failed 2 times, failurePolicy.maxRestarts is 1" in run.status.message
    assert "boom" in run.status.message
    assert not [action for action in actions if action.startswith("start")]
    assert "stop trainer-1 i2" in actions


def test_an_evicted_rank_costs_nothing_but_a_wait() -> None:
    run = running()
    run.see(*OTHERS, member("trainer-0"), member("trainer-1", phase="failed", reason="Evicted"), at=100)
    gang = run.status.gang
    assert (gang.incarnation, gang.restarts, gang.not_before) == (2, 0, 110.0)
    assert "not counted" in run.events


def test_a_rank_that_vanishes_from_a_complete_gang_is_not_counted() -> None:
    run = running()
    assert run.see(*OTHERS, member("trainer-0"), at=100) == ["stop trainer-0 i1"]
    assert (run.status.gang.incarnation, run.status.gang.restarts) == (2, 0)


def test_a_superseded_gang_jumps_over_the_incarnations_that_storage_knows_without_growing_the_wait() -> None:
    run = running()
    ranks = [member(f"trainer-{i}", 1, "failed", exit_code=65) for i in (0, 1)]
    run.see(*OTHERS, *ranks, at=100, reached=Reached(7, 0, incarnation=3))
    gang = run.status.gang
    assert (gang.incarnation, gang.restarts, gang.failures_in_a_row, gang.not_before) == (4, 0, 0, 110.0)


def test_the_next_gang_waits_for_the_old_one_but_not_for_ever() -> None:
    run = running()
    stuck = member("trainer-0", deleting=True)
    run.see(*OTHERS, member("trainer-0"), member("trainer-1", phase="failed", signal=9), at=100)
    assert run.see(*OTHERS, stuck, at=120) == []
    assert run.see(*OTHERS, stuck, at=140) == ["start trainer-0 i2", "start trainer-1 i2"]


def test_a_rank_that_is_done_waits_for_the_others() -> None:
    run = running()
    done = member("trainer-1", phase="succeeded", exit_code=0)
    assert run.see(*OTHERS, member("trainer-0"), done, at=100) == []
    assert run.status.phase == "Running"


# -------------------------------------------------------------------------------------------------- individuals


def test_a_rollout_is_replaced_alone_after_a_wait_and_never_counts_against_the_budget() -> None:
    run = running()
    dead = member("rollout-1", phase="failed", signal=9)
    assert run.see(*without(ALL, "rollout-1"), dead, at=100) == ["stop rollout-1 i1"]
    assert run.see(*without(ALL, "rollout-1"), dead, at=101) == ["stop rollout-1 i1"]
    assert (run.status.restarts, run.status.gang.restarts) == ({"rollout": 1}, 0)
    assert run.see(*without(ALL, "rollout-1"), at=109) == []
    assert run.see(*without(ALL, "rollout-1"), at=110) == ["start rollout-1 i2"]


def test_the_ledger_is_replaced_alone() -> None:
    run = running()
    run.see(*without(ALL, "ledger-0"), member("ledger-0", phase="failed", exit_code=70), at=100)
    assert run.see(*without(ALL, "ledger-0"), at=110) == ["start ledger-0 i2"]
    assert run.status.gang.incarnation == 1


def test_a_rollout_that_ended_well_before_the_run_did_is_replaced_and_not_counted() -> None:
    run = running()
    run.see(*without(ALL, "rollout-0"), member("rollout-0", phase="succeeded", exit_code=0), at=100)
    assert run.status.restarts == {}
    assert run.see(*without(ALL, "rollout-0"), at=110) == ["start rollout-0 i2"]


def test_scaling_down_stops_the_highest_and_scaling_up_starts_them_again() -> None:
    run = running()
    run.wanted = wanted(rollouts=1)
    assert run.see(*ALL, at=2) == ["stop rollout-1 i1"]
    assert run.see(*without(ALL, "rollout-1"), member("rollout-1", deleting=True), at=3) == []
    run.wanted = wanted(rollouts=2)
    assert run.see(*without(ALL, "rollout-1"), at=4) == ["start rollout-1 i1"]


def test_rollouts_that_all_keep_failing_with_no_unit_between_end_the_run() -> None:
    run = running(rolloutFailures=2)
    trainers = without(ALL, "rollout-0", "rollout-1")
    for incarnation in (1, 2):
        dead = [
            member(f"rollout-{i}", incarnation, "failed", exit_code=70, message="cannot load the model") for i in (0, 1)
        ]
        run.see(*trainers, *dead, at=100 * incarnation, reached=Reached(0, 0))
    assert (run.status.phase, run.status.reason) == ("Failed", "RolloutsFailing")
    assert "cannot load the model" in run.status.message


def test_a_completed_unit_forgives_the_rollouts() -> None:
    run = running(rolloutFailures=2)
    trainers = without(ALL, "rollout-0", "rollout-1")
    for incarnation, units in ((1, 0), (2, 1), (3, 2)):
        dead = [member(f"rollout-{i}", incarnation, "failed", exit_code=70) for i in (0, 1)]
        run.see(*trainers, *dead, at=1000 * incarnation, reached=Reached(0, units))
    assert run.status.phase == "Running"


def test_one_rollout_that_works_keeps_the_run_alive() -> None:
    run = running(rolloutFailures=2)
    rest = without(ALL, "rollout-0")
    for incarnation in (1, 2, 3, 4):
        run.see(*rest, member("rollout-0", incarnation, "failed", exit_code=70), at=1000 * incarnation)
    assert run.status.phase == "Running"


# --------------------------------------------------------------------------------------- ends that are not counted


def evict_gangs(run: Run, number: int, reached: Reached | None = None) -> None:
    """As many times: a gang is up, and one of its pods is evicted."""
    for _ in range(number):
        incarnation, now = run.status.gang.incarnation, run.status.gang.not_before
        up = [member(f"trainer-{i}", incarnation) for i in (0, 1)]
        run.see(*OTHERS, *up, at=now + 1, reached=reached)
        evicted = member("trainer-1", incarnation, "failed", reason="Evicted")
        run.see(*OTHERS, up[0], evicted, at=now + 2, reached=reached)


def test_evictions_without_a_completed_step_in_between_end_the_run_at_their_own_limit() -> None:
    run = running(maxDisruptions=3)
    evict_gangs(run, 3)
    assert (run.status.phase, run.status.gang.disruptions, run.status.restarts) == ("Running", 3, {})
    evict_gangs(run, 1)
    assert (run.status.phase, run.status.reason) == ("Failed", "DisruptionLimitExceeded")
    assert "failurePolicy.maxDisruptions is 3" in run.status.message
    assert "trainer-1 ended (Evicted)" in run.status.message


def test_a_completed_step_forgives_evictions() -> None:
    run = running(maxDisruptions=3)
    for step in range(5):
        evict_gangs(run, 3, Reached(step, 0))
    assert run.status.phase == "Running"


def test_a_unit_is_no_step_and_a_counted_failure_forgives_no_eviction() -> None:
    run = running(maxDisruptions=3)
    evict_gangs(run, 2, Reached(0, 1))
    failed = [member(f"trainer-{i}", run.status.gang.incarnation, "failed", exit_code=70) for i in (0, 1)]
    run.see(*OTHERS, *failed, at=50_000, reached=Reached(0, 2))
    assert run.status.gang.disruptions == 2
    evict_gangs(run, 2, Reached(0, 3))
    assert run.status.reason == "DisruptionLimitExceeded"


def test_a_person_who_resumes_a_run_forgives_its_evictions() -> None:
    run = running(maxDisruptions=3)
    evict_gangs(run, 3)
    run.wanted = wanted(suspend=True, maxDisruptions=3)
    run.see(at=60_000)
    run.wanted = wanted(maxDisruptions=3)
    run.see(at=60_001)
    assert (run.status.phase, run.status.gang.disruptions) == ("Running", 0)


@pytest.mark.parametrize(
    "end",
    [{"reason": "Evicted"}, {"reason": "OutOfcpu", "disrupted": True}, {"exit_code": 75}],
    ids=["evicted", "turned away", "drained"],
)
def test_rollouts_that_are_all_evicted_again_and_again_with_no_unit_in_between_end_the_run(end: dict[str, Any]) -> None:
    run = running(maxDisruptions=3)
    rest = without(ALL, "rollout-0", "rollout-1")
    for incarnation in (1, 2, 3, 4):
        assert run.status.phase == "Running", incarnation
        dead = [member(f"rollout-{i}", incarnation, "failed", **end) for i in (0, 1)]
        run.see(*rest, *dead, at=1000 * incarnation)
    assert run.status.reason == "DisruptionLimitExceeded"
    assert "failurePolicy.maxDisruptions" in run.status.message


def test_rollouts_of_which_one_is_not_evicted_keep_the_run_alive() -> None:
    run = running(maxDisruptions=3)
    for incarnation in range(1, 50):
        evicted = member("rollout-0", incarnation, "failed", reason="Evicted")
        run.see(*without(ALL, "rollout-0"), evicted, at=1000 * incarnation)
    assert run.status.phase == "Running"


def test_uncounted_restarts_by_the_kubelet_have_the_same_limit() -> None:
    run = running(maxDisruptions=3)
    rest = without(ALL, "rollout-0", "rollout-1")
    for restarts in (1, 2, 3, 4):
        assert run.status.phase == "Running", restarts
        drained = [member(f"rollout-{i}", exit_code=75, restarts=restarts) for i in (0, 1)]
        run.see(*rest, *drained, at=1000 * restarts)
    assert run.status.reason == "DisruptionLimitExceeded"


def test_restarts_by_the_kubelet_are_counted_once_each() -> None:
    run = running(rolloutFailures=3)
    rest = without(ALL, "rollout-0", "rollout-1")

    def pods(restarts: int) -> list[Observed]:
        return [member(f"rollout-{i}", restarts=restarts, exit_code=70, message="bad GPU") for i in (0, 1)]

    assert run.see(*rest, *pods(2), at=10) == []
    assert run.see(*rest, *pods(2), at=11) == []
    assert run.status.restarts == {"rollout": 4}
    run.see(*rest, *pods(3), at=12)
    assert run.status.reason == "RolloutsFailing"


# --------------------------------------------------------------------------------------------------- user errors


def test_a_user_error_of_any_role_ends_the_run_at_once_with_its_words() -> None:
    for key in ("ledger-0", "reward-0", "rollout-1", "trainer-0"):
        run = running()
        words = "train.jsonl, line 7: no field 'answer'"
        actions = run.see(*without(ALL, key), member(key, phase="failed", exit_code=64, message=words), at=10)
        assert (run.status.phase, run.status.reason, run.status.exit_code) == ("Failed", "UserError", 64), key
        assert run.status.message == words
        assert {f"stop {each.key} i1" for each in without(ALL, key)} <= set(actions)
        assert run.see(at=11) == []


def test_a_user_error_that_the_kubelet_restarted_is_terminal_too() -> None:
    run = running()
    run.see(*without(ALL, "rollout-0"), member("rollout-0", phase="pending", exit_code=64, restarts=1), at=10)
    assert run.status.phase == "Failed"


def test_a_user_error_of_a_superseded_gang_is_not_this_runs() -> None:
    run = running()
    run.see(*OTHERS, *(member(f"trainer-{i}", 1, "failed", exit_code=65) for i in (0, 1)), at=10)
    run.see(*OTHERS, member("trainer-0", 1, "failed", exit_code=64), at=11)
    assert run.status.phase == "Running"


# ------------------------------------------------------------------------------------------------------ success


def test_success_of_all_ranks_ends_the_run_and_everything_else() -> None:
    run = running()
    done = [member(f"trainer-{i}", phase="succeeded", exit_code=0) for i in (0, 1)]
    assert run.see(*OTHERS, *done, at=10) == [f"stop {each.key} i1" for each in OTHERS]
    assert (run.status.phase, run.status.exit_code) == ("Succeeded", 0)
    assert run.see(*done, at=11) == []


# ------------------------------------------------------------------------------------------------------ suspend


def test_suspend_drains_trainers_then_rollouts_then_the_rest() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    assert run.see(*ALL, at=10) == ["stop trainer-0 i1", "stop trainer-1 i1"]
    assert [action.grace_seconds for action in run.decision.actions] == [600.0, 600.0]  # type: ignore[union-attr]
    going = [member(f"trainer-{i}", deleting=True) for i in (0, 1)]
    assert run.see(*OTHERS, *going, at=11) == []
    assert run.status.phase == "Suspending"
    assert run.see(*OTHERS, at=20) == ["stop rollout-0 i1", "stop rollout-1 i1"]
    assert run.see(*OTHERS[:2], member("rollout-0", deleting=True), at=21) == []
    assert run.see(*OTHERS[:2], at=22) == ["stop reward-0 i1", "stop ledger-0 i1"]
    assert run.see(member("ledger-0", deleting=True), at=23) == []
    assert run.status.phase == "Suspending"
    assert run.see(at=24) == []
    assert run.status.phase == "Suspended"


def test_what_the_trainers_need_is_kept_up_while_they_drain() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    run.see(*ALL, at=10)
    going = [member(f"trainer-{i}", deleting=True) for i in (0, 1)]
    run.see(*without(OTHERS, "rollout-0"), member("rollout-0", phase="failed", signal=9), *going, at=11)
    assert run.see(*without(OTHERS, "rollout-0"), *going, at=30) == ["start rollout-0 i2"]


def test_a_rank_that_fails_while_draining_shortens_the_others_grace_and_is_not_counted() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    run.see(*ALL, at=10)
    run.see(*OTHERS, member("trainer-0", deleting=True), member("trainer-1", phase="failed", signal=9), at=11)
    assert run.decision
    assert [(action_text(a), a.grace_seconds) for a in run.decision.actions if isinstance(a, Stop)] == [
        ("stop trainer-0 i1", 5.0)
    ]
    assert run.status.gang.restarts == 0


def test_a_late_member_makes_a_suspended_run_suspending_again() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    run.see(at=10)
    assert run.status.phase == "Suspended"
    assert run.see(member("rollout-0"), at=11) == ["stop rollout-0 i1"]
    assert run.status.phase == "Suspending"


def test_a_resumed_run_starts_the_next_gang_at_once() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    run.see(at=10)
    run.wanted = wanted()
    assert "start trainer-0 i2" in run.see(at=11)
    assert (run.status.phase, run.status.gang.restarts) == ("Running", 0)


def test_a_run_that_was_suspended_before_it_began_starts_nothing() -> None:
    run = Run(wanted(suspend=True), RunStatus())
    assert run.see(at=0) == []
    assert run.status.phase == "Suspended"


def test_a_failed_run_stays_failed_when_it_is_suspended() -> None:
    run = running()
    run.see(*without(ALL, "ledger-0"), member("ledger-0", phase="failed", exit_code=64), at=10)
    run.wanted = wanted(suspend=True)
    run.see(at=11)
    assert run.status.phase == "Failed"


# ---------------------------------------------------------------------------------------------------- lost status


def test_a_lost_status_adopts_the_members_that_are_there() -> None:
    run = Run(wanted(), RunStatus())
    rollouts = [member("rollout-0", 4), member("rollout-1")]
    ranks = [member(f"trainer-{i}", 3) for i in (0, 1)]
    assert run.see(*OTHERS[:2], *rollouts, *ranks, at=10) == []
    assert run.status.gang.incarnation == 3


def test_a_run_begun_again_by_a_person_starts_above_its_last_incarnation_with_nothing_held_against_it() -> None:
    run = running(maxRestarts=0)
    run.see(*OTHERS, *(member(f"trainer-{i}", 1, "failed", exit_code=70) for i in (0, 1)), at=10)
    assert run.status.phase == "Failed"
    again = Run(wanted(maxRestarts=0), begin_again(run.status))
    assert "start trainer-0 i3" in again.see(at=20)
    assert again.status.gang.restarts == 0
