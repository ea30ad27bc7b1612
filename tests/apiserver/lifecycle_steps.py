"""The language of ``test_lifecycle_*.py``: a ``Case`` is a run and named ``Step``s; a step does something and says what
is so soon afterwards (``want_*``). ``Scene`` is where it plays: a namespace, a run, the players and the operator.

Pods are named without the run: ``trainer-i1-0``, ``rollout-1``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api_builders import document
from control_plane import ControlPlane
from fake_ledgers import FakeLedgers
from kube_api import Api, Object
from kubelet_double import Kubelet
from operator_process import OperatorProcess
from players import OWNED_KINDS, Players

from rz_api import names

NAME = "tiny"
HOLD_SECONDS = 0.7
"""How long the last step of a case must stay as it is: longer than the operator's poll (POLL_SECONDS)."""
POLL_SECONDS = 0.4
WITHIN_SECONDS = 30.0
"""For a step that does not say how long it takes; on an idle machine most take less than one."""

BASE: Mapping[str, Any] = {
    "spec.trainer.nodes": 2,
    "spec.trainer.gpusPerNode": 1,
    "spec.rollout.replicas": 2,
    "spec.failurePolicy.backoffSeconds": 1,
    "spec.failurePolicy.maxBackoffSeconds": 8,
}
"""What the runs here have in common: two trainer nodes, two rollouts, short waits."""

ROLLOUTS = ("rollout-i1-0", "rollout-i1-1")
Do = Callable[["Scene"], object]


def gang(incarnation: int) -> tuple[str, str]:
    """Names of the two trainer pods of a gang."""
    return (f"trainer-i{incarnation}-0", f"trainer-i{incarnation}-1")


EVERYBODY = (*gang(1), *ROLLOUTS)


def nothing(scene: Scene) -> None:
    """What a step does that only looks."""


@dataclass(frozen=True)
class Step:
    """``do`` something; soon all of the ``want_*`` are so at the same time."""

    says: str
    do: Do = nothing
    want_phase: str = "Running"
    want_pods: Sequence[str] | None = None
    """All trainer and rollout pods that exist, Terminating ones too."""
    want_running: Sequence[str] = ()
    want_new: Sequence[str] = ()
    """Running pods that have another UID than before this step, or did not exist."""
    want_same: Sequence[str] = ()
    """Pods that nobody touched: they exist as before, and are not being deleted."""
    want_gang: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``status.gang``."""
    want_restarts: Mapping[str, int] | None = None
    want_condition: tuple[str, str, str, str] | None = None
    """Type, status, reason, and words of the message."""
    want_event: tuple[str, str] | None = None
    """Reason, and words of the message."""
    want: Callable[[Scene], bool] | None = None
    """Anything else; asked when all of the above is so."""
    within: float = WITHIN_SECONDS


@dataclass(frozen=True)
class Case:
    says: str
    steps: Sequence[Step]
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Dotted paths to values, over ``BASE``."""


@dataclass
class Scene:
    api: Api
    plane: ControlPlane
    namespace: str
    operator: OperatorProcess
    kubelet: Kubelet
    players: Players
    ledgers: FakeLedgers
    wait_for: Callable[..., Any]
    name: str = NAME

    # --------------------------------------------------------------------------------------------- what is done

    def submit(self, spec: Mapping[str, Any] | None = None, name: str = NAME) -> Object:
        """Create a run; its storage is its own unless ``spec`` says so."""
        changes = {**BASE, "spec.storage.uri": f"s3://bucket/{self.namespace}/{name}", **(spec or {})}
        return self.api.create(document({**changes, "metadata.name": name}), self.namespace)

    def patch(self, spec: Object) -> None:
        self.api.patch(names.KIND, self.namespace, self.name, {"spec": spec})

    def pod_name(self, pod: str) -> str:
        return f"{self.name}-{pod}"

    def forget_waits(self) -> None:
        """As if the time of every refusal were over: a test need not wait for a minute."""
        retries = {key: {"notBefore": 1} for key in self.status.get("retries", {})}
        body = {"status": {"retries": retries}}
        self.api.patch(names.KIND, self.namespace, self.name, body, subresource="status")

    def wait(self, until: Callable[[], Any], seconds: float = WITHIN_SECONDS, what: str = "") -> Any:
        """Until it is so, while the players go on."""
        return self.wait_for(until, seconds, each=self.players.tick, what=what)

    def hold(self, seconds: float = HOLD_SECONDS) -> None:
        """Let some time pass, in which the operator and the players go on."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.players.tick()
            time.sleep(0.05)

    # --------------------------------------------------------------------------------------------- what is seen

    @property
    def run(self) -> Object:
        return self.api.get(names.KIND, self.namespace, self.name)

    @property
    def status(self) -> Object:
        found: Object = self.run.get("status") or {}
        return found

    def pods(self) -> dict[str, Object]:
        """Trainer and rollout pods by short name."""
        found = self.api.list("Pod", self.namespace, {names.LABEL_RUN: self.name})
        roles = {pod["metadata"]["name"]: pod["metadata"]["labels"].get(names.LABEL_ROLE) for pod in found}
        return {
            pod["metadata"]["name"].removeprefix(f"{self.name}-"): pod
            for pod in found
            if roles[pod["metadata"]["name"]] in ("trainer", "rollout")
        }

    def deployed_pod(self, role: str) -> str:
        """Name of the one pod of the ledger or the reward role."""
        labels = {names.LABEL_RUN: self.name, names.LABEL_ROLE: role}
        (pod,) = self.api.list("Pod", self.namespace, labels)
        found: str = pod["metadata"]["name"]
        return found

    def condition(self, kind: str, name: str | None = None) -> Object:
        run = self.api.get(names.KIND, self.namespace, name or self.name)
        found = (run.get("status") or {}).get("conditions") or []
        return next((each for each in found if each["type"] == kind), {})

    def deployments(self) -> list[str]:
        return sorted(each["metadata"]["name"] for each in self.api.list("Deployment", self.namespace))

    def refused_creates(self) -> int:
        """How many pods of this namespace the API server has refused to create."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        requests = (each for each in self.operator.requests() if each.verb == "create" and each.path == path)
        return sum(each.code >= 400 and each.code != 409 for each in requests)

    def versions(self) -> dict[tuple[str, str], tuple[str, str]]:
        """UID and resourceVersion of each of ``objects``, by kind and name: equal while nobody writes."""
        found = ((item["kind"], item["metadata"]) for item in self.objects())
        return {(kind, meta["name"]): (meta["uid"], meta["resourceVersion"]) for kind, meta in found}

    def settled(self) -> dict[tuple[str, str], tuple[str, str]]:
        """``versions`` once nobody has written for HOLD_SECONDS: what a step waits for may be so before all is said."""
        end = time.monotonic() + WITHIN_SECONDS
        before, found = None, self.versions()
        while found != before:
            assert time.monotonic() < end, f"somebody still writes after {WITHIN_SECONDS:.0f} s: {before} -> {found}"
            self.hold()
            before, found = found, self.versions()
        return found

    def objects(self) -> Iterator[Object]:
        """All runs of the namespace and everything in it that belongs to one."""
        yield from self.api.list(names.KIND, self.namespace)
        for kind in OWNED_KINDS:
            for item in self.api.list(kind, self.namespace):
                if names.LABEL_RUN in item["metadata"].get("labels", {}):
                    yield item

    def check_marks(self) -> None:
        """Nothing here has a finalizer or an annotation of kopf's."""
        for item in self.objects():
            meta = item["metadata"]
            kopf = [key for key in meta.get("annotations", {}) if "kopf" in key]
            found = (meta.get("finalizers"), kopf)
            assert found == (None, []), f"{item['kind']}/{meta['name']} has {found}"

    # --------------------------------------------------------------------------------------------------- steps

    def play(self, case: Case) -> None:
        self.submit(case.spec)
        for step in case.steps:
            self.take(step)
        self.hold()
        last = case.steps[-1]
        missing = self.missing(last, None)
        assert not missing, f"{last.says}: was so, and is no longer: {missing}"
        denied = self.operator.denied(self.namespace)
        assert not denied, "the rules lack something"

    def take(self, step: Step) -> None:
        before = self.pods()
        step.do(self)
        self.wait_for(
            lambda: self.missing(step, before),
            step.within,
            until=lambda found: not found,
            each=self.players.tick,
            what=step.says,
        )
        self.check_marks()

    def missing(self, step: Step, before: Mapping[str, Object] | None) -> list[str]:
        """What of a step's wishes is not so. ``before``: the pods before it; None: don't compare."""
        status, pods = self.status, self.pods()
        found = []

        def want(what: str, wanted: object, seen: object) -> None:
            if wanted != seen:
                found.append(f"{what} is {seen!r}, wanted {wanted!r}")

        want("phase", step.want_phase, status.get("phase"))
        if step.want_pods is not None:
            want("pods", sorted(step.want_pods), sorted(pods))
        for name in (*step.want_running, *step.want_new):
            want(f"{name}'s phase", "Running", pods.get(name, {}).get("status", {}).get("phase"))
        if before is not None:
            for name in step.want_new:
                if name in before and name in pods and _uid(before[name]) == _uid(pods[name]):
                    found.append(f"{name} is the old one")
            for name in step.want_same:
                same = name in pods and _uid(before[name]) == _uid(pods[name])
                want(f"{name} was left alone", True, same and "deletionTimestamp" not in pods[name]["metadata"])
        for key, value in step.want_gang.items():
            want(f"gang.{key}", value, status.get("gang", {}).get(key, 0))
        if step.want_restarts is not None:
            want("restarts", dict(step.want_restarts), status.get("restarts", {}))
        if step.want_condition is not None:
            kind, value, reason, words = step.want_condition
            seen: Object = next((each for each in status.get("conditions", []) if each["type"] == kind), {})
            want(f"{kind} ({seen.get('message')})", (value, reason), (seen.get("status"), seen.get("reason")))
            if words not in seen.get("message", ""):
                found.append(f"{kind} says {seen.get('message')!r}, not {words!r}")
        if step.want_event is not None and not found:
            events = [(each["reason"], each["message"]) for each in self.api.list("Event", self.namespace)]
            if not any(reason == step.want_event[0] and step.want_event[1] in message for reason, message in events):
                found.append(f"no event {step.want_event} in {events}")
        if step.want is not None and not found and not step.want(self):
            found.append("the rest")
        return found


def _uid(pod: Object) -> str:
    found: str = pod["metadata"]["uid"]
    return found


STARTED = Step(
    "the run starts",
    want_pods=EVERYBODY,
    want_running=EVERYBODY,
    want_condition=("TrainerReady", "True", "Ready", "2 of 2 pods ready, incarnation 1"),
    want=lambda scene: scene.condition("LedgerReady").get("status") == "True",
)
