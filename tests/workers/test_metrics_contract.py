"""What each role really exposes is what the registry says: the same names, types, help texts and labels."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from rz_api.metrics import FAMILIES, Server
from rz_api.metrics_doc import PATH, render
from rz_api.step_metrics import STEP_METRICS
from rz_workers.ledger.metrics import COUNTERS, gauges
from rz_workers.ledger.state import Counters
from rz_workers.ledger.status import waiting_status
from rz_workers.protocol.messages import LedgerStatus, WeightsInfo
from rz_workers.reward.app import create_app
from rz_workers.reward.pool import VerifierPool
from rz_workers.rollout.metrics import RolloutMetrics
from rz_workers.storage.metrics import StorageMetrics
from rz_workers.storage.records import Phase, StepCommit
from rz_workers.trainer.metrics import TrainerMetrics


def exposed(registry: CollectorRegistry) -> dict[str, tuple[str, str]]:
    """Family -> type and help, as they are scraped."""
    found = {}
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, family.documentation)
    return found


def of(*servers: Server) -> dict[str, tuple[str, str]]:
    return {name: (f.kind, f.formula) for name, f in FAMILIES.items() if f.server in servers}


def rollout(registry: CollectorRegistry) -> None:
    RolloutMetrics(registry)


def reward(registry: CollectorRegistry) -> None:
    pool = VerifierPool({"math-verify": None}, workers=1, cpu_seconds=1.0, memory_mib=512)
    create_app(pool, "math-verify", None, registry)


def storage(registry: CollectorRegistry) -> None:
    StorageMetrics(registry)


def commit(step: int, metrics: dict[str, float]) -> StepCommit:
    return StepCommit(
        step=step,
        incarnation=1,
        shards=(),
        weights=WeightsInfo(version=step + 1, digest="d", incarnation=1, prefix="p"),
        metrics=metrics,
        phases=(Phase(name="values", role="trainer", started=0.0, seconds=2.0),),
    )


def trainer(registry: CollectorRegistry) -> None:
    TrainerMetrics(registry).committed(commit(0, dict.fromkeys(STEP_METRICS, 1.0)), 10)


@pytest.mark.parametrize(
    ("make", "server"),
    [(rollout, "rollout"), (reward, "reward"), (trainer, "trainer"), (storage, "worker")],
    ids=["rollout", "reward", "trainer", "storage"],
)
def test_a_role_exposes_what_the_registry_says(make: Iterable[Collector], server: Server) -> None:
    registry = CollectorRegistry()
    make(registry)
    assert exposed(registry) == of(server)


def test_the_ledger_has_a_figure_of_every_family() -> None:
    status = waiting_status("run", draining=False, storage_trouble=None)
    known: LedgerStatus = status.model_copy(
        update={
            "total_steps": 10,
            "weight_version": 1,
            "incarnation": 1,
            "metrics": {"reward_mean": 0.5, "response_length_mean": 9.0},
            "seconds_per_step": 2.0,
            "eta_seconds": 18.0,
            "last_checkpoint_step": 0,
        }
    )
    only_of_a_state = {"rz_ledger_oldest_lease_seconds", "rz_ledger_oldest_unit_seconds"}
    only_of_a_state |= {"rz_ledger_eval_accuracy", "rz_ledger_eval_version"}
    assert gauges(known).keys() | only_of_a_state | COUNTERS.keys() == of("ledger").keys()
    assert set(COUNTERS.values()) == set(Counters.__dataclass_fields__)
    assert gauges(known)["rz_ledger_phase"][("waiting",)] == 1.0
    assert sum(gauges(known)["rz_ledger_phase"].values()) == 1.0


def test_no_label_is_one_that_a_scrape_gives_every_series() -> None:
    """Prometheus calls such a label ``exported_…``, and what asks for it by its name finds the target's."""
    targets = {"namespace", "run", "role", "index", "pod", "container", "endpoint", "job", "instance"}
    found = {name: targets & f.labels.keys() for name, f in FAMILIES.items() if f.server != "operator"}
    assert {name: labels for name, labels in found.items() if labels} == {}


def test_a_figure_that_the_newest_step_lacks_does_not_stay_from_an_older_one() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    metrics.committed(commit(0, {"reward_mean": 0.1, "clip_fraction": 0.5}), 10)
    metrics.committed(commit(1, {"reward_mean": 0.2}), 10)
    assert registry.get_sample_value("rz_trainer_reward_mean") == 0.2
    assert registry.get_sample_value("rz_trainer_clip_fraction") is None
    assert registry.get_sample_value("rz_trainer_seconds_total", {"phase": "values"}) == 4.0


def test_a_resumed_trainer_shows_the_newest_step_while_it_replays_older_ones() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    metrics.resumed({step: commit(step, {"reward_mean": step / 10}) for step in range(4)})
    assert registry.get_sample_value("rz_trainer_reward_mean") == 0.3
    metrics.committed(commit(2, {"reward_mean": 0.9}), 10)
    assert registry.get_sample_value("rz_trainer_reward_mean") == 0.3
    metrics.committed(commit(4, {"reward_mean": 0.4}), 10)
    assert registry.get_sample_value("rz_trainer_reward_mean") == 0.4
    assert registry.get_sample_value("rz_trainer_steps_replayed_total") == 1.0
    assert registry.get_sample_value("rz_trainer_steps_total") == 2.0


def test_a_publication_counts_by_its_way() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    metrics.published("broadcast", 0.2, 100)
    metrics.published("storage", 2.0, 100)
    metrics.skipped()
    assert registry.get_sample_value("rz_trainer_publication_bytes_total", {"way": "broadcast"}) == 100
    assert registry.get_sample_value("rz_trainer_publications_total", {"way": "skipped"}) == 1
    assert registry.get_sample_value("rz_trainer_publication_seconds_sum", {"way": "storage"}) == 2.0


def test_the_page_is_what_the_registry_says() -> None:
    assert PATH.read_text() == render(), "run `python -m rz_api.metrics_doc`"
