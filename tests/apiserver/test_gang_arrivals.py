"""Trainer gangs that want more nodes than there are: the operator's own line, and Kueue's (a test double).

The line itself is tested without servers (``tests/operator/decisions/test_gangs.py``); here pods really compete.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from api_builders import document
from control_plane import apply_crd
from kube_api import Api, Object
from kubelet_double import Kubelet
from kueue_double import KueueDouble
from operator_process import OperatorProcess
from players import Players, age, gpus_of, now
from webhook_double import LabellingWebhook

from rz_api import names

WITHIN_SECONDS = 60.0
SECOND = 1.1
"""A creation time has whole seconds: runs that are made further apart have an order."""

Operator = Callable[..., OperatorProcess]
Wait = Callable[..., Any]


@dataclass
class Cluster:
    """One namespace with runs whose gangs compete; ``tick`` lets the players act and looks at what is so."""

    api: Api
    namespace: str
    kubelet: Kubelet
    players: Players
    wait_for: Wait
    nodes: dict[str, int] = field(default_factory=dict)
    """Trainer nodes (one GPU each) of each run, in the order of creation."""
    started: list[str] = field(default_factory=list)
    """Runs in the order in which their gangs first ran."""

    def submit(self, name: str, nodes: int, **spec: Any) -> None:
        fields = {
            "metadata.name": name,
            "spec.storage.uri": f"s3://bucket/{self.namespace}/{name}",
            "spec.trainer.nodes": nodes,
            "spec.trainer.gpusPerNode": 1,
            "spec.rollout.replicas": 1,
            "spec.failurePolicy.backoffSeconds": 1,
        }
        self.api.create(document(fields | spec), self.namespace)
        self.nodes[name] = nodes

    def status(self, name: str) -> Object:
        found: Object = self.api.get(names.KIND, self.namespace, name).get("status") or {}
        return found

    def condition(self, name: str, kind: str) -> Object:
        return next((each for each in self.status(name).get("conditions", []) if each["type"] == kind), {})

    def gangs(self) -> dict[str, list[Object]]:
        """Trainer pods of each run."""
        found: dict[str, list[Object]] = defaultdict(list)
        for pod in self.api.list("Pod", self.namespace, {names.LABEL_ROLE: "trainer"}):
            found[pod["metadata"]["labels"][names.LABEL_RUN]].append(pod)
        return found

    def running(self) -> list[str]:
        """Runs all of whose trainer pods run."""
        found = {}
        for name, pods in self.gangs().items():
            found[name] = sum(pod["status"]["phase"] == "Running" for pod in pods) == self.nodes[name]
        return [name for name, runs in found.items() if runs]

    def finish(self, name: str) -> None:
        """Its trainer pods succeed."""
        for pod in self.gangs()[name]:
            self.kubelet.succeed(self.namespace, pod["metadata"]["name"])

    def tick(self) -> None:
        self.players.tick()
        for name in self.running():
            if name not in self.started:
                self.started.append(name)

    def wait(self, look: Callable[[], Any], what: str, seconds: float = WITHIN_SECONDS) -> Any:
        return self.wait_for(look, seconds, each=self.tick, what=what)

    def hold(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tick()
            time.sleep(0.1)


@pytest.fixture
def cluster(api: Api, namespace: str, kubelet: Kubelet, players: Players, wait_for: Wait) -> Cluster:
    return Cluster(api, namespace, kubelet, players, wait_for)


# ---------------------------------------------------------------------------------------------- gang: operator


def test_with_room_for_one_gang_the_older_run_runs_and_the_others_wait_in_order(
    cluster: Cluster, operator: Operator
) -> None:
    cluster.kubelet.nodes = {"a": 2, "b": 1}  # a gang of 2 and its rollout
    for name in ("first", "second", "third"):  # before there is an operator: it finds all three at once
        cluster.submit(name, nodes=2)
        time.sleep(SECOND)
    operator(cluster.namespace)

    cluster.wait(lambda: cluster.running() == ["first"], "the oldest run's gang runs")

    def third_waits_for_second() -> bool:  # it named the first, until the operator saw that one's pods bound
        third = cluster.condition("third", "TrainerReady")
        is_waiting = (third.get("status"), third.get("reason")) == ("False", "WaitingForGang")
        return is_waiting and f"the older run {cluster.namespace}/second" in third["message"]

    cluster.wait(third_waits_for_second, "the youngest names the run before it")
    cluster.hold(3)
    assert cluster.running() == ["first"]
    assert "third" not in cluster.gangs(), "a gang that is held back has no pods"

    cluster.finish("first")
    cluster.wait(lambda: cluster.running() == ["second"], "the second run's gang runs when the first run is over")
    cluster.wait(lambda: cluster.status("first")["phase"] == "Succeeded", "the operator has seen that it is over")
    cluster.finish("second")
    cluster.wait(lambda: cluster.running() == ["third"], "the third run's gang runs when the second run is over")
    assert cluster.started == ["first", "second", "third"]
    assert cluster.status("third").get("restarts", {}) == {}, "waiting is no failure"


def test_a_run_whose_rollout_finds_no_node_gives_its_trainers_nodes_to_the_next(
    cluster: Cluster, operator: Operator
) -> None:
    cluster.kubelet.nodes = {"a": 0}
    # Trainers first: the rollout is what is left over.
    cluster.kubelet.order = lambda pod: (pod["metadata"]["labels"][names.LABEL_ROLE] != "trainer", age(pod))
    cluster.submit("large", nodes=2, **{"spec.scheduling.gangTimeoutSeconds": 10})
    time.sleep(SECOND)
    cluster.submit("small", nodes=1)
    operator(cluster.namespace)
    cluster.wait(lambda: len(cluster.gangs()["large"]) == 2, "there is more than one pod to choose from")
    cluster.kubelet.nodes = {"a": 2}
    cluster.wait(lambda: cluster.running() == ["large"], "the trainers of the older run have all nodes that there are")

    def rollout_runs() -> bool:
        pods = cluster.api.list("Pod", cluster.namespace, {names.LABEL_ROLE: "rollout", names.LABEL_RUN: "small"})
        return [pod["status"]["phase"] for pod in pods] == ["Running"]

    cluster.wait(
        lambda: cluster.running() == ["small"] and rollout_runs(), "the younger run has its turn, and a rollout"
    )
    assert cluster.status("large").get("restarts", {}) == {}, "waiting is no failure"
    assert cluster.status("large")["gang"]["incarnation"] > 1


def test_a_gang_waits_longer_while_an_autoscaler_brings_its_nodes(cluster: Cluster, operator: Operator) -> None:
    cluster.kubelet.nodes = {"a": 1}
    process = operator(cluster.namespace)
    cluster.submit("run", nodes=2, **{"spec.scheduling.gangTimeoutSeconds": 10})
    waiting = cluster.wait(lambda: waiting_pods(cluster), "a pod finds no node")
    for pod in waiting:
        cluster.api.create(scale_up(pod), cluster.namespace)
    cluster.hold(13)
    assert cluster.status("run")["gang"]["incarnation"] == 1, "its time stands still"
    cluster.kubelet.nodes = {"a": 1, "new": 2}
    cluster.wait(lambda: cluster.running() == ["run"], "the nodes are there")
    assert cluster.status("run")["gang"]["incarnation"] == 1
    assert process.denied(cluster.namespace) == []


def waiting_pods(cluster: Cluster) -> list[Object]:
    """Those that the scheduler found no node for."""
    pods = cluster.api.list("Pod", cluster.namespace)
    conditions = {pod["metadata"]["name"]: pod["status"].get("conditions") or [] for pod in pods}
    said = {name: [each.get("reason") for each in found] for name, found in conditions.items()}
    return [pod for pod in pods if "Unschedulable" in said[pod["metadata"]["name"]]]


def scale_up(pod: Object) -> Object:
    """The cluster-autoscaler's event."""
    meta = pod["metadata"]
    involved = {"apiVersion": "v1", "kind": "Pod", **{key: meta[key] for key in ("name", "namespace", "uid")}}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.scale-up", "namespace": meta["namespace"]},
        "involvedObject": involved,
        "type": "Normal",
        "reason": "TriggeredScaleUp",
        "message": "pod triggered scale-up: [{gpus 1->3 (max: 8)}]",
        "source": {"component": "cluster-autoscaler"},
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "count": 1,
    }


def test_a_gang_of_another_namespace_that_never_fits_holds_up_nobody_and_is_never_named(
    cluster: Cluster, strangers: str, operator: Operator
) -> None:
    cluster.kubelet.nodes = {"a": 3}
    giant = document(
        {
            "metadata.name": "giant",
            "spec.storage.uri": "s3://bucket/giant",
            "spec.trainer.nodes": 9,
            "spec.trainer.gpusPerNode": 1,
            "spec.scheduling.gangTimeoutSeconds": 86_400,
        }
    )
    cluster.api.create(giant, strangers)
    time.sleep(SECOND)
    operator(env={"RZ_MAX_GANG_TIMEOUT_SECONDS": "15"})
    cluster.wait(lambda: len(cluster.api.list("Pod", strangers, {names.LABEL_ROLE: "trainer"})) == 9, "it has its pods")
    cluster.hold(7)  # or both have the same time, and give back together
    cluster.submit("mine", nodes=2)
    cluster.submit("cpu", nodes=1, **{"spec.trainer.gpusPerNode": 0})
    cluster.wait(lambda: "cpu" in cluster.running(), "a run without GPUs stands in no line")
    cluster.wait(
        lambda: "mine" in cluster.running(), "the operator's limit gives the stranger's part of the nodes back"
    )
    for name in ("mine", "cpu"):
        assert "giant" not in str(cluster.status(name))
        assert "giant" not in str(cluster.api.list("Event", cluster.namespace))


def test_two_gangs_that_got_a_part_each_do_not_block_each_other(cluster: Cluster, operator: Operator) -> None:
    """The scheduler takes pods in an order of its own, so that both gangs are started in part."""
    cluster.kubelet.nodes = {"a": 4}
    cluster.kubelet.order = lambda pod: (pod["metadata"]["name"].rpartition("-")[2], pod["metadata"]["name"])
    cluster.submit("old", nodes=3)
    time.sleep(SECOND)
    cluster.submit("young", nodes=3)
    operator(cluster.namespace)
    cluster.wait(lambda: cluster.running() == ["old"], "the older gang gets all of its nodes")
    cluster.finish("old")
    cluster.wait(lambda: cluster.running() == ["young"], "then the younger one")


@pytest.mark.thorough
def test_random_arrivals_all_come_to_their_end(cluster: Cluster, operator: Operator) -> None:
    """8 gangs of 1 to 4 nodes come at random times to a cluster in which the largest just fits."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng, count = random.Random(seed), 8
    cluster.kubelet.nodes = {"a": 3, "b": 2}
    operator(cluster.namespace)
    arrivals = sorted(rng.uniform(0, 12) for _ in range(count))
    began = time.monotonic()
    lasts: dict[str, float] = {}
    """When each gang is to end."""
    while len(lasts) < count or any(cluster.status(name).get("phase") != "Succeeded" for name in cluster.nodes):
        now = time.monotonic() - began
        assert now < 300, f"seed {seed}: { ({name: cluster.status(name) for name in cluster.nodes}) }"
        while len(cluster.nodes) < count and arrivals[len(cluster.nodes)] <= now:
            cluster.submit(f"run-{len(cluster.nodes)}", nodes=rng.randint(1, 4))
        cluster.tick()
        for name in cluster.running():
            if now > lasts.setdefault(name, now + rng.uniform(0.5, 3)):
                cluster.finish(name)
        assert_no_more_than_there_is(cluster)
        time.sleep(0.1)
    print(f"{count} runs came to their end in {time.monotonic() - began:.0f} s")
    assert all(not cluster.status(name).get("restarts") for name in cluster.nodes)


def assert_no_more_than_there_is(cluster: Cluster) -> None:
    used = Counter[str]()
    for pod in cluster.api.list("Pod", cluster.namespace):
        if pod["status"]["phase"] == "Running":
            used[pod["spec"]["nodeName"]] += gpus_of(pod)
    assert all(used[node] <= gpus for node, gpus in cluster.kubelet.nodes.items())


# ------------------------------------------------------------------------------------------------- gang: kueue

KUEUE_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "workloads.kueue.x-k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
    },
    "spec": {
        "group": "kueue.x-k8s.io",
        "names": {"kind": "Workload", "listKind": "WorkloadList", "plural": "workloads", "singular": "workload"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
KUEUE = {"spec.scheduling.gang": "kueue", "spec.scheduling.queueName": "queue"}


@pytest.fixture
def kueue_api(api: Api, wait_for: Wait) -> Iterator[None]:
    """A server that has Kueue's API."""
    apply_crd(api, KUEUE_CRD)
    wait_for(lambda: api.request("GET", "/apis/kueue.x-k8s.io"), 10)
    yield
    api.delete("CustomResourceDefinition", "", KUEUE_CRD["metadata"]["name"])


@pytest.fixture
def kueue(cluster: Cluster, kueue_api: None, kubelet: Kubelet, players: Players) -> Iterator[KueueDouble]:
    """And somebody who does what Kueue does, with its integration of pods."""
    double = KueueDouble(cluster.api, num_gpus=3)
    kubelet.holds = double.holds
    players.players.insert(0, double)
    with LabellingWebhook(cluster.api, cluster.namespace, {KueueDouble.QUEUE: "queue"}, KueueDouble.FINALIZER):
        yield double


def test_where_kueue_does_not_queue_pods_none_runs_and_the_condition_says_what_is_off(
    cluster: Cluster, kueue_api: None, operator: Operator
) -> None:
    operator(cluster.namespace)
    cluster.submit("run", 2, **KUEUE)

    def said() -> str:
        found = {each["type"]: each for each in cluster.status("run").get("conditions", [])}
        return str(found.get("TrainerReady", {}).get("message", ""))

    cluster.wait(lambda: "integration of pods is off" in said(), "the trainer's condition names Kueue's configuration")
    cluster.hold(1)
    assert cluster.gangs().get("run", ()) == (), "no pod is left that a scheduler could bind"
    assert (cluster.status("run")["gang"]["incarnation"], cluster.status("run").get("restarts", {})) == (1, {})


def groups(pods: list[Object]) -> set[tuple[str | None, str | None]]:
    """(group, size) of Kueue's, of each pod."""
    return {
        (
            pod["metadata"]["labels"].get(KueueDouble.GROUP),
            pod["metadata"].get("annotations", {}).get(KueueDouble.TOTAL),
        )
        for pod in pods
    }


def test_kueue_sees_a_gang_as_one_group_and_the_operator_keeps_out_of_its_queue(
    cluster: Cluster, kueue: KueueDouble, operator: Operator
) -> None:
    process = operator(cluster.namespace)
    cluster.submit("first", 2, **KUEUE)
    cluster.wait(lambda: cluster.running() == ["first"], "Kueue admits the first gang")
    cluster.submit("second", 2, **KUEUE)
    cluster.wait(lambda: len(cluster.gangs().get("second", ())) == 2, "the second gang is made, for Kueue to queue")
    assert groups(cluster.gangs()["first"]) == {("first-trainer-i1", "3")}
    assert groups(cluster.gangs()["second"]) == {("second-trainer-i1", "3")}

    def rollouts() -> list[Object]:
        return cluster.api.list("Pod", cluster.namespace, {names.LABEL_ROLE: "rollout"})

    both = {("first-trainer-i1", "3"), ("second-trainer-i1", "3")}
    cluster.wait(lambda: groups(rollouts()) == both, "one belongs to each gang")
    assert {pod["metadata"]["labels"][KueueDouble.QUEUE] for pod in rollouts()} == {"queue"}
    cluster.hold(3)
    assert cluster.running() == ["first"], "there is no room for two"
    cluster.finish("first")
    cluster.wait(lambda: cluster.running() == ["second"], "the second gang follows")
    assert not cluster.status("second").get("restarts"), "to be queued is no failure"
    assert process.denied(cluster.namespace) == []


def test_kueues_preemption_is_not_counted_and_its_finalizers_block_nothing(
    cluster: Cluster, kueue: KueueDouble, operator: Operator
) -> None:
    operator(cluster.namespace)
    cluster.submit("run", 2, **KUEUE)
    cluster.wait(lambda: cluster.running() == ["run"], "the gang runs")
    kueue.until_replaced = True  # the worst that Kueue may do: the old pods stay for as long as this test wants
    kueue.preempt(cluster.namespace, "run-trainer-i1")

    def second_gang() -> bool:
        pods = {pod["metadata"]["name"]: pod for pod in cluster.gangs()["run"]}
        return all(pods.get(f"run-trainer-i2-{n}", {}).get("status", {}).get("phase") == "Running" for n in (0, 1))

    cluster.wait(second_gang, "the next gang runs although the pods of the old one are still held", 75)
    held = [pod for pod in cluster.gangs()["run"] if "finalizers" in pod["metadata"]]
    old = [pod["metadata"]["name"] for pod in held if pod["metadata"]["name"].startswith("run-trainer-i1-")]
    assert sorted(old) == ["run-trainer-i1-0", "run-trainer-i1-1"]
    status = cluster.status("run")
    assert (status.get("restarts", {}), status["gang"].get("failures", 0)) == ({}, 0), "preemption is not counted"
    kueue.until_replaced = False
    cluster.wait(lambda: len(cluster.gangs()["run"]) == 2, "the old pods go when Kueue lets them")
