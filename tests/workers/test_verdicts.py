"""Counts of what was decided: by source, status and rule, of bounded kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from rz_workers.protocol.messages import WeightsInfo
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage.records import StepCommit
from rz_workers.trainer.metrics import MAX_RULE_LABELS, TrainerMetrics
from rz_workers.verdicts import MAX_RULES, OTHER, shares, verdict_counts


@pytest.fixture
def row() -> Callable[..., Trajectory]:
    def make(source: str = "math", rule: str = "number", status: Any = "ok", reward: float = 1.0) -> Trajectory:
        return Trajectory(
            run="r",
            step=0,
            group_id=0,
            sample_index=0,
            prompt_id="0-0",
            prompt="",
            response="",
            prompt_token_ids=(),
            response_token_ids=(),
            rollout_logprobs=(),
            finish_reason="stop",
            stop_reason=None,
            extracted_answer=None,
            reference_answer="",
            reward=reward,
            reward_status=status,
            weight_version=0,
            engine="fake",
            seconds=0.0,
            source=source,
            rule=rule,
        )

    return make


def test_what_has_source_status_and_rule_in_common_is_counted_together(row: Callable[..., Trajectory]) -> None:
    rows = [row(), row("quiz", "choice", reward=0.5), row(reward=0.0), row(rule="", status="crashed", reward=9.0)]
    assert [tuple(count.model_dump().values()) for count in verdict_counts(rows)] == [
        ("math", "crashed", "", 1, 0.0),
        ("math", "ok", "number", 2, 1.0),
        ("quiz", "ok", "choice", 1, 0.5),
    ]
    assert shares(verdict_counts(rows), "rule") == {"number": 2 / 3, "choice": 1 / 3}
    assert shares(verdict_counts(rows), "status") == {"ok": 3 / 4, "crashed": 1 / 4}
    assert verdict_counts([]) == ()


def test_a_rule_for_each_answer_does_not_make_a_count_for_each(row: Callable[..., Trajectory]) -> None:
    rows = [row(rule=f"rule {i}") for i in range(500)] + [row(rule="x" * 999)] * 3
    counts = {count.rule: count.trajectories for count in verdict_counts(rows)}
    assert len(counts) == MAX_RULES + 1
    assert (counts["x" * 40], counts[OTHER]) == (3, 500 - MAX_RULES + 1)


def test_nor_a_series_for_each_although_every_step_has_others(row: Callable[..., Trajectory]) -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    seen = set()
    for step in range(20):
        rows = [row(rule=f"rule {step} {i}") for i in range(5)]
        weights = WeightsInfo(version=step + 1, digest="d", incarnation=1, prefix="p")
        commit = StepCommit(
            step=step, incarnation=1, shards=(), weights=weights, metrics={}, verdicts=verdict_counts(rows)
        )
        assert StepCommit.model_validate(json.loads(commit.model_dump_json())) == commit
        metrics.committed(commit, 1)
        samples = [sample for family in registry.collect() for sample in family.samples]
        rules = {s.labels["rule"]: s.value for s in samples if s.name == "rz_trainer_rules"}
        assert sum(rules.values()) == 5
        seen |= rules.keys()
    assert len(seen) == MAX_RULE_LABELS + 1
    assert registry.get_sample_value("rz_trainer_verdicts", {"source": "math", "status": "ok"}) == 5
