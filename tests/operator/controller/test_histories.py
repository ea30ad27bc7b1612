"""Random histories of a whole run on a cluster in memory, driven by the operator as it is: its looks, its cache behind
the truth, its writes, its restarts and deaths. What ``decide`` alone cannot know is here: objects besides pods.

In the end everything that is wanted is there, nothing else is (PodGroups and budgets are counted), no failure was
counted twice, and nothing that is not the run's was touched.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from cluster_in_memory import Body, ClusterInMemory, Killed, ended, is_of, run_object
from kube_builders import IMAGES

from rz_api import names
from rz_api.conditions import find
from rz_api.status import FINAL_PHASES, RunStatus
from rz_operator.apiserver.cluster import ApiError
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.apply import TransientError
from rz_operator.controller.cache import REDUCE, Cache
from rz_operator.controller.options import Options
from rz_operator.controller.reconcile import Reconciler
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.members import Event

HISTORIES, PARTS = 240, 6
TEAM, STRANGER = "team", "stranger"
KEY = RunKey(TEAM, "orz")
EVERYTHING = Capabilities(
    36, "policy/v1", {"coscheduling": "scheduling.x-k8s.io/v1alpha1", "volcano": "scheduling.volcano.sh/v1beta1"}, True
)

MODES: dict[str, Body] = {
    "operator": {"gangTimeoutSeconds": 60, "disruptionBudget": True},
    "coscheduling": {"gang": "coscheduling", "disruptionBudget": True},
    "kueue": {"gang": "kueue", "queueName": "q"},
    "volcano": {"gang": "volcano", "queueName": "q"},
}


def spec(mode: str) -> Body:
    return {
        "model": {"name": "base"},
        "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
        "storage": {"uri": "s3://runs/orz"},
        "trainer": {"nodes": 2, "gpusPerNode": 1},
        "rollout": {"replicas": 2},
        "scheduling": MODES[mode],
        "failurePolicy": {"maxRestarts": 4, "rolloutFailures": 3, "maxDisruptions": 6},
    }


class Ledger:
    """What the run's ledger says (``reconcile.LedgerReader``)."""

    def __init__(self) -> None:
        self.units = 0

    async def read(self, key: RunKey) -> Body | None:
        return {"step": self.units // 8, "units_done": self.units % 8, "phase": "running"}

    def silent_since(self, key: RunKey) -> float | None:
        return None

    def forget(self, key: RunKey) -> None:
        """It remembers nothing."""


class Nobody:
    """Is told of what happens (``reconcile.Watcher``)."""

    def tell(self, body: Any, event: Event) -> None:
        """Nothing."""

    def refused(self, kind: str) -> None:
        """Nothing."""


class World:
    """A run, a cluster and an operator that dies and comes again."""

    def __init__(self, mode: str, seed: str) -> None:
        self.rng = random.Random(seed)
        self.now = 1_700_000_000.0
        self.cluster = ClusterInMemory(lambda: self.now)
        self.ledger = Ledger()
        self.stuck: set[str] = set()
        """UIDs of pods on lost nodes."""
        self.deserved = {"trainer": 0, "rollout": 0}
        """Ends that may be counted."""
        self.strangers: list[Body] = []
        self.helped = False
        self.cluster.add(run_object(spec(mode), KEY.name, TEAM))
        self.start_operator()

    # ------------------------------------------------------------------------------------------- the operator

    def start_operator(self) -> None:
        """A new life, which lists everything once."""
        self.cache = Cache()
        self.reconciler = Reconciler(
            self.cluster,  # type: ignore[arg-type]
            self.cache,
            Options(IMAGES),
            EVERYTHING,
            self.ledger,
            Nobody(),
            clock=lambda: self.now,
        )
        self.cluster.written.clear()
        for body in list(self.cluster.objects.values()):
            self._show(body["kind"], copy.deepcopy(body), False)

    def _show(self, kind: str, body: Body, deleted: bool) -> None:
        if kind == names.KIND:
            self.cache.see_run(body, deleted)
        # The watches have a selector; what loses its label is told as deleted.
        elif kind in REDUCE and body["metadata"].get("labels", {}).get(names.LABEL_MANAGED_BY) == names.MANAGER:
            self.cache.see_child(kind, body, deleted)  # type: ignore[arg-type]

    def watch(self, at_most: int | None = None) -> None:
        """The watches show what was written, in order."""
        number = len(self.cluster.written) if at_most is None else at_most
        for event in self.cluster.written[:number]:
            self._show(*event)
        del self.cluster.written[:number]

    def look(self, survive: int | None = None) -> None:
        """One look, as the work queue has it: what fails is tried again later. ``survive``: writes until it is
        killed."""
        self.cluster.survive = survive
        try:
            asyncio.run(self.reconciler.reconcile(KEY))
        except (ApiError, TransientError):
            pass
        except Killed:
            self.start_operator()
        finally:
            self.cluster.survive = None

    # ------------------------------------------------------------------------------------------------ what is

    @property
    def run(self) -> Body:
        return self.cluster.objects[names.KIND, TEAM, KEY.name]

    @property
    def status(self) -> RunStatus:
        return RunStatus.model_validate(self.run.get("status") or {}, by_alias=True, by_name=False)

    def pods(self, *roles: str) -> list[Body]:
        """The run's trainer and rollout pods that have a node, live, and are on a node that answers."""
        roles = roles or ("trainer", "rollout")
        return [
            pod
            for pod in self.cluster.of("Pod", TEAM)
            if is_of(pod, self.run) and pod["metadata"]["labels"][names.LABEL_ROLE] in roles
            if pod["status"].get("phase") == "Running" and pod["metadata"]["uid"] not in self.stuck
        ]

    def check(self) -> None:
        """What holds after every event."""
        counted = self.status.restarts
        assert counted.get("trainer", 0) <= self.deserved["trainer"]
        assert counted.get("rollout", 0) <= self.deserved["rollout"]
        for body in self.strangers:
            found = self.cluster.objects.get(("Pod", body["metadata"]["namespace"], body["metadata"]["name"]))
            assert found is not None, f"{body['metadata']['name']} is not the run's, and was deleted"
            assert found["metadata"]["uid"] == body["metadata"]["uid"]
        assert "stranger" not in str(self.run.get("status"))

    def at_rest(self) -> str:
        """Empty where exactly what is wanted is there; else what is wrong."""
        status, run = self.status, self.run
        mine = [body for (_, where, _), body in self.cluster.objects.items() if where == TEAM and is_of(body, run)]
        there = sorted(f"{body['kind']}/{body['metadata']['name']}" for body in mine)
        over = {f"Pod/{body['metadata']['name']}" for body in mine if body["kind"] == "Pod" and ended(body)}
        # Not what pods mount: that they run says that it was there when it was needed.
        mounted = {"ConfigMap/orz-run", f"Secret/{names.token_secret('orz', run['metadata']['uid'])}"}
        statics = {f"Service/orz-{name}" for name in ("ledger", "reward", "trainer")} | {"NetworkPolicy/orz-run"}
        wanted = set[str]()
        if status.phase == "Running" and not run["spec"].get("suspend"):
            number, rollouts = status.gang.incarnation, run["spec"]["rollout"]["replicas"]
            wanted = {f"Pod/{names.trainer_pod('orz', number, index)}" for index in (0, 1)}
            for index in range(rollouts):
                entry = status.members.get(f"rollout-{index}")
                wanted.add(f"Pod/{names.rollout_pod('orz', index, entry.incarnation if entry else 1)}")
            wanted |= {"Deployment/orz-ledger", "Deployment/orz-reward"}
            group = names.trainer_pod_group("orz", number)
            wanted |= {f"PodDisruptionBudget/{group}"} if run["spec"]["scheduling"].get("disruptionBudget") else set()
            has_group = run["spec"]["scheduling"].get("gang") in ("coscheduling", "volcano")
            wanted |= {f"PodGroup/{group}"} if has_group else set()
        elif status.phase not in FINAL_PHASES and not (status.phase == "Suspended" and run["spec"].get("suspend")):
            return f"the run is {status.phase}"
        idle = not wanted
        found = set(there) - (over if idle else set())
        missing, surplus = wanted - found, found - wanted - statics - mounted
        missing |= statics - found if not idle else set()
        pods = [pod for pod in mine if pod["kind"] == "Pod" and not idle]
        pods = [pod for pod in pods if pod["status"].get("phase") not in ("Running", "Succeeded")]
        waiting = [pod["metadata"]["name"] for pod in pods]
        wrong = missing or surplus or waiting
        return f"{status.phase}: missing {missing}, too much {surplus}, do not run: {waiting}" if wrong else ""

    def calm_down(self, rounds: int = 60) -> None:
        """No more trouble: nodes are back, what is deleted goes, everything is admitted and bound, time passes."""
        self.cluster.refuse.clear()
        self.stuck.clear()
        for number in range(rounds):
            settle(self)
            if number % 10 == 9:
                self.help()
            self.watch()
            before = self.cluster.num_writes
            self.look()
            self.check()
            if self.cluster.num_writes == before and not self.at_rest() and not self.helped:
                return
            self.now += 100.0
        raise AssertionError(f"no rest after {rounds} looks: {self.at_rest()}")

    def help(self) -> None:
        """Somebody does what the condition Accepted says: where the frozen run is lost (its ConfigMap was deleted while
        nobody had it in mind), suspend the run, and resume it when its pods are gone."""
        accepted = find(self.status.conditions, "Accepted")
        if accepted is not None and accepted.status == "False" and self.status.phase == "Running":
            assert "suspend the run, and resume it" in accepted.message
            self.helped = True
            self.cluster.change(self.run, spec={**self.run["spec"], "suspend": True})
        elif self.helped and self.status.phase in FINAL_PHASES:
            self.helped = False
        elif self.helped and self.status.phase == "Suspended":
            self.helped = False
            self.cluster.change(self.run, spec={**self.run["spec"], "suspend": False})


# ------------------------------------------------------------------------------------------------------- what happens


def settle(world: World) -> None:
    """The cluster does its part."""
    world.cluster.finish_deletions(world.stuck)
    world.cluster.run_deployments()
    world.cluster.bind()
    world.cluster.run_pods()


def a_pod(world: World, *roles: str) -> Body | None:
    found = world.pods(*roles)
    return world.rng.choice(found) if found else None


def deserve(world: World, pod: Body) -> None:
    world.deserved[pod["metadata"]["labels"][names.LABEL_ROLE]] += 1


def crash(world: World) -> None:
    if pod := a_pod(world):
        deserve(world, pod)
        world.cluster.end_container(pod, world.rng.choice([3, 70, 76, 137]))


def finish(world: World) -> None:
    if world.rng.random() < 0.2:
        for pod in world.pods("trainer")[: world.rng.choice([1, 2, 2])]:
            world.cluster.end_container(pod, 0)
    elif world.rng.random() < 0.05 and (pod := a_pod(world)):
        world.cluster.end_container(pod, 64)


def node_pressure(world: World) -> None:
    """An eviction that is nobody's fault."""
    if pod := a_pod(world):
        condition = {"status": "True", "reason": "TerminationByKubelet"}
        world.cluster.fail(pod, "Evicted", "The node was low on resource: memory.", DisruptionTarget=condition)


def own_limit(world: World) -> None:
    """An eviction that is the run's own."""
    if pod := a_pod(world):
        deserve(world, pod)
        world.cluster.fail(pod, "Evicted", 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ')


def turned_away(world: World) -> None:
    if pod := a_pod(world):
        world.cluster.fail(pod, world.rng.choice(["OutOfcpu", "TopologyAffinityError", "NewInThe40s"]), ran=False)


def lose_node(world: World) -> None:
    if pod := a_pod(world):
        world.stuck.add(pod["metadata"]["uid"])
        world.cluster.lose_node(pod)


def somebody_deletes_a_pod(world: World) -> None:
    if pod := a_pod(world):
        world.cluster.remove(pod, world.rng.choice([0, 30, 600]))


def somebody_deletes_an_object(world: World) -> None:
    """What the operator does not look at all the time: whatever a run cannot do without is made again."""
    kinds = ("ConfigMap", "Secret", "Service", "NetworkPolicy", "Deployment")
    if found := [body for kind in kinds for body in world.cluster.of(kind, TEAM) if is_of(body, world.run)]:
        world.cluster.remove(world.rng.choice(found))


def quota(world: World) -> None:
    kinds = ["Pod", "Pod", "PodGroup", "PodDisruptionBudget", "Service", "Secret"]
    world.cluster.refuse ^= {world.rng.choice(kinds)}


def hostile_pods(world: World) -> None:
    """Somebody who knows the run's labels: a copy of a pod in its namespace or another, with an end of its own."""
    pods = [pod for pod in world.cluster.of("Pod", TEAM) if is_of(pod, world.run)]
    if not pods:
        return
    copied = copy.deepcopy(world.rng.choice(pods))
    number = len(world.strangers)
    copied["metadata"] = {
        "name": copied["metadata"]["name"] if world.rng.random() < 0.5 else f"stranger-{number}",
        "namespace": STRANGER,
        "labels": copied["metadata"]["labels"],
        "ownerReferences": copied["metadata"]["ownerReferences"],
    }
    if world.rng.random() < 0.5:
        # In the run's own namespace a name is taken once, and the garbage collector removes what has a false owner.
        copied["metadata"] |= {"namespace": TEAM, "name": f"stranger-{number}", "ownerReferences": []}
    copied["metadata"]["labels"] |= {names.LABEL_INCARNATION: str(world.rng.choice([1, 2, 900_000, 10**8]))}
    copied["status"] = {"phase": "Failed", "containerStatuses": []}
    copied["spec"] |= {"nodeName": "node-2"}
    if ("Pod", copied["metadata"]["namespace"], copied["metadata"]["name"]) not in world.cluster.objects:
        stranger = world.cluster.add(copied)
        world.strangers.append(stranger)
        words = {"exitCode": world.rng.choice([0, 64]), "message": "a stranger's words"}
        status = {"phase": world.rng.choice(["Failed", "Succeeded"])}
        ended_one = {"name": "main", "restartCount": 0, "state": {"terminated": words}}
        world.cluster.change(stranger, status={**status, "containerStatuses": [ended_one]})


def respec(world: World) -> None:
    """Scaled, suspended or resumed."""
    run = copy.deepcopy(world.run)
    if world.rng.random() < 0.5:
        run["spec"]["rollout"]["replicas"] = world.rng.choice([0, 1, 2, 3])
    else:
        run["spec"]["suspend"] = not run["spec"].get("suspend", False)
    run["metadata"]["generation"] += 1
    world.cluster.change(world.run, spec=run["spec"], metadata=run["metadata"])


def progress(world: World) -> None:
    world.ledger.units += world.rng.choice([1, 1, 8])


def other_version(world: World) -> None:
    """An older operator has written the status, without what it does not know; or a newer one, with more."""
    status = copy.deepcopy(world.run.get("status") or {})
    if world.rng.random() < 0.5:
        for field in ("placed", "shortSince", "groupedRollouts", "disruptions"):
            status.get("gang", {}).pop(field, None)
    else:
        status["newInTheFuture"] = {"a": 1}
        status.setdefault("gang", {})["newInTheFuture"] = 7
    world.cluster.change(world.run, status=status)
    world.start_operator()


def time_passes(world: World) -> None:
    world.now += world.rng.choice([1.0, 15.0, 45.0, 120.0])


def cluster_works(world: World) -> None:
    world.rng.choice(
        (
            lambda: world.cluster.finish_deletions(world.stuck),
            world.cluster.run_deployments,
            lambda: world.cluster.bind(world.rng.choice([1, 2, 9])),
            world.cluster.run_pods,
            lambda: settle(world),
        )
    )()


def watch(world: World) -> None:
    """The cache comes nearer to the truth, perhaps not all the way."""
    world.watch(None if world.rng.random() < 0.7 else world.rng.randrange(4))


EVENTS: tuple[Callable[[World], None], ...] = (
    *(lambda world: world.look(),) * 6,
    *(lambda world: world.look(survive=world.rng.randrange(8)),) * 3,
    *(watch,) * 6,
    *(cluster_works,) * 6,
    *(time_passes,) * 3,
    *(crash,) * 2,
    *(node_pressure, own_limit, turned_away, lose_node, somebody_deletes_a_pod),
    *(somebody_deletes_an_object,) * 2,
    *(finish, quota, hostile_pods, hostile_pods, respec, progress, other_version),
    lambda world: world.start_operator(),
)


def play(seed: str) -> World:
    mode = random.Random(seed).choice(list(MODES))
    world = World(mode, seed)
    if world.rng.random() < 0.7:  # most histories begin with a run that is up
        for _ in range(4):
            world.look()
            settle(world)
            world.watch()
    for _ in range(world.rng.randrange(10, 50)):
        world.rng.choice(EVENTS)(world)
        world.check()
    return world


@pytest.mark.parametrize("part", range(PARTS))
def test_random_histories_of_a_run_on_a_cluster_converge_and_leak_nothing(part: int) -> None:
    endings = set()
    for number in range(part, HISTORIES, PARTS):
        seed = f"a run's history {number}"
        world = play(seed)
        try:
            world.calm_down()
        except AssertionError as error:
            raise AssertionError(f"{seed!r}: {error}") from error
        endings.add(world.status.phase)
    assert endings >= {"Running", "Suspended"}, "the histories should end in more than one way"


@pytest.mark.parametrize("mode", ["coscheduling", "volcano"])
def test_a_group_that_was_made_for_more_pods_than_there_are_to_be_is_made_anew(mode: str) -> None:
    """Its first pod was refused, and somebody made the run smaller."""
    world = World(mode, "a group")
    world.cluster.refuse.add("Pod")
    world.look()
    (group,) = world.cluster.of("PodGroup")
    assert group["spec"]["minMember"] == 3
    world.cluster.refuse.clear()
    smaller = {**world.run["spec"], "trainer": {"nodes": 1, "gpusPerNode": 1}}
    world.cluster.change(world.run, spec=smaller)
    for _ in range(4):
        world.watch()
        world.look()
        settle(world)
        world.now += 100.0
    (group,) = world.cluster.of("PodGroup")
    assert group["spec"]["minMember"] == 2
    assert {pod["status"]["phase"] for pod in world.cluster.of("Pod")} == {"Running"}


def test_a_budget_that_was_refused_just_before_the_operator_died_comes_all_the_same() -> None:
    world = World("operator", "a budget")
    world.cluster.refuse.add("PodDisruptionBudget")
    world.look()
    status = world.run["status"]
    status["retries"] = {}  # the write that remembers the refusal did not happen
    world.cluster.change(world.run, status=status)
    world.cluster.refuse.clear()
    world.start_operator()
    assert world.cluster.of("PodDisruptionBudget") == []
    world.look()
    assert len(world.cluster.of("PodDisruptionBudget")) == 1
    before = world.cluster.num_writes
    settle(world)
    world.watch()
    world.look()
    world.look()
    assert world.cluster.num_writes <= before + 1, "it is asked for once"
