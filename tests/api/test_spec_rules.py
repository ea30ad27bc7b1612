"""The rules between fields: each by its predicate and by its CEL expression, over one table."""

from __future__ import annotations

from typing import Any

import pytest
from api_builders import document
from mini_cel import evaluate

from rz_api import cel, crd, rules
from rz_api.resource import SpecError, load_run

SCHEMA = crd.object_schema()["properties"]["spec"]
TEMPLATE = "spec.data.promptTemplate"
SETS = [{"name": "math500", "uri": "a.json"}, {"name": "aime24", "uri": "b.json"}]

ALLOWED: dict[str, dict[str, Any]] = {
    "the smallest run": {},
    "eval sets with different names": {"spec.data.eval": SETS},
    "a template with the question once": {TEMPLATE: "Q: {question} {other}\nA:"},
    "a procedural task by its uri alone": {"spec.data.train.0.uri": "reasoning-gym://chain_sum"},
    "a procedural task with its format": {"spec.data.train.0": {"uri": "reasoning-gym://x", "format": "reasoning-gym"}},
    "a verifier by its name": {"spec.reward.verifier": "robust", "spec.data.train.0.verifier": "choice"},
    "a function of a module": {"spec.reward.verifier": "my_rewards.maths:grade"},
    "a function of a file in the bucket": {"spec.data.train.0.verifier": "s3://bucket/my rewards.py:grade"},
    "a function of a file beside the run file": {"spec.reward.verifier": "./rewards.py:grade"},
    "a procedural task by another verifier": {
        "spec.data.train.0": {"uri": "reasoning-gym://chain_sum", "verifier": "exact"}
    },
    "the task's own scorer for every source that names no other": {
        "spec.reward.verifier": "reasoning-gym",
        "spec.data.train.0": {"uri": "reasoning-gym://chain_sum"},
        "spec.data.eval": [{"name": "x", "uri": "a.json", "verifier": "numeric"}],
    },
    "a linear schedule that falls": {"spec.algorithm.policy.lrSchedule": "linear"},
    "a final rate that no linear schedule uses": {"spec.algorithm.policy.finalLearningRate": 1.0},
    "grpo with 2 samples": {"spec.algorithm": {"name": "grpo", "samplesPerPrompt": 2}},
    "grpo with few trajectories, as it has no critic": {
        "spec.algorithm": {"name": "grpo", "samplesPerPrompt": 2, "promptsPerStep": 1}
    },
    "as many critic mini-batches as trajectories": {
        "spec.algorithm": {"samplesPerPrompt": 3, "promptsPerStep": 4, "critic": {"miniBatches": 12}}
    },
    "a KL penalty under ppo": {"spec.algorithm": {"klMode": "penalty", "klCoefficient": 0.1}},
    "a KL loss under grpo": {"spec.algorithm": {"name": "grpo", "klCoefficient": 0.1}},
    "a cap of 1": {"spec.algorithm": {"samplerCorrection": "tis", "tisCap": 1}},
    "a small cap that nothing uses": {"spec.algorithm.tisCap": 0.5},
    "more samples in a lease than a prompt has, which is clamped": {"spec.algorithm.samplesPerPrompt": 8},
    "the largest lease unit": {"spec.rollout": {"samplesPerLease": 128, "groupsPerLease": 128}},
    "kueue with a queue": {"spec.scheduling": {"gang": "kueue", "queueName": "team-a"}},
    "a gang that may wait for a day": {"spec.scheduling.gangTimeoutSeconds": 86_400},
    "kai with a queue": {"spec.scheduling": {"gang": "kai", "queueName": "team-a"}},
    "GPUs of another maker": {"spec.scheduling.gpuResource": "amd.com/gpu"},
    "one MIG instance a pod": {
        "spec.scheduling.gpuResource": "nvidia.com/mig-3g.40gb",
        "spec.trainer": {"nodes": 4, "gpusPerNode": 1},
    },
    "GPUs by claims alone": {
        "spec.scheduling": {"gpuResource": "", "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "h100"}]}
    },
    "equal waits": {"spec.failurePolicy": {"backoffSeconds": 5, "maxBackoffSeconds": 5}},
    "a variable with a value": {"spec.trainer.env": [{"name": "A", "value": "1"}]},
    "a context that just fits": {
        "spec.rollout": {"maxModelLength": 300, "sampling": {"maxNewTokens": 200}},
        "spec.data.maxPromptTokens": 100,
    },
    "a micro-batch of exactly one context": {"spec.trainer.maxTokensPerMicroBatch": 10_048},
    "tensor parallel rollouts on GPUs": {"spec.rollout.tensorParallel": 4},
    "colocated on the CPU": {"spec.rollout.placement": "colocated", "spec.trainer.gpusPerNode": 0},
    "colocated, 2 GPUs an engine, of 8": {"spec.rollout": {"placement": "colocated", "tensorParallel": 2}},
    "truncated sampling, strictly on-policy": {"spec.rollout.sampling": {"topP": 0.95, "topK": 50}},
    "truncated sampling with a KL loss, which is of whole distributions": {
        "spec.rollout.sampling.topP": 0.95,
        "spec.algorithm.klCoefficient": 0.1,
    },
    "truncated evaluations of a run that corrects": {
        "spec.evaluation.topP": 0.95,
        "spec.algorithm.samplerCorrection": "tis",
    },
    "staleness 1 with rollouts of their own": {"spec.algorithm.maxStaleness": 1},
    "shards over a node of several": {"spec.trainer": {"nodes": 4, "gpusPerNode": 8, "shardSize": 8}},
    "shards over all ranks on the CPU": {"spec.trainer": {"nodes": 2, "gpusPerNode": 0, "shardSize": 2}},
}

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "two eval sets with one name": (
        {"spec.data.eval": [*SETS, SETS[0]]},
        "spec.data.eval",
        "must be unique",
    ),
    "a template without the question": ({TEMPLATE: "Q: {Question}"}, TEMPLATE, "exactly once"),
    "a template with the question twice": ({TEMPLATE: "{question}{question}"}, TEMPLATE, "exactly once"),
    "a file read as a procedural task": (
        {"spec.data.train.0": {"uri": "a.jsonl", "format": "reasoning-gym"}},
        "spec.data.train[0].format",
        "go together",
    ),
    "a procedural task read as columns": (
        {"spec.data.eval": [{"name": "x", "uri": "reasoning-gym://x", "format": "columns"}]},
        "spec.data.eval[0].format",
        "go together",
    ),
    "a verifier that is not there": ({"spec.reward.verifier": "mathverify"}, "spec.reward.verifier", "PLACE:FUNCTION"),
    "a verifier without its function": (
        {"spec.data.train.0.verifier": "rewards.py"},
        "spec.data.train[0].verifier",
        "PLACE:FUNCTION",
    ),
    "a verifier in a file that is no Python": (
        {"spec.reward.verifier": "s3://bucket/rewards.sh:grade"},
        "spec.reward.verifier",
        "PLACE:FUNCTION",
    ),
    "a task's scorer for a file": (
        {"spec.data.eval": [{"name": "x", "uri": "a.json", "verifier": "reasoning-gym"}]},
        "spec.data.eval[0].verifier",
        "only a task of reasoning-gym",
    ),
    "a task's scorer for all sources, one of which is a file": (
        {
            "spec.reward.verifier": "reasoning-gym",
            "spec.data.train.0": {"uri": "reasoning-gym://chain_sum"},
            "spec.data.eval": [{"name": "x", "uri": "a.json"}],
        },
        "spec.reward.verifier",
        "one at each such source",
    ),
    "a linear schedule that rises": (
        {"spec.algorithm.critic": {"lrSchedule": "linear", "learningRate": 1e-7}},
        "spec.algorithm.critic.finalLearningRate",
        "at most learningRate",
    ),
    "grpo with a single sample": (
        {"spec.algorithm": {"name": "grpo", "samplesPerPrompt": 1}},
        "spec.algorithm.samplesPerPrompt",
        "at least 2",
    ),
    "more critic mini-batches than trajectories": (
        {"spec.algorithm": {"samplesPerPrompt": 1, "promptsPerStep": 11}},
        "spec.algorithm.critic.miniBatches",
        "needs a trajectory",
    ),
    "a KL penalty that does nothing": ({"spec.algorithm.klMode": "penalty"}, "spec.algorithm.klMode", "klMode loss"),
    "a KL penalty under grpo": (
        {"spec.algorithm": {"name": "grpo", "klMode": "penalty", "klCoefficient": 0.1}},
        "spec.algorithm.klMode",
        "use it with ppo",
    ),
    "a cap below 1 under tis": (
        {"spec.algorithm": {"samplerCorrection": "tis", "tisCap": 0.5}},
        "spec.algorithm.tisCap",
        "at least 1",
    ),
    "a cap below 1 at staleness 1": (
        {"spec.algorithm": {"maxStaleness": 1, "tisCap": 0.5}},
        "spec.algorithm.tisCap",
        "at least 1",
    ),
    "a lease unit that is too large": (
        {"spec.rollout": {"samplesPerLease": 129, "groupsPerLease": 128}},
        "spec.rollout.groupsPerLease",
        "at most 16384",
    ),
    "kueue without a queue": ({"spec.scheduling.gang": "kueue"}, "spec.scheduling.queueName", "set queueName"),
    "a gang that may wait for more than a day": (
        {"spec.scheduling.gangTimeoutSeconds": 86_401},
        "spec.scheduling.gangTimeoutSeconds",
        "at most 86400",
    ),
    "kai without a queue": ({"spec.scheduling.gang": "kai"}, "spec.scheduling.queueName", "set queueName to a KAI"),
    "GPUs from nowhere": ({"spec.scheduling.gpuResource": ""}, "spec.scheduling.resourceClaims", "add a claim"),
    "GPUs from an empty list of claims": (
        {"spec.scheduling": {"gpuResource": "", "resourceClaims": []}},
        "spec.scheduling.resourceClaims",
        "add a claim",
    ),
    "a claim of nothing": (
        {"spec.scheduling.resourceClaims": [{"name": "gpu"}]},
        "spec.scheduling.resourceClaims[0].resourceClaimTemplateName",
        "never both",
    ),
    "a claim that is two things": (
        {
            "spec.scheduling.resourceClaims": [
                {"name": "gpu", "resourceClaimName": "a", "resourceClaimTemplateName": "b"}
            ]
        },
        "spec.scheduling.resourceClaims[0].resourceClaimTemplateName",
        "never both",
    ),
    "two MIG instances a pod": (
        {"spec.scheduling.gpuResource": "nvidia.com/mig-3g.40gb", "spec.trainer.gpusPerNode": 2},
        "spec.trainer.gpusPerNode",
        "a process sees one MIG instance",
    ),
    "a longest wait shorter than the first": (
        {"spec.failurePolicy.backoffSeconds": 301},
        "spec.failurePolicy.maxBackoffSeconds",
        "must not be shorter",
    ),
    "a variable with two sources": (
        {"spec.reward.env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {}}}]},
        "spec.reward.env[0].valueFrom",
        "never both",
    ),
    "a context too short by one token": (
        {"spec.rollout.maxModelLength": 10_047},
        "spec.rollout.maxModelLength",
        "at least data.maxPromptTokens + rollout.sampling.maxNewTokens",
    ),
    "a prompt that makes the default context too short": (
        {"spec.data.maxPromptTokens": 2241},
        "spec.rollout.maxModelLength",
        "must hold the longest prompt",
    ),
    "a micro-batch too small by one token": (
        {"spec.trainer.maxTokensPerMicroBatch": 10_047},
        "spec.trainer.maxTokensPerMicroBatch",
        "raise trainer.maxTokensPerMicroBatch",
    ),
    "tensor parallel transformers": (
        {"spec.rollout": {"tensorParallel": 2, "engine": "transformers"}},
        "spec.rollout.tensorParallel",
        "only the vllm engine",
    ),
    "tensor parallel on the CPU": (
        {"spec.rollout.tensorParallel": 2, "spec.trainer.gpusPerNode": 0},
        "spec.rollout.tensorParallel",
        "only the vllm engine",
    ),
    "colocated engines that don't divide the pod's GPUs": (
        {"spec.rollout": {"placement": "colocated", "tensorParallel": 3}},
        "spec.rollout.tensorParallel",
        "divisor of trainer.gpusPerNode",
    ),
    "colocated at staleness 1": (
        {"spec.rollout.placement": "colocated", "spec.algorithm.maxStaleness": 1},
        "spec.rollout.placement",
        "algorithm.maxStaleness to 0",
    ),
    "truncated sampling at staleness 1": (
        {"spec.rollout.sampling.topP": 0.95, "spec.algorithm.maxStaleness": 1},
        "spec.rollout.sampling.topP",
        "the sampler's are of a truncated distribution",
    ),
    "truncated sampling with importance weights": (
        {"spec.rollout.sampling.topK": 50, "spec.algorithm.samplerCorrection": "tis"},
        "spec.rollout.sampling.topP",
        "the sampler's are of a truncated distribution",
    ),
    "truncated sampling with a KL penalty": (
        {"spec.rollout.sampling.topP": 0.95, "spec.algorithm": {"klMode": "penalty", "klCoefficient": 0.1}},
        "spec.rollout.sampling.topP",
        "the sampler's are of a truncated distribution",
    ),
    "shards that don't divide the ranks": (
        {"spec.trainer": {"nodes": 2, "shardSize": 5}},
        "spec.trainer.shardSize",
        "divisor of trainer.nodes x trainer.gpusPerNode",
    ),
}


@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED)
def test_what_keeps_the_rules_is_accepted(changes: dict[str, Any]) -> None:
    load_run(document(changes))


@pytest.mark.parametrize(("changes", "path", "words"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_rule_is_refused_at_its_path_with_its_words(
    changes: dict[str, Any], path: str, words: str
) -> None:
    with pytest.raises(SpecError) as error:
        load_run(document(changes))
    assert [problem.path for problem in error.value.problems] == [path]
    assert words in str(error.value)


@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED)
def test_the_cel_expressions_accept_what_the_predicates_accept(changes: dict[str, Any]) -> None:
    assert _broken_in_crd(document(changes)["spec"]) == []


@pytest.mark.parametrize(("changes", "path", "words"), REFUSED.values(), ids=REFUSED)
def test_the_cel_expressions_refuse_the_same_at_the_same_path_with_the_same_words(
    changes: dict[str, Any], path: str, words: str
) -> None:
    ((broken_path, message),) = _broken_in_crd(document(changes)["spec"])
    assert broken_path == path
    assert words in message


def test_every_rule_is_broken_by_some_row_of_the_table() -> None:
    specs = [document(changes)["spec"] for changes, _, _ in REFUSED.values()]
    assert {message for spec in specs for _, message in _broken_in_crd(spec)} == {rule.message for rule in rules.RULES}


def test_all_broken_rules_are_named_at_once() -> None:
    with pytest.raises(SpecError) as error:
        load_run(document({"spec.scheduling.gang": "kueue", "spec.trainer.shardSize": 3}))
    assert [problem.path for problem in error.value.problems] == ["spec.scheduling.queueName", "spec.trainer.shardSize"]


def test_a_broken_rule_shows_the_values_that_it_is_about() -> None:
    with pytest.raises(SpecError) as error:
        load_run(document({"spec.rollout.maxModelLength": 4096}))
    assert str(error.value) == (
        "tiny: spec.rollout.maxModelLength: found 4096 (with data.maxPromptTokens 2048, "
        "rollout.sampling.maxNewTokens 8000); the engine's context must hold the longest prompt and the longest "
        "response: raise rollout.maxModelLength to at least data.maxPromptTokens + rollout.sampling.maxNewTokens, "
        "or lower these"
    )


def test_an_expression_reads_an_absent_field_as_its_default() -> None:
    expression = cel.expand("$trainer.nodes", rules.ReasonerZeroRunSpec)
    assert expression == "((has(self.trainer) && has(self.trainer.nodes)) ? self.trainer.nodes : 1)"
    assert [evaluate(expression, self=spec) for spec in ({}, {"trainer": {}}, {"trainer": {"nodes": 3}})] == [1, 1, 3]


def _broken_in_crd(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """(path, message) of the CRD's rules that ``spec`` breaks, as an API server would find them."""
    found: list[tuple[str, str]] = []

    def visit(schema: dict[str, Any], value: Any, path: str) -> None:
        for rule in schema.get("x-kubernetes-validations", []):
            if not evaluate(rule["rule"], self=value):
                found.append((path + rule["fieldPath"], rule["message"]))
        if isinstance(value, dict):
            for key, inner in schema.get("properties", {}).items():
                if key in value:
                    visit(inner, value[key], f"{path}.{key}")
        for index, item in enumerate(value if isinstance(value, list) else []):
            visit(schema["items"], item, f"{path}[{index}]")

    visit(SCHEMA, spec, "spec")
    return found
