"""Whose turn it is for nodes: the policy as a table, then many runs with a scheduler that knows no gangs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from operator_builders import member, wanted

from rz_api.status import MemberState, RunStatus
from rz_operator.decisions.decide import decide
from rz_operator.decisions.gangs import SETTLE_SECONDS, GangView, give_way_to, lines_of, nodes, short_since, view
from rz_operator.decisions.members import Observation, Observed, Start, Wanted

NOW = 10_000.0
JUST_NOW, LONG_AGO = NOW - SETTLE_SECONDS + 1, NOW - SETTLE_SECONDS
GPUS = frozenset({"a line"})


def gang(
    run: str, created: float, pods: int = 0, bound: int = 0, since: float | None = None, **fields: object
) -> GangView:
    """Of four pods, in line unless the fields say otherwise."""
    made = GangView(run, created, wants_nodes=bound < 4, pods=pods, bound=bound, size=4, since=since, lines=GPUS)
    return replace(made, **fields)  # type: ignore[arg-type]


UNSTARTED = gang("me", 200)
PARTIAL = gang("me", 200, pods=4, bound=2, since=LONG_AGO)
BOUND = gang("me", 200, pods=4, bound=4)
ELDER = gang("elder", 100)
ELDER_SHORT = gang("elder", 100, pods=4, bound=1, since=LONG_AGO)
ELDER_BINDING = gang("elder", 100, pods=4, bound=1, since=JUST_NOW)
ELDER_BOUND = gang("elder", 100, pods=4, bound=4)
YOUNGER_SHORT = gang("younger", 300, pods=4, bound=1, since=LONG_AGO)

TABLE: list[tuple[str, GangView, list[GangView], str]] = [
    ("alone, a gang goes", UNSTARTED, [], ""),
    ("alone, a partial gang stays", PARTIAL, [], ""),
    ("one that has not started waits for an older one that has not either", UNSTARTED, [ELDER], "elder"),
    ("one that has not started waits while an older one is being bound", UNSTARTED, [ELDER_BINDING], "elder"),
    ("one that has not started waits while an older one is short of nodes", UNSTARTED, [ELDER_SHORT], "elder"),
    ("one that has not started goes when the older one has all its nodes", UNSTARTED, [ELDER_BOUND], ""),
    ("a partial gang gives way to an older one that is short of nodes", PARTIAL, [ELDER_SHORT], "elder"),
    ("a partial gang goes on while an older one is just being bound", PARTIAL, [ELDER_BINDING], ""),
    ("a partial gang goes on while an older one has no pods", PARTIAL, [ELDER], ""),
    ("a partial gang goes on when the older one has all its nodes", PARTIAL, [ELDER_BOUND], ""),
    ("a gang with all its nodes is never disturbed", BOUND, [ELDER_SHORT], ""),
    ("nobody gives way to a younger one", PARTIAL, [YOUNGER_SHORT], ""),
    ("one that had all its nodes and lost one keeps the others", replace(PARTIAL, placed=True), [ELDER_SHORT], ""),
    ("and goes before a younger one", UNSTARTED, [replace(ELDER_SHORT, placed=True)], "elder"),
    ("one in another line is in nobody's way", UNSTARTED, [replace(ELDER_SHORT, lines=frozenset({"other"}))], ""),
    (
        "one that stands in several lines is in the way in each",
        UNSTARTED,
        [replace(ELDER_SHORT, lines=frozenset({"other"}) | GPUS)],
        "elder",
    ),
    ("one in no line waits for nobody", replace(UNSTARTED, lines=frozenset()), [ELDER_SHORT], ""),
    ("and nobody waits for it", UNSTARTED, [replace(ELDER_SHORT, lines=frozenset())], ""),
    ("the oldest is named", UNSTARTED, [gang("second", 150), ELDER, YOUNGER_SHORT], "elder"),
    ("runs of the same age go by name: the first", gang("a", 100), [gang("b", 100)], ""),
    ("runs of the same age go by name: the second", gang("b", 100), [gang("a", 100)], "a"),
    ("one that backs off, is suspended or finished is passed over", UNSTARTED, [replace(ELDER, wants_nodes=False)], ""),
    ("one that backs off itself gives way to nobody", replace(UNSTARTED, wants_nodes=False), [ELDER], ""),
    ("one that joined the line anew is behind those who were in it", UNSTARTED, [replace(ELDER, rejoined=250.0)], ""),
    ("and before those who came later", gang("me", 300), [replace(ELDER, rejoined=250.0)], "elder"),
]


@pytest.mark.parametrize(("me", "others", "answer"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_policy(me: GangView, others: list[GangView], answer: str) -> None:
    assert give_way_to(me, others, NOW) == answer


def pods(incarnation: int, *bound: bool, at: float = 50.0) -> list[Observed]:
    return [
        member(f"trainer-{i}", incarnation, "running" if b else "pending", bound=b, started_at=at + i)
        for i, b in enumerate(bound)
    ]


def status(**gang_fields: object) -> RunStatus:
    made = RunStatus(phase="Running")
    return made.model_copy(update={"gang": made.gang.model_copy(update={"incarnation": 3, **gang_fields})})


def rollout(index: int, incarnation: int = 1, bound: bool = True) -> Observed:
    return member(f"rollout-{index}", incarnation, "running" if bound else "pending", bound=bound)


VIEWS: list[tuple[str, RunStatus, list[Observed], bool, tuple[bool, int, int, float | None]]] = [
    ("a new run is in line", RunStatus(), [], False, (True, 0, 0, None)),
    ("one with a part of its nodes is in line", status(), pods(3, True, False), False, (True, 2, 1, 50.0)),
    ("one with a part of its pods is in line", status(), pods(3, True), False, (True, 1, 1, 50.0)),
    ("one with all its nodes is not", status(), pods(3, True, True), False, (False, 2, 2, None)),
    ("pods of an old gang do not count", status(), pods(2, True, True), False, (True, 0, 0, None)),
    ("one that backs off is not in line", status(not_before=NOW + 1), [], False, (False, 0, 0, None)),
    ("a finished run is not in line", RunStatus(phase="Failed"), [], False, (False, 0, 0, None)),
    ("one whose first pod is refused is not in line", status(), [], True, (False, 0, 0, None)),
    ("one whose last pod is refused is in line", status(), pods(3, True), True, (True, 1, 1, 50.0)),
]


@pytest.mark.parametrize(
    ("run_status", "members", "refused", "expected"), [row[1:] for row in VIEWS], ids=[row[0] for row in VIEWS]
)
def test_the_view_of_a_run(
    run_status: RunStatus,
    members: list[Observed],
    refused: bool,
    expected: tuple[bool, int, int, float | None],
) -> None:
    seen = view("r", 5.0, wanted(ranks=2), run_status, members, NOW, ("trainer",) if refused else ())
    assert (seen.wants_nodes, seen.pods, seen.bound, seen.since) == expected


WITH_ROLLOUTS: list[tuple[str, int, dict[str, Any], list[Observed], float, tuple[int, int, bool]]] = [
    ("trainers alone are not all", 1, {}, [], 0, (0, 1, False)),
    ("a rollout without a node is none", 1, {}, [rollout(0, bound=False)], 0, (0, 1, False)),
    ("any of them will do", 1, {}, [rollout(0, bound=False), rollout(2)], 0, (1, 1, True)),
    ("more are welcome and not counted", 1, {}, [rollout(0), rollout(1)], 0, (1, 1, True)),
    ("two are needed", 2, {}, [rollout(1)], 0, (1, 2, False)),
    ("an old one that hangs on a lost node is none", 1, {0: (2, 0.0)}, [rollout(0)], 0, (0, 1, False)),
    ("one that waits out its back-off misses no node", 1, {0: (2, 50.0)}, [rollout(0)], 49, (1, 1, True)),
    ("until that is over", 1, {0: (2, 50.0)}, [], 50, (0, 1, False)),
    ("none is needed", 0, {}, [], 0, (0, 0, True)),
]


@pytest.mark.parametrize(
    ("needed", "entries", "members", "now", "expected"),
    [row[1:] for row in WITH_ROLLOUTS],
    ids=[row[0] for row in WITH_ROLLOUTS],
)
def test_what_a_gang_with_its_rollouts_has(
    needed: int,
    entries: dict[int, tuple[int, float]],
    members: list[Observed],
    now: float,
    expected: tuple[int, int, bool],
) -> None:
    asked = replace(wanted(ranks=2, rollouts=3), min_rollouts=needed)
    remembered = {
        f"rollout-{index}": MemberState(incarnation=incarnation, not_before=not_before)
        for index, (incarnation, not_before) in entries.items()
    }
    run_status = status().model_copy(update={"members": remembered})
    found = nodes([*pods(3, True, True), *members], asked, run_status, now)
    assert (found.trainers, found.of_trainers) == (2, 2)
    assert (found.rollouts, found.of_rollouts, found.all) == expected


def test_a_run_whose_trainers_have_nodes_and_whose_rollouts_have_not_is_in_line() -> None:
    asked = replace(wanted(ranks=2), min_rollouts=1)
    seen = view("r", 5.0, asked, status(), [*pods(3, True, True), rollout(0, bound=False)], NOW, ())
    assert (seen.wants_nodes, seen.bound, seen.size, seen.since) == (True, 2, 3, 50.0)


def test_a_run_whose_rollouts_are_refused_holds_nobody_back() -> None:
    """Its trainers have their nodes, and no node would bring what is missing: quota or a webhook keeps it."""
    asked = replace(wanted(ranks=2), min_rollouts=1)
    assert not view("r", 5.0, asked, status(), pods(3, True, True), NOW, ("rollout",)).wants_nodes
    assert view("r", 5.0, asked, status(), pods(3, True, False), NOW, ("rollout",)).wants_nodes


def lines(**sections: Any) -> frozenset[str]:
    return lines_of({"trainer": {"gpusPerNode": 8}, **sections})


H100 = {"gpusPerNode": 8, "nodeSelector": {"gpu": "h100"}}
A100 = {"nodeSelector": {"gpu": "a100"}}
SPOT = [{"key": "spot", "operator": "Exists"}]

LINES: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("the same pods", {}, {}, True),
    ("as many GPUs do not matter", {}, {"trainer": {"gpusPerNode": 1}}, True),
    ("GPUs are the default", {}, {"trainer": {}}, True),
    ("runs without GPUs stand in no line", {"trainer": {"gpusPerNode": 0}}, {"trainer": {"gpusPerNode": 0}}, False),
    ("another kind of GPU", {"scheduling": {"gpuResource": "amd.com/gpu"}}, {}, False),
    ("the usual kind of GPU, written out", {"scheduling": {"gpuResource": "nvidia.com/gpu"}}, {}, True),
    ("other devices", {"scheduling": {"resourceClaims": [{"resourceClaimTemplateName": "b200"}]}}, {}, False),
    ("another queue", {"scheduling": {"queueName": "a"}}, {"scheduling": {"queueName": "b"}}, False),
    ("other nodes", {"trainer": H100, "rollout": H100}, {"trainer": A100, "rollout": A100}, False),
    ("the trainers of one want the nodes of the other's rollouts", {"trainer": H100, "rollout": A100}, {}, False),
    ("rollouts on the same nodes are enough", {"trainer": H100, "rollout": A100}, {"trainer": A100}, True),
    ("colocated rollouts ask for nothing", {"trainer": H100, "rollout": {"placement": "colocated"}}, {}, False),
    ("other taints", {"trainer": {"tolerations": SPOT}, "rollout": {"tolerations": SPOT}}, {}, False),
    ("an empty list is none", {"trainer": {"tolerations": []}}, {}, True),
    (
        "other nodes by the template",
        *({role: {"podTemplate": {"spec": A100}} for role in ("trainer", "rollout")}, {}),
        False,
    ),
    ("nonsense is a kind of its own", {"trainer": 7, "scheduling": "x", "rollout": []}, {}, True),
]


@pytest.mark.parametrize(("mine", "other", "same"), [row[1:] for row in LINES], ids=[row[0] for row in LINES])
def test_who_stands_in_the_same_line(mine: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert bool(lines(**mine) & lines(**other)) is same


def test_a_suspended_run_is_not_in_line() -> None:
    assert not view("r", 5.0, wanted(suspend=True), RunStatus(), [], NOW, ()).wants_nodes


# ------------------------------------------------------------------------------------------------ many runs at once


@dataclass
class Arrival:
    """A run of the simulation; it takes ``seconds`` once it has all its nodes, one for a rollout included where it has
    any, and is then gone."""

    name: str
    at: float
    size: int
    seconds: float
    rollouts: int = 0
    line: str = "the line"
    status: RunStatus = field(default_factory=RunStatus)
    members: dict[str, Observed] = field(default_factory=dict)
    whole_at: float | None = None
    done: bool = False
    put_back: int = 0

    wanted: Wanted = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = replace(
            wanted(ranks=self.size, rollouts=self.rollouts),
            min_rollouts=min(1, self.rollouts),
            lines=frozenset({self.line}),
        )


@dataclass
class Nodes:
    """``capacity`` nodes of one pod each, and a scheduler that binds waiting pods one by one, in any order."""

    capacity: int
    rng: random.Random
    runs: list[Arrival]
    timeout: float = 60.0
    now: float = 0.0
    births: int = 0
    decisions: int = 0

    def __post_init__(self) -> None:
        for run in self.runs:
            run.wanted = replace(run.wanted, gang_timeout_seconds=self.timeout)

    def used(self) -> int:
        return sum(m.bound and m.role in ("trainer", "rollout") for run in self.here() for m in run.members.values())

    def here(self) -> list[Arrival]:
        return [run for run in self.runs if run.at <= self.now and not run.done]

    def schedule(self) -> None:
        waiting = [(run, key) for run in self.here() for key, m in run.members.items() if not m.bound]
        self.rng.shuffle(waiting)
        for run, key in waiting[: max(0, self.capacity - self.used())]:
            run.members[key] = replace(run.members[key], bound=True, phase="running")
        assert self.used() <= self.capacity

    def view(self, run: Arrival) -> GangView:
        return view(run.name, run.at, run.wanted, run.status, run.members.values(), self.now, ())

    def reconcile(self, run: Arrival, line: list[GangView]) -> None:
        self.decisions += 1
        older = give_way_to(self.view(run), [other for other in line if other.run != run.name], self.now)
        seen = Observation(tuple(run.members.values()), give_way_to=older)
        decision = decide(run.wanted, run.status, seen, self.now)
        run.put_back += any(event.reason in ("GangTimeout", "GaveWay") for event in decision.events)
        run.status = decision.status
        for action in decision.actions:
            key = f"{action.role}-{action.index}-{action.incarnation}"
            if isinstance(action, Start):
                if action.role == "trainer":
                    assert not older, f"{run.name} starts although it is the turn of {older}"
                self.births += 1
                run.members.setdefault(
                    key,
                    Observed(
                        action.role,
                        action.index,
                        action.incarnation,
                        "pending",
                        uid=str(self.births),
                        started_at=self.now,
                        bound=action.role in ("ledger", "reward"),
                    ),
                )
            else:
                assert run.whole_at is None or action.role != "trainer", f"{run.name} was disturbed"
                run.members.pop(key, None)

    def finish(self, run: Arrival) -> None:
        """It begins when all trainers have nodes, and one rollout."""
        gang = run.status.gang.incarnation
        trainers = [m for m in run.members.values() if m.role == "trainer" and m.incarnation == gang and m.bound]
        rollouts = [m for m in run.members.values() if m.role == "rollout" and m.bound]
        if run.whole_at is None and len(trainers) == run.size and (rollouts or not run.rollouts):
            run.whole_at = self.now
        if run.whole_at is not None and self.now >= run.whole_at + run.seconds:
            run.done, run.members = True, {}

    def play(self, until_done: list[Arrival], at_most: float, tick: float = 10.0) -> None:
        while not all(run.done for run in until_done):
            waiting = [run.name for run in until_done if not run.done]
            assert self.now < at_most, f"after {at_most:g} s these still wait: {waiting}"
            here = self.here()
            line = [self.view(run) for run in here]  # seen a moment ago: two runs may start at once
            for run in self.rng.sample(here, len(here)):
                if self.rng.random() < 0.7:  # every run is looked at now and then, not all at once
                    self.reconcile(run, line)
                if self.rng.random() < 0.3:
                    self.schedule()
            self.schedule()
            for run in self.here():
                self.finish(run)
            self.now += tick


def arrivals(rng: random.Random, number: int, capacity: int, rollouts: bool) -> list[Arrival]:
    """Most fit alone, one in ten never does."""
    runs, at = [], 0.0
    for index in range(number):
        at += rng.expovariate(1 / 60)
        size = capacity + rng.randrange(1, 4) if rng.random() < 0.1 else rng.randrange(1, capacity)
        extra = rng.randrange(min(3, max(1, capacity - size + 1))) if rollouts else 0
        runs.append(Arrival(f"run-{index:03}", at, size, rng.uniform(20, 300), extra))
    return runs


@pytest.mark.parametrize(
    ("seed", "rollouts"),
    [(0, False), (1, False), (2, True)],
    ids=["trainers alone", "trainers alone, again", "with rollouts that need nodes as well"],
)
def test_of_a_hundred_random_arrivals_every_gang_that_fits_alone_runs(seed: int, rollouts: bool) -> None:
    rng = random.Random(f"arrivals {seed}")
    runs = arrivals(rng, 100, 8, rollouts)
    fit = [run for run in runs if run.size + run.rollouts <= 8]
    assert 80 <= len(fit) < 100
    nodes = Nodes(8, rng, runs)
    nodes.play(fit, at_most=40_000)
    assert not [run.name for run in runs if run.whole_at is not None and run.size > 8]
    assert any(run.put_back for run in fit), "somebody should have had to wait"


@pytest.mark.parametrize("seed", range(3))
def test_gangs_that_need_all_nodes_go_in_the_order_of_their_age(seed: int) -> None:
    rng = random.Random(f"in order {seed}")
    runs = [Arrival(f"run-{i:02}", 40.0 * i, 4, rng.uniform(50, 200)) for i in range(25)]
    nodes = Nodes(4, rng, runs, timeout=100_000)
    nodes.play(runs, at_most=50_000)
    assert [run.name for run in sorted(runs, key=lambda run: run.whole_at or 0)] == [run.name for run in runs]


def test_with_room_for_one_of_two_gangs_that_meet_half_bound_the_older_one_runs_and_the_other_waits() -> None:
    rng = random.Random(0)
    old, young = Arrival("old", 0.0, 3, 500.0), Arrival("young", 1.0, 3, 50.0)
    nodes = Nodes(4, rng, [old, young], timeout=300.0, now=1.0)
    for run in (old, young):  # neither knew of the other
        nodes.reconcile(run, [])
        for index in (0, 1):
            key = f"trainer-{index}-1"
            run.members[key] = replace(run.members[key], bound=True, phase="running")
    nodes.play([old], at_most=1_000)
    assert old.whole_at is not None
    assert old.whole_at <= 1 + SETTLE_SECONDS + 60
    assert old.put_back == 0
    assert young.put_back >= 1
    assert young.whole_at is None
    nodes.play([young], at_most=2_000)


def test_any_number_of_older_gangs_that_can_never_fit_let_a_younger_one_have_its_turn() -> None:
    rng = random.Random(1)
    giants = [Arrival(f"giant-{i}", float(i), 5 + i, 1.0) for i in range(4)]
    small = Arrival("small", 10.0, 4, 50.0)
    nodes = Nodes(4, rng, [*giants, small], timeout=300.0)
    nodes.play([small], at_most=4 * 330 + 300)


def test_two_runs_whose_trainers_fit_and_whose_rollouts_do_not_go_one_after_the_other() -> None:
    rng = random.Random(0)
    old, young = Arrival("old", 0.0, 2, 500.0, rollouts=1), Arrival("young", 1.0, 2, 50.0, rollouts=1)
    nodes = Nodes(4, rng, [old, young], timeout=100_000.0, now=1.0)
    for run in (old, young):  # neither knew of the other: each has its trainers, and no node is left for a rollout
        nodes.reconcile(run, [])
        for index in (0, 1):
            key = f"trainer-{index}-1"
            run.members[key] = replace(run.members[key], bound=True, phase="running")
    nodes.play([old, young], at_most=2_000)
    assert old.put_back == 0
    assert young.put_back >= 1


def test_a_run_whose_rollouts_never_fit_gives_its_trainers_nodes_back() -> None:
    rng = random.Random(0)
    giant, small = Arrival("giant", 0.0, 4, 1.0, rollouts=1), Arrival("small", 10.0, 4, 50.0)
    nodes = Nodes(4, rng, [giant, small], timeout=300.0)
    nodes.play([small], at_most=1_000)
    assert giant.put_back >= 1


@pytest.mark.parametrize("seed", range(3))
def test_runs_of_two_namespaces_that_know_nothing_of_each_other_all_get_their_nodes_in_the_end(seed: int) -> None:
    rng = random.Random(f"namespaces {seed}")
    runs = [
        Arrival(f"run-{i:02}", rng.uniform(0, 600), rng.randrange(2, 8), rng.uniform(20, 100), 1, line=f"team-{i % 2}")
        for i in range(30)
    ]
    nodes = Nodes(8, rng, runs)
    nodes.play(runs, at_most=40_000)


def test_two_gangs_of_two_namespaces_that_block_each_other_at_the_same_time_do_not_come_back_together() -> None:
    one, other = (Arrival(name, 0.0, 3, 50.0, line=name) for name in ("one", "other"))
    nodes = Nodes(4, random.Random(0), [one, other])
    for nodes.now in range(0, 3_600, 5):
        for run in (one, other):
            nodes.reconcile(run, [])
        for run, rival in ((one, other), (other, one)):
            mine, its = ({k: m for k, m in r.members.items() if m.role == "trainer"} for r in (run, rival))
            at_most = 2 if its else 3  # as unfair as can be: of 4 nodes nobody gets a third beside the other
            for key in list(mine)[:at_most]:
                run.members[key] = replace(run.members[key], bound=True, phase="running")
        for run in nodes.here():
            nodes.finish(run)
        if one.done or other.done:
            break
    assert one.done or other.done
    assert one.put_back
    assert other.put_back


def test_a_gang_of_another_namespace_that_never_fits_holds_up_nobody() -> None:
    rng = random.Random(2)
    giant = Arrival("giant", 0.0, 9, 1.0, line="stranger")
    mine = [Arrival(f"mine-{i}", 10.0 + i, 3, 50.0, line="team") for i in range(2)]
    nodes = Nodes(8, rng, [giant, *mine], timeout=1e9)
    giant.wanted = replace(giant.wanted, gang_timeout_seconds=600.0, longest_gang_wait_seconds=600.0)
    nodes.play(mine, at_most=1_500)


def test_a_gang_waits_from_its_first_pod_on() -> None:
    assert short_since(pods(1, True, False, at=70.0), status()) == 70.0
    assert short_since(pods(1, True, False, at=70.0), status(short_since=80.0)) == 80.0
    assert short_since([], status(short_since=80.0)) is None


def test_a_gang_that_has_worked_waits_from_when_it_lost_a_node() -> None:
    assert short_since(pods(1, True, True, at=70.0), status(placed=True)) is None
