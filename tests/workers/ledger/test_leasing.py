"""Who gets what when, and that no finished work is lost: pure functions with fake time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ledger_builders import LEASE_SECONDS, Desk, name_of, shard_of

from rz_workers.ledger import leasing
from rz_workers.ledger.state import EarlyError, RefusedError
from rz_workers.protocol.messages import LeaseRequest

Step = tuple[str, Callable[[Desk], Any], Any]


def _given(**desk: Any) -> Callable[[], Desk]:
    return lambda: Desk(**desk)


STORIES: dict[str, tuple[Callable[[], Desk], list[Step]]] = {
    "nothing is handed out before version 0": (
        _given(published=None),
        [("ask", lambda d: d.lease("r0"), [])],
    ),
    "a step is handed out in order, then the evaluation of its version, then nothing": (
        _given(),
        [
            ("first", lambda d: d.lease("r0"), ["t0.0"]),
            ("second", lambda d: d.lease("r1", holds=0), ["t0.1"]),
            ("evaluation", lambda d: d.lease("r0", holds=0, units=5), ["e0.0", "e0.1"]),
            ("nothing", lambda d: d.lease("r0", holds=0), []),
        ],
    ),
    "evaluation waits until all of its step is handed out": (
        _given(),
        [
            ("one reply does not reach over to it", lambda d: d.lease("r0", units=9), ["t0.0", "t0.1"]),
            ("the next does", lambda d: d.lease("r0", holds=0, units=1), ["e0.0"]),
        ],
    ),
    "the next step waits for its weights": (
        _given(),
        [
            ("hand out", lambda d: d.lease("r0", units=2), ["t0.0", "t0.1"]),
            ("done", lambda d: (d.complete("t0.0"), d.complete("t0.1"), d.freeze()), (True, True, None)),
            ("only evaluation is left", lambda d: d.lease("r0", holds=0, units=9), ["e0.0", "e0.1"]),
            ("published", lambda d: d.publish(1), None),
            ("now", lambda d: d.lease("r0", holds=0, units=9), ["t1.0", "t1.1"]),
        ],
    ),
    "with staleness 1 the next step may use the weights before": (
        _given(max_staleness=1),
        [
            ("step 0", lambda d: d.lease("r0", units=2), ["t0.0", "t0.1"]),
            ("evaluation of what it holds first", lambda d: d.lease("r0", holds=0, units=2), ["e0.0", "e0.1"]),
            ("step 1", lambda d: d.lease("r0", holds=0, units=1), ["t1.0"]),
            ("with version 0", lambda d: d.leases["t1.0"].weights.version, 0),
            ("published", lambda d: d.publish(1), None),
            ("the rest of step 1 with version 1", lambda d: d.lease("r0", holds=0, units=1), ["t1.1"]),
            ("indeed", lambda d: d.leases["t1.1"].weights.version, 1),
            ("both versions are right", lambda d: (d.complete("t1.0"), d.complete("t1.1")), (True, True)),
        ],
    ),
    "a rollout that still holds a version evaluates it before it moves on": (
        _given(),
        [
            ("hand out", lambda d: d.lease("r0", units=2), ["t0.0", "t0.1"]),
            ("step 0 is done", lambda d: d.do_step(0), None),
            ("holder of version 0", lambda d: d.lease("r0", holds=0), ["e0.0"]),
            ("holder of version 1", lambda d: d.lease("r1", holds=1), ["t1.0"]),
            ("a fresh one", lambda d: d.lease("r2"), ["t1.1"]),
            ("old evaluation where nothing else is left", lambda d: d.lease("r1", holds=1), ["e0.1"]),
            ("it names the old weights", lambda d: d.leases["e0.1"].weights.version, 0),
        ],
    ),
    "the last version is evaluated although no step uses it": (
        _given(),
        [
            ("all steps", lambda d: [d.do_step(step) for step in range(3)], [None] * 3),
            ("evaluations, the holder's own first", lambda d: d.lease("r0", holds=3, units=9), ["e3.0", "e3.1"]),
            ("older ones after it", lambda d: d.lease("r0", holds=3, units=9), ["e0.0", "e0.1"]),
            ("oldest first", lambda d: d.lease("r0", holds=3, units=9), ["e2.0", "e2.1"]),
            ("nothing is left", lambda d: d.lease("r0", holds=3, units=9), []),
        ],
    ),
    "a heartbeat keeps a lease": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("almost", lambda d: d.wait(LEASE_SECONDS - 1), None),
            ("beat", lambda d: d.beat("r0", "t0.0"), []),
            ("almost again", lambda d: d.wait(LEASE_SECONDS - 1), None),
            ("not suspect", lambda d: d.search(), []),
        ],
    ),
    "an expired lease is handed out again once storage was searched, as the next attempt": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("silence", lambda d: d.wait(LEASE_SECONDS), None),
            ("not before the search", lambda d: d.lease("r1"), ["t0.1"]),
            ("search", lambda d: d.search(), ["t0.0"]),
            ("again", lambda d: d.lease("r1"), ["t0.0"]),
            ("attempt", lambda d: d.leases["t0.0"].attempt, 2),
        ],
    ),
    "a rollout that died between writing and telling has lost nothing": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("silence", lambda d: d.wait(LEASE_SECONDS), None),
            ("its shard is found", lambda d: d.search(t0_0=[shard_of(d.unit("t0.0"))]), ["t0.0"]),
            ("done", lambda d: d.state.entry(d.unit("t0.0")).shard.attempt, 1),
            ("counted", lambda d: (d.state.counters.found, d.state.counters.expired), (1, 1)),
        ],
    ),
    "a stored shard of other weights is not adopted, but its attempt number is not used again": (
        _given(max_staleness=1),
        [
            ("step 1 is open", lambda d: d.lease("r0", holds=0, units=2), ["t0.0", "t0.1"]),
            ("eval", lambda d: d.lease("r0", holds=0), ["e0.0"]),
            ("silence", lambda d: d.wait(LEASE_SECONDS), None),
            ("found", lambda d: len(d.search(t0_0=[shard_of(d.unit("t0.0"), attempt=4, version=9)])), 3),
            ("again", lambda d: d.lease("r0", holds=0), ["t0.0"]),
            ("attempt", lambda d: d.leases["t0.0"].attempt, 5),
        ],
    ),
    "the first completion wins": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("silence", lambda d: d.wait(LEASE_SECONDS), None),
            ("search", lambda d: d.search(), ["t0.0"]),
            ("again", lambda d: d.lease("r1"), ["t0.0"]),
            ("the late first attempt", lambda d: d.complete("t0.0", "r0", attempt=1), True),
            ("the second attempt", lambda d: d.complete("t0.0", "r1", attempt=2), False),
            ("the first one again", lambda d: d.complete("t0.0", "r0", attempt=1), True),
            ("its lease is lost", lambda d: d.beat("r1", "t0.0"), ["t0.0"]),
            ("nothing twice", lambda d: (d.state.counters.completed, d.state.counters.duplicates), (1, 1)),
        ],
    ),
    "a rollout that was frozen past its lease keeps it if nobody took it": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("silence", lambda d: d.wait(LEASE_SECONDS + 5), None),
            ("beat", lambda d: d.beat("r0", "t0.0"), []),
            ("it is not handed out", lambda d: (d.search(), d.lease("r1")), ([], ["t0.1"])),
            ("accepted", lambda d: d.complete("t0.0"), True),
        ],
    ),
    "leases do not expire while the ledger itself is stopped": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("stopped", lambda d: d.sleep(10 * LEASE_SECONDS), None),
            ("alive", lambda d: d.search(), []),
            ("later it does", lambda d: d.wait(LEASE_SECONDS), None),
            ("suspect", lambda d: d.search(), ["t0.0"]),
        ],
    ),
    "draining hands out nothing and says so, and takes what is finished": (
        _given(),
        [
            ("lease", lambda d: d.lease("r0"), ["t0.0"]),
            ("drain", lambda d: d.drain(), None),
            ("told", lambda d: (d.ask("r1").draining, d.ask("r1").leases), (True, ())),
            ("heartbeats still count", lambda d: d.beat("r0", "t0.0"), []),
            ("taken", lambda d: d.complete("t0.0"), True),
        ],
    ),
    "a finished run says so": (
        _given(),
        [
            ("report", lambda d: d.commit(2, phase="finished"), None),
            ("told", lambda d: d.ask("r0").finished, True),
        ],
    ),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_leases(story: tuple[Callable[[], Desk], list[Step]]) -> None:
    given, steps = story
    desk = given()
    for what, act, want in steps:
        assert act(desk) == want, what


def test_a_restarted_ledger_adopts_live_leases_with_their_attempt_numbers() -> None:
    before = Desk()
    before.lease("r0")
    before.wait(LEASE_SECONDS)
    before.search()
    before.lease("r0")
    lease = before.leases["t0.0"]
    after = Desk()
    after.adopt()
    assert after.lease("r1") == [], "nothing is handed out while live leases may be unknown"
    assert after.beat("r0", lease) == []
    after.wait(LEASE_SECONDS - 1)
    assert after.beat("r0", lease) == []
    after.wait(1)
    assert after.lease("r1") == [], "a rollout may have stored a shard since storage was listed, and died: look first"
    after.search()
    assert after.lease("r1") == ["t0.1"]
    assert after.state.entry(lease.unit).attempts == 2  # type: ignore[union-attr]
    after.wait(LEASE_SECONDS)
    after.search()
    assert [(name_of(lease.unit), lease.attempt) for lease in after.ask("r1", units=2).leases] == [
        ("t0.0", 3),
        ("t0.1", 2),
    ]


def test_a_lease_that_two_rollouts_claim_is_lost_to_the_second() -> None:
    before = Desk()
    before.lease("r0")
    after = Desk()
    assert after.lease("r1") == ["t0.0"]
    assert after.beat("r0", before.leases["t0.0"]) == ["t0.0"]


def test_of_two_leases_that_a_former_ledger_issued_the_later_one_is_adopted() -> None:
    before = Desk()
    before.lease("frozen")
    first = before.leases["t0.0"]
    before.wait(LEASE_SECONDS)
    before.search()
    before.lease("r1")
    second = before.leases["t0.0"]
    after = Desk()
    after.adopt()
    assert after.beat("frozen", first) == []
    assert after.beat("r1", second) == []
    assert after.beat("frozen", first) == ["t0.0"]
    assert after.beat("r1", second) == []


def test_a_completion_for_a_lease_that_nobody_knows_is_accepted_while_the_unit_is_open() -> None:
    desk = Desk()
    assert desk.complete("t0.1", attempt=3)
    assert desk.lease("r0", units=9) == ["t0.0"]


def test_a_completion_of_a_frozen_step_is_accepted_only_if_it_is_the_frozen_one() -> None:
    desk = Desk()
    desk.do_step(0)
    assert desk.complete("t0.0", attempt=1)
    assert not desk.complete("t0.0", attempt=2)


def test_a_rollout_whose_shard_was_adopted_is_not_told_that_its_lease_is_lost() -> None:
    desk = Desk()
    desk.lease("r0")
    desk.wait(LEASE_SECONDS)
    desk.search(t0_0=[shard_of(desk.unit("t0.0"))])
    assert desk.beat("r0", "t0.0") == []


def test_a_reply_never_mixes_weight_versions() -> None:
    desk = Desk(max_staleness=1)
    desk.complete("t0.0")
    desk.publish(1)
    assert desk.lease("r0", units=9) == ["t0.1"]
    assert desk.lease("r0", units=9) == ["t1.0", "t1.1", "t2.0", "t2.1"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other weights": ({"version": 1}, "requires version 0"),
    "missing rows": ({"rows": 3}, "has 3 rows"),
    "another key": ({"key": "trajectories/elsewhere-a1.parquet"}, "elsewhere"),
    "a unit of another size": ({"num_samples": 3}, "not one of this run"),
    "a step that is not open": ({"step": 2}, "open are steps"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_completion_that_contradicts_the_run_is_refused(change: dict[str, Any], message: str) -> None:
    desk = Desk()
    unit_change = {k: v for k, v in change.items() if k in ("num_samples", "step")}
    shard_change = {k: v for k, v in change.items() if k in ("rows", "key")}
    shard = shard_of(desk.unit("t0.0").model_copy(update=unit_change), version=change.get("version", 0))
    completion = leasing.Completion(rollout_id="r0", lease_id="x", shard=shard.model_copy(update=shard_change))
    with pytest.raises(RefusedError, match=message):
        leasing.complete(desk.state, completion, desk.now)


def test_a_unit_that_a_restarted_ledger_does_not_know_yet_is_neither_refused_nor_lost() -> None:
    """Its weights went out by broadcast and are not in storage: the ledger will hear of them."""
    before = Desk()
    before.do_step(0)
    before.lease("r0", holds=1)
    desk = Desk()
    desk.adopt()
    with pytest.raises(EarlyError, match="step-000001"):
        desk.complete("t1.0")
    assert desk.beat("r0", before.leases["t1.0"]) == []
    assert desk.complete("t1.0")


def test_a_held_request_shows_no_life_after_it_came() -> None:
    desk = Desk()
    desk.lease("r0", units=2)
    desk.wait(LEASE_SECONDS)
    request = LeaseRequest(rollout_id="r1", weight_version=0)
    desk.state, _ = leasing.lease(desk.state, request, desk.now, received=3.0)
    assert desk.state.rollouts["r1"].seen == 3.0
