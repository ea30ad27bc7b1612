"""No label of the operator's figures holds a run's name or any other unbounded word: figures by run are the ledgers'.

One ``OperatorMetrics`` per process; ``probes`` serves it to Prometheus. Every figure is told by whoever knows it
(``cluster``, ``work_queue``, ``ledgers``, ``events``, ``reconcile``) or read when Prometheus asks (queue, phases).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from rz_api.conditions import STALLED
from rz_api.metrics import described
from rz_api.names import Role
from rz_api.spec import FailurePolicy
from rz_api.status import Phase
from rz_operator.decisions.failures import NOT_OUR_FAULT

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


NEAR_LIMIT = 0.8
"""Share of ``failurePolicy.maxRestarts`` from which on somebody should look."""

Body = Mapping[str, Any]
"""A run as the API server has it."""


class Queue(Protocol):
    """What is read of the work queue."""

    @property
    def depth(self) -> int: ...
    def oldest_due_seconds(self) -> float: ...
    def stalled_seconds(self) -> float: ...
    def longest_running_seconds(self) -> float: ...


class Pulse(Protocol):
    """What is read of the watches."""

    @property
    def kinds(self) -> list[str]: ...
    def silent_seconds(self, kind: str) -> float: ...


class OperatorMetrics:
    """The figures, and how to tell them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._reconciles = Counter(*described("rz_operator_reconciles_total"), registry=registry)
        self._reconcile_seconds = Histogram(
            *described("rz_operator_reconcile_seconds"), buckets=_RECONCILE_BUCKETS, registry=registry
        )
        self._depth = Gauge(*described("rz_operator_queue_depth"), registry=registry)
        self._age = Gauge(*described("rz_operator_queue_age_seconds"), registry=registry)
        self._longest = Gauge(*described("rz_operator_longest_reconcile_seconds"), registry=registry)
        self._restarts = Counter(*described("rz_operator_restarts_total"), registry=registry)
        self._requests = Counter(*described("rz_operator_api_requests_total"), registry=registry)
        self._request_seconds = Histogram(
            *described("rz_operator_api_request_seconds"), buckets=_REQUEST_BUCKETS, registry=registry
        )
        self._refusals = Counter(*described("rz_operator_create_refusals_total"), registry=registry)
        self._polls = Counter(*described("rz_operator_ledger_polls_total"), registry=registry)
        self._silent = Gauge(*described("rz_operator_watch_silent_seconds"), registry=registry)
        self._watch_restarts = Counter(*described("rz_operator_watch_restarts_total"), registry=registry)
        self._events = Counter(*described("rz_operator_events_total"), registry=registry)

    def watch(self, queue: Queue, runs: Callable[[], Iterable[Body]]) -> None:
        """Read the queue, and the runs that exist, whenever Prometheus asks. Once."""
        self._depth.set_function(lambda: queue.depth)
        self._age.set_function(queue.oldest_due_seconds)
        self._longest.set_function(queue.longest_running_seconds)
        self.registry.register(_Runs(runs))

    def listen(self, pulse: Pulse) -> None:
        """Read the silence of the watches whenever Prometheus asks. Once."""
        for kind in pulse.kinds:
            self._silent.labels(kind).set_function(functools.partial(pulse.silent_seconds, kind))

    def watches_restarted(self, reason: str) -> None:
        """``Watches``' ``on_restart``."""
        self._watch_restarts.labels(reason).inc()

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


class _Runs(Collector):
    """Counts of runs, made when asked: a phase that no run is in any more can't be left behind."""

    def __init__(self, runs: Callable[[], Iterable[Body]]) -> None:
        self._runs = runs

    def describe(self) -> Iterable[Metric]:
        return [_gauge("rz_operator_runs", {})]

    def collect(self) -> Iterable[Metric]:
        runs = list(self._runs())
        # Zeros, too: an alert on a count needs a series before the first run is in that phase.
        phases: dict[tuple[str, ...], int] = {(phase,): 0 for phase in get_args(Phase)}
        for run in runs:
            phase = _status(run).get("phase") or "Pending"
            key = (phase if phase in get_args(Phase) else OTHER,)
            phases[key] = phases.get(key, 0) + 1
        return [
            _gauge("rz_operator_runs", phases),
            _gauge("rz_operator_runs_near_restart_limit", {(): sum(is_near_restart_limit(run) for run in runs)}),
            _gauge("rz_operator_runs_stalled", {(): sum(is_stalled(run) for run in runs)}),
        ]


def is_near_restart_limit(run: Body) -> bool:
    """Whether a run goes on and has had four fifths of the restarts that it may have."""
    if _status(run).get("completionTime"):
        return False
    policy = (run.get("spec") or {}).get("failurePolicy") or {}
    limit = policy.get("maxRestarts", FailurePolicy().max_restarts)
    restarts = (_status(run).get("gang") or {}).get("restarts", 0)
    return bool(restarts > 0 and restarts >= NEAR_LIMIT * limit)


def is_stalled(run: Body) -> bool:
    """Whether the condition ``Stalled`` says so."""
    conditions = _status(run).get("conditions") or []
    return any(each.get("type") == STALLED and each.get("status") == "True" for each in conditions)


def _status(run: Body) -> Body:
    return run.get("status") or {}


def _gauge(name: str, values: Mapping[tuple[str, ...], int]) -> GaugeMetricFamily:
    family, text, labels = described(name)
    gauge = GaugeMetricFamily(family, text, labels=labels)
    for words, value in values.items():
        gauge.add_metric(words, value)
    return gauge
