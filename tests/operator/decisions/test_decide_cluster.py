"""What ``decide`` does on a cluster and need not do on one machine, as tables of named steps: pods that others delete
or that hang, Deployments, and gangs that the operator itself schedules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from operator_builders import member, wanted

from rz_api.names import MAX_INCARNATION
from rz_api.status import RunStatus
from rz_operator.decisions.decide import Decision, decide
from rz_operator.decisions.look import LATE_SECONDS
from rz_operator.decisions.members import Observation, Observed, Reached, Start, Stop, Wanted

OTHERS = (member("ledger-0"), member("reward-0"), member("rollout-0"), member("rollout-1"))
GANG = (member("trainer-0"), member("trainer-1"))
ALL = (*OTHERS, *GANG)


@dataclass
class Run:
    wanted: Wanted
    status: RunStatus = field(default_factory=RunStatus)
    decision: Decision = field(default_factory=lambda: Decision((), RunStatus()))

    def see(self, *members: Observed, at: float, way_to: str = "", reached: Reached | None = None) -> list[str]:
        """Decide on this observation; returns the actions as words, e.g. ``stop trainer-0 i1``."""
        self.decision = decide(self.wanted, self.status, Observation(members, reached, way_to), at)
        self.status = self.decision.status
        return [
            f"{'stop' if isinstance(action, Stop) else 'start'} {action.role}-{action.index} i{action.incarnation}"
            for action in self.decision.actions
        ]

    @property
    def events(self) -> str:
        return "\n".join(f"{event.kind} {event.reason}: {event.message}" for event in self.decision.events)


def running(timeout: float | None = None, **options: Any) -> Run:
    """A run that is up and complete, at time 0."""
    run = Run(replace(wanted(**options), gang_timeout_seconds=timeout))
    run.see(at=0)
    assert run.see(*ALL, at=1) == []
    assert run.status.gang.complete
    return run


def without(*keys: str) -> tuple[Observed, ...]:
    return tuple(each for each in ALL if each.key not in keys)


# --------------------------------------------------------------------------------------- deleted by somebody else


def test_a_trainer_pod_that_somebody_deletes_may_end_in_order() -> None:
    run = running()
    leaving = member("trainer-1", deleting=True, gone_by=700.0)
    assert run.see(*without("trainer-1"), leaving, at=100) == []
    assert run.see(*without("trainer-1"), leaving, at=700 + LATE_SECONDS) == []
    assert run.status.gang.incarnation == 1


@pytest.mark.parametrize(
    ("leaving", "at", "reason"),
    [
        ({"gone_by": 130.0}, 131.0 + LATE_SECONDS, "Deleted"),
        ({"gone_by": 700.0, "reason": "NodeLost"}, 100.0, "NodeLost"),
        ({"gone_by": 700.0, "reason": "DeletionByTaintManager"}, 100.0, "DeletionByTaintManager"),
    ],
    ids=["its time is long over", "its node is lost", "its node is lost, as newer servers put it"],
)
def test_a_trainer_pod_stuck_terminating_is_given_up(leaving: dict[str, Any], at: float, reason: str) -> None:
    run = running()
    stuck = member("trainer-1", deleting=True, **leaving)
    assert "stop trainer-0 i1" in run.see(*without("trainer-1"), stuck, at=at)
    gang = run.status.gang
    assert (gang.incarnation, gang.restarts, gang.not_before) == (2, 0, at + 10)
    assert f"Warning {reason}: trainer-1" in run.events
    assert "not counted" in run.events
    # it does not hold up the next gang: within 60 s, although it is still there
    stuck = replace(stuck, gone_by=min(stuck.gone_by or 0, at + 5))
    assert run.see(*OTHERS, stuck, at=at + 16) == ["start trainer-0 i2", "start trainer-1 i2"]


def test_a_stuck_pod_of_a_gang_that_never_was_complete_is_given_up_too() -> None:
    run = Run(wanted())
    run.see(at=0)
    stuck = member("trainer-1", deleting=True, reason="NodeLost", gone_by=700.0)
    run.see(*OTHERS, stuck, at=20)
    assert (run.status.gang.incarnation, run.status.gang.restarts) == (2, 0)


def test_a_rank_that_fails_because_another_one_is_being_deleted_is_not_counted() -> None:
    run = running()
    preempted = member("trainer-0", deleting=True, gone_by=130.0, reason="PreemptionByScheduler")
    run.see(*OTHERS, preempted, member("trainer-1", phase="failed", exit_code=70), at=101)
    assert (run.status.gang.incarnation, run.status.gang.restarts) == (2, 0)
    assert "PreemptionByScheduler" in run.events


def test_the_rest_of_a_broken_gang_gets_no_long_grace_from_somebody_elses_delete() -> None:
    run = running()
    drained = member("trainer-0", deleting=True, gone_by=700.0)
    actions = run.see(*OTHERS, drained, member("trainer-1", phase="failed", exit_code=70), at=101)
    assert actions == ["stop trainer-0 i1", "stop trainer-1 i1"]
    assert run.decision.actions[0].grace_seconds == 5.0  # type: ignore[union-attr]


def test_a_trainer_pod_that_is_gone_after_its_deletion_has_vanished() -> None:
    run = running()
    run.see(*without("trainer-1"), member("trainer-1", deleting=True, gone_by=700.0), at=100)
    run.see(*without("trainer-1"), at=130)
    assert (run.status.gang.incarnation, run.status.gang.restarts) == (2, 0)
    assert "Vanished" in run.events


@pytest.mark.parametrize("phase", ["running", "failed"])
def test_a_rollout_on_a_lost_node_is_replaced_beside_it(phase: str) -> None:
    """Whose name the old pod keeps, for as long as the node is lost, is its own: the next one has another."""
    run = running()
    stuck = member("rollout-1", phase=phase, deleting=True, gone_by=130.0, reason="NodeLost")
    assert run.see(*without("rollout-1"), stuck, at=100) == []
    assert run.see(*without("rollout-1"), stuck, at=200) == ["start rollout-1 i2"]
    assert run.status.restarts.get("rollout", 0) == 0, "the cluster's doing is not counted"
    successor = member("rollout-1", incarnation=2)
    assert run.see(*without("rollout-1"), stuck, successor, at=300) == []
    assert run.see(*without("rollout-1"), successor, at=5_000) == [], "the old one is gone at last"


def test_a_rollout_that_is_deleted_in_order_is_waited_for() -> None:
    run = running()
    going = member("rollout-1", deleting=True, gone_by=130.0)
    for at in (100, 130, 139):
        assert run.see(*without("rollout-1"), going, at=at) == []
    assert run.see(*without("rollout-1"), at=140) == ["start rollout-1 i1"]


def test_the_successor_of_a_ledger_waits_for_the_name_of_its_deployment() -> None:
    run = running()
    stuck = member("ledger-0", deleting=True, gone_by=130.0, reason="NodeLost")
    for at in (100, 200, 5_000):
        assert run.see(*without("ledger-0"), stuck, at=at) == []


@pytest.mark.parametrize("key", ["trainer-0", "rollout-0"])
def test_a_run_whose_incarnations_are_used_up_fails_instead_of_breaking(key: str) -> None:
    run = running()
    run.see(*ALL, member(key, incarnation=MAX_INCARNATION, phase="failed", exit_code=70), at=100)
    assert (run.status.phase, run.status.reason) == ("Failed", "IncarnationsUsedUp")
    assert "model.initFrom" in run.status.message


def test_a_stuck_trainer_does_not_keep_a_suspended_run_from_giving_its_other_nodes_back() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    run.see(*ALL, at=10)
    going = [member(f"trainer-{i}", deleting=True, gone_by=610.0) for i in (0, 1)]
    assert run.see(*OTHERS, *going, at=600) == []
    assert run.see(*OTHERS, going[0], at=611 + LATE_SECONDS) == ["stop rollout-0 i1", "stop rollout-1 i1"]
    assert run.see(going[0], at=700) == []
    assert run.status.phase == "Suspending"
    run.see(at=800)
    assert run.status.phase == "Suspended"


def test_a_draining_gang_in_which_a_rank_fails_is_told_once_to_hurry() -> None:
    run = running()
    run.wanted = wanted(suspend=True)
    run.see(*ALL, at=10)
    failed = member("trainer-1", phase="failed", signal=9)
    assert run.see(*OTHERS, member("trainer-0", deleting=True, gone_by=610.0), failed, at=20) == ["stop trainer-0 i1"]
    assert run.see(*OTHERS, member("trainer-0", deleting=True, gone_by=25.0), failed, at=21) == []


# ------------------------------------------------------------------------------------------------------ Deployments


@pytest.mark.parametrize("key", ["ledger-0", "reward-0"])
def test_a_user_error_in_a_deployment_ends_the_run(key: str) -> None:
    run = running()
    words = "the storage folder belongs to another run"
    run.see(*without(key), member(key, exit_code=64, restarts=1, message=words), at=10)
    assert (run.status.phase, run.status.reason, run.status.message) == ("Failed", "UserError", words)


@pytest.mark.parametrize("key", ["ledger-0", "reward-0"])
def test_a_deployment_that_somebody_deleted_is_made_again_and_nothing_is_counted(key: str) -> None:
    run = running()
    assert run.see(*without(key), member(key, deleting=True), at=10) == []
    assert run.see(*without(key), at=11) == [f"start {key} i1"]
    assert run.status.restarts == {}


# ---------------------------------------------------------------------------------- gangs that others schedule, or none


def pods(incarnation: int, *bound: bool, at: float = 0.0) -> tuple[Observed, ...]:
    return tuple(
        member(f"trainer-{i}", incarnation, "running" if b else "pending", bound=b, started_at=at)
        for i, b in enumerate(bound)
    )


def test_where_somebody_else_sees_to_gangs_a_partial_one_may_wait_for_ever() -> None:
    run = running(timeout=None)
    assert run.see(*OTHERS, *pods(1, True, False), at=1_000_000, way_to="elder") == []


def test_a_gang_whose_images_cannot_be_pulled_stays_as_it_is() -> None:
    run = running(timeout=60)
    waiting = [replace(pod, phase="pending") for pod in pods(1, True, True)]
    assert run.see(*OTHERS, *waiting, at=1_000_000, way_to="elder") == []
    assert run.events == ""


# ----------------------------------------------------------------------------------- gangs that the operator schedules


@pytest.mark.parametrize(
    "bound", [(True, False), (False, False), (True,)], ids=["a part has nodes", "none has", "one pod was never created"]
)
def test_a_gang_whose_time_is_up_is_given_back_whole_and_tried_again_later(bound: tuple[bool, ...]) -> None:
    run = Run(replace(wanted(), gang_timeout_seconds=60.0))
    run.see(at=0)
    missing = [] if len(bound) == 2 else ["start trainer-1 i1"]
    assert run.see(*OTHERS, *pods(1, *bound), at=60) == missing
    actions = run.see(*OTHERS, *pods(1, *bound), at=61)
    assert actions == [f"stop trainer-{i} i1" for i in range(len(bound))] + ["stop rollout-0 i1", "stop rollout-1 i1"]
    gang = run.status.gang
    then = gang.not_before
    assert 91 <= then < 121, "half a minute, and as much again by chance"
    assert (gang.incarnation, gang.restarts, gang.in_line_since) == (2, 0, then)
    assert f"Warning GangTimeout: {sum(bound)} of the 2 trainer pods had a node after 60 s" in run.events
    assert run.see(*OTHERS[:2], at=then - 1) == []
    assert run.see(*OTHERS[:2], at=then) == [
        "start trainer-0 i2",
        "start trainer-1 i2",
        "start rollout-0 i1",
        "start rollout-1 i1",
    ]


def test_the_wait_of_a_gang_that_never_fits_grows_and_no_restart_is_used_up() -> None:
    run = Run(replace(wanted(maxRestarts=0), gang_timeout_seconds=60.0))
    run.see(at=0)
    waits, now = [], 0.0
    for incarnation in range(1, 8):
        now += 61.0
        run.see(*OTHERS[:2], *pods(incarnation, True, False, at=now - 61.0), at=now)
        waits.append(run.status.gang.not_before - now)
        now = run.status.gang.not_before
        run.see(*OTHERS[:2], at=now)
    least = [30, 30, 40, 80, 160, 300, 300]
    assert all(low <= wait < 2 * low for low, wait in zip(least, waits, strict=True)), waits
    assert (run.status.phase, run.status.restarts) == ("Running", {})


def test_a_partial_gang_gives_way_to_an_older_one_and_starts_as_soon_as_that_has_its_nodes() -> None:
    run = Run(replace(wanted(), gang_timeout_seconds=60.0))
    run.see(at=0)
    assert run.see(*OTHERS, *pods(1, True, False), at=20, way_to="elder") == [
        "stop trainer-0 i1",
        "stop trainer-1 i1",
        "stop rollout-0 i1",
        "stop rollout-1 i1",
    ]
    assert "Normal GaveWay: the older run elder is short of nodes" in run.events
    assert (run.status.gang.restarts, run.status.gang.failures_in_a_row, run.status.gang.in_line_since) == (0, 0, 0)
    assert run.see(*OTHERS[:2], at=25, way_to="elder") == []
    assert run.events == ""
    assert run.see(*OTHERS[:2], at=26)[:2] == ["start trainer-0 i2", "start trainer-1 i2"]


def test_a_new_run_starts_only_its_ledger_and_reward_while_an_older_one_is_short_of_nodes() -> None:
    run = Run(replace(wanted(), gang_timeout_seconds=60.0))
    assert run.see(at=0, way_to="elder") == ["start ledger-0 i1", "start reward-0 i1"]


def test_a_wholly_bound_gang_is_never_disturbed() -> None:
    run = running(timeout=60)
    assert run.see(*OTHERS, *pods(1, True, True), at=1_000_000, way_to="elder") == []
    assert run.see(*OTHERS[:3], *pods(1, True, True), at=1_000_001, way_to="elder") == ["start rollout-1 i1"]


def test_a_failure_of_a_partial_gang_is_a_failure() -> None:
    run = Run(replace(wanted(), gang_timeout_seconds=60.0))
    run.see(at=0)
    broken = replace(pods(1, True, False)[0], phase="failed", exit_code=70)
    run.see(*OTHERS, broken, pods(1, True, False)[1], at=61, way_to="elder")
    assert run.status.gang.restarts == 1


def test_a_resumed_run_does_not_wait_for_the_back_off_of_its_last_try() -> None:
    run = Run(replace(wanted(), gang_timeout_seconds=60.0))
    run.see(at=0)
    run.see(*OTHERS, *pods(1, False, False), at=61)
    run.wanted = replace(run.wanted, suspend=True)
    run.see(at=62)
    run.wanted = replace(run.wanted, suspend=False)
    assert len(run.see(at=63)) == 6
    assert run.status.gang.in_line_since == 63


# -------------------------------------------------------------------------------- rollouts that belong to the gang


def with_rollouts(**options: Any) -> Run:
    """A run in gang mode `operator` whose gang is two trainers and a rollout; nothing was looked at yet."""
    return Run(replace(wanted(**options), gang_timeout_seconds=60.0, min_rollouts=1))


def rollouts(*bound: bool, at: float = 0.0) -> tuple[Observed, ...]:
    return tuple(
        member(f"rollout-{i}", phase="running" if b else "pending", bound=b, started_at=at) for i, b in enumerate(bound)
    )


STATICS = OTHERS[:2]


def test_trainers_that_have_all_their_nodes_and_no_rollout_give_them_back_when_their_time_is_up() -> None:
    run = with_rollouts()
    run.see(at=0)
    assert run.see(*STATICS, *rollouts(False, False), *pods(1, True, True), at=60) == []
    actions = run.see(*STATICS, *rollouts(False, False), *pods(1, True, True), at=61)
    assert actions == ["stop trainer-0 i1", "stop trainer-1 i1", "stop rollout-0 i1", "stop rollout-1 i1"]
    said = "2 of the 2 trainer pods and 0 of the 1 rollouts that it needs had a node after 60 s"
    assert f"Warning GangTimeout: {said}" in run.events


def test_one_rollout_of_two_is_enough() -> None:
    run = with_rollouts()
    run.see(at=0)
    assert run.see(*STATICS, *rollouts(False, True), *pods(1, True, True), at=61, way_to="elder") == []
    assert run.status.gang.placed
    assert run.see(*STATICS, *rollouts(False, True), *pods(1, True, True), at=1_000_000, way_to="elder") == []


def test_a_gang_whose_rollouts_find_no_node_gives_way_to_an_older_one() -> None:
    run = with_rollouts()
    run.see(at=0)
    run.see(*STATICS, *rollouts(False, False), *pods(1, True, True), at=20, way_to="elder")
    assert "Normal GaveWay" in run.events
    assert run.see(*STATICS, at=26, way_to="elder") == []


def test_a_gang_that_worked_and_lost_its_rollouts_has_its_time_from_then_on_and_may_checkpoint() -> None:
    run = with_rollouts()
    run.see(at=0)
    run.see(*STATICS, *rollouts(True, True), *pods(1, True, True), at=10)
    gone = (*STATICS, *pods(1, True, True))
    run.see(*gone, *rollouts(False, False, at=5_000), at=5_000, way_to="elder")
    assert run.events == "", "it gives way to nobody"
    assert run.status.gang.short_since == 5_000
    assert run.see(*gone, *rollouts(False, False, at=5_000), at=5_060) == []
    assert run.see(*gone, *rollouts(False, False, at=5_000), at=5_061)[:2] == ["stop trainer-0 i1", "stop trainer-1 i1"]
    assert [action.grace_seconds for action in run.decision.actions[:2]] == [600.0, 600.0]  # type: ignore[union-attr]


def test_a_gang_that_finds_a_node_for_a_rollout_in_time_forgets_that_it_was_short() -> None:
    run = with_rollouts()
    run.see(at=0)
    run.see(*STATICS, *rollouts(False, False), *pods(1, True, True), at=50)
    run.see(*STATICS, *rollouts(True, False), *pods(1, True, True), at=55)
    assert (run.status.gang.placed, run.status.gang.short_since) == (True, 0.0)
    run.see(*STATICS, *rollouts(False, False), *pods(1, True, True), at=100)
    assert run.see(*STATICS, *rollouts(False, False), *pods(1, True, True), at=160) == []


def test_rollouts_that_wait_out_a_back_off_of_ours_are_not_short_of_a_node() -> None:
    run = with_rollouts(backoffSeconds=250)
    run.see(at=0)
    run.see(*STATICS, *rollouts(True, True), *pods(1, True, True), at=10)
    dead = [member(f"rollout-{i}", phase="failed", exit_code=70) for i in (0, 1)]
    run.see(*STATICS, *dead, *pods(1, True, True), at=20)
    for at in (21, 100, 269):
        assert run.see(*STATICS, *pods(1, True, True), at=at) == []
    assert run.see(*STATICS, *pods(1, True, True), at=270) == ["start rollout-0 i2", "start rollout-1 i2"]


def test_trainers_whose_rollouts_the_api_server_refuses_give_their_nodes_back_too() -> None:
    run = with_rollouts()
    run.see(at=0)
    starts = ["start rollout-0 i1", "start rollout-1 i1"]
    assert run.see(*STATICS, *pods(1, True, True), at=60) == starts
    run.see(*STATICS, *pods(1, True, True), at=61)
    assert "GangTimeout" in run.events


# ------------------------------------------------------------------------------------------- how long it may wait


def waits(at: float, scaling_until: float = 0.0, timeout: float = 60.0, longest: float = 600.0) -> str:
    """The events of a gang of two, of which one has had no node since 0."""
    asked = replace(wanted(), gang_timeout_seconds=timeout, longest_gang_wait_seconds=longest)
    run = Run(asked)
    run.see(at=0)
    seen = Observation((*OTHERS, *pods(1, True, False)), scaling_until=scaling_until)
    run.decision = decide(asked, run.status, seen, at)
    return run.events


@pytest.mark.parametrize(
    ("at", "until", "gives_up"),
    [(60, 0, False), (61, 0, True), (61, 500, False), (560, 500, False), (561, 500, True), (600, 1e9, False)],
    ids=[
        "until its time is up",
        "then it gives up",
        "not while an autoscaler brings nodes",
        "its time begins when that has had its own",
        "and is as long as ever",
        "up to the operator's own limit",
    ],
)
def test_a_gangs_time_stands_still_while_nodes_are_on_their_way(at: float, until: float, gives_up: bool) -> None:
    assert ("GangTimeout" in waits(at, until)) is gives_up


def test_an_autoscaler_that_never_succeeds_keeps_a_gang_waiting_no_longer_than_the_operator_allows() -> None:
    said = "1 of the 2 trainer pods had a node after 600 s (the operator's maxGangTimeoutSeconds)"
    assert said in waits(601, scaling_until=1e9)


# ------------------------------------------------------------- gangs that an installed scheduler starts as a group


def grouped(least: int = 1, **options: Any) -> Run:
    return Run(replace(wanted(**options), min_rollouts=least, grouped=True))


def in_group(*gangs: int, incarnation: int = 1, bound: bool = True) -> tuple[Observed, ...]:
    return tuple(
        member(f"rollout-{i}", incarnation, "running" if bound else "pending", gang=gang, bound=bound)
        for i, gang in enumerate(gangs)
    )


def starts(run: Run) -> dict[str, tuple[int, int]]:
    """Of what is started: its group, and how many rollouts are in it."""
    return {
        f"{a.role}-{a.index}": (a.gang, a.gang_rollouts)
        for a in run.decision.actions
        if isinstance(a, Start) and a.role in ("rollout", "trainer")
    }


def test_the_first_rollouts_start_in_the_group_of_the_gang_and_the_others_on_their_own() -> None:
    run = grouped(least=1, rollouts=3)
    run.see(at=0)
    expected = {"trainer-0": (0, 1), "trainer-1": (0, 1), "rollout-0": (1, 1), "rollout-1": (0, 0)}
    assert starts(run) == {**expected, "rollout-2": (0, 0)}


def test_without_rollouts_in_it_the_group_is_of_trainers_alone() -> None:
    run = grouped(least=0)
    run.see(at=0)
    assert set(starts(run).values()) == {(0, 0)}


def test_the_next_gangs_group_gets_rollouts_of_its_own_when_its_trainers_start() -> None:
    run = grouped()
    run.see(at=0)
    up = (*STATICS, *in_group(1, 0), *pods(1, True, True))
    assert run.see(*up, at=10) == []
    assert run.status.gang.placed
    failed = [member(f"trainer-{i}", phase="failed", exit_code=70) for i in (0, 1)]
    actions = run.see(*STATICS, *in_group(1, 0), *failed, at=20)
    assert "stop rollout-0 i1" in actions, "what is left of a group keeps its quota"
    assert "stop rollout-1 i1" not in actions
    alone = (*STATICS, in_group(1, 0)[1])
    assert run.see(*alone, at=25) == [], "not before the group that it belongs to"
    run.see(*alone, at=30)
    assert starts(run) == {"trainer-0": (0, 1), "trainer-1": (0, 1), "rollout-0": (2, 1)}
    assert run.status.restarts == {"trainer": 1}


def test_who_replaces_a_rollout_of_a_gang_that_has_its_nodes_comes_on_its_own() -> None:
    run = grouped()
    run.see(at=0)
    run.see(*STATICS, *in_group(1, 0), *pods(1, True, True), at=10)
    evicted = member("rollout-0", phase="failed", reason="Evicted", gang=1)
    run.see(*STATICS, evicted, in_group(1, 0)[1], *pods(1, True, True), at=20)
    run.see(*STATICS, in_group(1, 0)[1], *pods(1, True, True), at=40)
    assert starts(run) == {"rollout-0": (0, 0)}
    replaced = member("rollout-0", 2)
    assert run.see(*STATICS, replaced, in_group(1, 0)[1], *pods(1, True, True), at=50) == []


def test_who_replaces_one_of_a_gang_that_waits_for_its_nodes_comes_in_the_group() -> None:
    run = grouped()
    run.see(at=0)
    waiting = pods(1, False, False)
    run.see(*STATICS, in_group(1, 0)[1], *waiting, at=10)
    assert starts(run) == {"rollout-0": (1, 1)}


def test_a_group_that_waits_for_more_rollouts_than_there_are_to_be_starts_anew() -> None:
    run = grouped(least=2)
    run.see(at=0)
    run.wanted = replace(run.wanted, min_rollouts=0, roles=wanted(rollouts=0).roles)
    actions = run.see(*STATICS, *in_group(1, 1, bound=False), *pods(1, False, False), at=10)
    assert {"stop trainer-0 i1", "stop trainer-1 i1", "stop rollout-0 i1", "stop rollout-1 i1"} <= set(actions)
    assert "rollout.replicas is below the 2 rollouts" in run.events
    run.see(*STATICS, at=20)
    assert starts(run) == {"trainer-0": (0, 0), "trainer-1": (0, 0)}


def test_a_gang_that_an_older_operator_started_goes_on_with_its_group_of_trainers() -> None:
    run = grouped()
    run.status = RunStatus.model_validate({"phase": "Running", "gang": {"incarnation": 3, "complete": True}})
    up = (*STATICS, *in_group(0, 0, bound=False), *(replace(pod, bound=True) for pod in pods(3, True, True)))
    assert run.see(*up, at=10) == []
