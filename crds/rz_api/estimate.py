"""``rz plan`` and the trainer's check at its start judge memory by the same formulas.

What a run will hold in memory and how long a step will take, before it starts: arithmetic on its spec. Everything that
is assumed is a field of ``Assumptions`` or of its ``Gpu``. Estimates are for choosing a layout, not for promising a
time.

Sizes are in bytes, times in seconds. P parameters are held as fp32 masters (4 P), gradients (4 P) and Adam's two
moments (8 P), spread over ``trainer.shardSize`` ranks; passes run in ``trainer.dtype``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from rz_api.gpus import GB, GPUS, Gpu
from rz_api.shapes import ModelShape, forward_flops
from rz_api.spec import ReasonerZeroRunSpec, broadcasts

__all__ = [
    "GB",
    "Assumptions",
    "Estimate",
    "Memory",
    "StepTime",
    "alternatives",
    "engine_memory",
    "estimate",
    "gpus_of",
    "host_memory",
    "host_parts",
    "memory_problem",
    "trainer_memory",
]

BUCKET_BYTES = 1 * GB
"""Tensors that are gathered and sent at once (``rz_workers.trainer.durable.publication``)."""
LOGIT_CHUNK_BYTES = 256 * 2**20
"""fp32 logits that exist at once, twice (``rz_workers.trainer.models.scoring``)."""
RUNTIME_BYTES = 3 * GB
"""CUDA context, communication buffers, fragmentation: what no formula here counts."""


@dataclass(frozen=True)
class Assumptions:
    """What the estimate takes for granted."""

    gpu: Gpu = GPUS["H100-80GB"]
    mean_prompt: int = 200
    """Tokens."""
    mean_response: int = 2000
    """Tokens; the paper's runs grow from some hundred to several thousand."""
    longest_over_mean: int = 4
    """A step's longest response over the mean one, as far as the spec allows it."""
    mfu: float = 0.35
    """Share of the GPU's operations that the trainer's passes reach."""
    bandwidth_share: float = 0.6
    """Share of the memory's bandwidth that decoding reaches."""
    host_memory: float | None = None
    """Of one trainer pod, bytes; None where nothing is known of it."""

    @staticmethod
    def for_spec(
        spec: ReasonerZeroRunSpec,
        gpu: Gpu | None = None,
        mean_response: int | None = None,
        host_memory: float | None = None,
    ) -> Assumptions:
        """The defaults, held within what the spec allows."""
        base = Assumptions()
        return dataclasses.replace(
            base,
            gpu=gpu or base.gpu,
            mean_prompt=min(base.mean_prompt, spec.data.max_prompt_tokens),
            mean_response=min(mean_response or base.mean_response, spec.rollout.sampling.max_new_tokens),
            host_memory=host_memory,
        )


@dataclass(frozen=True)
class Memory:
    """What one device or host holds at its fullest, by purpose."""

    parts: dict[str, float]
    limit: float | None
    """Bytes there are; None where unknown."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.limit is None or self.total <= self.limit


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step's parts."""

    generate: float
    values: float
    policy: float
    critic: float
    publish: float
    overlaps: bool
    """Whether the critic runs behind the generation of the next step."""

    @property
    def total(self) -> float:
        """Of a step in the steady state."""
        if self.overlaps:
            return max(self.generate, self.critic) + self.values + self.policy + self.publish
        return self.generate + self.values + self.policy + self.publish + self.critic


@dataclass(frozen=True)
class Estimate:
    """Of one run on one kind of GPU."""

    assumptions: Assumptions
    parameters: int
    trainer: Memory
    """Of one rank's GPU."""
    host: Memory
    """Of the first trainer pod, which holds most."""
    engine: Memory
    """Of one rollout GPU, without the KV cache."""
    kv_tokens: float
    """Tokens that the KV cache of one engine holds."""
    concurrency: float
    """Sequences that one engine samples at a time, at mean length."""
    time: StepTime
    problems: tuple[str, ...]
    """Why the run does not fit, each with what to change; empty if it does."""


# -------------------------------------------------------------------------------------------------------------- memory


def ranks_of(spec: ReasonerZeroRunSpec) -> int:
    return spec.trainer.nodes * max(1, spec.trainer.gpus_per_node)


def gpus_of(spec: ReasonerZeroRunSpec) -> int:
    """GPUs of a run with GPUs: the trainer's, and those of rollouts that have their own."""
    separate = spec.rollout.placement == "separate"
    return ranks_of(spec) + (spec.rollout.replicas * spec.rollout.tensor_parallel if separate else 0)


def critic_parameters(spec: ReasonerZeroRunSpec, shape: ModelShape) -> int:
    """The base model without its output layer, and one number for each hidden unit; 0 for GRPO."""
    if spec.algorithm.name != "ppo":
        return 0
    return shape.parameters() - (0 if shape.tied else shape.embedding) + shape.hidden_size


def activation_bytes(spec: ReasonerZeroRunSpec, shape: ModelShape, tokens: int) -> float:
    """What a forward pass over ``tokens`` packed tokens keeps for its backward pass.

    A layer keeps, for each token, the inputs of its norms and matrices (6 times the hidden size), queries, keys, values
    and attention's output, and four vectors of the feed-forward part. With activation checkpointing every layer keeps
    its input alone, and one layer at a time is whole.
    """
    width = _width(spec)
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_size
    layer = width * (6 * shape.hidden_size + attention + 4 * shape.intermediate_size)
    if spec.trainer.activation_checkpointing:
        return float(tokens) * (shape.layers * width * shape.hidden_size + layer)
    return float(tokens) * shape.layers * layer


def trainer_memory(spec: ReasonerZeroRunSpec, shape: ModelShape, limit: float | None) -> Memory:
    """Of one rank's device, in the policy update or the critic's, whichever needs more."""
    shards = spec.trainer.shard_size or ranks_of(spec)
    policy, critic = shape.parameters(), critic_parameters(spec, shape)
    width, on_device = _width(spec), spec.trainer.offload == "none"
    parts = {
        # 4 of the master and 8 of Adam's two moments.
        "parameters and optimizer": 12.0 * (policy + critic) / shards if on_device else 0.0,
        # The larger of the two: gradients are freed after each update (``Learner._step``).
        "gradients": 4.0 * max(policy, critic) / shards if on_device else 0.0,
        "reference model": 4.0 * policy / shards if spec.algorithm.kl_coefficient > 0 and on_device else 0.0,
        # FSDP gathers layers ahead of their use; the root's group, with embedding and output layer, stays whole.
        "gathered layers": float(width * (3 * shape.layer_matrices + shape.embedding * (1 if shape.tied else 2))),
        "activations": activation_bytes(spec, shape, spec.trainer.max_tokens_per_micro_batch),
        # The gradient is summed in fp32 and converted once: both exist for a moment (``models.scoring``).
        "logits and output layer's gradient": 2.0 * LOGIT_CHUNK_BYTES + (4 + width) * shape.embedding,
        # The gathered tensors and the sender's two slots (``rz_workers.transfer.buffers.NUM_SLOTS``).
        "publication buckets": 3.0 * min(BUCKET_BYTES, width * policy) if broadcasts(spec) else 0.0,
        "runtime": float(RUNTIME_BYTES),
    }
    return Memory({name: size for name, size in parts.items() if size}, limit)


def host_memory(spec: ReasonerZeroRunSpec, shape: ModelShape, limit: float | None) -> Memory:
    """Of the first trainer pod. Loading is over when the rest begins, so that the larger of the two counts."""
    return Memory(host_parts(spec, shape.parameters(), critic_parameters(spec, shape)), limit)


def host_parts(spec: ReasonerZeroRunSpec, policy: float, critic: float) -> dict[str, float]:
    """Bytes of the first trainer pod's host by purpose, of a policy and a critic with so many parameters."""
    shards = spec.trainer.shard_size or ranks_of(spec)
    on_pod = max(1, spec.trainer.gpus_per_node)
    reference = policy if spec.algorithm.kl_coefficient > 0 else 0
    states = 12.0 * (policy + critic) * on_pod / shards
    loading = 4.0 * (policy + critic + reference)
    steady = {
        "checkpoint staging": states,
        # One version that is being written and one that waits (``StorageWriter``).
        "weights on their way to storage": 2.0 * _width(spec) * policy,
        "offloaded parameters, gradients, optimizer": (
            states + 4.0 * (max(policy, critic) + reference) * on_pod / shards if spec.trainer.offload == "all" else 0.0
        ),
        "processes": 3.0 * GB * on_pod,
    }
    if loading > sum(steady.values()):
        steady = {"whole models while they load": loading, "processes": 3.0 * GB * on_pod}
    return {name: size for name, size in steady.items() if size}


def engine_memory(spec: ReasonerZeroRunSpec, shape: ModelShape, gpu: Gpu) -> Memory:
    """Of one GPU of an engine, without the KV cache, which gets what is left of ``gpuMemoryUtilization``."""
    shards = spec.trainer.shard_size or ranks_of(spec)
    resident = 12.0 * (shape.parameters() + critic_parameters(spec, shape)) / shards
    parts = {
        "weights": float(_width(spec) * shape.parameters()) / spec.rollout.tensor_parallel,
        "trainer's parameters and optimizer": (
            resident if spec.rollout.placement == "colocated" and spec.trainer.offload == "none" else 0.0
        ),
        "runtime": float(RUNTIME_BYTES),
    }
    limit = gpu.memory * spec.rollout.gpu_memory_utilization
    return Memory({name: size for name, size in parts.items() if size}, limit)


def kv_bytes(spec: ReasonerZeroRunSpec, shape: ModelShape) -> float:
    """Of one token's keys and values, on one GPU of an engine."""
    whole = 2.0 * shape.layers * shape.kv_heads * shape.head_size * _width(spec)
    # Heads are what is split: beyond one head a GPU they are repeated.
    return whole / min(spec.rollout.tensor_parallel, shape.kv_heads)


def _width(spec: ReasonerZeroRunSpec) -> int:
    return 2 if spec.trainer.dtype == "bfloat16" else 4


# ---------------------------------------------------------------------------------------------------------------- time


def engines_of(spec: ReasonerZeroRunSpec) -> int:
    if spec.rollout.placement == "colocated":
        return max(1, ranks_of(spec) // spec.rollout.tensor_parallel)
    return spec.rollout.replicas


def step_time(spec: ReasonerZeroRunSpec, shape: ModelShape, assumed: Assumptions, kv_tokens: float) -> StepTime:
    """Seconds of a step. Training is bound by operations, decoding by memory: each decoding step reads the weights and
    all keys and values; and no step is shorter than its longest response by itself."""
    algorithm, gpu, width = spec.algorithm, assumed.gpu, _width(spec)
    samples = algorithm.prompts_per_step * algorithm.samples_per_prompt
    lengths = [assumed.mean_prompt + assumed.mean_response]
    passed = forward_flops(shape, lengths, 0) * samples
    scored = forward_flops(shape, lengths, assumed.mean_response) * samples
    speed = ranks_of(spec) * gpu.flops * assumed.mfu
    backward = 4.0 if spec.trainer.activation_checkpointing else 3.0  # the forward pass once more
    has_critic = algorithm.name == "ppo"
    reference = scored if algorithm.kl_coefficient > 0 else 0.0

    engines, shards = max(1, engines_of(spec)), spec.rollout.tensor_parallel
    # While a response is sampled it is half there on average: that much cache is held and read.
    context = assumed.mean_prompt + assumed.mean_response / 2
    mine = samples / engines
    batch = max(1.0, min(mine, kv_tokens / context))
    bandwidth = gpu.bandwidth * assumed.bandwidth_share
    weights, cache = width * shape.parameters() / shards, kv_bytes(spec, shape)
    one = weights / bandwidth
    # Weights are read once for the whole batch, the cache by each sequence; large batches are bound by operations.
    together = max((weights + batch * context * cache) / bandwidth, 2 * shape.parameters() * batch / shards / gpu.flops)
    longest = min(spec.rollout.sampling.max_new_tokens, assumed.longest_over_mean * assumed.mean_response)
    generate = max(mine / batch * assumed.mean_response * together, longest * one)
    overlaps = spec.rollout.placement == "separate" and spec.trainer.overlap_critic and has_critic
    return StepTime(
        generate=generate,
        values=passed / speed if has_critic else 0.0,
        policy=(backward * scored + reference) / speed,
        critic=backward * passed / speed if has_critic else 0.0,
        # Assumed: 10 GB/s and a second for what has to be agreed on.
        publish=width * shape.parameters() / 10e9 + 1.0,
        overlaps=overlaps,
    )


# ------------------------------------------------------------------------------------------------------------ together


def estimate(spec: ReasonerZeroRunSpec, shape: ModelShape, assumed: Assumptions) -> Estimate:
    """Memory and time of a run with GPUs (``trainer.gpusPerNode`` above 0) on GPUs of one kind."""
    trainer = trainer_memory(spec, shape, assumed.gpu.memory)
    host = host_memory(spec, shape, assumed.host_memory)
    engine = engine_memory(spec, shape, assumed.gpu)
    assert engine.limit is not None
    kv_tokens = max(0.0, engine.limit - engine.total) / kv_bytes(spec, shape)
    context = assumed.mean_prompt + assumed.mean_response / 2
    return Estimate(
        assumptions=assumed,
        parameters=shape.parameters(),
        trainer=trainer,
        host=host,
        engine=engine,
        kv_tokens=kv_tokens,
        concurrency=kv_tokens / context,
        time=step_time(spec, shape, assumed, kv_tokens),
        problems=tuple(_problems(spec, shape, trainer, host, engine, kv_tokens)),
    )


def memory_problem(spec: ReasonerZeroRunSpec, what: str, memory: Memory) -> str | None:
    """Why ``memory`` does not fit, and what to change; None if it does."""
    if memory.fits:
        return None
    assert memory.limit is not None
    name, size = max(memory.parts.items(), key=lambda part: part[1])
    return (
        f"{what} would hold {memory.total / GB:.0f} GB, it has {memory.limit / GB:.0f} GB (the largest part: {name}, "
        f"{size / GB:.0f} GB): {'; or '.join(_remedies(spec, name))}"
    )


def _problems(
    spec: ReasonerZeroRunSpec, shape: ModelShape, trainer: Memory, host: Memory, engine: Memory, kv_tokens: float
) -> Iterable[str]:
    for what, memory in (("a trainer GPU", trainer), ("the first trainer pod's host", host), ("a rollout GPU", engine)):
        problem = memory_problem(spec, what, memory)
        if problem is not None:
            yield problem
    if engine.fits and kv_tokens < spec.rollout.max_model_length:
        yield (
            f"the KV cache of an engine would hold {kv_tokens:,.0f} tokens, one sequence may have "
            f"{spec.rollout.max_model_length:,}: raise rollout.tensorParallel or rollout.gpuMemoryUtilization, or "
            "lower rollout.maxModelLength"
        )


def _remedies(spec: ReasonerZeroRunSpec, largest: str) -> list[str]:
    remedies = []
    if largest == "activations":
        if not spec.trainer.activation_checkpointing:
            remedies.append("set trainer.activationCheckpointing: true")
        context = spec.data.max_prompt_tokens + spec.rollout.sampling.max_new_tokens
        if spec.trainer.max_tokens_per_micro_batch > context:
            remedies.append(f"lower trainer.maxTokensPerMicroBatch (at least {context})")
        remedies.append("lower rollout.sampling.maxNewTokens")
    elif largest == "weights":
        remedies.append("raise rollout.tensorParallel")
    elif largest.startswith("trainer's"):
        remedies.append("use rollout.placement separate")
    elif largest in (
        "checkpoint staging",
        "whole models while they load",
        "offloaded parameters, gradients, optimizer",
    ):
        remedies.append("ask for more memory in trainer.resources")
        if spec.trainer.offload == "all":
            remedies.append("set trainer.offload: none")
    if largest not in ("weights", "whole models while they load"):
        remedies.append("raise trainer.nodes")
        if spec.trainer.shard_size is not None:
            remedies.append("raise trainer.shardSize or leave it out")
        if spec.trainer.offload == "none" and largest in ("parameters and optimizer", "gradients"):
            remedies.append("set trainer.offload: all")
    return remedies


def alternatives(spec: ReasonerZeroRunSpec, shape: ModelShape, assumed: Assumptions) -> list[tuple[str, Estimate]]:
    """Layouts of the same number of GPUs that fit, fastest first: every split by whole trainer pods, and colocated."""
    per_node, shards = spec.trainer.gpus_per_node, spec.rollout.tensor_parallel
    total, found = gpus_of(spec), []
    for nodes in range(1, total // per_node + 1):
        engines = (total - nodes * per_node) // shards
        if engines > 0:
            found.append(_changed(spec, nodes, "separate", engines))
        # Rules of the contract (``rz_api.rules``): what breaks them is no layout.
        elif nodes * per_node == total and spec.algorithm.max_staleness == 0 and per_node % shards == 0:
            found.append(_changed(spec, nodes, "colocated", 0))
    estimates = [(name, estimate(one, shape, assumed)) for name, one in found]
    return sorted(((name, one) for name, one in estimates if not one.problems), key=lambda pair: pair[1].time.total)


def _changed(spec: ReasonerZeroRunSpec, nodes: int, placement: str, engines: int) -> tuple[str, ReasonerZeroRunSpec]:
    trainer = spec.trainer.model_copy(update={"nodes": nodes, "shard_size": None})
    update = {"placement": placement, "replicas": engines if placement == "separate" else spec.rollout.replicas}
    name = f"trainer.nodes {nodes}, " + (
        f"rollout.replicas {engines}" if placement == "separate" else "rollout.placement colocated"
    )
    return name, spec.model_copy(update={"trainer": trainer, "rollout": spec.rollout.model_copy(update=update)})
