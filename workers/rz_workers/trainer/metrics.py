"""All figures that are scraped are of one step, the newest: the trainer's Prometheus metrics, on the first rank's
status port. ``first_rank`` and ``publication`` tell them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rz_api.metrics import described
from rz_workers.storage.records import StepCommit, VerdictCount
from rz_workers.trainer.speed import TIMED
from rz_workers.verdicts import OTHER

Way = Literal["storage", "broadcast"]

MAX_RULE_LABELS = 32
"""Values of the label ``rule`` in the life of a process, ``other`` beside them."""

PUBLICATION_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
"""Seconds: from a tiny model's to those of 32B to a slow bucket."""


class TrainerMetrics(Collector):
    """Every figure of the newest committed step as a gauge, and counters since the process started.

    A figure that a step does not have is not shown: no older step's stays behind.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._newest = -1
        self._figures: Mapping[str, float] = {}
        self._verdicts: tuple[VerdictCount, ...] = ()
        self._rules: set[str] = set()
        self._phase: Callable[[], str | None] = lambda: None
        self._steps = Counter(*described("rz_trainer_steps_total"), registry=registry)
        self._replayed = Counter(*described("rz_trainer_steps_replayed_total"), registry=registry)
        self._tokens = Counter(*described("rz_trainer_tokens_total"), registry=registry)
        self._seconds = Counter(*described("rz_trainer_seconds_total"), registry=registry)
        self._versions = Counter(*described("rz_trainer_publications_total"), registry=registry)
        self._publishing = Histogram(
            *described("rz_trainer_publication_seconds"), buckets=PUBLICATION_BUCKETS, registry=registry
        )
        self._bytes = Counter(*described("rz_trainer_publication_bytes_total"), registry=registry)
        registry.register(self)

    def resumed(self, commits: Mapping[int, StepCommit]) -> None:
        """``commits`` by step are what earlier gangs committed: the newest is shown until there is a newer one."""
        if commits:
            self._newest = max(commits)
            self._figures, self._verdicts = commits[self._newest].metrics, commits[self._newest].verdicts

    def committed(self, commit: StepCommit, num_tokens: int) -> None:
        """``num_tokens``: prompt and response tokens of the step."""
        self._steps.inc()
        self._tokens.inc(num_tokens)
        for phase in commit.phases:
            if phase.name in TIMED:
                self._seconds.labels(phase.name).inc(phase.seconds)
        if commit.step <= self._newest:
            self._replayed.inc()
        if commit.step >= self._newest:
            # Replaced, never changed in place: scrapes read it from the status port's thread.
            self._newest, self._figures, self._verdicts = commit.step, commit.metrics, commit.verdicts

    def published(self, way: Way, seconds: float, size_bytes: int) -> None:
        """A weight version was handed out in this way."""
        self._versions.labels(way).inc()
        self._publishing.labels(way).observe(seconds)
        self._bytes.labels(way).inc(size_bytes)

    def skipped(self) -> None:
        """A version that was broadcast is not stored: the writer was busy until the next one came."""
        self._versions.labels("skipped").inc()

    def follow(self, phase: Callable[[], str | None]) -> None:
        """``phase()`` is what the trainer does now; None between two phases."""
        self._phase = phase

    def collect(self) -> Iterator[Metric]:
        for name, value in self._figures.items():
            family, text, _ = described(f"rz_trainer_{name}")
            yield GaugeMetricFamily(family, text, value=value)
        verdicts = self._verdicts
        yield _counted("rz_trainer_verdicts", ((verdict.source, verdict.status) for verdict in verdicts), verdicts)
        yield _counted("rz_trainer_rules", ((self._rule(verdict.rule),) for verdict in verdicts), verdicts)
        family, text, labels = described("rz_trainer_phase")
        gauge, current = GaugeMetricFamily(family, text, labels=labels), self._phase()
        for phase in TIMED:
            gauge.add_metric([phase], float(phase == current))
        yield gauge

    def _rule(self, rule: str) -> str:
        """A label: of the first rules that this process has shown, each step may have others."""
        if len(self._rules) < MAX_RULE_LABELS:
            self._rules.add(rule)
        return rule if rule in self._rules else OTHER

    def describe(self) -> list[Metric]:
        """Nothing is asked when it is registered: there are no figures yet."""
        return []


def _counted(name: str, kinds: Iterable[tuple[str, ...]], verdicts: Iterable[VerdictCount]) -> Metric:
    """Trajectories by label values, those of ``kinds``, one for each of ``verdicts``."""
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    for kind, verdict in zip(kinds, verdicts, strict=True):
        counts[kind] += verdict.trajectories
    family, text, labels = described(name)
    gauge = GaugeMetricFamily(family, text, labels=labels)
    for kind, number in counts.items():
        gauge.add_metric(kind, number)
    return gauge
