"""The small random policy and critic of the trainer's tests: of one seed the same weights every time, in every
process."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from rz_workers.trainer.models.actor_critic import Critic, Policy
from rz_workers.trainer.models.attention import PACKED_SDPA
from rz_workers.trainer.models.value_head import new_value_head


def policy_and_critic(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Policy, Critic]:
    config = LlamaConfig(
        vocab_size=29,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        attn_implementation=PACKED_SDPA,
    )
    torch.manual_seed(seed)
    policy = Policy(LlamaForCausalLM(config)).to(dtype)
    critic = Critic(LlamaModel(config), new_value_head(16, init="normal", seed=seed + 1)).to(dtype)
    return policy.train(), critic.train()
