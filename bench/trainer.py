"""Tokens a second of the trainer's passes, beside a plain loop, and the memory of a policy update.

    python bench/trainer.py [--device cpu|cuda] [--sizes small 0.5B ...] [--rounds 3] [--compile] [--only speed memory]

**Speed.** Random weights in the shapes of Qwen2.5, one batch of trajectories whose lengths are spread as in the paper's
runs (log-normal, cut at the longest response). Each round times, in turns:

============  ==================================================================================================
what          meaning
============  ==================================================================================================
values        the critic's forward pass over the batch
critic        one optimizer step of the critic on the batch
policy        the policy's optimizer step on the batch
plain loop    the policy's step as transformers alone does it: sequences in their order, padded to the longest of
              each micro-batch, full-vocabulary logits, as many (padded) tokens a micro-batch
============  ==================================================================================================

The best round counts. FLOPs: ``rz_api.shapes.forward_flops`` (linear layers, causal attention, the output layer on
response rows; a training pass is three forward passes, recomputation is not counted). MFU is those FLOPs over time and
the peak: the data sheet's for a known GPU in bfloat16; on the CPU the speed of one large matrix product in the same
run and dtype.

**Memory.** One policy update of 8k packed tokens over a vocabulary of 152k, in a process of its own for each way: the
peak above what the process held before it. ``whole logits`` is what torch's log_softmax over the batch would take.

Ends with 1 when a bar of ``bars.toml`` is missed. There is one for the size ``small`` on a CPU, and none for a GPU, on
which this was never measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bars import hold
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModel, AutoModelForCausalLM, Qwen2Config

from rz_api.shapes import ModelShape, forward_flops
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.trainer import speed
from rz_workers.trainer.method.batch import TrainBatch
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.models.actor_critic import Critic, Policy, prepare
from rz_workers.trainer.models.attention import PACKED_SDPA
from rz_workers.trainer.models.value_head import new_value_head
from rz_workers.trainer.ranks import Ranks, shard

SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "heads": (8, 2), "vocab": 8192},
    "medium": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "heads": (8, 2), "vocab": 32_768},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": (14, 2)},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "heads": (12, 2)},
}
"""From each model's config.json; the first two are for a CPU."""

QWEN_VOCABULARY = 151_936

MEMORY_SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "heads": (4, 2), "vocab": 152_000}
"""Small but for the vocabulary, so that the logits are what takes memory."""


def config_of(shape: dict[str, Any]) -> Qwen2Config:
    heads, kv_heads = shape["heads"]
    return Qwen2Config(
        vocab_size=shape.get("vocab", QWEN_VOCABULARY),
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
    )


def make_batch(sequences: int, longest: int, vocabulary: int) -> TrainBatch:
    """Prompts of 1/40 of the longest response; responses log-normal around 1/6 of it, cut at it."""
    generator = torch.Generator().manual_seed(0)
    prompt = max(4, longest // 40)
    spread = torch.randn(sequences, generator=generator).mul(0.8).exp().mul(longest / 6)
    lengths = spread.clamp(8, longest).to(torch.int64)
    lengths[0] = longest
    tokens = [torch.randint(0, vocabulary, (prompt + int(n),), generator=generator) for n in lengths]
    total = int(lengths.sum())
    return TrainBatch(
        sequences=tokens,
        prompt_lengths=torch.full((sequences,), prompt),
        lengths=lengths,
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        rewards=(torch.arange(sequences) % 2).float(),
        groups=torch.arange(sequences),
        rollout_logprobs=torch.full((total,), -10.0),
        weight_versions=torch.zeros(sequences, dtype=torch.int64),
    )


def join(device: torch.device, dtype: torch.dtype) -> Ranks:
    """A gang of one; FSDP (over one rank) where it is needed for fp32 masters beside bfloat16 passes."""
    if dtype == torch.float32:
        return Ranks(0, 1, device, None)
    if not dist.is_initialized():
        in_memory: Any = dist  # its stubs leave HashStore out
        dist.init_process_group("cpu:gloo,cuda:nccl", store=in_memory.HashStore(), rank=0, world_size=1)
    return Ranks(0, 1, device, init_device_mesh(device.type, (1,), mesh_dim_names=("shard",)))


def make_learner(config: Qwen2Config, arguments: argparse.Namespace) -> Learner:
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    spec = ReasonerZeroRunSpec.model_validate(
        {
            "model": {"name": "bench"},
            "data": {"train": [{"uri": "none"}]},
            "storage": {"uri": "memory://bench"},
            "trainer": {
                "maxTokensPerMicroBatch": arguments.budget,
                "dtype": arguments.dtype,
                "compile": arguments.compile,
            },
            "algorithm": {"critic": {"miniBatches": 1}},
        }
    )
    ranks = join(device, dtype)
    torch.manual_seed(0)
    options: dict[str, Any] = {"attn_implementation": PACKED_SDPA, "dtype": torch.float32}
    with torch.device(device):
        policy = Policy(AutoModelForCausalLM.from_config(config, **options))
        backbone: Any = AutoModel.from_config(config, **options)
    head = new_value_head(config.hidden_size, init="normal", seed=0)
    critic = Critic(backbone, head.to(device))
    for model in (policy.model, backbone):
        prepare(model, activation_checkpointing=arguments.recompute)
    for module in (policy, critic):
        shard(module, ranks, spec.trainer)
    return Learner(spec, ranks, policy, critic, None)


def plain_loop(model: Any, optimizer: torch.optim.Optimizer, batch: TrainBatch, budget: int) -> None:
    """One step of a policy gradient as it is usually first written."""
    device = model.device
    members = list(range(batch.num_trajectories))
    while members:
        part = [members.pop(0)]
        while members:
            longest = max(len(batch.sequences[i]) for i in (*part, members[0]))
            if longest * (len(part) + 1) > budget:
                break
            part.append(members.pop(0))
        rows = [batch.sequences[i] for i in part]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        places = torch.arange(ids.shape[1], device=device)
        mask = places < lengths[:, None]
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        logprobs = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        prompts = batch.prompt_lengths[part].to(device)
        counted = mask[:, 1:] & (places[1:] >= prompts[:, None])
        (-(logprobs * counted).sum() / batch.num_tokens).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def timed(device: torch.device, call: Callable[[], object]) -> float:
    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    settle()
    started = time.perf_counter()
    call()
    settle()
    return time.perf_counter() - started


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s to compare with, and where the figure is from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    known = speed.peak_flops(name, str(dtype).removeprefix("torch."))
    if known is not None:
        return known, f"{name}, by its data sheet"
    n = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = min(timed(device, lambda: left @ right) for _ in range(5))
    return 2 * n**3 / best, f"a matrix product of {n} x {n} here"


def measure_speed(size: str, arguments: argparse.Namespace) -> float:
    """Prints the table; how many times as fast as the plain loop the policy's update is."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    config = config_of(SIZES[size])
    shape = ModelShape.from_config(config.to_dict())
    batch = make_batch(arguments.sequences, arguments.longest, config.vocab_size)
    lengths = [len(sequence) for sequence in batch.sequences]
    learner = make_learner(config, arguments)
    with torch.device(device):
        plain: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    prepare(plain, activation_checkpointing=arguments.recompute)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-6)
    values, advantages = torch.zeros(batch.num_tokens), torch.randn(batch.num_tokens)
    passes: dict[str, tuple[float, Callable[[], object]]] = {
        "values": (forward_flops(shape, lengths, 0), lambda: learner.values(batch)),
        "critic": (
            3 * forward_flops(shape, lengths, 0),
            lambda: learner.critic_update(batch, advantages, values, step=0),
        ),
        "policy": (
            3 * forward_flops(shape, lengths, batch.num_tokens),
            lambda: learner.policy_update(batch, advantages, None),
        ),
        "plain loop": (
            3 * forward_flops(shape, lengths, batch.num_tokens),
            lambda: plain_loop(plain, optimizer, batch, arguments.budget),
        ),
    }
    peak, source = peak_flops(device, dtype)
    print(
        f"{size}: {shape.parameters() / 1e6:.0f}M parameters, {len(lengths)} sequences of {min(lengths)} to "
        f"{max(lengths)} tokens ({sum(lengths)} in all), {arguments.budget} a micro-batch, {arguments.dtype}; peak "
        f"{peak / 1e12:.3g} TFLOP/s ({source})",
        flush=True,
    )
    best = {name: float("inf") for name in passes}
    for lap in range(arguments.rounds + 1):
        for name, (_, call) in passes.items():
            seconds = timed(device, call)
            if lap > 0:  # the first one allocates, and compiles
                best[name] = min(best[name], seconds)
    for name, (flops, _) in passes.items():
        rate = flops / best[name]
        print(
            f"  {name:<11}{best[name]:>9.2f} s{sum(lengths) / best[name]:>11,.0f} tokens/s"
            f"{rate / 1e12:>10.3g} TFLOP/s{rate / peak:>8.1%} MFU",
            flush=True,
        )
    ratio = best["plain loop"] / best["policy"]
    print(f"  the policy's update is {ratio:.2f} times as fast as the plain loop", flush=True)
    return ratio


# -------------------------------------------------------------------------------------------------------------- memory


def whole_logits(policy: Policy, batch: TrainBatch) -> Tensor:
    """The loss of the same pack, over the logits of all its rows at once."""
    ids = torch.cat(batch.sequences)
    logits = policy.model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    logprobs = torch.log_softmax(logits, -1).gather(-1, ids[1:, None])
    return -logprobs.mean()


def resident(field: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at its peak (Linux)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return 1024 * int(line.split()[1])


def measure_memory(way: str, tokens: int, arguments: argparse.Namespace) -> None:
    """In this process; prints the peak in bytes."""
    config = config_of(MEMORY_SHAPE)
    arguments.device, arguments.dtype, arguments.budget, arguments.recompute = "cpu", "float32", 2 * tokens, True
    learner = make_learner(config, arguments)
    batch = make_batch(max(1, tokens // 1024), 1000, config.vocab_size)
    warm_up = make_batch(1, 16, config.vocab_size)
    learner.policy_update(warm_up, torch.zeros(warm_up.num_tokens), None)  # optimizer states, gradients
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    if way == "ours":
        learner.policy_update(batch, torch.randn(batch.num_tokens), None)
    else:
        whole_logits(learner.policy, batch).backward()  # type: ignore[no-untyped-call]
    peak = resident("VmHWM")
    total = sum(len(sequence) for sequence in batch.sequences)
    print(json.dumps({"bytes": peak - before, "tokens": total, "responses": batch.num_tokens}))


def compare_memory(tokens: int) -> None:
    print(f"memory of a policy update, vocabulary {MEMORY_SHAPE['vocab']:,}, fp32, one pack (peak above the rest):")
    for way, size in (("ours", tokens // 4), ("ours", tokens), ("whole logits", tokens // 4)):
        command = [sys.executable, __file__, "--memory-of", way, "--longest", str(size)]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        logits = 4 * answer["responses"] * int(MEMORY_SHAPE["vocab"])
        print(
            f"  {way:<13}{answer['tokens']:>6} tokens, {answer['responses']:>5} response rows: "
            f"{answer['bytes'] / 1e9:>6.2f} GB (their logits would be {logits / 1e9:.2f} GB)",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16" if on_gpu else "float32")
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=["0.5B", "1.5B"] if on_gpu else ["small", "medium"]
    )
    parser.add_argument("--sequences", type=int, default=64 if on_gpu else 24)
    parser.add_argument("--longest", type=int, default=8000 if on_gpu else 800, help="longest response, tokens")
    parser.add_argument("--budget", type=int, default=8192 if on_gpu else 2048, help="tokens of a micro-batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="trainer.compile")
    parser.add_argument("--recompute", action="store_true", help="trainer.activationCheckpointing")
    parser.add_argument("--only", nargs="+", choices=("speed", "memory"), default=("speed", "memory"))
    parser.add_argument("--memory-of", choices=("ours", "whole logits"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments.memory_of, arguments.longest, arguments)
        return 0
    sizes = arguments.sizes if "speed" in arguments.only else []
    ratios = {size: measure_speed(size, arguments) for size in sizes}
    if "memory" in arguments.only:
        compare_memory(8192)
    if arguments.device == "cpu" and "small" in ratios:
        return 0 if hold("trainer-beside-plain-loop", ratios["small"]) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
