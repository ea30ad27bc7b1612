"""One rank of two for ``test_distribute``, in a process of its own (FSDP needs one for each rank)."""

from __future__ import annotations

from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, Qwen2Config

from rz_api.spec import TrainerSpec
from rz_workers.seals import Seal
from rz_workers.trainer.messages import refuse_pickles
from rz_workers.trainer.models import actor_critic
from rz_workers.trainer.models.attention import PACKED_SDPA
from rz_workers.trainer.ranks import Ranks, distribute, local, whole

SEAL = Seal.of("a token", "ranks", 1)


def be_rank(rank: int, store: Path, tied: bool, pipe: Connection) -> None:
    """Sends what came out: ``scores`` and ``gradients``, the largest difference to the whole model's, and ``held``, the
    share of its numbers that this rank has."""
    torch.set_num_threads(1)
    refuse_pickles()
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=300)
    )
    ranks = Ranks(rank, 2, torch.device("cpu"), init_device_mesh("cpu", (2,), mesh_dim_names=("shard",)), SEAL)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    if ranks.is_first:
        policy = whole_policy(config)
    else:
        with torch.device("meta"):
            policy = actor_critic.empty_policy(config, activation_checkpointing=False)
    distribute(policy, ranks, TrainerSpec(dtype="float32", gpus_per_node=0))
    ids = torch.arange(12)
    arguments = (ids, ids, (5, 7), torch.arange(11), ids[1:], 1.0)
    expected = whole_policy(config)
    scores, wanted = policy(*arguments)[0], expected(*arguments)[0]
    scores.sum().backward()
    wanted.sum().backward()
    gradients = {name: whole(parameter.grad) for name, parameter in policy.named_parameters()}
    worst = max(
        float((gradients[name] - 2 * parameter.grad).abs().max()) for name, parameter in expected.named_parameters()
    )
    held = sum(local(parameter.detach()).numel() for parameter in policy.parameters())
    everything = sum(parameter.numel() for parameter in expected.parameters())
    pipe.send({"scores": float((scores - wanted).detach().abs().max()), "gradients": worst, "held": held / everything})
    dist.barrier()
    dist.destroy_process_group()


def whole_policy(config: Qwen2Config) -> actor_critic.Policy:
    torch.manual_seed(0)
    return actor_critic.Policy(AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_SDPA)).train()
