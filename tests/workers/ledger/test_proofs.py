"""Rollouts on the same hardware score the canary with the same bits; who does not gets no leases."""

from __future__ import annotations

from ledger_builders import CANARY, LEASE_SECONDS, Desk, proof_of, weights_of

from rz_workers.ledger.status import ledger_status
from rz_workers.protocol.messages import LeaseReply, Proof


def desk_of(**published: object) -> Desk:
    desk = Desk(published=None)
    desk.publish(0, canary=CANARY, **published)  # type: ignore[arg-type]
    return desk


def report(desk: Desk, rollout: str, proof: Proof) -> LeaseReply:
    return desk.ask(rollout, holds=0, proof=proof)


def test_a_rollout_proves_weights_before_it_gets_leases_for_them() -> None:
    desk = desk_of()
    assert desk.ask("a") == LeaseReply(prove=weights_of(0))
    assert report(desk, "a", proof_of(0)).leases


def test_it_is_told_once_so_that_one_without_a_canary_works_all_the_same() -> None:
    desk = desk_of()
    assert desk.ask("a", holds=0).prove is not None
    assert desk.lease("a", holds=0) == ["t0.0"]


def test_without_a_canary_nothing_is_to_be_proven() -> None:
    assert Desk().lease("a") == ["t0.0"]


def test_older_weights_than_it_holds_are_leased_at_once() -> None:
    desk = desk_of()
    desk.do_step(0)
    desk.publish(1, canary=CANARY)
    held = {"holds": 1, "proof": proof_of(1)}
    assert [lease.unit.kind for lease in desk.ask("a", units=9, **held).leases] == ["train", "train"]
    assert desk.ask("a", units=9, **held).leases[0].weights == weights_of(0)


def test_the_minority_reloads_once_and_is_then_replaced() -> None:
    desk = desk_of()
    for rollout in ("a", "b"):
        assert report(desk, rollout, proof_of(0)).leases
    assert report(desk, "c", proof_of(0, "wrong", error=0.001)) == LeaseReply(reload=weights_of(0))
    assert report(desk, "c", proof_of(0, "wrong", error=0.001)) == LeaseReply(replace=True)
    assert report(desk, "c", proof_of(0, "wrong", error=0.001)) == LeaseReply(replace=True)
    assert desk.state.counters.proofs_failed == 2
    assert report(desk, "a", proof_of(0)).leases, "its peers go on"


def test_of_versions_of_one_digest_the_newest_that_is_stored_is_loaded_again() -> None:
    desk = desk_of()
    for rollout in ("a", "b"):
        assert report(desk, rollout, proof_of(0)).leases
    desk.publish(1, digest="digest-0")
    desk.publish(2, digest="digest-0", stored=False)
    assert report(desk, "c", proof_of(0, "wrong", error=0.001)) == LeaseReply(reload=weights_of(1, digest="digest-0"))


def test_a_reload_that_helps_is_the_end_of_it() -> None:
    desk = desk_of()
    for rollout in ("a", "b"):
        report(desk, rollout, proof_of(0))
    assert report(desk, "c", proof_of(0, "wrong")).reload is not None
    assert report(desk, "c", proof_of(0)).leases
    assert desk.state.counters.proofs_failed == 1


def test_of_two_the_one_nearer_to_the_trainer_is_right() -> None:
    desk = desk_of()
    assert report(desk, "a", proof_of(0, "far", error=0.5)).leases
    assert report(desk, "b", proof_of(0, "near", error=0.1)).leases
    assert report(desk, "a", proof_of(0, "far", error=0.5)).reload is not None


def test_of_two_that_are_as_near_the_first_is_right() -> None:
    desk = desk_of()
    assert report(desk, "b", proof_of(0, "first")).leases
    desk.wait(1)
    assert report(desk, "a", proof_of(0, "second")).reload is not None
    assert report(desk, "b", proof_of(0, "first")).leases


def test_other_hardware_is_no_peer() -> None:
    desk = desk_of()
    for rollout in ("a", "b"):
        report(desk, rollout, proof_of(0))
    assert report(desk, "c", proof_of(0, "other", hardware="gpu")).leases


def test_the_dead_have_no_vote() -> None:
    desk = desk_of()
    for rollout in ("a", "b"):
        report(desk, rollout, proof_of(0, "of the dead"))
    desk.wait(LEASE_SECONDS + 1)
    desk.search()
    assert report(desk, "c", proof_of(0)).leases


def test_one_that_was_told_has_no_vote_until_it_reports_again() -> None:
    desk = desk_of()
    report(desk, "a", proof_of(0))
    assert report(desk, "b", proof_of(0, "wrong", error=0.2)).reload is not None
    assert report(desk, "c", proof_of(0, "wrong", error=0.2)).reload is not None
    assert report(desk, "a", proof_of(0)).leases


def test_while_the_weights_are_not_stored_there_is_nothing_to_reload() -> None:
    desk = desk_of(stored=False)
    for rollout in ("a", "b"):
        report(desk, rollout, proof_of(0))
    assert report(desk, "c", proof_of(0, "wrong")) == LeaseReply()
    desk.publish(0)
    assert report(desk, "c", proof_of(0, "wrong")) == LeaseReply(reload=weights_of(0))


def test_each_version_has_its_own_reload() -> None:
    desk = desk_of()
    report(desk, "a", proof_of(0))
    assert report(desk, "b", proof_of(0, "wrong", error=0.2)).reload is not None
    desk.do_step(0)
    desk.publish(1, canary=CANARY)
    desk.ask("a", holds=1, proof=proof_of(1))
    assert desk.ask("b", holds=1, proof=proof_of(1, "wrong", error=0.2)) == LeaseReply(reload=weights_of(1))


def test_the_status_shows_who_disagrees() -> None:
    desk = desk_of()
    report(desk, "a", proof_of(0))
    report(desk, "b", proof_of(0, "wrong", error=0.2))
    desk.ask("c", holds=0)
    assert {one.rollout_id: one.proof for one in ledger_status(desk.state, desk.now).rollouts} == {
        "a": "agrees",
        "b": "disagrees",
        "c": "none",
    }


def test_canaries_of_versions_that_nobody_samples_any_more_are_forgotten() -> None:
    desk = desk_of()
    for name in ("e0.0", "e0.1"):
        desk.complete(name)
    for step in range(3):
        desk.do_step(step)
        desk.publish(step + 1, canary=CANARY)
    assert max(desk.state.canaries) == 3
    assert 1 not in desk.state.canaries
