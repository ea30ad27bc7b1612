"""The ledger's Prometheus metrics, read from its state when they are asked for. ``main`` registers the collector.

Names, help and labels are ``rz_api.metrics``'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rz_api.learning import SIGNS
from rz_api.metrics import described
from rz_workers.ledger.service import Ledger
from rz_workers.ledger.state import Counters, State
from rz_workers.protocol.messages import LedgerStatus

COUNTERS = {
    "rz_ledger_leases_issued_total": "issued",
    "rz_ledger_leases_adopted_total": "adopted",
    "rz_ledger_leases_expired_total": "expired",
    "rz_ledger_leases_completed_total": "completed",
    "rz_ledger_leases_duplicates_total": "duplicates",
    "rz_ledger_leases_found_total": "found",
    "rz_ledger_proofs_failed_total": "proofs_failed",
}
"""Family -> field of ``Counters``: since the process started."""

PHASES = get_args(LedgerStatus.model_fields["phase"].annotation)
BLOCKING_ROLES = get_args(LedgerStatus.model_fields["blocking_role"].annotation)

Values = dict[tuple[str, ...], float]
"""Label values -> figure; ``()`` for a family without labels."""


class LedgerCollector(Collector):
    """Counters of leases, and gauges of what ``status`` shows."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        """``clock``: the ledger's own, Unix seconds."""
        self._ledger, self._clock = ledger, clock

    def collect(self) -> Iterator[Metric]:
        state = self._ledger.state
        counts = asdict(state.counters if state else Counters())
        for name, field in COUNTERS.items():
            family, text, _ = described(name)
            yield CounterMetricFamily(family, text, value=counts[field])
        found = gauges(self._ledger.status()) | (details(state, self._clock()) if state else {})
        for name, values in found.items():
            family, text, labels = described(name)
            gauge = GaugeMetricFamily(family, text, labels=labels)
            for words, value in values.items():
                gauge.add_metric(words, value)
            yield gauge


def gauges(status: LedgerStatus) -> dict[str, Values]:
    """What people are shown, as figures; what is not known yet is left out."""
    plain: dict[str, float | None] = {
        "rz_ledger_step": status.step,
        "rz_ledger_total_steps": status.total_steps,
        "rz_ledger_weight_version": status.weight_version,
        "rz_ledger_incarnation": status.incarnation,
        "rz_ledger_units": status.units_total,
        "rz_ledger_units_done": status.units_done,
        "rz_ledger_units_leased": status.units_leased,
        "rz_ledger_eval_units": status.eval_units_total,
        "rz_ledger_eval_units_done": status.eval_units_done,
        "rz_ledger_rollouts": len(status.rollouts),
        "rz_ledger_rollouts_asleep": sum(rollout.asleep for rollout in status.rollouts),
        "rz_ledger_rollouts_unproven": sum(rollout.proof == "disagrees" for rollout in status.rollouts),
        "rz_ledger_tokens_generated": status.tokens_generated,
        "rz_ledger_reward_mean": status.metrics.get("reward_mean"),
        "rz_ledger_response_length_mean": status.metrics.get("response_length_mean"),
        "rz_ledger_seconds_per_step": status.seconds_per_step,
        "rz_ledger_eta_seconds": status.eta_seconds,
        "rz_ledger_checkpoint_step": status.last_checkpoint_step,
        "rz_ledger_last_progress_seconds": status.last_progress_seconds_ago,
    }
    found: dict[str, Values] = {name: {(): float(value)} for name, value in plain.items() if value is not None}
    found["rz_ledger_phase"] = {(phase,): float(phase == status.phase) for phase in PHASES}
    found["rz_ledger_fruitless_steps"] = {
        (sign,): float(status.fruitless_steps if sign == status.fruitless_sign else 0) for sign in SIGNS
    }
    found["rz_ledger_blocking"] = {(role,): float(role == status.blocking_role) for role in BLOCKING_ROLES}
    return found


def details(state: State, now: float) -> dict[str, Values]:
    """What only the state tells: ages, and the newest evaluations."""
    batches = list(state.open_batches())
    leases = [entry.held.since for batch in batches for entry in batch.entries.values() if entry.held is not None]
    begun = [batch.started for batch in batches if batch.started is not None and not batch.is_complete]
    return {
        "rz_ledger_oldest_lease_seconds": {(): max(0.0, now - min(leases, default=now))},
        "rz_ledger_oldest_unit_seconds": {(): max(0.0, now - min(begun, default=now))},
        "rz_ledger_eval_accuracy": {(name,): accuracy for name, (_, accuracy) in state.accuracy.items()},
        "rz_ledger_eval_version": {(name,): float(version) for name, (version, _) in state.accuracy.items()},
    }
