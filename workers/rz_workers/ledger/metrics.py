"""The ledger's Prometheus metrics, read from its state when they are asked for. ``main`` registers the collector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rz_workers.ledger.service import Ledger
from rz_workers.ledger.state import Counters
from rz_workers.protocol.messages import LedgerStatus

COUNTERS = {
    "issued": "Leases handed out.",
    "adopted": "Leases taken over from heartbeats: issued by a former ledger process, or expired and still alive.",
    "expired": "Leases that expired.",
    "completed": "Units completed by a rollout's word.",
    "duplicates": "Completions that came second and were not used.",
    "found": "Units completed by a shard found in storage.",
}
"""``rz_ledger_leases_<name>_total`` since the process started."""
PROOFS_FAILED = "Times that a rollout was told that it scores the canary otherwise than its peers on the same hardware."


class LedgerCollector(Collector):
    """Counters of leases, and gauges of what ``status`` shows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        state = self._ledger.state
        counts = asdict(state.counters if state else Counters())
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"rz_ledger_leases_{name}", text, value=counts[name])
        yield CounterMetricFamily("rz_ledger_proofs_failed", PROOFS_FAILED, value=counts["proofs_failed"])
        for name, (text, value) in gauges(self._ledger.status()).items():
            yield GaugeMetricFamily(name, text, value=value)


def gauges(status: LedgerStatus) -> dict[str, tuple[str, float]]:
    """Gauge -> (its help, its value); what is not known yet is left out."""
    values: dict[str, tuple[str, float | None]] = {
        "rz_ledger_step": ("Committed steps.", status.step),
        "rz_ledger_total_steps": ("Steps of the run.", status.total_steps),
        "rz_ledger_weight_version": ("Newest published weight version.", status.weight_version),
        "rz_ledger_units_done": ("Units of the step in generation that are done.", status.units_done),
        "rz_ledger_units": ("Units of the step in generation.", status.units_total),
        "rz_ledger_units_leased": ("Units that rollouts hold.", status.units_leased),
        "rz_ledger_eval_units_done": ("Units of open evaluations that are done.", status.eval_units_done),
        "rz_ledger_eval_units": ("Units of open evaluations.", status.eval_units_total),
        "rz_ledger_rollouts": ("Rollouts heard of lately.", len(status.rollouts)),
        "rz_ledger_tokens_generated": ("Response tokens that rollouts say they sampled.", status.tokens_generated),
        "rz_ledger_reward_mean": ("Mean reward of the newest committed step.", status.metrics.get("reward_mean")),
        "rz_ledger_response_length_mean": (
            "Mean response length of the newest committed step, tokens.",
            status.metrics.get("response_length_mean"),
        ),
        "rz_ledger_last_progress_seconds": (
            "Seconds since a unit, step or publication was completed.",
            status.last_progress_seconds_ago,
        ),
    }
    return {name: (text, float(value)) for name, (text, value) in values.items() if value is not None}
