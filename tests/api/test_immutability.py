"""What a started run may not change, here and in the CRD's transition rules."""

from __future__ import annotations

from typing import Any

import pytest
from api_builders import document
from mini_cel import evaluate

from rz_api import crd, rules
from rz_api.resource import load_run
from rz_api.run import ResolvedRun

RULES = crd.object_schema()["x-kubernetes-validations"]

FIXED: dict[str, dict[str, Any]] = {
    "spec.model": {"spec.model.name": "models/other"},
    "spec.data": {"spec.data.train.0.uri": "data/other.jsonl"},
    "spec.algorithm": {"spec.algorithm.promptsPerStep": 64},
    "spec.evaluation": {"spec.evaluation.samples": 4},
    "spec.storage.uri": {"spec.storage.uri": "runs/other"},
    "spec.rollout.placement": {"spec.rollout.placement": "colocated"},
    "spec.rollout.engine": {"spec.rollout.engine": "vllm"},
    "spec.rollout.samplesPerLease": {"spec.rollout.samplesPerLease": 8},
    "spec.rollout.groupsPerLease": {"spec.rollout.groupsPerLease": 2},
    "spec.rollout.sampling": {"spec.rollout.sampling.temperature": 0.9},
    "spec.rollout.weightSync": {"spec.rollout.weightSync": "broadcast"},
    "spec.reward.verifier": {"spec.reward.verifier": "legacy"},
    "spec.reward.timeoutSeconds": {"spec.reward.timeoutSeconds": 5},
    "spec.trainer.dtype": {"spec.trainer.dtype": "float32"},
}

FREE: dict[str, dict[str, Any]] = {
    "more rollouts": {"spec.rollout.replicas": 9},
    "a pause": {"spec.suspend": True},
    "another image": {"spec.trainer.image": "example.com/trainer:2"},
    "another gang size": {"spec.trainer.nodes": 2},
    "more patience": {"spec.failurePolicy.maxRestarts": 99},
    "more reward pods": {"spec.reward.replicas": 2},
    "another secret for the bucket": {"spec.storage.secretName": "other"},
    "more time for a broadcast": {"spec.rollout.transferSeconds": 600},
    "other retention": {"spec.storage.retention.weights": 8},
}


def test_every_fixed_path_has_a_row() -> None:
    assert {f"spec.{path}" for path, _ in rules.IMMUTABLE} == set(FIXED)


@pytest.mark.parametrize(("path", "changes"), FIXED.items(), ids=FIXED)
def test_a_fixed_field_that_changes_is_named_with_old_and_new(path: str, changes: dict[str, Any]) -> None:
    old, new = load_run(document()).spec, load_run(document(changes)).spec
    (violation,) = rules.immutable_violations(old, new)
    ((changed, value),) = changes.items()
    assert violation.path == path
    assert "can't change once the run has started" in violation.message
    assert rules.show(value) in violation.found
    assert changed.removeprefix("spec.").replace(".0.", "[0].") in violation.found


@pytest.mark.parametrize("changes", FREE.values(), ids=FREE)
def test_everything_else_may_change(changes: dict[str, Any]) -> None:
    assert rules.immutable_violations(load_run(document()).spec, load_run(document(changes)).spec) == ()


@pytest.mark.parametrize(("path", "changes"), FIXED.items(), ids=FIXED)
def test_a_transition_rule_of_the_crd_refuses_the_same(path: str, changes: dict[str, Any]) -> None:
    assert _refused(document(), document(changes), "Running") == [path]


@pytest.mark.parametrize("changes", FREE.values(), ids=FREE)
def test_the_transition_rules_leave_the_rest_alone(changes: dict[str, Any]) -> None:
    assert _refused(document(), document(changes), "Running") == []


@pytest.mark.parametrize("phase", [None, "Pending"])
def test_before_the_run_has_started_everything_may_change(phase: str | None) -> None:
    assert _refused(document(), document({"spec.model.name": "models/other"}), phase) == []


def test_writing_out_a_default_of_a_single_field_is_no_change() -> None:
    explicit = document(
        {"spec.rollout.engine": "auto", "spec.trainer.dtype": "bfloat16", "spec.reward.timeoutSeconds": 10}
    )
    assert _refused(document(), explicit, "Running") == []
    assert _refused(explicit, document(), "Running") == []


def test_all_that_enters_the_identity_is_fixed() -> None:
    run = ResolvedRun(name="tiny", uid="1", spec=load_run(document()).spec)
    fixed = {path for path, _ in rules.IMMUTABLE}
    for section, body in run.identity().items():
        assert section in fixed or {f"{section}.{field}" for field in body} <= fixed, section


def _refused(old: dict[str, Any], new: dict[str, Any], phase: str | None) -> list[str]:
    stored = old | ({"status": {"phase": phase}} if phase else {})
    return [
        rule["fieldPath"].removeprefix(".") for rule in RULES if not evaluate(rule["rule"], self=new, oldSelf=stored)
    ]
