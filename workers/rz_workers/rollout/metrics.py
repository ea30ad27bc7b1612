"""Counters of a rollout process, on its status port. ``main`` counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter

Phase = Literal["lease", "load", "sample", "score", "write"]
"""Waiting for a lease; loading weights; sampling; waiting for verdicts after the last token; writing and handing in."""
Outcome = Literal["stored", "lost", "unused"]
"""Handed in and recorded; dropped because the lease was lost; handed in after another attempt."""
Update = Literal["storage", "broadcast", "broadcast failed", "stale"]
"""Weights loaded from storage; received; not received; not proven afterwards (``weights``)."""


class RolloutMetrics:
    """``rz_rollout_*``, all since the process started, and what the process is doing now."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.tokens_generated = 0
        self.phase: Phase | Literal["start"] = "start"
        self._tokens = Counter("rz_rollout_tokens", "Response tokens sampled.", registry=registry)
        self._units = Counter("rz_rollout_units", "Lease units by outcome.", ["outcome"], registry=registry)
        self._updates = Counter("rz_rollout_weight_updates", "Weight updates.", ["outcome"], registry=registry)
        self._seconds = Counter("rz_rollout_seconds", "Wall time by phase.", ["phase"], registry=registry)

    def count_tokens(self, tokens: int) -> None:
        self.tokens_generated += tokens
        self._tokens.inc(tokens)

    def count_unit(self, outcome: Outcome) -> None:
        self._units.labels(outcome).inc()

    def count_update(self, outcome: Update) -> None:
        self._updates.labels(outcome).inc()

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        self.phase, started = phase, time.monotonic()
        try:
            yield
        finally:
            self._seconds.labels(phase).inc(time.monotonic() - started)
