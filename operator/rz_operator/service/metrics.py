"""The operator's own figures, for Prometheus. One ``OperatorMetrics`` per process; ``probes`` serves them.

Every figure is told by whoever knows it (``cluster``, ``work_queue``, ``ledgers``, ``events``, ``reconcile``) or read
when Prometheus asks (queue, phases). No label holds a run's name or any other unbounded word: figures by run are the
ledgers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from rz_api.names import Role
from rz_api.status import Phase
from rz_operator.failures import NOT_OUR_FAULT

CONTENT_TYPE = CONTENT_TYPE_LATEST

OTHER = "Other"
"""Stands for every word that is not in the set that a label is bound to."""

RESTART_REASONS = NOT_OUR_FAULT | {
    "Completed",
    "Deleted",
    "Drained",
    "Error",
    "InternalError",
    "Killed",
    "OOMKilled",
    "Superseded",
    "Unknown",
    "UserError",
    "Watchdog",
}
"""What ``failures.judge`` calls the end of a member. A reason may be any word that a kubelet made up."""

_RECONCILE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_REQUEST_BUCKETS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
"""Seconds, three to a factor of ten or two; the last ones are the time limits (of a request 30)."""


class Queue(Protocol):
    """What is read of the work queue."""

    @property
    def depth(self) -> int: ...
    def oldest_due_seconds(self) -> float: ...
    def stalled_seconds(self) -> float: ...
    def longest_running_seconds(self) -> float: ...


class OperatorMetrics:
    """The figures, and how to tell them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._reconciles = Counter(
            "rz_operator_reconciles",
            "Reconciles that ended, by result: done, or failed (an exception, tried again after a back-off).",
            ["result"],
            registry=registry,
        )
        self._reconcile_seconds = Histogram(
            "rz_operator_reconcile_seconds",
            "Duration of a reconcile, seconds: end minus begin, failed ones and the waits for answers included.",
            buckets=_RECONCILE_BUCKETS,
            registry=registry,
        )
        self._depth = Gauge(
            "rz_operator_queue_depth",
            "Runs that are due and wait for a worker; one that is reconciled, or due later, is not counted.",
            registry=registry,
        )
        self._age = Gauge(
            "rz_operator_queue_age_seconds",
            "Now minus the due time of the run that waits longest, seconds; 0 where none waits.",
            registry=registry,
        )
        self._longest = Gauge(
            "rz_operator_longest_reconcile_seconds",
            "Now minus the begin of the oldest reconcile under way, seconds; 0 where there is none.",
            registry=registry,
        )
        self._restarts = Counter(
            "rz_operator_restarts",
            "Ends of members (pods) that the operator saw to, by role and by reason as the failure table names it "
            f"({OTHER}: a reason that it does not know). One per end, whether or not it counts against the run.",
            ["role", "reason"],
            registry=registry,
        )
        self._requests = Counter(
            "rz_operator_api_requests",
            "Requests to the API server by HTTP verb (CREATE for a POST), kind of object, and HTTP status "
            "(0: no answer). Those of the watches are not among them.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "rz_operator_api_request_seconds",
            "Duration of a request to the API server by verb, seconds: until the head of its answer, or its failure.",
            ["verb"],
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._refusals = Counter(
            "rz_operator_create_refusals",
            "Creations that the API server refused (quota, a webhook, an invalid object, a taken name), by kind.",
            ["kind"],
            registry=registry,
        )
        self._polls = Counter(
            "rz_operator_ledger_polls",
            "Polls of ledgers by result: answered; silent (no answer in time); refused (an HTTP status other than "
            "200); garbled (not a JSON object, or too large); failed (a fault of the operator, see its log).",
            ["result"],
            registry=registry,
        )
        self._events = Counter(
            "rz_operator_events",
            "Kubernetes events by result: written; refused (by the API server); dropped (too many were waiting).",
            ["result"],
            registry=registry,
        )

    def watch(self, queue: Queue, phases: Callable[[], Mapping[str, int]]) -> None:
        """Read the queue, and the number of runs by phase, whenever Prometheus asks. Once."""
        self._depth.set_function(lambda: queue.depth)
        self._age.set_function(queue.oldest_due_seconds)
        self._longest.set_function(queue.longest_running_seconds)
        self.registry.register(_Phases(phases))

    def reconciled(self, result: str, seconds: float) -> None:
        """``WorkQueue``'s ``on_result``."""
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def restart(self, role: Role, reason: str) -> None:
        """A member of this role ended, for this reason (``Failure.reason``)."""
        self._restarts.labels(role, reason if reason in RESTART_REASONS else OTHER).inc()

    def api_request(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """``Cluster``'s observer."""
        self._requests.labels(verb, resource, str(status)).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def refused(self, kind: str) -> None:
        """The API server refused to create an object of this kind."""
        self._refusals.labels(kind).inc()

    def ledger_poll(self, result: str) -> None:
        self._polls.labels(result).inc()

    def event(self, result: str) -> None:
        """A Kubernetes event was written, refused or dropped."""
        self._events.labels(result).inc()

    def render(self) -> bytes:
        """Text for Prometheus; its Content-Type is ``CONTENT_TYPE``."""
        return generate_latest(self.registry)


class _Phases(Collector):
    """Runs by phase, counted when asked: a phase that no run is in any more can't be left behind."""

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        known = dict.fromkeys(get_args(Phase), 0)
        for phase, number in self._count().items():
            name = phase if phase in known else OTHER
            known[name] = known.get(name, 0) + number
        family = self._family()
        for phase, number in known.items():
            family.add_metric([phase], number)
        return [family]

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "rz_operator_runs",
            f"Runs that exist, by phase of their status ({OTHER}: a phase of a newer operator).",
            labels=["phase"],
        )
