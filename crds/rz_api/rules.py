"""The same words refuse a spec on the API server and here: rules that no single field can state, as one table.

Each rule has a CEL expression (``rz_api.crd`` puts it into the CRD, for servers from 1.25) and a predicate over the
pydantic model (``rz_api.resource.load_run`` applies it: ``rz validate``, ``rz run``, and the operator for older
servers). They are applied where a run is accepted and not by the models themselves: a rule that becomes stricter must
not make a stored, running run unreadable for its own workers.

In the expressions ``$a.b`` stands for the field or, where it is absent, its default (the CRD has no defaults of its
own), and ``$has(a.b)`` for whether it is there; ``rz_api.cel`` writes both out. tests/api/test_spec_rules.py holds each
predicate to a table of good and bad specs; the expressions by a small evaluator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rz_api.names import NAME_PATTERN
from rz_api.spec import (
    AlgorithmSpec,
    DataSource,
    DataSpec,
    EnvVar,
    FailurePolicy,
    OptimizerSpec,
    PodResourceClaim,
    ReasonerZeroRunSpec,
    RewardSpec,
    RolloutSpec,
    SchedulingSpec,
    SpecModel,
)
from rz_api.verifiers import NAMES, OWN_PATTERN, REASONING_GYM, REASONING_GYM_URI, is_known


@dataclass(frozen=True)
class Rule:
    """One rule about one model, wherever in the spec that model (or a subclass) occurs."""

    model: type[SpecModel]
    field: str
    """Where the problem is reported: camelCase, below the model."""
    cel: str
    """Expression over ``self`` (the model's object) that is true for what is allowed; with ``$`` as explained above."""
    holds: Callable[[Any], bool]
    """The same over the model's instance."""
    message: str
    """What is required, and what to change."""
    found: tuple[str, ...] = ()
    """Further fields whose values a message shows, camelCase, below the model; ``field`` itself is always shown."""


@dataclass(frozen=True)
class Violation:
    """A broken rule. ``str`` is the sentence that people see."""

    path: str
    """camelCase, from the object's root: ``spec.rollout.maxModelLength``."""
    found: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}; {self.message}"


LONGEST_GANG_TIMEOUT_SECONDS = 86_400


def _ranks(spec: ReasonerZeroRunSpec) -> int:
    return spec.trainer.nodes * max(1, spec.trainer.gpus_per_node)


_KNOWN_VERIFIER = f"({{0}} in {list(NAMES)} || ({{0}}).matches('{OWN_PATTERN}'))"
"""CEL, of the field in braces."""
_VERIFIERS = (
    f"{', '.join(NAMES[:-1])} or {NAMES[-1]}, or a function of your own as PLACE:FUNCTION, the place being a Python "
    "module or a file that ends in .py"
)

RULES: tuple[Rule, ...] = (
    Rule(
        DataSource,
        "format",
        "self.uri.startsWith('reasoning-gym://') ? $format in ['auto', 'reasoning-gym'] : $format != 'reasoning-gym'",
        lambda source: (
            source.format in ("auto", "reasoning-gym")
            if source.uri.startswith("reasoning-gym://")
            else source.format != "reasoning-gym"
        ),
        "format reasoning-gym and a uri that starts with reasoning-gym:// go together: change the one or the other, "
        "or leave format out",
        ("uri",),
    ),
    Rule(
        DataSource,
        "verifier",
        "!$has(verifier) || " + _KNOWN_VERIFIER.format("self.verifier"),
        lambda source: source.verifier is None or is_known(source.verifier),
        f"a source's verifier is {_VERIFIERS}: correct it, or leave it out",
    ),
    Rule(
        DataSource,
        "verifier",
        f"!$has(verifier) || self.verifier != '{REASONING_GYM}' || self.uri.startsWith('{REASONING_GYM_URI}')",
        lambda source: source.verifier != REASONING_GYM or source.uri.startswith(REASONING_GYM_URI),
        "only a task of reasoning-gym has a scorer of its own: name another verifier, or leave it out",
        ("uri",),
    ),
    Rule(
        RewardSpec,
        "verifier",
        _KNOWN_VERIFIER.format("$verifier"),
        lambda reward: is_known(reward.verifier),
        f"a run's verifier is {_VERIFIERS}: correct it",
    ),
    Rule(
        DataSpec,
        "eval",
        # Quadratic: the API server estimates its cost from maxItems of eval, which must stay small.
        "!$has(eval) || self.eval.all(a, self.eval.exists_one(b, b.name == a.name))",
        lambda data: len({source.name for source in data.eval}) == len(data.eval),
        "the names of evaluation sets must be unique, results are stored under them: rename the second of two",
    ),
    Rule(
        DataSpec,
        "promptTemplate",
        "!$has(promptTemplate) || (self.promptTemplate.contains('{question}') && "
        "self.promptTemplate.indexOf('{question}') == self.promptTemplate.lastIndexOf('{question}'))",
        lambda data: data.prompt_template.count("{question}") == 1,
        "the template must contain {question} exactly once, the question is put there: add it, or remove the others",
    ),
    Rule(
        OptimizerSpec,
        "finalLearningRate",
        "$lrSchedule != 'linear' || $finalLearningRate <= $learningRate",
        lambda optimizer: optimizer.lr_schedule != "linear" or optimizer.final_learning_rate <= optimizer.learning_rate,
        "with lrSchedule linear the rate must not grow after warm-up: set finalLearningRate to at most learningRate",
        ("learningRate", "lrSchedule"),
    ),
    Rule(
        AlgorithmSpec,
        "samplesPerPrompt",
        "$name != 'grpo' || $samplesPerPrompt >= 2",
        lambda algorithm: algorithm.name != "grpo" or algorithm.samples_per_prompt >= 2,
        "grpo compares the samples of a prompt, so it needs at least 2: raise samplesPerPrompt, or use ppo",
        ("name",),
    ),
    Rule(
        AlgorithmSpec,
        "critic.miniBatches",
        "$name != 'ppo' || $critic.miniBatches <= $promptsPerStep * $samplesPerPrompt",
        lambda algorithm: (
            algorithm.name != "ppo"
            or algorithm.critic.mini_batches <= algorithm.prompts_per_step * algorithm.samples_per_prompt
        ),
        "every mini-batch of the critic needs a trajectory: lower critic.miniBatches to at most "
        "promptsPerStep x samplesPerPrompt",
        ("promptsPerStep", "samplesPerPrompt"),
    ),
    Rule(
        AlgorithmSpec,
        "klMode",
        # 0.0, not 0: CEL compares a double with a double.
        "$klMode != 'penalty' || ($name == 'ppo' && $klCoefficient > 0.0)",
        lambda algorithm: algorithm.kl_mode != "penalty" or (algorithm.name == "ppo" and algorithm.kl_coefficient > 0),
        "klMode penalty acts on the rewards of single tokens, which grpo does not have, and does nothing at "
        "klCoefficient 0: use it with ppo and a positive klCoefficient, or use klMode loss",
        ("name", "klCoefficient"),
    ),
    Rule(
        AlgorithmSpec,
        "tisCap",
        "($samplerCorrection == 'none' && $maxStaleness == 0) || $tisCap >= 1.0",
        lambda algorithm: (
            (algorithm.sampler_correction == "none" and algorithm.max_staleness == 0) or algorithm.tis_cap >= 1
        ),
        "a limit below 1 would scale down even tokens that were sampled exactly right: set tisCap to at least 1",
        ("samplerCorrection", "maxStaleness"),
    ),
    Rule(
        EnvVar,
        "valueFrom",
        "!($has(value) && $has(valueFrom))",
        lambda variable: variable.value is None or variable.value_from is None,
        "a variable has a value or a valueFrom, never both: remove one of them",
        ("name",),
    ),
    Rule(
        RolloutSpec,
        "groupsPerLease",
        "$samplesPerLease * $groupsPerLease <= 16384",
        lambda rollout: rollout.samples_per_lease * rollout.groups_per_lease <= 16_384,
        "a lease unit is sampled, stored and lost as one, so it must have at most 16384 rollouts "
        "(samplesPerLease x groupsPerLease): lower one of them",
        ("samplesPerLease",),
    ),
    Rule(
        SchedulingSpec,
        "queueName",
        "$gang != 'kueue' || $has(queueName)",
        lambda scheduling: scheduling.gang != "kueue" or scheduling.queue_name is not None,
        "gang kueue needs a LocalQueue: set queueName to one in the run's namespace, or use another gang",
        ("gang",),
    ),
    Rule(
        SchedulingSpec,
        "gangTimeoutSeconds",
        "$gangTimeoutSeconds <= 86400",
        lambda scheduling: scheduling.gang_timeout_seconds <= LONGEST_GANG_TIMEOUT_SECONDS,
        "a gang that waits with a part of its nodes keeps them from everybody else, and runs of its line wait for it: "
        "set gangTimeoutSeconds to at most 86400, a day",
    ),
    Rule(
        SchedulingSpec,
        "queueName",
        "$gang != 'kai' || $has(queueName)",
        lambda scheduling: scheduling.gang != "kai" or scheduling.queue_name is not None,
        "gang kai schedules nothing without a queue: set queueName to a KAI queue, or use another gang",
        ("gang",),
    ),
    Rule(
        SchedulingSpec,
        "resourceClaims",
        "$gpuResource != '' || ($has(resourceClaims) && self.resourceClaims.size() > 0)",
        lambda scheduling: bool(scheduling.gpu_resource or scheduling.resource_claims),
        "without a gpuResource GPUs come from claims alone: add a claim for each role that has GPUs, or name the "
        "resource in gpuResource",
        ("gpuResource",),
    ),
    Rule(
        PodResourceClaim,
        "resourceClaimTemplateName",
        "$has(resourceClaimTemplateName) != $has(resourceClaimName)",
        lambda claim: (claim.resource_claim_template_name is None) != (claim.resource_claim_name is None),
        "a claim is made from a template or is one that exists: set resourceClaimTemplateName or resourceClaimName, "
        "never both",
        ("name", "resourceClaimName"),
    ),
    Rule(
        FailurePolicy,
        "maxBackoffSeconds",
        "$maxBackoffSeconds >= $backoffSeconds",
        lambda policy: policy.max_backoff_seconds >= policy.backoff_seconds,
        "the longest wait must not be shorter than the first: raise maxBackoffSeconds, or lower backoffSeconds",
        ("backoffSeconds",),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "reward.verifier",
        f"$reward.verifier != '{REASONING_GYM}' || ("
        f"self.data.train.all(s, has(s.verifier) || s.uri.startsWith('{REASONING_GYM_URI}')) && "
        f"(!$has(data.eval) || self.data.eval.all(s, has(s.verifier) || s.uri.startsWith('{REASONING_GYM_URI}'))))",
        lambda spec: (
            spec.reward.verifier != REASONING_GYM
            or all(
                source.verifier is not None or source.uri.startswith(REASONING_GYM_URI)
                for source in (*spec.data.train, *spec.data.eval)
            )
        ),
        "a source that is no task of reasoning-gym has no scorer of its own: name another verifier in reward.verifier, "
        "or one at each such source",
    ),
    Rule(
        ReasonerZeroRunSpec,
        "rollout.maxModelLength",
        "$rollout.maxModelLength >= $data.maxPromptTokens + $rollout.sampling.maxNewTokens",
        lambda spec: (
            spec.rollout.max_model_length >= spec.data.max_prompt_tokens + spec.rollout.sampling.max_new_tokens
        ),
        "the engine's context must hold the longest prompt and the longest response: raise rollout.maxModelLength "
        "to at least data.maxPromptTokens + rollout.sampling.maxNewTokens, or lower these",
        ("data.maxPromptTokens", "rollout.sampling.maxNewTokens"),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "rollout.sampling.topP",
        "($rollout.sampling.topP == 1.0 && $rollout.sampling.topK == 0) || ($algorithm.maxStaleness == 0 && "
        "$algorithm.samplerCorrection == 'none' && $algorithm.klMode != 'penalty')",
        lambda spec: (
            (spec.rollout.sampling.top_p == 1 and spec.rollout.sampling.top_k == 0)
            or (
                spec.algorithm.max_staleness == 0
                and spec.algorithm.sampler_correction == "none"
                and spec.algorithm.kl_mode != "penalty"
            )
        ),
        "maxStaleness 1, tis and a KL penalty hold the sampler's log-probs against those of a model, and with topP "
        "or topK the sampler's are of a truncated distribution, the model's of the whole one: set "
        "rollout.sampling.topP to 1 and topK to 0, or algorithm.maxStaleness to 0, samplerCorrection to none and "
        "klMode to loss",
        (
            "rollout.sampling.topK",
            "algorithm.maxStaleness",
            "algorithm.samplerCorrection",
            "algorithm.klMode",
        ),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "rollout.tensorParallel",
        "$rollout.tensorParallel == 1 || $rollout.engine == 'vllm' || "
        "($rollout.engine == 'auto' && $trainer.gpusPerNode > 0)",
        lambda spec: (
            spec.rollout.tensor_parallel == 1
            or spec.rollout.engine == "vllm"
            or (spec.rollout.engine == "auto" and spec.trainer.gpus_per_node > 0)
        ),
        "only the vllm engine shards a model: set rollout.tensorParallel to 1, or use rollout.engine vllm",
        ("rollout.engine", "trainer.gpusPerNode"),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "trainer.gpusPerNode",
        "!($scheduling.gpuResource).startsWith('nvidia.com/mig-') || "
        "($trainer.gpusPerNode <= 1 && $rollout.tensorParallel == 1)",
        lambda spec: (
            not spec.scheduling.gpu_resource.startswith("nvidia.com/mig-")
            or (spec.trainer.gpus_per_node <= 1 and spec.rollout.tensor_parallel == 1)
        ),
        "a process sees one MIG instance, however many its pod has: set trainer.gpusPerNode and rollout.tensorParallel "
        "to 1 (raise trainer.nodes), or use whole GPUs",
        ("scheduling.gpuResource", "rollout.tensorParallel"),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "rollout.tensorParallel",
        "$rollout.placement != 'colocated' || $trainer.gpusPerNode % $rollout.tensorParallel == 0",
        lambda spec: (
            spec.rollout.placement != "colocated" or spec.trainer.gpus_per_node % spec.rollout.tensor_parallel == 0
        ),
        "colocated rollouts share out the GPUs of a trainer pod: set rollout.tensorParallel to a divisor of "
        "trainer.gpusPerNode",
        ("rollout.placement", "trainer.gpusPerNode"),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "rollout.placement",
        "$rollout.placement != 'colocated' || $algorithm.maxStaleness == 0",
        lambda spec: spec.rollout.placement != "colocated" or spec.algorithm.max_staleness == 0,
        "colocated rollouts take turns with the trainer, so generation can't run ahead of it: set "
        "algorithm.maxStaleness to 0, or use rollout.placement separate",
        ("algorithm.maxStaleness",),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "trainer.maxTokensPerMicroBatch",
        "$trainer.maxTokensPerMicroBatch >= $data.maxPromptTokens + $rollout.sampling.maxNewTokens",
        lambda spec: (
            spec.trainer.max_tokens_per_micro_batch
            >= spec.data.max_prompt_tokens + spec.rollout.sampling.max_new_tokens
        ),
        "a micro-batch must hold the longest prompt and the longest response: raise trainer.maxTokensPerMicroBatch "
        "to at least data.maxPromptTokens + rollout.sampling.maxNewTokens, or lower these",
        ("data.maxPromptTokens", "rollout.sampling.maxNewTokens"),
    ),
    Rule(
        ReasonerZeroRunSpec,
        "trainer.shardSize",
        # ``$trainer.gpusPerNode`` may be 0: a run on the CPU has one rank a pod, as ``_ranks``.
        "!$has(trainer.shardSize) || "
        "($trainer.nodes * ($trainer.gpusPerNode > 0 ? $trainer.gpusPerNode : 1)) % self.trainer.shardSize == 0",
        lambda spec: spec.trainer.shard_size is None or _ranks(spec) % spec.trainer.shard_size == 0,
        "shards must cover the ranks evenly: set trainer.shardSize to a divisor of trainer.nodes x trainer.gpusPerNode "
        "(of trainer.nodes where gpusPerNode is 0), or leave it out",
        ("trainer.nodes", "trainer.gpusPerNode"),
    ),
)

NAME_CEL = f"self.metadata.name.matches('{NAME_PATTERN}')"
NAME_MESSAGE = (
    "a run's name is at most 40 lower-case letters, digits and '-', begins with a letter and ends with a letter or "
    "digit, because its pods' names and hostnames are made from it: rename the run"
)

# -------------------------------------------------------------------------------------------------- immutability

_RESULT = "the run's result depends on it"

IMMUTABLE: tuple[tuple[str, str], ...] = (
    ("model", _RESULT),
    ("data", _RESULT),
    ("algorithm", _RESULT),
    ("evaluation", _RESULT),
    ("storage.uri", "the run's state is there"),
    ("rollout.placement", "it decides whose GPUs the rollouts have"),
    ("rollout.engine", _RESULT),
    ("rollout.samplesPerLease", _RESULT),
    ("rollout.groupsPerLease", _RESULT),
    ("rollout.sampling", _RESULT),
    ("rollout.weightSync", "trainer and rollouts were started for one way of handing over weights"),
    ("reward.verifier", _RESULT),
    ("reward.timeoutSeconds", _RESULT),
    ("trainer.dtype", _RESULT),
)
"""(path below spec, why): fixed once ``status.phase`` is past Pending. All that enters ``ResolvedRun.identity`` is
here. The API server compares sections as they are written, ``immutable_violations`` after defaults were filled in."""


def immutable_message(path: str, why: str) -> str:
    return (
        f"spec.{path} can't change once the run has started, {why}: undo the change, or create another run with a "
        "storage.uri of its own"
    )


def immutable_violations(old: ReasonerZeroRunSpec, new: ReasonerZeroRunSpec) -> tuple[Violation, ...]:
    """What ``new`` changes although the run of ``old`` has started; empty if nothing. Both with defaults filled in."""
    before, after = (spec.model_dump(mode="json", by_alias=True) for spec in (old, new))
    found = []
    for path, why in IMMUTABLE:
        change = _first_difference(path, _at(before, path), _at(after, path))
        if change is not None:
            found.append(Violation(f"spec.{path}", change, immutable_message(path, why)))
    return tuple(found)


def _first_difference(path: str, old: Any, new: Any) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        changes = (_first_difference(f"{path}.{key}", old.get(key), new.get(key)) for key in sorted({*old, *new}))
        return next((change for change in changes if change is not None), None)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        changes = (_first_difference(f"{path}[{i}]", a, b) for i, (a, b) in pairs)
        return next((change for change in changes if change is not None), None)
    return None if old == new else f"{path} {show(new)} in place of {show(old)}"


# ----------------------------------------------------------------------------------------------------- applying


def violations(spec: ReasonerZeroRunSpec) -> tuple[Violation, ...]:
    """All broken rules of a spec, in the order of its fields; empty if there is none."""
    return tuple(_check(spec, "spec"))


def _check(value: object, path: str) -> Iterator[Violation]:
    if isinstance(value, SpecModel):
        # Depth first, so that a section's own problems come before those between sections.
        for name, field in type(value).model_fields.items():
            yield from _check(getattr(value, name), f"{path}.{field.alias or name}")
        for rule in rules_of(type(value)):
            if not rule.holds(value):
                body = value.model_dump(mode="json", by_alias=True)
                others = ", ".join(f"{other} {show(_at(body, other))}" for other in rule.found)
                found = show(_at(body, rule.field)) + (f" (with {others})" if others else "")
                yield Violation(f"{path}.{rule.field}", found, rule.message)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _check(item, f"{path}[{index}]")


def rules_of(model: type[BaseModel]) -> tuple[Rule, ...]:
    """The rules that objects of ``model`` must keep, those of its base classes included."""
    # CriticSpec must keep what OptimizerSpec must, EvalSource what DataSource must.
    return tuple(rule for rule in RULES if issubclass(model, rule.model))


def show(value: object) -> str:
    """A value as a message shows it: JSON, cut to a readable length; an absent one is ``nothing``."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "..."


def _at(body: Any, path: str) -> Any:
    for key in path.split("."):
        body = body[key]
    return body
