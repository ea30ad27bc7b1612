"""Random histories: members fail, vanish and hang while whoever acts on decisions is killed between any two actions,
loses its write, or looks at an old picture. In the end everything that is wanted runs, nothing else does, and no
failure was counted twice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings
from operator_builders import wanted

from rz_api.status import FINAL_PHASES, RunStatus
from rz_operator.decide import decide
from rz_operator.failures import judge
from rz_operator.members import Observation, Observed, Reached, Start, Stop

WANTED = wanted(ranks=2, rollouts=2, maxRestarts=3, rolloutFailures=3)

ENDS: dict[str, dict[str, Any]] = {
    "killed": {"signal": 9},
    "exception": {"exit_code": 70},
    "drained": {"exit_code": 75},
    "superseded": {"exit_code": 65},
    "evicted": {"reason": "Evicted"},
    "user error": {"exit_code": 64},
    "exit 0": {"phase": "succeeded", "exit_code": 0},
}


@dataclass
class World:
    """Members that really exist, and the one status that is really stored."""

    members: dict[tuple[str, int, int], Observed] = field(default_factory=dict)
    status: RunStatus = field(default_factory=RunStatus)
    suspend: bool = False
    now: float = 0.0
    units: int = 0
    born: int = 0
    pictures: list[tuple[Observed, ...]] = field(default_factory=list)
    counted: set[tuple[str, int, int]] = field(default_factory=set)
    """Ends that deserve to be counted, by what was started."""

    def reconcile(self, lag: int = 0, survive: int | None = None, lose_write: bool = False) -> None:
        """One turn. ``lag``: how many pictures ago the observation was made; ``survive``: actions before the kill."""
        self.pictures.append(tuple(self.members.values()))
        seen = self.pictures[max(0, len(self.pictures) - 1 - lag)]
        reached = Reached(self.units // 8, self.units % 8)
        decision = decide(replace(WANTED, suspend=self.suspend), self.status, Observation(seen, reached), self.now)
        if lose_write:
            return
        self.status = decision.status
        for action in decision.actions[:survive]:
            self.start(action) if isinstance(action, Start) else self.stop(action)

    def start(self, start: Start) -> None:
        key = (start.role, start.index, start.incarnation)
        if key not in self.members:
            self.born += 1
            self.members[key] = Observed(start.role, start.index, start.incarnation, "running", uid=str(self.born))

    def stop(self, stop: Stop) -> None:
        key = (stop.role, stop.index, stop.incarnation)
        member = self.members.get(key)
        if member is None or member.uid != stop.uid:
            return
        if member.live:
            self.members[key] = replace(member, deleting=True)
        else:
            del self.members[key]

    def end(self, choice: int, how: str) -> None:
        alive = [key for key, member in self.members.items() if member.live]
        if not alive:
            return
        key = alive[choice % len(alive)]
        if how == "vanished":
            del self.members[key]
            return
        ended = replace(self.members[key], **{"phase": "failed", **ENDS[how]})
        self.members[key] = ended
        if judge(ended).verdict == "counted":
            self.counted.add((key[0], -1 if key[0] == "trainer" else key[1], key[2]))

    def finish_deletions(self) -> None:
        self.members = {key: member for key, member in self.members.items() if not member.deleting}

    def check_counts(self) -> None:
        for role in ("ledger", "reward", "rollout", "trainer"):
            deserved = sum(1 for key in self.counted if key[0] == role)
            assert self.status.restarts.get(role, 0) <= deserved, role
        assert self.status.gang.restarts == self.status.restarts.get("trainer", 0)
        individuals = [(m.role, m.index) for m in self.members.values() if m.live and m.role != "trainer"]
        assert len(individuals) == len(set(individuals)), "two of one individual member are alive"

    def settle(self) -> None:
        """The world calms down: true pictures, finished deletions, time passes."""
        for _ in range(12):
            self.finish_deletions()
            self.reconcile()
            self.check_counts()
            self.now += 400

    def alive(self) -> set[tuple[str, int, int]]:
        return {key for key, member in self.members.items() if member.live}


operations = st.one_of(
    st.tuples(st.just("turn")),
    st.tuples(st.just("stale turn"), st.integers(1, 4)),
    st.tuples(st.just("killed turn"), st.integers(0, 5)),
    st.tuples(st.just("lost write")),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(["killed", "exception", "killed", "vanished", *ENDS])),
    st.tuples(st.just("deletions finish")),
    st.tuples(st.just("time"), st.sampled_from([1.0, 15.0, 120.0])),
    st.tuples(st.just("unit")),
    st.tuples(st.just("suspend or resume")),
)


def play(world: World, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("turn",):
            world.reconcile()
        case ("stale turn", lag):
            world.reconcile(lag=lag)
        case ("killed turn", survive):
            world.reconcile(survive=survive)
        case ("lost write",):
            world.reconcile(lose_write=True)
        case ("end", choice, how):
            world.end(choice, how)
        case ("deletions finish",):
            world.finish_deletions()
        case ("time", seconds):
            world.now += seconds
        case ("unit",):
            world.units += 1
        case ("suspend or resume",):
            world.suspend = not world.suspend


@settings(max_examples=400, deadline=None)
@given(st.lists(operations, max_size=60))
def test_any_history_converges_leaks_nothing_and_counts_each_failure_at_most_once(
    history: list[tuple[Any, ...]],
) -> None:
    world = World()
    for operation in history:
        play(world, operation)
        world.check_counts()
    world.settle()
    status, alive = world.status, world.alive()
    if status.phase in FINAL_PHASES:
        assert not alive
    elif world.suspend:
        assert (status.phase, world.members) == ("Suspended", {})
    else:
        gang = status.gang.incarnation
        entries = {key: entry.incarnation for key, entry in status.members.items()}
        individuals = {("ledger", 0), ("reward", 0), ("rollout", 0), ("rollout", 1)}
        assert status.phase == "Running"
        done = {key for key, member in world.members.items() if member.role == "trainer" and not member.live}
        assert alive | done == {("trainer", 0, gang), ("trainer", 1, gang)} | {
            (role, index, entries.get(f"{role}-{index}", 1)) for role, index in individuals
        }
        assert all(world.members[key].phase == "succeeded" for key in done), "a rank that is done waits for the others"


@settings(max_examples=200, deadline=None)
@given(st.lists(operations, max_size=40))
def test_deciding_twice_on_the_same_picture_changes_nothing_more(history: list[tuple[Any, ...]]) -> None:
    world = World()
    for operation in history:
        play(world, operation)
    seen = Observation(tuple(world.members.values()), Reached(world.units // 8, world.units % 8))
    now_wanted = replace(WANTED, suspend=world.suspend)
    first = decide(now_wanted, world.status, seen, world.now)
    second = decide(now_wanted, first.status, seen, world.now)
    third = decide(now_wanted, second.status, seen, world.now)
    assert second.status.restarts == first.status.restarts
    assert (third.actions, third.status) == (second.actions, second.status)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["killed", "exception", "evicted", "drained"]), max_size=6))
def test_with_true_pictures_every_gang_failure_is_counted_exactly_once(ends: list[str]) -> None:
    world = World()
    world.reconcile()
    world.reconcile()
    expected = 0
    for how in ends:
        ranks = [key for key in world.alive() if key[0] == "trainer"]
        if world.status.phase in FINAL_PHASES or len(ranks) < 2:
            break
        key = min(ranks)
        world.members[key] = replace(world.members[key], **{"phase": "failed", **ENDS[how]})
        expected += judge(world.members[key]).verdict == "counted"
        world.counted.add(("trainer", -1, key[2]))
        world.settle()
        assert world.status.gang.restarts == expected
