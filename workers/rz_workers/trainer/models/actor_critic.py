"""Every parameter is used within one ``forward``, so that FSDP's hooks see each use.

Policy and critic: Hugging Face models with the two heads that PPO needs. ``forward`` takes one packed micro-batch.
``rz_workers.trainer.models.loading`` makes them from checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from rz_workers.tensor_names import stored_names
from rz_workers.trainer.models import scoring
from rz_workers.trainer.models.attention import PACKED_SDPA, PackLayout


class Policy(nn.Module):
    """A causal language model that scores given tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # Now: sharding changes the classes that transformers finds names by.
        self.stored_names = stored_names(model)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        lengths: Sequence[int],
        rows: Tensor,
        targets: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies at ``rows``.

        Args:
            input_ids, positions: ``[T]`` (``rz_workers.trainer.method.batch.MicroBatch``).
            lengths: tokens of each trajectory, T in all.
            rows, targets: ``[n]``.
            temperature: logits are divided by it, as the sampler does.

        Returns:
            ``[n]`` fp32 log-probs of ``targets``, and ``[n]`` fp32 entropies (nats, without gradient).
        """
        # Below the output layer: the model's own forward pass would make the logits of all T rows.
        hidden = _hidden_states(self.model.base_model, input_ids, positions, lengths)[rows]
        # Read within ``forward``, before which FSDP gathers the root's parameters: outside of it this may be a shard.
        head = self.model.get_output_embeddings()
        return scoring.score(hidden, head.weight, getattr(head, "bias", None), targets, temperature)


class Critic(nn.Module):
    """A base model with a linear value head without bias."""

    def __init__(self, backbone: Any, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, input_ids: Tensor, positions: Tensor, lengths: Sequence[int], rows: Tensor) -> Tensor:
        """Values ``[n]`` fp32 of the states that end at ``rows``; arguments as for ``Policy.forward``."""
        hidden = _hidden_states(self.backbone, input_ids, positions, lengths)[rows]
        values: Tensor = self.head(hidden).squeeze(-1)
        return values.to(torch.promote_types(values.dtype, torch.float32), copy=True)  # FSDP wants no view


def _hidden_states(backbone: Any, input_ids: Tensor, positions: Tensor, lengths: Sequence[int]) -> Tensor:
    """Last hidden states ``[T, D]`` of one packed sequence; a token attends to its own trajectory's earlier tokens and
    itself."""
    out = backbone(
        input_ids=input_ids[None],
        position_ids=positions[None],
        use_cache=False,
        pack_layout=PackLayout(lengths, input_ids.device),
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def empty_policy(config: Any, *, activation_checkpointing: bool, trust_remote_code: bool = False) -> Policy:
    """A policy of this configuration whose weights are still to be loaded."""
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(config, attn_implementation=PACKED_SDPA, trust_remote_code=trust_remote_code)
    prepare(model, activation_checkpointing=activation_checkpointing)
    return Policy(model)


def empty_critic(config: Any, *, activation_checkpointing: bool, trust_remote_code: bool = False) -> Critic:
    """A critic of this configuration whose weights, the head's too, are still to be loaded."""
    factory: Any = AutoModel
    backbone = factory.from_config(config, attn_implementation=PACKED_SDPA, trust_remote_code=trust_remote_code)
    prepare(backbone, activation_checkpointing=activation_checkpointing)
    return Critic(backbone, nn.Linear(config.get_text_config().hidden_size, 1, bias=False))


def distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, detached and not copied, a tied tensor once (under its first name).

    Sharded parameters are returned as they are: gathering them is the caller's business.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    # keep_vars: without it each place of a tied parameter gets a detached copy of its own, with an id of its own.
    for name, tensor in module.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in found.values()}


def published_tensors(policy: Policy) -> dict[str, Tensor]:
    """The policy's ``distinct_tensors`` under the names that they have in a Hugging Face checkpoint."""
    found = distinct_tensors(policy).items()
    return {policy.stored_names[name.removeprefix("model.")]: tensor for name, tensor in found}


def prepare(model: Any, *, activation_checkpointing: bool) -> None:
    """Make a transformers model ready to train: no dropout, and recomputation where it is wanted."""
    # transformers recomputes activations in training mode only (``GradientCheckpointingLayer``).
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a module may have a rate that its configuration has no field for
    if activation_checkpointing:
        # torch's reentrant form takes no keyword arguments, and the pack's layout is one.
        options = {"use_reentrant": False}
        if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.23
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
