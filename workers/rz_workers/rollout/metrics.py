"""Counters of a rollout process, on its status port. ``main`` counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from rz_api.metrics import described

Phase = Literal["lease", "load", "sample", "score", "write"]
"""Waiting for a lease; loading weights; sampling; waiting for verdicts after the last token; writing and handing in."""
Outcome = Literal["stored", "lost", "unused"]
"""Handed in and recorded; dropped because the lease was lost; handed in after another attempt."""
Update = Literal["storage", "broadcast", "broadcast failed", "stale"]
"""Weights loaded from storage; received; not received; not proven afterwards (``weights``)."""

UPDATE_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
"""Seconds: from a tiny model's to those of 32B from a slow bucket."""


class RolloutMetrics:
    """``rz_rollout_*``, all since the process started, and what the process is doing now."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.tokens_generated = 0
        self.phase: Phase | Literal["start"] = "start"
        self._tokens = Counter(*described("rz_rollout_tokens_total"), registry=registry)
        self._units = Counter(*described("rz_rollout_units_total"), registry=registry)
        self._updates = Counter(*described("rz_rollout_weight_updates_total"), registry=registry)
        self._update_seconds = Histogram(
            *described("rz_rollout_weight_update_seconds"), buckets=UPDATE_BUCKETS, registry=registry
        )
        self._version = Gauge(*described("rz_rollout_weight_version"), registry=registry)
        self._seconds = Counter(*described("rz_rollout_seconds_total"), registry=registry)

    def count_tokens(self, tokens: int) -> None:
        self.tokens_generated += tokens
        self._tokens.inc(tokens)

    def count_unit(self, outcome: Outcome) -> None:
        self._units.labels(outcome).inc()

    def count_update(self, outcome: Update) -> None:
        self._updates.labels(outcome).inc()

    def hold(self, version: int) -> None:
        """The engine holds this weight version from now on."""
        self._version.set(version)

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        self.phase, started = phase, time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self._seconds.labels(phase).inc(seconds)
            if phase == "load":
                self._update_seconds.observe(seconds)
