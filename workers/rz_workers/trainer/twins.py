"""The small twins of a model that the start-up proof compares: one by itself, one as it is trained, with equal weights.

Used by ``proof`` and by the conformance suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from rz_workers.runtime import UserError
from rz_workers.trainer.models import actor_critic, dropout
from rz_workers.trainer.models.actor_critic import Critic, Policy

__all__ = ["MOST_PARAMETERS", "Twins", "enlarge", "logprobs_alone", "packed_logprobs", "packed_values", "values_alone"]

MOST_PARAMETERS = 20_000_000
"""Of a twin, which takes 80 MB a copy then; a usual one has a hundred thousand."""


@dataclass(frozen=True)
class Twins:
    """A small model by itself, as it is trained, and the same as a critic; all with the same weights."""

    plain: Any
    policy: Policy
    plain_backbone: Any = None
    critic: Critic | None = None
    """Both None without ``is_ppo``."""

    @staticmethod
    def make(
        config: Any, *, is_ppo: bool = True, activation_checkpointing: bool = False, trust_remote_code: bool = False
    ) -> Twins:
        """Raises UserError where ``config`` is of no small model (of what holds images or speech only the text is made
        smaller)."""
        config.dtype = torch.float32
        dropout.switch_off(config)
        _check_small(config, trust_remote_code)
        causal: Any = AutoModelForCausalLM
        base: Any = AutoModel
        as_trained = {"activation_checkpointing": activation_checkpointing, "trust_remote_code": trust_remote_code}
        by_itself = {"attn_implementation": "eager", "trust_remote_code": trust_remote_code}
        # A configuration each: a model looks there, whenever it runs, for the attention that it was made with.
        plain = causal.from_config(deepcopy(config), **by_itself).eval()
        enlarge(plain)
        policy = actor_critic.empty_policy(config, **as_trained)
        policy.model.load_state_dict(plain.state_dict())
        if not is_ppo:  # code that came with a model may have no backbone by itself
            return Twins(plain, policy)
        backbone = base.from_config(deepcopy(config), **by_itself).eval()
        backbone.load_state_dict(plain.base_model.state_dict())
        critic = actor_critic.empty_critic(config, **as_trained)
        critic.backbone.load_state_dict(backbone.state_dict())
        return Twins(plain, policy, backbone, critic)


def _check_small(config: Any, trust_remote_code: bool) -> None:
    causal: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = causal.from_config(config, trust_remote_code=trust_remote_code)
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_PARAMETERS:
        raise UserError(
            f"a small copy of a model of type {config.model_type} would still have {size:,} parameters, too many to "
            "prove at the start that it is trained right: a causal language model for text alone is required; change "
            "model.name"
        )


def enlarge(model: nn.Module) -> None:
    """Weights at which it matters what a token attends to: a new model's are so small that all tokens look alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def logprobs_alone(model: Any, sequence: Tensor) -> Tensor:
    """``[n - 1]`` log-probs of a sequence's tokens but the first, by the model's own forward pass."""
    logits = model(input_ids=sequence[None]).logits[0, :-1].float()
    found: Tensor = logits.log_softmax(-1).gather(-1, sequence[1:, None])[:, 0]
    return found


def values_alone(backbone: Any, head: nn.Module, sequence: Tensor) -> Tensor:
    """``[n]``, by the backbone's own forward pass."""
    found: Tensor = head(backbone(input_ids=sequence[None]).last_hidden_state[0])[:, 0]
    return found


def packed_logprobs(policy: Policy, sequences: Sequence[Tensor]) -> Tensor:
    """Those of all sequences, one behind the other."""
    tokens, positions, lengths = _pack(sequences)
    ends = set((torch.tensor(lengths).cumsum(0) - 1).tolist())
    rows = torch.tensor([row for row in range(len(tokens)) if row not in ends])
    found: Tensor = policy(tokens, positions, lengths, rows, tokens[rows + 1], 1.0)[0]
    return found


def packed_values(critic: Critic, sequences: Sequence[Tensor]) -> Tensor:
    """Those of all sequences, one behind the other."""
    tokens, positions, lengths = _pack(sequences)
    found: Tensor = critic(tokens, positions, lengths, torch.arange(len(tokens)))
    return found


def _pack(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """Tokens and positions ``[T]``, and the lengths."""
    return torch.cat(list(sequences)), torch.cat([torch.arange(len(s)) for s in sequences]), [len(s) for s in sequences]
