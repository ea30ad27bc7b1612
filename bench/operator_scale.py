"""The operator at scale: many runs on a real API server, with fake ledgers and fake kubelets.

    python bench/operator_scale.py [--runs 500] [--window 120] [--rollouts 5000]

What is needed: a real etcd and kube-apiserver, found or built as tests/apiserver/README.md says. 500 runs have 5,500
children of the operator's, 1,500 trainer and rollout pods among them, and take about 10 minutes in all. Each ledger's
step moves once in two minutes, and what it has done of it all the time.

Reported: the time from apply to a run's last child (all runs at once; then one by one beside the others; then some at
once that stand in the operator's own line), durations of reconciles (from the operator's own histogram), API requests
per run and minute while nothing happens but steps (from the server's audit log: watches, once they end, and lists too),
memory with all runs, and after a restart with all children there. Polls of ledgers that got no answer meanwhile, and
children that the restarted operator made again, are counted. Ends with 1 when a bar of ``bars.toml`` is missed.

First, on servers of its own, one run of 5,000 rollouts: it starts, then half of them, drawn at random, are evicted. The
probes are asked all the while, with the chart's time limit, and the largest status that the run ever had is measured.
``--runs 0`` or ``--rollouts 0`` leaves that part out.

The mass of the runs leaves it to Kueue when a gang starts (its API is there, and nothing holds their pods back): in the
operator's own gang mode one gang at a time gets its nodes, which says nothing of how fast the operator is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "apiserver"))

from bars import hold
from control_plane import ControlPlane, Request, apply_crd
from fake_ledgers import FakeLedgers
from kube_api import Object
from kube_binaries import BinariesMissingError, control_plane_binaries
from kubelet_double import Kubelet
from operator_process import SYSTEM_NAMESPACE, OperatorProcess
from players import DeploymentController, GarbageCollector, Players, in_background
from watched_api import WatchedApi

from rz_api import names

STEP_SECONDS = 120.0
AS_IN_A_CLUSTER = {"RZ_POLL_SECONDS": "15", "RZ_RESYNC_SECONDS": "600", "RZ_REQUEST_SECONDS": "30"}
LATE_RUNS = 10
PODS = 3
CHILDREN = 8 + PODS
"""ConfigMap, Secret, 3 Services, NetworkPolicy, 2 Deployments, and a trainer and 2 rollout pods."""
MIB = 1 << 20
KUEUE_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workloads.kueue.x-k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved"}},
    "spec": {
        "group": "kueue.x-k8s.io",
        "names": {"kind": "Workload", "plural": "workloads"},
        "scope": "Namespaced",
        "versions": [
            {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


PROBE_SECONDS = 5.0
"""``timeoutSeconds`` of the chart's probes."""


def run_document(name: str, gang: str, rollouts: int = 2) -> Object:
    scheduling = {"gang": gang} | ({"queueName": "queue"} if gang == "kueue" else {})
    # What Kueue's webhook leaves on a pod that it has taken up: the operator takes back a pod without it.
    taken_up = {"podTemplate": {"metadata": {"labels": {"kueue.x-k8s.io/managed": "true"}}}} if gang == "kueue" else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "org/model"},
            "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
            "storage": {"uri": f"s3://runs/{name}"},
            "trainer": {"nodes": 1, "gpusPerNode": 8} | taken_up,
            "rollout": {"replicas": rollouts} | taken_up,
            "scheduling": scheduling,
        },
    }


class Bench:
    """The servers, the players and the runs."""

    def __init__(self, plane: ControlPlane, operator: OperatorProcess, api: WatchedApi, ledgers: FakeLedgers) -> None:
        self.plane, self.operator, self.api, self.ledgers = plane, operator, api, ledgers
        self.applied: dict[str, float] = {}
        """Namespace (each run has its own, so that the audit log tells whose a request is) to Unix seconds."""
        self.began = time.time()

    def namespaces(self, runs: range) -> list[str]:
        return [self.plane.create_namespace(f"bench-{number}") for number in runs]

    def apply(self, namespace: str, gang: str) -> None:
        self.applied[namespace] = time.time()
        self.plane.api.create(run_document(f"run-{namespace}", gang), namespace)

    def move_ledgers(self) -> None:
        """Steps move slowly, each run's at a time of its own."""
        for number, namespace in enumerate(list(self.applied)):
            done = (time.time() - self.began) / STEP_SECONDS + (number % 97) / 97
            step, part = int(done), done % 1
            self.ledgers.set(
                namespace,
                f"run-{namespace}",
                step=step,
                weight_version=step,
                units_done=int(part * 8),
                eta_seconds=(100 - done) * STEP_SECONDS,
                seconds_per_step=STEP_SECONDS,
                tokens_generated=int(done * 1e6),
                last_progress_seconds_ago=part,
                metrics={"reward_mean": round(0.001 * done, 4), "response_length_mean": 500 + step},
            )

    def started(self) -> int:
        """Runs all of whose pods run."""
        running: Counter[str] = Counter()
        for pod in self.api.list("Pod"):
            roles = pod["metadata"].get("labels", {}).get(names.LABEL_ROLE)
            if roles in ("trainer", "rollout") and pod.get("status", {}).get("phase") == "Running":
                running[pod["metadata"]["namespace"]] += 1
        return sum(running[namespace] == PODS for namespace in self.applied)

    def wait_started(self, seconds: float) -> None:
        self.wait(lambda: self.started() == len(self.applied), seconds, lambda: f"{self.started()} started")

    def wait(self, until: Callable[[], bool], seconds: float, seen: Callable[[], str]) -> None:
        end, tell = time.monotonic() + seconds, time.monotonic() + 15
        while not until():
            if time.monotonic() > end:
                print(self.operator.log(30), file=sys.stderr)
                raise SystemExit(f"not done after {seconds:.0f} s: {seen()}")
            if time.monotonic() > tell:
                tell += 15
                print(f"  {seen()} of {len(self.applied)}", flush=True)
            time.sleep(0.2)

    def apply_to_children(self, namespaces: list[str]) -> list[float]:
        """Seconds from apply to the request that made the run's last child, for each run."""
        made: dict[str, list[float]] = defaultdict(list)
        for request in self.operator.requests():
            if request.verb == "create" and request.code == 201 and not request.path.endswith("/events"):
                made[request.path.partition("/namespaces/")[2].partition("/")[0]].append(request.seconds_since_epoch)
        wrong = {name: len(made[name]) for name in namespaces if len(made[name]) != CHILDREN}
        if wrong:
            raise SystemExit(f"not {CHILDREN} children: {dict(list(wrong.items())[:10])}")
        return [max(made[name]) - self.applied[name] for name in namespaces]

    def reconciles(self) -> Counter[float]:
        """Upper bound of a bucket to the reconciles below it, so far."""
        lines = re.findall(r'rz_operator_reconcile_seconds_bucket\{le="([^"]+)"\} (\S+)', self.operator.metrics())
        return Counter({float(bound): int(float(count)) for bound, count in lines})

    def creations(self) -> int:
        """Children that the operator asked for so far, refused ones too."""
        return sum(each.verb == "create" and not each.path.endswith("/events") for each in self.operator.requests())

    def missed_polls(self) -> int:
        """Polls of ledgers so far that got no proper answer."""
        found = re.findall(r'rz_operator_ledger_polls_total\{result="(\w+)"\} (\S+)', self.operator.metrics())
        assert found, "no ledger was polled"
        return sum(int(float(count)) for result, count in found if result != "answered")

    def peak_memory(self) -> float:
        """Highest resident set of the operator's process so far, MiB (Linux)."""
        text = Path(f"/proc/{self.operator.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found, text
        return int(found[1]) * 1024 / MIB

    def cpu_seconds(self) -> float:
        found = re.search(r"^process_cpu_seconds_total (\S+)", self.operator.metrics(), re.MULTILINE)
        assert found
        return float(found[1])


def quantile(buckets: Counter[float], share: float) -> float:
    """Of a Prometheus histogram, as ``histogram_quantile`` has it."""
    bounds = sorted(buckets)
    rank, below, lower = share * buckets[bounds[-1]], 0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank and buckets[bound] > below:
            return lower + (bound - lower) * (rank - below) / (buckets[bound] - below) if bound != bounds[-1] else lower
        below, lower = buckets[bound], bound
    return lower


def since(before: Counter[float], now: Counter[float]) -> Counter[float]:
    return Counter({bound: now[bound] - before[bound] for bound in now})


def seconds(values: list[float]) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"p50 {statistics.median(ordered):.2f} s, p99 {p99:.2f} s, longest {ordered[-1]:.2f} s"


def durations(buckets: Counter[float]) -> str:
    count = max(buckets.values())
    return f"{count}: p50 {1000 * quantile(buckets, 0.5):.1f} ms, p99 {1000 * quantile(buckets, 0.99):.1f} ms"


def what(request: Request) -> str:
    """``update reasonerzeroruns/status``: verb and resource."""
    path = request.path.partition("?")[0].strip("/").split("/")
    rest = path[2:] if path[0] == "api" else path[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource = rest[0] if rest else request.path
    return f"{request.verb} {resource}" + (f"/{rest[2]}" if len(rest) > 2 else "")


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    try:
        binaries = control_plane_binaries()
    except BinariesMissingError as missing:
        raise SystemExit(f"bench/operator_scale.py: {missing}") from None
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(binaries))
        plane.apply_crd()
        plane.create_namespace(SYSTEM_NAMESPACE)
        apply_crd(plane.api, KUEUE_CRD)
        ledgers = FakeLedgers()
        stack.callback(ledgers.close)
        operator = OperatorProcess(plane, ledger_status_url=ledgers.url_template, env=AS_IN_A_CLUSTER)
        stack.callback(operator.close)
        operator.start()
        api = stack.enter_context(WatchedApi(plane))
        made = Bench(plane, operator, api, ledgers)
        players = Players([GarbageCollector(api), DeploymentController(api), Kubelet(api)])
        stack.enter_context(in_background(players.tick, 0.5))
        stack.enter_context(in_background(made.move_ledgers, 2.0))
        yield made


class Probes:
    """A kubelet's, and the size of the run's status, once a second."""

    def __init__(self, it: Bench) -> None:
        self._it = it
        self.asked, self.missed, self.slowest, self.status_bytes = 0, 0, 0.0, 0

    def ask(self) -> None:
        for path in ("/healthz", "/readyz"):
            began = time.monotonic()
            try:
                well = httpx.get(self._it.operator.url + path, trust_env=False, timeout=PROBE_SECONDS).is_success
            except httpx.HTTPError:
                well = False
            self.asked += 1
            self.missed += not well
            self.slowest = max(self.slowest, time.monotonic() - began)
        for run in self._it.api.list(names.KIND):
            size = len(json.dumps(run.get("status", {}), separators=(",", ":")))
            self.status_bytes = max(self.status_bytes, size)


def measure_big(it: Bench, rollouts: int) -> bool:
    """One run of many rollouts; whether its bars hold."""
    (namespace,) = it.namespaces(range(1))

    def running(incarnation: int = 1) -> int:
        pods = (pod for pod in it.api.list("Pod") if pod.get("status", {}).get("phase") == "Running")
        labels = (pod["metadata"].get("labels", {}) for pod in pods)
        return sum(
            each.get(names.LABEL_ROLE) == "rollout" and int(each[names.LABEL_INCARNATION]) >= incarnation
            for each in labels
        )

    probes, cpu, start = Probes(it), it.cpu_seconds(), time.monotonic()
    with in_background(probes.ask, 1.0):
        it.applied[namespace] = time.time()
        it.plane.api.create(run_document(f"run-{namespace}", "kueue", rollouts), namespace)
        it.wait(lambda: running() == rollouts, 60 + rollouts / 5, lambda: f"{running()} rollouts run")
        created = [
            each.seconds_since_epoch
            for each in it.operator.requests()
            if each.verb == "create" and each.path.endswith("/pods") and each.code == 201
        ]
        print(
            f"{rollouts} rollouts: apply to the last create {max(created) - it.applied[namespace]:.1f} s, to the last "
            f"that runs {time.monotonic() - start:.1f} s; CPU of the operator {it.cpu_seconds() - cpu:.1f} s",
            flush=True,
        )
        pods = [pod for pod in it.api.list("Pod") if pod["metadata"]["labels"].get(names.LABEL_ROLE) == "rollout"]
        evicted = random.Random(0).sample(pods, len(pods) // 2)
        start = time.monotonic()
        for pod in evicted:
            status = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}
            it.api.patch("Pod", namespace, pod["metadata"]["name"], {"status": status}, subresource="status")
        it.wait(lambda: running(2) == len(evicted), 60 + rollouts / 5, lambda: f"{running(2)} were replaced")
        print(f"{len(evicted)} evicted and replaced in {time.monotonic() - start:.1f} s", flush=True)
        time.sleep(20)
    print(f"{probes.asked} probes, the slowest took {probes.slowest:.2f} s; peak memory {it.peak_memory():.0f} MiB")
    print(f"reconciles: {durations(it.reconciles())}")
    held = [
        hold("operator-big-run-missed-probes", probes.missed),
        hold("operator-big-run-status-kib", probes.status_bytes / 1024),
    ]
    return all(held)


def measure(it: Bench, count: int, window: float) -> bool:
    """Whether every bar holds."""
    print(f"idle: peak memory {it.peak_memory():.0f} MiB", flush=True)
    namespaces = it.namespaces(range(count))
    before, cpu, start = it.reconciles(), it.cpu_seconds(), time.monotonic()
    for namespace in namespaces:
        it.apply(namespace, "kueue")
    print(f"{count} runs applied in {time.monotonic() - start:.1f} s", flush=True)
    it.wait_started(30 + 3 * count)
    taken = time.monotonic() - start
    print(f"all pods run {taken:.1f} s after the first apply", flush=True)
    print(f"apply to the last of {CHILDREN} children, all at once: {seconds(it.apply_to_children(namespaces))}")
    print(f"reconciles meanwhile: {durations(since(before, it.reconciles()))}; CPU {it.cpu_seconds() - cpu:.1f} s")
    print(f"peak memory {it.peak_memory():.0f} MiB", flush=True)

    time.sleep(30)  # until the last Deployment is seen to be ready
    before, cpu, missed, start_time = it.reconciles(), it.cpu_seconds(), it.missed_polls(), time.time()
    time.sleep(window)
    end_time, missed = time.time(), it.missed_polls() - missed
    requests = [each for each in it.operator.requests() if start_time <= each.seconds_since_epoch < end_time]
    minutes = (end_time - start_time) / 60
    each_minute = len(requests) / minutes / count
    print(f"steady state, {minutes:.1f} min: {each_minute:.2f} requests a minute and run, {missed} polls missed")
    for name, times in Counter(what(each) for each in requests).most_common(12):
        print(f"  {times / minutes / count:7.3f} a minute and run ({times:5d} in all): {name}")
    print(
        f"reconciles: {durations(since(before, it.reconciles()))}; CPU {(it.cpu_seconds() - cpu) / minutes:.1f} s a min"
    )

    late = it.namespaces(range(count, count + LATE_RUNS))
    for namespace in late:
        it.apply(namespace, "operator")
        it.wait_started(60)
    print(f"apply to the last child, one by one beside the others: {seconds(it.apply_to_children(late))}")
    line = it.namespaces(range(count + LATE_RUNS, count + 3 * LATE_RUNS))
    for namespace in line:
        it.apply(namespace, "operator")
    it.wait_started(300)
    taken = max(it.apply_to_children(line))
    print(f"{len(line)} at once in the operator's line: {taken / len(line):.2f} s a gang", flush=True)
    peak = it.peak_memory()
    print(f"peak memory: {peak:.0f} MiB", flush=True)

    made = it.creations()
    start = time.monotonic()
    it.operator.restart()
    ready = time.monotonic() - start
    it.wait(lambda: max(it.reconciles().values()) >= count, 120, lambda: f"{it.reconciles()[float('inf')]} reconciles")
    print(f"restart: ready after {ready:.1f} s, every run looked at after {time.monotonic() - start:.1f} s")
    time.sleep(30)
    again = it.creations() - made
    print(f"restart: {again} children made again; {durations(it.reconciles())}")
    restarted = it.peak_memory()
    print(f"peak memory after the restart: {restarted:.0f} MiB")
    held = [
        hold("operator-requests", each_minute),
        hold("operator-missed-polls", missed),
        hold("operator-memory-mib", max(peak, restarted)),
        hold("operator-made-again", again),
    ]
    return all(held)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--runs", type=int, default=500)
    arguments.add_argument("--window", type=float, default=120.0, help="seconds of steady state that are counted")
    arguments.add_argument("--rollouts", type=int, default=5000, help="of the one run that is measured first")
    options = arguments.parse_args()
    held = True
    if options.rollouts:
        with bench() as it:
            held = measure_big(it, options.rollouts)
    if options.runs:
        with bench() as it:
            held = measure(it, options.runs, options.window) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
