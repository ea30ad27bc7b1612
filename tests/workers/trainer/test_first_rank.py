"""What the first rank makes of a step: its figures, whatever is left of its trajectories."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from rz_api.shapes import ModelShape
from rz_api.step_metrics import STEP_METRICS
from rz_workers.protocol.messages import Publication, WeightsInfo
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import StepManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.first_rank import FirstRankDuty
from rz_workers.trainer.method.batch import collate
from rz_workers.trainer.metrics import TrainerMetrics
from rz_workers.trainer.timeline import Timeline

SHAPE = ModelShape(
    hidden_size=8, intermediate_size=16, layers=2, heads=2, kv_heads=1, head_size=4, vocabulary=32, tied=True
)


@pytest.fixture
def commit(make_run, make_trajectories, tmp_path):
    """Commits a step of 4 trajectories, of which the first ``masked`` are masked; returns the stored commit, the
    ledger's report and the exposed metrics."""

    def make(masked: int):
        run = make_run()
        folder = RunFolder.claim(ObjectStore(str(tmp_path / f"run-{masked}")), run)
        folder.claim_incarnation(1)
        folder.freeze_step(StepManifest(step=0, shards=(), generation_started=10.0, generation_finished=20.0))
        reports, registry = [], CollectorRegistry()
        duty = FirstRankDuty(
            settings=SimpleNamespace(run=run, world_size=1, incarnation=1),
            folder=folder,
            ledger=SimpleNamespace(commit_step=reports.append),
            waiting_ledger=None,
            evaluations=SimpleNamespace(collect=lambda step: []),
            failed_steps=SimpleNamespace(committed=lambda step: None),
            progress=SimpleNamespace(record=lambda commit: None),
            shape=SHAPE,
            peak_flops=None,
            metrics=TrainerMetrics(registry),
        )
        rows = [
            replace(row, source="train", rule="number", reward_status="crashed" if i < masked else "ok")
            for i, row in enumerate(make_trajectories())
        ]
        skipped = float(masked == len(rows))
        weights = WeightsInfo(version=1, digest="d", incarnation=1, prefix="weights/x")
        published = Publication(weights=weights)
        batch = collate(rows)
        duty.commit(0, (), rows, batch, {"policy_update_skipped": skipped}, published, Timeline("trainer"))
        return folder.steps()[0], reports[0], registry, rows

    return make


@pytest.mark.parametrize("masked", [0, 1, 4], ids=["none", "one", "all"])
def test_figures_of_a_step_with_masked_trajectories(commit, masked):
    stored, report, registry, rows = commit(masked)
    figures = stored.metrics
    assert report.metrics == figures
    assert figures.keys() <= STEP_METRICS.keys()
    assert all(map(math.isfinite, figures.values()))
    assert figures["reward_status_crashed_fraction"] == masked / 4
    assert figures["tokens_generated"] == sum(len(row.response_token_ids) for row in rows), "masked ones included"
    scored = rows[masked:]
    assert figures.get("reward_mean") == (sum(row.reward for row in scored) / len(scored) if scored else None)
    assert figures.get("staleness_mean") == (0.0 if scored else None)
    counted = {(one.source, one.status, one.rule): one.trajectories for one in stored.verdicts}
    assert counted == {
        ("train", status, "number"): number for status, number in (("crashed", masked), ("ok", 4 - masked)) if number
    }
    assert registry.get_sample_value("rz_trainer_policy_update_skipped") == float(masked == 4)
    assert registry.get_sample_value("rz_trainer_rules", {"rule": "number"}) == 4
