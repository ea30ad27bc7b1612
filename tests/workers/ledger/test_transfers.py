"""Who takes part in a broadcast of weights, who is told, and what a rollout without the weights may get."""

from __future__ import annotations

from typing import Any

import pytest
from ledger_builders import LEASE_SECONDS, Desk, name_of, weights_of

from rz_workers.ledger.state import RefusedError
from rz_workers.protocol.messages import LeaseReply, ReceiverState, TransferOrder
from rz_workers.runtime import SupersededError

READY = ReceiverState(workers=1)


def at_the_end_of_step_0(*rollouts: str, **desk: Any) -> Desk:
    """Step 0 is trained on, version 1 is about to be broadcast; the evaluation of version 0 is left over."""
    made = Desk(**desk)
    for name in ("t0.0", "t0.1"):
        made.complete(name)
    made.freeze()
    for rollout in rollouts:
        made.ask(rollout, holds=0, units=0, receiver=READY)
    return made


def test_rollouts_that_can_receive_are_dealt_out_to_the_ranks_in_order_of_their_ids() -> None:
    desk = at_the_end_of_step_0("c", "a", "b")
    desk.ask("d", holds=0, units=0)
    assert [(one.rollout_id, one.sender, one.is_new) for one in desk.open(1, senders=2)] == [
        ("a", 0, True),
        ("b", 1, True),
        ("c", 0, True),
    ]


def test_who_was_not_heard_of_for_a_lease_interval_takes_no_part() -> None:
    desk = at_the_end_of_step_0("a", "b")
    desk.wait(LEASE_SECONDS)
    desk.beat("b")
    desk.wait(1)
    assert [one.rollout_id for one in desk.open(1)] == ["b"]


def test_who_is_in_the_middle_of_a_unit_is_not_waited_for() -> None:
    desk = at_the_end_of_step_0("a", "b")
    [lease] = desk.ask("b", holds=0, receiver=READY).leases
    assert [one.rollout_id for one in desk.open(1)] == ["a"]
    assert desk.state.transfer is not None
    assert desk.state.transfer.reply.left_out == 1
    desk.complete(name_of(lease.unit), "b")
    assert [one.rollout_id for one in desk.open(2)] == ["a", "b"]


def test_after_a_pause_of_the_ledger_nobody_is_taken_for_dead() -> None:
    desk = at_the_end_of_step_0("a")
    desk.sleep(10 * LEASE_SECONDS)
    assert [one.rollout_id for one in desk.open(1)] == ["a"]


def test_a_group_that_both_sides_are_in_is_kept_with_its_sender() -> None:
    desk = at_the_end_of_step_0("a", "b", "c")
    first = {one.rollout_id: one for one in desk.open(1, senders=2)}
    desk.publish(1)
    desk.wait(1)
    groups = {name: ReceiverState(workers=1, group=one.group) for name, one in first.items()}
    desk.ask("a0", holds=1, units=0, receiver=READY)
    desk.ask("a", holds=1, units=0, receiver=ReceiverState(workers=1, group=None))
    desk.ask("b", holds=1, units=0, receiver=groups["b"])
    desk.ask("c", holds=1, units=0, receiver=groups["c"])
    second = {one.rollout_id: one for one in desk.open(2, senders=2, groups=[first["b"].group, first["a"].group])}
    assert not second["b"].is_new
    assert (second["b"].group, second["b"].sender) == (first["b"].group, 1)
    assert second["a"].is_new, "the rollout has left it"
    assert second["c"].is_new, "the trainer has dropped it"
    assert len({one.group for one in second.values()} | {one.group for one in first.values()}) == 3 + 3
    assert sorted(one.sender for one in second.values()) == [0, 0, 1, 1], "the ranks serve as many each"


def test_a_rollout_that_shares_a_device_is_served_by_that_rank_or_by_none() -> None:
    desk = at_the_end_of_step_0()
    for rollout, near in (("a", 1), ("b", 0), ("c", 7)):
        desk.ask(rollout, holds=0, units=0, receiver=ReceiverState(workers=1, near=near))
    assert [(one.rollout_id, one.sender) for one in desk.open(1, senders=2)] == [("a", 1), ("b", 0)]


def test_each_participant_gets_its_order_once_and_before_anything_else() -> None:
    desk = at_the_end_of_step_0("a")
    (assignment,) = desk.open(1)
    order = TransferOrder(
        version=1,
        incarnation=1,
        group=assignment.group,
        host="trainer-0",
        port=29600,
        backend="gloo",
        workers=1,
        seconds=5.0,
    )
    assert desk.ask("a", holds=0, units=2) == LeaseReply(receive=order)
    assert desk.lease("a", holds=0, units=2) == ["e0.0", "e0.1"], "it failed, or it did not come: it goes on"


def test_the_same_request_again_has_the_same_answer_and_tells_nobody_twice() -> None:
    desk = at_the_end_of_step_0("a", "b")
    first = desk.open(1)
    assert desk.ask("a", holds=0).receive is not None
    desk.wait(1)
    assert desk.open(1) == first
    assert desk.ask("a", holds=0).receive is None
    assert desk.ask("b", holds=0).receive is not None


def test_who_has_received_waits_for_the_announcement_and_does_not_go_back_to_older_weights() -> None:
    desk = at_the_end_of_step_0("a")
    desk.open(1)
    desk.ask("a", holds=0)
    assert desk.ask("a", holds=1, units=9) == LeaseReply()
    assert desk.lease("b", holds=0) == ["e0.0"], "others go on"
    desk.publish(1, stored=False)
    assert desk.lease("a", holds=1, units=9) == ["t1.0", "t1.1"]


ENDS: dict[str, Any] = {
    "the announcement of the version": lambda desk: desk.publish(1),
    "the announcement of a newer one": lambda desk: desk.publish(2),
    "a newer gang that takes": lambda desk: desk.take(0, incarnation=2),
    "a newer gang that announces": lambda desk: desk.publish(0, incarnation=2),
    "another broadcast without the rollout": lambda desk: (desk.wait(LEASE_SECONDS + 1), desk.open(2)),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_broadcast_is_over_with(end: Any) -> None:
    desk = at_the_end_of_step_0("a")
    desk.open(1)
    end(desk)
    reply = desk.ask("a", holds=0)
    assert reply.receive is None
    assert reply.leases


def test_a_superseded_gang_opens_nothing() -> None:
    desk = at_the_end_of_step_0("a")
    desk.take(0, incarnation=3)
    with pytest.raises(SupersededError, match="incarnation 2, but incarnation 3"):
        desk.open(1, incarnation=2)


def test_a_broadcast_needs_senders_and_a_version_of_the_run() -> None:
    desk = at_the_end_of_step_0("a")
    with pytest.raises(RefusedError, match="no rank that sends"):
        desk.open(1, senders=0)
    with pytest.raises(RefusedError, match="versions 0 to 3"):
        desk.open(4)


def test_nobody_takes_part_while_the_run_is_draining() -> None:
    desk = at_the_end_of_step_0("a")
    desk.drain()
    assert desk.open(1) == ()


def test_an_order_is_handed_out_while_a_restarted_ledger_adopts() -> None:
    desk = at_the_end_of_step_0()
    desk.adopt()
    assert desk.ask("a", holds=0, receiver=READY) == LeaseReply()
    desk.open(1)
    assert desk.ask("a", holds=0).receive is not None


# ------------------------------------------------------------------------------------------- weights in no storage


def test_weights_that_are_not_stored_are_for_those_that_hold_them() -> None:
    desk = at_the_end_of_step_0()
    desk.publish(1, stored=False)
    assert desk.lease("b", holds=0, units=9) == ["e0.0", "e0.1"]
    assert desk.ask("b", holds=0) == LeaseReply()
    assert desk.ask("c") == LeaseReply()
    assert desk.ask("d", holds=1, weights_digest="of another gang") == LeaseReply()
    assert desk.lease("a", holds=1) == ["t1.0"]
    desk.publish(1)
    assert desk.lease("b", holds=0) == ["t1.1"]


def test_a_version_of_the_same_digest_that_is_not_stored_is_not_for_those_that_hold_the_one_before() -> None:
    """As a step without an update makes: they could not load it."""
    desk = at_the_end_of_step_0()
    desk.publish(1, digest="digest-0", stored=False)
    assert desk.lease("b", holds=0, units=9) == ["e0.0", "e0.1"]
    assert desk.ask("b", holds=0) == LeaseReply()
    assert desk.lease("a", holds=1, weights_digest="digest-0") == ["t1.0"]
    desk.publish(1, digest="digest-0")
    assert desk.lease("b", holds=0) == ["t1.1"]


def test_what_is_stored_stays_so_whatever_is_announced_late() -> None:
    desk = at_the_end_of_step_0()
    desk.publish(1)
    desk.publish(1, stored=False)
    assert desk.state.weights[1] == weights_of(1)
    desk.publish(1, incarnation=2, stored=False)
    assert desk.state.weights[1] == weights_of(1), "the same tensors, and they are stored"
    desk.publish(1, incarnation=2, digest="other", stored=False)
    assert desk.state.weights[1] == weights_of(1, 2, "other", stored=False)


def test_a_lease_tells_a_restarted_ledger_of_weights_that_storage_does_not_have() -> None:
    desk = at_the_end_of_step_0()
    desk.publish(1, stored=False)
    desk.lease("a", holds=1)
    restarted = at_the_end_of_step_0()
    restarted.adopt()
    assert restarted.beat("a", desk.leases["t1.0"]) == []
    assert restarted.state.weights[1] == weights_of(1, stored=False)
    assert restarted.state.batch("train", 1) is not None
    assert restarted.complete("t1.0")
