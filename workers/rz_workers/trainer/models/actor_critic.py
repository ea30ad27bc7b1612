"""Every parameter is used within one ``forward``, so that FSDP's hooks see each use.

Policy and critic: Hugging Face models with the two heads that PPO needs. ``forward`` takes one packed micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from rz_workers.runtime import UserError
from rz_workers.trainer.models import scoring
from rz_workers.trainer.models.attention import PACKED_SDPA, PackLayout


class Policy(nn.Module):
    """A causal language model that scores given tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

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
        # Not ``wide_linear``, which has no gradient: with one output the copies in fp32 are small.
        kind = torch.promote_types(hidden.dtype, torch.float32)
        values = nn.functional.linear(hidden.to(kind), self.head.weight.to(kind))
        return values.squeeze(-1).clone()  # FSDP wants no view


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


def load_policy(
    source: str, *, revision: str | None, trust_remote_code: bool, activation_checkpointing: bool
) -> Policy:
    """The causal language model at ``source`` (a folder or a hub id) in fp32.

    Raises UserError when it can't be loaded or when its logits are more than a linear head (soft-capping, scaling),
    which the scoring here and in the sampler would not reproduce.
    """
    model = _load(AutoModelForCausalLM, source, revision, trust_remote_code)
    # Gemma 2 caps its logits, Cohere and Granite scale them: their configurations have these fields.
    text_config = model.config.get_text_config()
    for field in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(text_config, field, None) not in (None, 1, 1.0):
            raise UserError(
                f"the model {source} transforms its logits ({field} = {getattr(text_config, field)}), "
                "which is not supported; "
                f"a model whose logits are a linear head's is required: change model.name"
            )
    prepare(model, activation_checkpointing=activation_checkpointing)
    return Policy(model)


def load_critic(
    source: str, *, revision: str | None, trust_remote_code: bool, activation_checkpointing: bool, init: str, seed: int
) -> Critic:
    """The base model at ``source`` with a fresh value head (``new_value_head``) in fp32, or, where ``source`` is a
    critic that this project exported, with the exported head."""
    backbone = _load(AutoModel, source, revision, trust_remote_code)
    prepare(backbone, activation_checkpointing=activation_checkpointing)
    head = read_exported_head(Path(source))
    if head is None:
        head = new_value_head(backbone.config.get_text_config().hidden_size, init=init, seed=seed)
    return Critic(backbone, head)


def model_config(model_dir: Path) -> Any:
    """The transformers configuration of the run's ``model/`` folder, as the trainer computes: fp32, no dropout."""
    config = AutoConfig.from_pretrained(model_dir)
    config.get_text_config().attention_dropout = 0.0
    # Masters are fp32; ``trainer.dtype`` is that of the passes (``ranks.shard``).
    config.dtype = torch.float32
    return config


def empty_policy(config: Any, *, activation_checkpointing: bool) -> Policy:
    """A policy of this configuration whose weights are still to be loaded."""
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(config, attn_implementation=PACKED_SDPA)
    prepare(model, activation_checkpointing=activation_checkpointing)
    return Policy(model)


def empty_critic(config: Any, *, activation_checkpointing: bool) -> Critic:
    """A critic of this configuration whose weights, the head's too, are still to be loaded."""
    factory: Any = AutoModel
    backbone = factory.from_config(config, attn_implementation=PACKED_SDPA)
    prepare(backbone, activation_checkpointing=activation_checkpointing)
    return Critic(backbone, nn.Linear(config.get_text_config().hidden_size, 1, bias=False))


def new_value_head(hidden_size: int, *, init: str, seed: int) -> nn.Linear:
    """A linear head ``[hidden_size] -> [1]`` without bias.

    ``normal``: standard deviation 1/(hidden_size + 1) (published code); ``uniform``: U(-sqrt 5, sqrt 5) (paper).
    """
    # A generator of its own: the global one's state depends on what ran before, and a replay must have this head.
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(hidden_size, 1, bias=False)
    with torch.no_grad():
        if init == "normal":
            head.weight.normal_(0.0, 1.0 / (hidden_size + 1), generator=generator)
        else:
            head.weight.uniform_(-math.sqrt(5.0), math.sqrt(5.0), generator=generator)
    return head


def read_exported_head(folder: Path) -> nn.Linear | None:
    """The value head of a critic in token-classification format (``rz_workers.trainer.durable.export``); None where
    there is none."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        with safe_open(file, framework="pt") as tensors:
            if "score.weight" in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                weight = tensors.get_tensor("score.weight").float()
                head = nn.Linear(weight.shape[1], 1, bias=False)
                head.weight = nn.Parameter(weight)
                return head
    return None


def distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, detached and not copied, a tied tensor once (under its first name).

    Sharded parameters are returned as they are: gathering them is the caller's business.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    # keep_vars: without it each place of a tied parameter gets a detached copy of its own, with an id of its own.
    for name, tensor in module.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in found.values()}


def published_tensors(policy: nn.Module) -> dict[str, Tensor]:
    """The policy's ``distinct_tensors`` under their Hugging Face names."""
    return {name.removeprefix("model."): tensor for name, tensor in distinct_tensors(policy).items()}


def _load(factory: Any, source: str, revision: str | None, trust_remote_code: bool) -> Any:
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        config.get_text_config().attention_dropout = 0.0  # see prepare
        return factory.from_pretrained(
            source,
            config=config,
            revision=revision,
            trust_remote_code=trust_remote_code,
            # fp32 masters: a step of 1e-6 vanishes in bfloat16, which keeps 8 bits of a number.
            dtype=torch.float32,
            attn_implementation=PACKED_SDPA,
            # A .bin file is a pickle, and loading one runs code of whoever made it.
            use_safetensors=True,
        )
    # Whatever the files of a model make transformers raise: the model is what has to change.
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the model {source!r} does not load: {first_line}. A folder, bucket URL or hub id of a "
            "Hugging Face checkpoint with "
            f"safetensors weights is required: check model.name, model.revision and model.secretName"
        ) from error


def prepare(model: Any, *, activation_checkpointing: bool) -> None:
    """Make a transformers model ready to train: no dropout, and recomputation where it is wanted."""
    # transformers recomputes activations in training mode only (``GradientCheckpointingLayer``).
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # Sampling has none, and the ratio of PPO compares the same network.
    if activation_checkpointing:
        # torch's reentrant form takes no keyword arguments, and the pack's layout is one.
        options = {"use_reentrant": False}
        if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.23
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
