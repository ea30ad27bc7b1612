"""How the run moves on, and what the status says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ledger_builders import Desk, weights_of

from rz_workers.ledger import progress
from rz_workers.ledger.state import RefusedError, State, UnknownError
from rz_workers.ledger.status import blocking_role, ledger_status, waiting_status
from rz_workers.protocol.messages import TakeReply, TakeRequest
from rz_workers.runtime import SupersededError


def take(desk: Desk, step: int, incarnation: int = 1) -> TakeReply | None:
    desk.state, reply = progress.take(desk.state, TakeRequest(step=step, incarnation=incarnation))
    return reply


def test_a_complete_step_is_frozen_in_canonical_order_and_then_served() -> None:
    desk = Desk()
    desk.lease("r0")
    desk.wait(5)
    desk.complete("t0.1")
    assert progress.step_to_freeze(desk.state, desk.now) is None
    assert take(desk, 0) == TakeReply(shards=None, units_done=1, units_total=2)
    desk.complete("t0.0")
    manifest = progress.step_to_freeze(desk.state, desk.now)
    assert manifest is not None
    assert [shard.unit for shard in manifest.shards] == [desk.unit("t0.0"), desk.unit("t0.1")]
    assert (manifest.generation_started, manifest.generation_finished) == (0.0, 5.0)
    assert take(desk, 0) == TakeReply(shards=None, units_done=2, units_total=2), "not before it is in storage"
    desk.freeze()
    assert take(desk, 0) == TakeReply(shards=manifest.shards, units_done=2, units_total=2)


def test_a_frozen_step_tells_which_rollout_had_which_unit_when() -> None:
    desk = Desk()
    desk.wait(3)
    desk.lease("r0")
    desk.lease("r1")
    desk.wait(4)
    desk.complete("t0.1", rollout="r1")
    desk.wait(1)
    desk.complete("t0.0", rollout="r0")
    manifest = progress.step_to_freeze(desk.state, desk.now)
    assert manifest is not None
    assert [(u.unit_id, u.rollout_id, u.leased, u.completed) for u in manifest.units] == [
        (desk.unit("t0.0").unit_id, "r0", 3.0, 8.0),
        (desk.unit("t0.1").unit_id, "r1", 3.0, 7.0),
    ]


def test_a_unit_that_was_completed_without_its_lease_has_no_times() -> None:
    desk = Desk()
    desk.lease("r0")
    desk.complete("t0.0", rollout="r9")
    desk.complete("t0.1")
    manifest = progress.step_to_freeze(desk.state, desk.now)
    assert manifest is not None
    assert manifest.units == ()


def test_a_manifest_that_was_there_first_is_what_counts() -> None:
    desk = Desk()
    desk.complete("t0.0", attempt=2)
    desk.complete("t0.1")
    manifest = progress.step_to_freeze(desk.state, desk.now)
    assert manifest is not None
    other = manifest.model_copy(update={"shards": manifest.shards[::-1]})
    desk.state = progress.frozen(desk.state, other, desk.now)
    reply = take(desk, 0)
    assert reply is not None
    assert reply.shards == other.shards


def test_an_old_step_has_to_be_read_from_storage() -> None:
    desk = Desk()
    desk.state = replace(desk.state, next_frozen=2)
    assert take(desk, 1) is None


def test_a_step_beyond_the_run_is_unknown() -> None:
    with pytest.raises(UnknownError, match="steps 0 to 2"):
        take(Desk(), 3)


def test_a_superseded_trainer_is_told_so() -> None:
    desk = Desk()
    take(desk, 0, incarnation=3)
    with pytest.raises(SupersededError, match="incarnation 2, but incarnation 3"):
        take(desk, 0, incarnation=2)
    with pytest.raises(SupersededError):
        desk.commit(0, incarnation=2)


def test_announcing_an_older_version_again_moves_nothing_back() -> None:
    desk = Desk()
    desk.do_step(0)
    desk.publish(0)
    assert desk.state.weights[1] == weights_of(1)
    assert sorted(desk.state.train) == [1]


def test_a_version_published_again_by_a_newer_incarnation_replaces_where_it_is_read_from() -> None:
    desk = Desk()
    desk.do_step(0)
    desk.publish(1, incarnation=2, digest="other")
    assert desk.state.weights[1] == weights_of(1, 2, "other")
    desk.publish(1, incarnation=1)
    assert desk.state.weights[1] == weights_of(1, 2, "other")


def test_a_version_that_the_run_does_not_have_is_refused() -> None:
    with pytest.raises(RefusedError, match="versions 0 to 3"):
        Desk().publish(4)


def test_publications_that_were_missed_still_open_their_evaluations() -> None:
    desk = Desk()
    desk.publish(2)
    assert sorted(desk.state.evals) == [0, 2]


def test_a_replaying_trainer_moves_nothing_back() -> None:
    desk = Desk()
    desk.do_step(0)
    desk.do_step(1)
    desk.commit(1, metrics={"reward_mean": 0.5}, checkpoint_step=2)
    desk.commit(0, incarnation=2, metrics={"reward_mean": 0.1})
    assert (desk.state.committed, desk.state.metrics, desk.state.checkpoint_step) == (2, {"reward_mean": 0.5}, 2)


def test_an_evaluation_is_served_when_its_last_unit_is_done_and_gives_the_accuracy() -> None:
    desk = Desk()
    desk.complete("e0.0", reward=4.0)
    reply = progress.evaluation(desk.state, 0)
    assert reply is not None
    assert (reply.shards, reply.units_done, reply.units_total) == (None, 1, 2)
    desk.complete("e0.1", reward=2.0)
    reply = progress.evaluation(desk.state, 0)
    assert reply is not None
    assert reply.shards is not None
    assert [shard.unit for shard in reply.shards] == [desk.unit("e0.0"), desk.unit("e0.1")]
    assert ledger_status(desk.state, desk.now).evaluation == {"held": 0.75}, "6 of 8 samples are right"


@pytest.mark.parametrize(
    ("masked", "accuracy"), [(0, 0.75), (2, 1.0), (8, None)], ids=["none masked", "two masked", "all masked"]
)
def test_masked_rows_are_not_in_the_denominator_of_an_accuracy(masked: int, accuracy: float | None) -> None:
    desk = Desk()
    rewards = 0.0 if masked == 8 else 6.0
    desk.complete("e0.0", reward=rewards, masked=min(masked, 4))
    desk.complete("e0.1", reward=0.0, masked=max(masked - 4, 0))
    assert desk.state.accuracy == ({} if accuracy is None else {"held": (0, accuracy)})


def test_an_older_evaluation_that_ends_later_does_not_replace_the_newer_accuracy() -> None:
    desk = Desk()
    desk.publish(2)
    for name, reward in (("e2.0", 4.0), ("e2.1", 4.0), ("e0.0", 0.0), ("e0.1", 0.0)):
        desk.complete(name, reward=reward)
    assert ledger_status(desk.state, desk.now).evaluation == {"held": 1.0}


@pytest.mark.parametrize("version", [-1, 1, 4])
def test_a_version_that_is_not_evaluated_is_unknown(version: int) -> None:
    with pytest.raises(UnknownError):
        progress.evaluation(Desk().state, version)


def test_a_version_that_is_not_published_yet_has_no_evaluation_yet() -> None:
    reply = progress.evaluation(Desk().state, 2)
    assert reply is not None
    assert reply.shards is None


def _desk(act: Callable[[Desk], object]) -> State:
    desk = Desk()
    act(desk)
    return desk.state


def _complete(desk: Desk) -> None:
    desk.complete("t0.0")
    desk.complete("t0.1")
    desk.freeze()


def _all_steps(desk: Desk) -> None:
    for step in range(3):
        desk.do_step(step)


def _all_evaluated(desk: Desk) -> None:
    _all_steps(desk)
    for version in (0, 2, 3):
        desk.complete(f"e{version}.0")
        desk.complete(f"e{version}.1")


BLOCKING = {
    "units of the step are open: rollouts": (_desk(lambda d: None), "rollout"),
    "the step is complete: trainer": (_desk(_complete), "trainer"),
    "committed, but the next weights are not published: trainer": (
        _desk(lambda d: (_complete(d), d.commit(0))),
        "trainer",
    ),
    "all steps are done and an evaluation is not: rollouts": (_desk(_all_steps), "rollout"),
    "everything is done: trainer, which exports": (_desk(_all_evaluated), "trainer"),
    "storage has trouble: storage": (replace(_desk(lambda d: None), storage_trouble="503"), "storage"),
    "a rollout waits for verdicts: reward": (_desk(lambda d: d.beat("r0", reward_trouble="503")), "reward"),
    "verdicts have come since: rollouts": (
        _desk(lambda d: (d.beat("r0", reward_trouble="503"), d.beat("r0"))),
        "rollout",
    ),
    "who waited is not heard of any more: rollouts": (
        _desk(lambda d: (d.beat("r0", reward_trouble="503"), d.wait(100))),
        "rollout",
    ),
    "verdicts of evaluations, while the trainer is at work: trainer": (
        _desk(lambda d: (_complete(d), d.beat("r0", reward_trouble="503"))),
        "trainer",
    ),
    "draining: none": (_desk(lambda d: d.drain()), "none"),
    "finished: none": (_desk(lambda d: d.commit(2, phase="finished")), "none"),
}


@pytest.mark.parametrize(("state", "role"), BLOCKING.values(), ids=BLOCKING.keys())
def test_the_blocking_role(state: State, role: str) -> None:
    assert blocking_role(state) == role


def test_status_shows_progress_rollouts_and_an_estimate() -> None:
    desk = Desk()
    desk.lease("r0", units=2)
    desk.beat("r0", "t0.0", "t0.1")
    desk.wait(10)
    desk.do_step(0)
    desk.commit(0, metrics={"seconds_step": 4.0, "reward_mean": 0.25})
    status = ledger_status(desk.state, desk.now + 2)
    assert (status.phase, status.step, status.total_steps, status.weight_version) == ("running", 1, 3, 1)
    assert (status.seconds_per_step, status.eta_seconds) == (4.0, 8.0)
    assert status.metrics["reward_mean"] == 0.25
    assert (status.units_done, status.units_total, status.units_leased) == (0, 2, 0)
    assert status.last_progress_seconds_ago == 2.0
    assert [(r.rollout_id, r.last_heartbeat_seconds_ago) for r in status.rollouts] == [("r0", 12.0)]


def test_status_says_which_rollouts_wait_for_verdicts_and_why() -> None:
    desk = Desk()
    for name in ("r2", "r1", "r0"):
        desk.beat(name, reward_trouble=None if name == "r0" else f"503 of {name}")
    status = ledger_status(desk.state, desk.now)
    assert status.reward_trouble == "r1 (and 1 more) waits for verdicts: 503 of r1"


def test_status_counts_the_steps_that_taught_nothing() -> None:
    desk, seen = Desk(), []
    for step, reward in enumerate((0.0, 0.0, 0.5)):
        desk.do_step(step)
        desk.commit(step, metrics={"reward_mean": reward, "reward_std": reward})
        desk.commit(step, metrics={"reward_mean": reward, "reward_std": reward})  # once more, after a lost answer
        status = ledger_status(desk.state, desk.now)
        seen.append((status.fruitless_steps, status.fruitless_sign))
    assert seen == [(1, "zero"), (2, "zero"), (0, None)]


def test_a_rollout_that_is_long_silent_is_not_listed_but_its_tokens_count() -> None:
    desk = Desk()
    desk.beat("r0")
    desk.state = replace(desk.state, rollouts={"r0": replace(desk.state.rollouts["r0"], tokens_generated=7)})
    status = ledger_status(desk.state, desk.now + 1000)
    assert (status.rollouts, status.tokens_generated) == ((), 7)


def test_status_before_the_run_has_begun_names_who_is_waited_for() -> None:
    assert waiting_status("tiny", False, None).blocking_role == "trainer"
    assert waiting_status("tiny", False, "503").blocking_role == "storage"
    assert waiting_status("tiny", True, None).phase == "draining"
