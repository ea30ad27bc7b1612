"""Bad specs: what is wrong, and who says so on an old and on a new API server. test_bad_specs.py holds both to it.

Python's words come from ``load_run`` (``rz validate``, ``rz submit``) and, where a run passes it, from the operator.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

from api_builders import document

Old = Literal["refuses", "condition", "create", "prunes"]
"""What happens on a server without CEL (1.20): it ``refuses`` the object by its schema; it stores it, and the operator
sets Accepted=False (``condition``) or reports that a child was refused (``create``); or it ``prunes`` what is unknown,
so that nobody but ``rz`` sees it (and ``kubectl`` with the CRD's schema)."""
New = Literal["refuses", "rule", "stores"]
"""... with CEL (1.36, strict field validation): it ``refuses`` the object by its schema, or by the ``rule`` in the
words of ``rz_api.rules``; or it ``stores`` the object, and the operator finds it as on the old server."""


@dataclass(frozen=True)
class Bad:
    """One bad object."""

    changes: dict[str, Any]
    """To the smallest run, by dotted path."""
    path: str
    """Where Python finds it; a condition's type where only a server refuses a child."""
    words: str
    """Part of what is said there."""
    old: Old
    new: New
    remove: tuple[str, ...] = ()
    """Dotted paths that are taken out."""
    field: str = ""
    """Word by which a server's schema names the place; the last part of ``path`` if empty."""

    def body(self, name: str) -> dict[str, Any]:
        """The object; ``name`` and a folder of its own unless they are what is bad."""
        made = document({"metadata.name": name, "spec.storage.uri": f"s3://runs/{name}"})
        made = copy.deepcopy(_changed(made, self.changes))
        for path in self.remove:
            *sections, last = path.split(".")
            at: Any = made
            for key in sections:
                at = at[key]
            del at[last]
        return made

    @property
    def named(self) -> str:
        return self.field or self.path.rpartition(".")[2].partition("[")[0]


def _changed(made: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *sections, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        at: Any = made
        for key in sections:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        at[last] = value
    return made


def _nested(levels: int) -> dict[str, Any]:
    """In a list, which is one field to the API server, whatever it holds: only the operator looks inside."""
    made: dict[str, Any] = {}
    for _ in range(levels):
        made = {"x": made}
    return {"tolerations": [made]}


def _rule(changes: dict[str, Any], path: str, words: str) -> Bad:
    return Bad(changes, path, words, "condition", "rule")


def _schema(changes: dict[str, Any], path: str, words: str, field: str = "", remove: tuple[str, ...] = ()) -> Bad:
    return Bad(changes, path, words, "refuses", "refuses", remove, field=field)


def _later(changes: dict[str, Any], path: str, words: str) -> Bad:
    return Bad(changes, path, words, "condition", "stores")


def _child(changes: dict[str, Any], condition: str, words: str) -> Bad:
    return Bad(changes, condition, words, "create", "stores")


EVAL = {"name": "math500", "uri": "s3://data/a.json"}
TEMPLATE = "spec.trainer.podTemplate"
MAIN = f"{TEMPLATE}.spec.containers"
LONG = 1_000_000

RULES = {
    "two evaluation sets with one name": _rule({"spec.data.eval": [EVAL, EVAL]}, "spec.data.eval", "must be unique"),
    "a template without the question": _rule(
        {"spec.data.promptTemplate": "Q: {Question}"}, "spec.data.promptTemplate", "exactly once"
    ),
    "a template with the question twice": _rule(
        {"spec.data.promptTemplate": "{question}{question}"}, "spec.data.promptTemplate", "exactly once"
    ),
    "a file read as a procedural task": _rule(
        {"spec.data.train.0.format": "reasoning-gym"}, "spec.data.train[0].format", "go together"
    ),
    "truncated sampling of a run that corrects for its sampler": _rule(
        {"spec.rollout.sampling.topP": 0.95, "spec.algorithm.samplerCorrection": "tis"},
        "spec.rollout.sampling.topP",
        "hold the sampler's log-probs",
    ),
    "a verifier that is not there": _rule(
        {"spec.reward.verifier": "mathverify"}, "spec.reward.verifier", "PLACE:FUNCTION"
    ),
    "a verifier of a source without its function": _rule(
        {"spec.data.train.0.verifier": "s3://b/rewards.py"}, "spec.data.train[0].verifier", "PLACE:FUNCTION"
    ),
    "a task's scorer for a file": _rule(
        {"spec.data.train.0.verifier": "reasoning-gym"}, "spec.data.train[0].verifier", "only a task"
    ),
    "a task's scorer for all sources, of which one is a file": _rule(
        {"spec.reward.verifier": "reasoning-gym"}, "spec.reward.verifier", "one at each such source"
    ),
    "a linear schedule that rises": _rule(
        {"spec.algorithm.policy": {"lrSchedule": "linear", "finalLearningRate": 1}},
        "spec.algorithm.policy.finalLearningRate",
        "at most learningRate",
    ),
    "grpo with a single sample": _rule(
        {"spec.algorithm": {"name": "grpo", "samplesPerPrompt": 1}}, "spec.algorithm.samplesPerPrompt", "at least 2"
    ),
    "more critic mini-batches than trajectories": _rule(
        {"spec.algorithm": {"samplesPerPrompt": 1, "promptsPerStep": 11}},
        "spec.algorithm.critic.miniBatches",
        "needs a trajectory",
    ),
    "a KL penalty that does nothing": _rule(
        {"spec.algorithm.klMode": "penalty"}, "spec.algorithm.klMode", "klMode loss"
    ),
    "a cap below 1 under tis": _rule(
        {"spec.algorithm": {"samplerCorrection": "tis", "tisCap": 0.5}}, "spec.algorithm.tisCap", "at least 1"
    ),
    "a variable with two sources": _rule(
        {"spec.reward.env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
        "spec.reward.env[0].valueFrom",
        "never both",
    ),
    "a lease unit that is too large": _rule(
        {"spec.rollout": {"samplesPerLease": 4096, "groupsPerLease": 4096}},
        "spec.rollout.groupsPerLease",
        "at most 16384",
    ),
    "a gang that waits for more than a day": _rule(
        {"spec.scheduling.gangTimeoutSeconds": 10**9}, "spec.scheduling.gangTimeoutSeconds", "at most 86400"
    ),
    "kai without a queue": _rule(
        {"spec.scheduling.gang": "kai"}, "spec.scheduling.queueName", "set queueName to a KAI"
    ),
    "GPUs from nowhere": Bad(  # 1.20 takes an empty string for null, and has no claims that could bring them
        {"spec.scheduling.gpuResource": ""},
        "spec.scheduling.resourceClaims",
        "add a claim for each role",
        "refuses",
        "rule",
        field="gpuResource",
    ),
    "a claim of nothing": _rule(
        {"spec.scheduling.resourceClaims": [{"name": "gpu"}]},
        "spec.scheduling.resourceClaims[0].resourceClaimTemplateName",
        "never both",
    ),
    "two MIG instances a pod": _rule(
        {"spec.scheduling.gpuResource": "nvidia.com/mig-3g.40gb", "spec.trainer.gpusPerNode": 2},
        "spec.trainer.gpusPerNode",
        "a process sees one MIG instance",
    ),
    "kueue without a queue": _rule({"spec.scheduling.gang": "kueue"}, "spec.scheduling.queueName", "set queueName"),
    "a longest wait shorter than the first": _rule(
        {"spec.failurePolicy.backoffSeconds": 301}, "spec.failurePolicy.maxBackoffSeconds", "must not be shorter"
    ),
    "a context too short by one token": _rule(
        {"spec.rollout.maxModelLength": 10_047}, "spec.rollout.maxModelLength", "must hold the longest prompt"
    ),
    "a micro-batch too small by one token": _rule(
        {"spec.trainer.maxTokensPerMicroBatch": 10_047},
        "spec.trainer.maxTokensPerMicroBatch",
        "raise trainer.maxTokensPerMicroBatch",
    ),
    "tensor parallel transformers": _rule(
        {"spec.rollout": {"tensorParallel": 2, "engine": "transformers"}},
        "spec.rollout.tensorParallel",
        "only the vllm engine",
    ),
    "colocated engines that don't divide the pod's GPUs": _rule(
        {"spec.rollout": {"placement": "colocated", "tensorParallel": 3}},
        "spec.rollout.tensorParallel",
        "divisor of trainer.gpusPerNode",
    ),
    "colocated at staleness 1": _rule(
        {"spec.rollout.placement": "colocated", "spec.algorithm.maxStaleness": 1},
        "spec.rollout.placement",
        "algorithm.maxStaleness to 0",
    ),
    "shards that don't divide the ranks": _rule(
        {"spec.trainer": {"nodes": 2, "shardSize": 5}}, "spec.trainer.shardSize", "divisor of trainer.nodes"
    ),
}

TYPES = {
    "a number in quotes": _schema({"spec.trainer.nodes": "5"}, "spec.trainer.nodes", "a whole number is required"),
    "half a node": _schema({"spec.trainer.nodes": 2.5}, "spec.trainer.nodes", "a whole number is required"),
    "a mapping for a list": _schema({"spec.data.train": {"uri": "x"}}, "spec.data.train", "a list is required"),
    "a word for true": _schema({"spec.suspend": "yes"}, "spec.suspend", "true or false is required"),
    "a list for a section": _schema({"spec.algorithm": []}, "spec.algorithm", "a mapping is required"),
    "a string for a section": _schema({"spec.model": "Qwen/Qwen2.5-7B"}, "spec.model", "a mapping is required"),
    "a number for a variable's value": _schema(
        {"spec.trainer.env": [{"name": "A", "value": 5}]}, "spec.trainer.env[0].value", "put it in quotes"
    ),
    "a string for the stop strings": _schema(
        {"spec.rollout.sampling.stop": "User:"}, "spec.rollout.sampling.stop", "a list is required"
    ),
    "a list for a quantity": _schema(
        {"spec.trainer.resources.requests": {"memory": ["64Gi"]}},
        "spec.trainer.resources.requests.memory",
        "a string or a whole number is required",
        field="requests",
    ),
    "a number for a node's label": _schema(
        {"spec.trainer.nodeSelector": {"zone": 1}}, "spec.trainer.nodeSelector.zone", "put it in quotes"
    ),
    "a word that is no choice": _schema(
        {"spec.algorithm.name": "reinforce"}, "spec.algorithm.name", "one of ppo, grpo"
    ),
    "a list for a pod template": _schema({TEMPLATE: [1]}, TEMPLATE, "a mapping is required"),
    "NaN in quotes": _schema(
        {"spec.algorithm.policy.learningRate": "NaN"}, "spec.algorithm.policy.learningRate", "a number is required"
    ),
    "infinity in quotes": _schema({"spec.rollout.sampling.topP": "inf"}, "spec.rollout.sampling.topP", "a number"),
}

SIZES = {
    "a seed of 2^63": _schema({"spec.algorithm.seed": 2**63}, "spec.algorithm.seed", "at most 2147483647"),
    "4097 nodes": _schema({"spec.trainer.nodes": 4097}, "spec.trainer.nodes", "at most 4096"),
    "10^30 steps": _schema({"spec.algorithm.totalSteps": 10**30}, "spec.algorithm.totalSteps", "at most 10000000"),
    "a rate of 10^400": _schema(
        {"spec.algorithm.policy.learningRate": 10**400},
        "spec.algorithm.policy.learningRate",
        "a number is required",
        field="0000",
    ),
    "a rate of 1e308": _schema(
        {"spec.algorithm.policy.learningRate": 1e308}, "spec.algorithm.policy.learningRate", "at most 1"
    ),
    "minus one rollout": _schema({"spec.rollout.replicas": -1}, "spec.rollout.replicas", "at least 0"),
    "responses of no token": _schema(
        {"spec.rollout.sampling.maxNewTokens": 0}, "spec.rollout.sampling.maxNewTokens", "at least 1"
    ),
    "a temperature of 0": _schema(
        {"spec.rollout.sampling.temperature": 0}, "spec.rollout.sampling.temperature", "more than 0"
    ),
    "a folder of 10 MB": _schema(
        {"spec.storage.uri": "s3://" + "x" * 10_000_000}, "spec.storage.uri", "at most 2048 are allowed", field="limit"
    ),
    "a folder of 3000 characters": _schema(
        {"spec.storage.uri": "s3://" + "x" * 3000}, "spec.storage.uri", "at most 2048 are allowed"
    ),
    "65 sources": _schema(
        {"spec.data.train": [{"uri": f"s3://data/{n}.jsonl"} for n in range(65)]}, "spec.data.train", "at most 64"
    ),
    "257 variables": _schema(
        {"spec.trainer.env": [{"name": f"A{n}"} for n in range(257)]}, "spec.trainer.env", "at most 256"
    ),
    "a variable of 1 MB": _later({"spec.trainer.env": [{"name": "A", "value": "x" * LONG}]}, "spec", "at most 524288"),
    "a pod template of 1 MB": _later({f"{TEMPLATE}.metadata.annotations.a": "x" * LONG}, "spec", "at most 524288"),
    "a pod template 150 levels deep": _later({TEMPLATE: {"spec": _nested(150)}}, TEMPLATE, "100 levels of nesting"),
    "4096 variables in a pod template": _later(
        {MAIN: [{"name": "main", "env": [{"name": f"A{n}", "value": "x" * 100} for n in range(4096)]}]},
        "spec",
        "at most 524288",
    ),
}

NAMES = {
    "a name with a dot": _schema({"metadata.name": "a.b"}, "metadata.name", "rename the run"),
    "a name in upper case": _schema({"metadata.name": "Tiny"}, "metadata.name", "rename the run"),
    "a name of 41 characters": _schema({"metadata.name": "a" * 41}, "metadata.name", "at most 40"),
    "a name of 64 characters": _schema({"metadata.name": "a" * 64}, "metadata.name", "at most 40"),
    "a name that begins with a digit, as no Service may": _schema(
        {"metadata.name": "1st"}, "metadata.name", "rename the run"
    ),
    "a name that ends in a dash": _schema({"metadata.name": "tiny-"}, "metadata.name", "rename the run"),
    "a name with an umlaut": _schema({"metadata.name": "tïny"}, "metadata.name", "rename the run"),
    "a name of two lines": _schema({"metadata.name": "ti\nny"}, "metadata.name", "rename the run"),
    "a name that leads elsewhere": _schema({"metadata.name": "../pods"}, "metadata.name", "rename the run"),
    "no name": _schema({}, "metadata.name", "a value is required", remove=("metadata.name",)),
    "an evaluation set with a space": _schema(
        {"spec.data.eval": [EVAL | {"name": "math 500"}]}, "spec.data.eval[0].name", "a string that matches"
    ),
    "a Secret that leads elsewhere": _schema(
        {"spec.storage.secretName": "../x"}, "spec.storage.secretName", "a string that matches"
    ),
    "a variable with a space": _schema(
        {"spec.trainer.env": [{"name": "A B"}]}, "spec.trainer.env[0].name", "a string that matches"
    ),
    "a variable of two lines": _schema(
        {"spec.trainer.env": [{"name": "A\nB"}]}, "spec.trainer.env[0].name", "a string that matches"
    ),
}

FIELDS = {
    "an unknown field": Bad(
        {"spec.trainer.nodess": 2}, "spec.trainer.nodess", "did you mean nodes?", "prunes", "refuses"
    ),
    "a field in the wrong section": Bad(
        {"spec.nodes": 2}, "spec.nodes", "move it to spec.trainer.nodes", "prunes", "refuses"
    ),
    "a field in snake case": Bad(
        {"spec.algorithm.prompts_per_step": 1}, "spec.algorithm.prompts_per_step", "rename it", "prunes", "refuses"
    ),
    "a section beside the spec": Bad({"trainer": {}}, "trainer", "move it below spec", "prunes", "refuses"),
    "no model": _schema({}, "spec.model", "a value is required", remove=("spec.model",)),
    "no training data": _schema({}, "spec.data.train", "a value is required", remove=("spec.data.train",)),
    "an empty list of training data": _schema({"spec.data.train": []}, "spec.data.train", "at least 1"),
    "no storage": _schema({}, "spec.storage", "a value is required", remove=("spec.storage",)),
    "an empty spec": _schema({"spec": {}}, "spec.model", "a value is required"),
}

PODS = {
    "CPUs that are no number": _later(
        {"spec.trainer.resources.requests": {"cpu": "many"}}, "resources.requests.cpu", "a number of CPUs"
    ),
    "a pod template that says what is restarted": _later(
        {f"{TEMPLATE}.spec.restartPolicy": "Always"}, f"{TEMPLATE}.spec.restartPolicy", "remove it"
    ),
    "a pod template with the operator's label": _later(
        {TEMPLATE: {"metadata": {"labels": {"reasonerzero.dev/run": "other"}}}},
        f"{TEMPLATE}.metadata.labels",
        "remove it",
    ),
    "a pod template with a finalizer": _later(
        {f"{TEMPLATE}.metadata.finalizers": ["a.b/c"]}, f"{TEMPLATE}.metadata.finalizers", "remove it"
    ),
    "a container without a name": _later({MAIN: [{"image": "x"}]}, MAIN, "give every entry its name"),
    "a pod template that is none": _later({f"{TEMPLATE}.kind": "Pod"}, f"{TEMPLATE}.kind", "metadata and spec"),
    "a port that the API server refuses": _child(
        {MAIN: [{"name": "main", "ports": [{"name": "p", "containerPort": 99_999}]}]}, "TrainerReady", "containerPort"
    ),
    "a node label that the API server refuses": _child(
        {"spec.rollout.nodeSelector": {"no label!": "x"}}, "RolloutsReady", "no label!"
    ),
    "memory that the API server refuses": _child(
        {"spec.reward.resources.requests": {"memory": "lots"}}, "RewardReady", "quantit"
    ),
    "a priority class that is not there": _child(
        {"spec.scheduling.priorityClassName": "nobody"}, "TrainerReady", "nobody"
    ),
}

BAD: dict[str, Bad] = RULES | TYPES | SIZES | NAMES | FIELDS | PODS
