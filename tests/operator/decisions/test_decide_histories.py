"""Random histories: members fail, vanish and hang while whoever acts on decisions is killed between any two actions,
loses its write, or looks at an old picture. In the end everything that is wanted runs, nothing else does, and no
failure was counted twice.

First many seeded histories of a cluster (``decide_world``), then small ones that hypothesis searches and shrinks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
import pytest
from decide_world import World
from hypothesis import given, settings
from operator_builders import wanted

from rz_api.status import FINAL_PHASES, RunStatus
from rz_operator.decisions.decide import decide
from rz_operator.decisions.failures import judge
from rz_operator.decisions.members import Observation, Observed, Reached, Start, Stop, Wanted

HISTORIES = 10_000
PARTS = 10

CRASHES: tuple[tuple[int | None, int | None, str], ...] = (
    (None, 9, ""),
    (70, None, ""),
    (76, None, ""),
    (3, None, ""),
    (137, None, "OOMKilled"),
    (75, None, ""),
    (65, None, ""),
    (137, None, "Evicted"),
    (None, None, "OutOfcpu"),
    (143, None, "NodeShutdown"),
    (None, None, "TopologyAffinityError"),
    (None, None, "OutOfamd.com/gpu"),
    (137, None, "LocalStorageExceeded"),
    (75, None, "LocalStorageExceeded"),
)
"""Exit code, signal, reason."""


MODES: dict[str, dict[str, Any]] = {
    "the operator, trainers alone": {"gang_timeout_seconds": 60.0},
    "the operator, with a rollout": {"gang_timeout_seconds": 60.0, "min_rollouts": 1},
    "a group of trainers": {"grouped": True},
    "a group with a rollout": {"grouped": True, "min_rollouts": 1},
    "a group with two rollouts": {"grouped": True, "min_rollouts": 2},
}
"""Who sees to the gang, and what it is."""


def cluster(mode: str, rollouts: int = 2, suspend: bool = False) -> Wanted:
    made = wanted(ranks=2, rollouts=rollouts, suspend=suspend, maxRestarts=4, rolloutFailures=3, maxDisruptions=6)
    fields = MODES[mode]
    return replace(made, **fields | {"min_rollouts": min(rollouts, fields.get("min_rollouts", 0))})


CLUSTERS = {
    (mode, rollouts, suspend): cluster(mode, rollouts, suspend)
    for mode in MODES
    for rollouts in (0, 1, 2, 3)
    for suspend in (False, True)
}


def anyone(world: World, rng: random.Random, bound: bool = True) -> tuple[Any, ...] | None:
    names = world.names(bound=bound)
    return rng.choice(names) if names else None


def crash(world: World, rng: random.Random) -> None:
    if name := anyone(world, rng):
        world.end(name, *rng.choice(CRASHES))


def finish(world: World, rng: random.Random) -> None:
    """Ranks complete their work, or someone finds a mistake that only the user can mend. Rare: both end the run."""
    if rng.random() < 0.1 and (name := anyone(world, rng)):
        world.end(name, 64)
    elif rng.random() < 0.2:
        for name in world.names("trainer")[: rng.choice([1, 2, 2])]:
            world.end(name, 0)


def preempt(world: World, rng: random.Random) -> None:
    if name := anyone(world, rng):
        world.delete(name, 30.0, "PreemptionByScheduler")


def somebody_deletes(world: World, rng: random.Random) -> None:
    if name := anyone(world, rng, bound=False):
        world.delete(name, rng.choice([0.0, 30.0, 600.0]))


def vanish(world: World, rng: random.Random) -> None:
    if name := anyone(world, rng, bound=False):
        del world.members[name]


def lose_node(world: World, rng: random.Random) -> None:
    if name := anyone(world, rng):
        world.lose_node(name, noticed=rng.random() < 0.7)


def bind_some(world: World, rng: random.Random) -> None:
    world.bind(rng.choice([1, 1, 2, 9]))


def quota(world: World, rng: random.Random) -> None:
    world.quota = not world.quota


def other_gangs(world: World, rng: random.Random) -> None:
    world.give_way_to = "" if world.give_way_to else "elder"


def respec(world: World, rng: random.Random) -> None:
    """Scaled, suspended or resumed."""
    rollouts, suspend = world.wanted.role("rollout").count, world.wanted.suspend
    if rng.random() < 0.5:
        rollouts = rng.choice([0, 1, 2, 3])
    else:
        suspend = not suspend
    world.wanted = CLUSTERS[world.mode, rollouts, suspend]


def other_version(world: World, rng: random.Random) -> None:
    """The operator is rolled back, takes a turn, and is rolled forward."""
    world.forget_what_is_new()


def progress(world: World, rng: random.Random) -> None:
    world.units += rng.choice([1, 1, 8])


def time_passes(world: World, rng: random.Random) -> None:
    world.now += rng.choice([1.0, 15.0, 45.0, 120.0])


def turn(world: World, rng: random.Random) -> None:
    world.reconcile()


def killed_turn(world: World, rng: random.Random) -> None:
    """Before the write, or after it and some of the actions."""
    if rng.random() < 0.2:
        world.reconcile(write=False)
    else:
        world.reconcile(survive=rng.randrange(6))


def stale_turn(world: World, rng: random.Random) -> None:
    """An old picture of the members, of the status, or of both; perhaps killed as well."""
    if world.pictures:
        members, status = rng.choice([(1, 0), (0, 1), (1, 1)])
        age = rng.randrange(1, len(world.pictures) + 1)
        world.reconcile(members * age, status * age, rng.choice([None, None, 1, 2]))


EVENTS: tuple[Callable[[World, random.Random], None], ...] = (
    *(turn,) * 5,
    *(killed_turn,) * 4,
    *(stale_turn,) * 4,
    *(time_passes,) * 3,
    *(bind_some,) * 4,
    *(crash,) * 4,
    finish,
    preempt,
    somebody_deletes,
    vanish,
    lose_node,
    quota,
    other_gangs,
    other_version,
    respec,
    progress,
    lambda world, rng: world.finish_deletions(),
)


def play_history(seed: str) -> World:
    rng = random.Random(seed)
    mode = rng.choice(list(MODES))
    world = World(CLUSTERS[mode, 2, False], mode)
    if rng.random() < 0.7:  # most histories begin with a run that is up
        world.reconcile()
        world.bind()
        world.reconcile()
    for _ in range(rng.randrange(5, 40)):
        world.remember()
        rng.choice(EVENTS)(world, rng)
        world.check()
    return world


@pytest.mark.parametrize("part", range(PARTS))
def test_ten_thousand_histories_of_a_cluster_converge_leak_nothing_and_count_no_failure_twice(part: int) -> None:
    endings = set()
    for number in range(part, HISTORIES, PARTS):
        seed = f"history {number}"
        try:
            world = play_history(seed)
            world.calm_down()
        except AssertionError as error:
            raise AssertionError(f"{seed!r}: {error}") from error
        endings.add(world.status.phase)
    assert endings == {"Running", "Suspended", "Succeeded", "Failed"}, "the histories should end in every way"


TROUBLES: tuple[Callable[[World, random.Random], None], ...] = (crash, crash, preempt, somebody_deletes, lose_node)


@pytest.mark.parametrize("mode", MODES)
def test_with_true_pictures_one_trouble_after_the_other_is_counted_exactly_once(mode: str) -> None:
    counted = 0
    for number in range(200):
        rng = random.Random(f"troubles {number}")
        world = World(CLUSTERS[mode, 2, False], mode)
        world.calm_down()
        for _ in range(8):
            before = {m.uid: m.restarts for m in world.members.values() if m.role == "rollout"}
            rng.choice(TROUBLES)(world, rng)
            replaced = any(m.uid in before and m.deleting and before[m.uid] for m in world.members.values())
            for _ in range(3):
                world.reconcile(survive=rng.choice([None, 0, 1, 3]))
                world.now += 15.0
            world.calm_down()
            expected = {"trainer": len(world.trainer_failures), **world.other_failures}
            assert world.status.restarts == {role: count for role, count in expected.items() if count}, number
            if replaced or world.status.phase == "Failed":
                break
        counted += sum(world.status.restarts.values())
    assert counted > 150, "the histories should be full of failures"


# --------------------------------------------------------------------------------------- one machine, small histories


WANTED = wanted(ranks=2, rollouts=2, maxRestarts=3, rolloutFailures=3)

ENDS: dict[str, dict[str, Any]] = {
    "killed": {"signal": 9},
    "exception": {"exit_code": 70},
    "drained": {"exit_code": 75},
    "superseded": {"exit_code": 65},
    "evicted": {"reason": "Evicted"},
    "evicted over its own limit": {"reason": "LocalStorageExceeded"},
    "turned away": {"reason": "Whatever", "disrupted": True},
    "user error": {"exit_code": 64},
    "exit 0": {"phase": "succeeded", "exit_code": 0},
}


@dataclass
class SmallWorld:
    """Processes that really exist, and the one status that is really stored."""

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


def play(world: SmallWorld, operation: tuple[Any, ...]) -> None:
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


@settings(max_examples=400)
@given(st.lists(operations, max_size=60))
def test_any_history_converges_leaks_nothing_and_counts_each_failure_at_most_once(
    history: list[tuple[Any, ...]],
) -> None:
    world = SmallWorld()
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


@settings(max_examples=200)
@given(st.lists(operations, max_size=40))
def test_deciding_twice_on_the_same_picture_changes_nothing_more(history: list[tuple[Any, ...]]) -> None:
    world = SmallWorld()
    for operation in history:
        play(world, operation)
    seen = Observation(tuple(world.members.values()), Reached(world.units // 8, world.units % 8))
    now_wanted = replace(WANTED, suspend=world.suspend)
    first = decide(now_wanted, world.status, seen, world.now)
    second = decide(now_wanted, first.status, seen, world.now)
    third = decide(now_wanted, second.status, seen, world.now)
    assert second.status.restarts == first.status.restarts
    assert (third.actions, third.status) == (second.actions, second.status)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["killed", "exception", "evicted", "drained"]), max_size=6))
def test_with_true_pictures_every_gang_failure_is_counted_exactly_once(ends: list[str]) -> None:
    world = SmallWorld()
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
