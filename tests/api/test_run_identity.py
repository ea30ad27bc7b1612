"""What makes two specs the same run: what the result depends on, and what may change while the run goes on."""

from __future__ import annotations

from typing import Any

import pytest
from api_builders import document

from rz_api.resource import load_run
from rz_api.run import ResolvedRun, read_stored_run

ANOTHER_RUN: dict[str, dict[str, Any]] = {
    "another model": {"spec.model.name": "models/other"},
    "another revision of it": {"spec.model.revision": "main"},
    "another tokenizer": {"spec.model.tokenizer": "models/tokenizer"},
    "other initial weights": {"spec.model.initFrom": "runs/a/export/step-000055"},
    "other data": {"spec.data.train.0.uri": "data/other.jsonl"},
    "another evaluation set": {"spec.data.eval": [{"name": "x", "uri": "y.json"}]},
    "another template": {"spec.data.promptTemplate": "{question}"},
    "another seed": {"spec.algorithm.seed": 1},
    "another critic": {"spec.algorithm.critic.miniBatches": 4},
    "a critic to start from": {"spec.algorithm.critic.initFrom": "runs/a/export/step-000055/critic"},
    "other sampling": {"spec.rollout.sampling.temperature": 0.7},
    "other lease units": {"spec.rollout.samplesPerLease": 8},
    "another engine": {"spec.rollout.engine": "vllm"},
    "another verifier": {"spec.reward.verifier": "legacy"},
    "another verifier of a source": {"spec.data.train.0.verifier": "legacy"},
    "another time limit of a verdict": {"spec.reward.timeoutSeconds": 1},
    "another dtype": {"spec.trainer.dtype": "float32"},
    "another number of evaluation samples": {"spec.evaluation.samples": 1},
}

SAME_RUN: dict[str, dict[str, Any]] = {
    "the run's name": {"metadata.name": "other"},
    "the folder's address": {"spec.storage.uri": "moved/tiny"},
    "a secret of the data": {"spec.data.train.0.secretName": "credentials"},
    "a secret of the model": {"spec.model.secretName": "credentials"},
    "the way of the weights": {"spec.rollout.weightSync": "broadcast", "spec.rollout.transferSeconds": 600},
    "replicas": {"spec.rollout.replicas": 9},
    "images": {"spec.trainer.image": "example.com/trainer:2"},
    "the gang's size": {"spec.trainer.nodes": 4},
    "packing": {"spec.trainer.maxTokensPerMicroBatch": 32_768},
    "checkpoints": {"spec.trainer.checkpoint.interval": 1},
    "a pause": {"spec.suspend": True},
    "retention": {"spec.storage.retention.weights": 9},
    "a default written out": {"spec.algorithm.promptsPerStep": 128},
}


def digest(changes: dict[str, Any] | None = None) -> str:
    run = load_run(document(changes))
    return ResolvedRun(name=run.metadata.name, uid="1", spec=run.spec).identity_digest()


@pytest.mark.parametrize("changes", ANOTHER_RUN.values(), ids=ANOTHER_RUN)
def test_it_is_another_run_with(changes: dict[str, Any]) -> None:
    assert digest(changes) != digest()


@pytest.mark.parametrize("changes", SAME_RUN.values(), ids=SAME_RUN)
def test_it_is_the_same_run_whatever_happens_to(changes: dict[str, Any]) -> None:
    assert digest(changes) == digest()


def test_run_json_reads_back_as_the_same_run_with_every_default_written_out() -> None:
    run = ResolvedRun(name="tiny", uid="1", spec=load_run(document()).spec)
    text = run.model_dump_json(by_alias=True)
    assert '"promptsPerStep":128' in text
    assert read_stored_run(text).run == run
    assert read_stored_run(text).run.identity_digest() == run.identity_digest()
