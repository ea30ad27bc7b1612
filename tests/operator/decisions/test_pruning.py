"""What is remembered of members: nothing more than needed, and no number of a pod twice."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_builders import wanted

from rz_api.status import MemberState, RunStatus
from rz_operator.decisions.decide import decide
from rz_operator.decisions.look import Look
from rz_operator.decisions.members import Observation, Observed, Start
from rz_operator.decisions.pruning import MAX_STATES, pruned

NOW = 1_000_000.0
MANY = 10_000


def rollout(index: int, incarnation: int = 1, restarts: int = 0) -> Observed:
    return Observed("rollout", index, incarnation, "running", uid=f"r{index}-{incarnation}", restarts=restarts)


def left_of(members: dict[str, MemberState], *there: Observed, rollouts: int = 3) -> dict[str, MemberState]:
    """What is kept of ``members``."""
    look = Look(wanted(rollouts=rollouts), Observation(there), NOW, RunStatus(members=members))
    return pruned(look).status.members


CASES: dict[str, tuple[dict[str, Any], tuple[Observed, ...], dict[str, Any]]] = {
    "nothing that would be assumed anyway": ({"rollout-1": {}}, (rollout(1),), {}),
    "a wait that is long over": ({"rollout-1": {"not_before": NOW - 61}}, (), {}),
    "a wait that is just over": ({"rollout-1": {"not_before": NOW - 59}}, (), {"rollout-1": {"not_before": NOW - 59}}),
    "a number, while it is wanted": ({"rollout-1": {"incarnation": 4}}, (), {"rollout-1": {"incarnation": 4}}),
    "a member that was scaled away": ({"rollout-3": {"incarnation": 4, "failures": 2}}, (), {}),
    "one that was scaled away and is still there": (
        {"rollout-3": {"incarnation": 4}},
        (rollout(3, 4),),
        {"rollout-3": {"incarnation": 4}},
    ),
    "one that was scaled away, of which an older pod is still there": (
        {"rollout-3": {"incarnation": 4}},
        (rollout(3, 2),),
        {"rollout-3": {"incarnation": 4}},
    ),
    "a role that does not exist": ({"cook-1": {"failures": 2}}, (), {}),
}


@pytest.mark.parametrize(("before", "there", "after"), CASES.values(), ids=CASES)
def test_what_is_kept(before: dict[str, Any], there: tuple[Observed, ...], after: dict[str, Any]) -> None:
    members = {key: MemberState(**fields) for key, fields in before.items()}
    assert left_of(members, *there) == {key: MemberState(**fields) for key, fields in after.items()}


def test_a_rollout_that_was_scaled_away_and_hangs_is_not_met_by_its_successor() -> None:
    """Its pod of number 4 is on a lost node; scaled up again, the next one has another name."""
    stuck = Observed("rollout", 2, 4, "running", uid="stuck", deleting=True, reason="NodeLost")
    status = RunStatus(phase="Running", members={"rollout-2": MemberState(incarnation=4)})
    world = Observation((stuck,))
    for count in (2, 3, 3):
        decision = decide(wanted(rollouts=count), status, world, NOW)
        status = decision.status
    later = decide(wanted(rollouts=3), status, world, NOW + 1000)
    starts = [each for each in later.actions if isinstance(each, Start)]
    assert [each.incarnation for each in starts if (each.role, each.index) == ("rollout", 2)] == [5]


def size_of(members: dict[str, MemberState]) -> int:
    return len(json.dumps(RunStatus(members=members).to_dict(), separators=(",", ":")))


def test_ten_thousand_rollouts_that_were_each_replaced_once_take_no_room() -> None:
    """1.14 MB, entry by entry: no object of an API server may be as large."""
    members = {f"rollout-{i}": MemberState(incarnation=2, not_before=NOW - 100 - i) for i in range(MANY)}
    assert size_of(left_of(members, rollouts=MANY)) < 600


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, MemberState], tuple[Observed, ...]]:
    """Ten thousand rollouts, each with a past of its own; some have a pod, some have not."""
    random = Random(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from((1, 3, 30, 1000)))
    share = draw(st.sampled_from((0.0, 0.5, 1.0)))
    members, there = {}, []
    for index in range(MANY):
        entry = MemberState(
            incarnation=1 + random.randrange(spread),
            failures=random.randrange(min(spread, 6)),
            ends_in_a_row=random.randrange(spread),
            restarts_seen=random.randrange(spread),
            not_before=NOW + random.randrange(spread) if random.random() < 0.3 else 0.0,
        )
        members[f"rollout-{index}"] = entry
        if random.random() < share:
            older = random.random() < 0.1 and entry.incarnation > 1
            there.append(rollout(index, entry.incarnation - older, entry.restarts_seen))
    return members, tuple(there)


@settings(max_examples=8, deadline=None)
@given(histories())
def test_whatever_happened_the_status_stays_small_and_on_the_safe_side(
    history: tuple[dict[str, MemberState], tuple[Observed, ...]],
) -> None:
    members, there = history
    kept = left_of(members, *there, rollouts=MANY)
    assert size_of(kept) < 60 * 1024
    assert len({str(entry) for entry in kept.values()}) <= MAX_STATES
    pods = {member.index: member for member in there}
    for index in range(MANY):
        before, after = members[f"rollout-{index}"], kept.get(f"rollout-{index}", MemberState())
        pod = pods.get(index)
        if pod is None or pod.incarnation != before.incarnation:
            assert after.incarnation >= before.incarnation, "a number would be used again, or an end counted again"
        elif after.incarnation == pod.incarnation:
            assert after.restarts_seen >= before.restarts_seen, "a restart would be counted twice"
        else:
            assert after == MemberState(), "its number is not read off the pod"
        assert after.failures <= before.failures


def test_what_was_dropped_is_read_off_the_pods_and_nothing_is_done_to_them() -> None:
    count = 400
    members = {f"rollout-{i}": MemberState(incarnation=2 + i, restarts_seen=i) for i in range(count)}
    there = [rollout(i, 2 + i, restarts=i) for i in range(count)]
    trainer = Observed("trainer", 0, 1, "running", uid="t")
    others = [Observed(role, 0, 1, "running", uid=role) for role in ("ledger", "reward")]
    world = Observation((trainer, *others, *there))
    status = RunStatus(phase="Running", gang={"incarnation": 1}, members=members)
    first = decide(wanted(rollouts=count, ranks=1), status, world, NOW)
    assert len(first.status.members) < count
    second = decide(wanted(rollouts=count, ranks=1), first.status, world, NOW)
    assert (first.actions, second.actions) == ((), ())
    assert not second.status.restarts
    assert second.status == first.status
