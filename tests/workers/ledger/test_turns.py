"""Placement colocated: rollouts and trainer take turns on the devices, and nobody waits for the dead."""

from __future__ import annotations

from ledger_builders import LEASE_SECONDS, Desk, proof_of

from rz_workers.ledger.progress import committed
from rz_workers.ledger.status import blocking_role
from rz_workers.ledger.turns import turn
from rz_workers.protocol.messages import LeaseReply, ReceiverState, StepReport


def shared() -> Desk:
    return Desk(placement="colocated")


def sampled() -> Desk:
    """Rollout a has sampled everything, and is awake."""
    desk = shared()
    desk.lease("a", units=2)
    desk.complete("t0.0")
    desk.complete("t0.1")
    desk.freeze()
    desk.lease("a", holds=0, units=2)
    desk.complete("e0.0")
    desk.complete("e0.1")
    return desk


def test_rollouts_sleep_when_the_step_and_the_evaluation_of_its_version_are_done() -> None:
    desk = shared()
    assert desk.lease("a", units=2) == ["t0.0", "t0.1"]
    desk.complete("t0.0")
    desk.complete("t0.1")
    desk.freeze()
    assert turn(desk.state) == "rollout"
    assert blocking_role(desk.state) == "rollout"
    assert desk.take(0).shards is None
    assert desk.lease("a", holds=0, units=2) == ["e0.0", "e0.1"]
    desk.complete("e0.0")
    assert desk.ask("b", holds=0) == LeaseReply(), "a unit is still being sampled"
    desk.complete("e0.1")
    assert turn(desk.state) == "trainer"
    assert desk.ask("a", holds=0) == LeaseReply(sleep=True)
    assert desk.ask("a", holds=0, asleep=True) == LeaseReply()


def test_the_trainer_gets_the_step_when_every_rollout_sleeps() -> None:
    desk = sampled()
    desk.ask("b", holds=0)
    assert blocking_role(desk.state) == "trainer"
    for rollout in ("a", "b"):
        reply = desk.take(0)
        assert (reply.shards, reply.units_done) == (None, 2)
        desk.ask(rollout, holds=0, asleep=True)
    assert desk.take(0).shards is not None


def test_the_next_version_wakes_the_rollouts_and_the_trainer_waits_again() -> None:
    desk = sampled()
    desk.ask("a", holds=0, asleep=True)
    assert desk.take(0).shards is not None
    desk.publish(1)
    assert turn(desk.state) == "rollout"
    assert desk.lease("a", holds=0, asleep=True) == ["t1.0"]
    assert not desk.state.rollouts["a"].asleep


def test_a_step_that_is_replayed_waits_for_the_rollouts_as_well() -> None:
    desk = sampled()
    desk.publish(1)
    desk.lease("a", holds=1)
    desk.commit(0)
    assert desk.take(0, incarnation=2).shards is None
    for name in ("t1.0", "t1.1"):
        desk.complete(name)
    desk.freeze()
    desk.ask("a", holds=1, asleep=True)
    assert desk.take(0, incarnation=2).shards is not None
    assert desk.take(1, incarnation=2).shards is not None


def test_a_replay_does_not_begin_while_a_later_step_is_left_to_sample_even_if_no_rollout_is_alive() -> None:
    desk = sampled()
    desk.publish(1)
    desk.wait(LEASE_SECONDS + 1)
    assert desk.take(0, incarnation=2).shards is None, "rollouts that start now would not know of it"
    assert desk.may_start("b")


def test_a_rollout_that_died_awake_is_forgotten_after_a_lease_interval() -> None:
    desk = sampled()
    desk.wait(LEASE_SECONDS)
    assert desk.take(0).shards is None
    desk.wait(1)
    assert desk.take(0).shards is not None


def test_a_pause_of_the_ledger_forgets_nobody() -> None:
    desk = sampled()
    desk.now += 10 * LEASE_SECONDS
    assert desk.take(0).shards is None, "requests may come before the next tick"
    desk.sleep(1)
    assert desk.take(0).shards is None


def test_a_restarted_ledger_listens_before_it_lets_the_trainer_work() -> None:
    desk = sampled()
    desk.state = desk.state.__class__(**(desk.state.__dict__ | {"rollouts": {}}))
    desk.adopt()
    assert desk.take(0).shards is None
    assert not desk.may_start("b")
    desk.beat("a")
    desk.wait(LEASE_SECONDS)
    desk.search()
    assert desk.take(0).shards is None, "a is awake"
    desk.ask("a", holds=0, asleep=True)
    assert desk.take(0).shards is not None


def test_a_heartbeat_that_was_overtaken_changes_nothing() -> None:
    desk = sampled()
    desk.beat("a", asleep=True)
    assert desk.take(0).shards is None
    desk.ask("a", holds=0, asleep=True)
    desk.beat("a", asleep=False)
    assert desk.take(0).shards is not None


def test_a_new_rollout_starts_in_the_rollouts_turn_and_the_trainer_waits_for_it() -> None:
    desk = shared()
    assert desk.may_start("b")
    desk = sampled()
    desk.ask("a", holds=0, asleep=True)
    assert not desk.may_start("b")
    assert desk.take(0).shards is not None, "who was told to wait is not waited for"
    desk.publish(1)
    assert desk.may_start("b")
    for name in ("t1.0", "t1.1"):
        desk.complete(name)
    desk.freeze()
    desk.ask("a", holds=1, asleep=True)
    assert desk.take(1).shards is None
    assert desk.ask("b") == LeaseReply(sleep=True)
    desk.ask("b", asleep=True)
    assert desk.take(1).shards is not None


def test_at_the_end_the_last_evaluation_is_sampled_and_then_the_rollouts_sleep() -> None:
    desk = sampled()
    for step in (1, 2):
        desk.publish(step)
        desk.do_step(step)
    for name in ("e2.0", "e2.1"):
        desk.complete(name)
    assert desk.lease("a", holds=2, units=2) == ["e3.0", "e3.1"]
    desk.complete("e3.0")
    desk.complete("e3.1")
    assert desk.ask("a", holds=3) == LeaseReply(sleep=True)
    assert not desk.may_start("b")
    report = StepReport(step=2, incarnation=1, weight_version=3, metrics={}, phase="finished")
    desk.state = committed(desk.state, report, desk.now)
    assert desk.ask("a", holds=3, asleep=True) == LeaseReply(finished=True)
    assert desk.may_start("b"), "it is told that the run is finished"


def test_draining_reaches_the_trainer_although_rollouts_are_awake() -> None:
    desk = sampled()
    desk.drain()
    assert desk.take(0).draining
    assert desk.ask("a", holds=0) == LeaseReply(draining=True)
    assert not desk.may_start("b")


def test_who_has_received_new_weights_is_not_sent_to_sleep_before_they_are_announced() -> None:
    desk = sampled()
    desk.ask("a", holds=0, asleep=True, receiver=ReceiverState(workers=1, near=0))
    assert desk.take(0).shards is not None
    desk.open(1)
    assert desk.ask("a", holds=0, asleep=True).receive is not None
    assert not desk.state.rollouts["a"].asleep
    assert desk.ask("a", holds=1) == LeaseReply()
    desk.publish(1, stored=False)
    assert desk.lease("a", holds=1) == ["t1.0"]


def test_an_engine_that_disagrees_reloads_in_the_rollouts_turn_alone() -> None:
    desk = sampled()
    wrong = {"holds": 0, "proof": proof_of(0, "wrong", error=0.5)}
    desk.ask("b", holds=0, proof=proof_of(0), asleep=True)
    assert desk.ask("a", **wrong) == LeaseReply(sleep=True)
    assert desk.ask("a", **wrong, asleep=True) == LeaseReply()
    assert desk.take(0).shards is not None
    assert desk.ask("a", **wrong, asleep=True) == LeaseReply()
    desk.publish(1)
    assert desk.ask("a", **wrong, asleep=True).reload is not None


def test_weights_that_nobody_has_any_more_do_not_keep_the_trainer_from_publishing_them_again() -> None:
    desk = sampled()
    desk.ask("a", holds=1, units=0)
    desk.publish(1, stored=False)
    assert turn(desk.state) == "rollout"
    desk.wait(LEASE_SECONDS + 1)
    assert turn(desk.state) == "trainer"
    assert desk.take(0, incarnation=2).shards is not None
    desk.publish(1, incarnation=2)
    assert turn(desk.state) == "rollout"
