"""What no run can train is known from the model's ``config.json`` alone, and said before anything is paid for.

``refusal`` is asked by ``rz plan`` and ``rz validate --model`` of the file as it is, and by the trainer of the loaded
configuration, which has the same fields and its class's defaults besides. What only running the model shows, the
trainer's start-up proof finds. docs/models.md has the verdict on each architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rz_api.context import too_long

__all__ = ["BY_TYPE", "refusal"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
_NO_EXPERTS = ("is_moe", "enable_moe_block")
"""Switches of configurations that have numbers of experts either way."""

_KINDS = ("layer_types", "layers_block_type", "block_types")
_STATEFUL = ("linear", "conv", "mamba", "recurrent", "ssm", "retention", "hybrid")
"""Parts of the names of layers that carry a state from token to token."""
_STATE_FIELDS = (
    "linear_conv_kernel_dim", "linear_num_key_heads", "short_conv_kernel_size", "conv_L_cache", "lru_width",
    "conv_kernel", "conv_kernel_size", "mamba_d_state", "mamba_d_ssm", "ssm_state_size", "state_size", "cca_time0",
)  # fmt: skip
"""Fields that say the same where no list of layers does."""
_STATEFUL_TYPES = {"rwkv", "xlstm", "mamba", "mamba2", "falcon_mamba", "recurrent_gemma"}

_LOGITS = (
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_scale", "logits_scaling",
    "lm_head_multiplier",
)  # fmt: skip
_LOGIT_DEFAULTS: dict[str, tuple[str, float]] = {
    "gemma2": ("final_logit_softcapping", 30.0),
    "gemma3n_text": ("final_logit_softcapping", 30.0),
    "vaultgemma": ("final_logit_softcapping", 30.0),
    "nanochat": ("final_logit_softcapping", 15.0),
    "cohere": ("logit_scale", 0.0625),
    "cohere2": ("logit_scale", 0.0625),
}
"""What classes of transformers 5.24 do where the file says nothing."""

_NOT_PASSED_ON = {"stablelm", "nemotron"}
_OWN_ATTENTION = {
    "big_bird", "bigbird_pegasus", "bloom", "cpmant", "doge", "falcon", "git", "got_ocr2", "gpt_neo",
    "gpt_neox_japanese", "granite_swa", "inkling2_loop_text", "inkling2_text", "inkling_text", "megatron-bert", "mpt",
    "openai-gpt", "reformer", "rembert", "roformer", "trocr", "xglm", "xlm", "xlnet",
}  # fmt: skip
_MORE_THAN_A_LINEAR_HEAD = {"modernbert-decoder"}
_ENCODERS = {
    "bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "roberta", "roberta-prelayernorm",
    "roc_bert", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
"""Trained to see later tokens too; as decoders (``is_decoder``) they are none of these."""
BY_TYPE = sorted(_NOT_PASSED_ON | _OWN_ATTENTION | _MORE_THAN_A_LINEAR_HEAD | _ENCODERS | _STATEFUL_TYPES)
"""Model types that are refused by their name, of which nothing else in a configuration tells (transformers 5.24)."""


def refusal(config: Mapping[str, Any], tokens: int | None = None) -> str | None:
    """Why a model of this ``config.json`` cannot be trained, as a sentence that says what is required and what to
    change; None where the configuration alone does not tell. ``tokens``: of the run's longest sequence, prompt and
    response (``rollout.maxModelLength``), where there is a run."""
    kind = str(config.get("model_type") or "unknown")
    if (method := _quantized(config)) is not None:
        return (
            f"the model's weights are quantized ({method}), which cannot be trained; a model whose weights are in "
            "bfloat16, float16 or float32 is required: change model.name"
        )
    # A model that also sees images has its decoder's configuration a level below.
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else None
    for fields in [config] if text is None else [config, text]:
        for what, required in _faults(fields, str(fields.get("model_type") or kind)):
            return f"models of type {kind!r} {what}, which is not supported; {required} is required: change model.name"
    return None if tokens is None else too_long(config, tokens)


def _faults(config: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """What the model is or has, and what is required; the first is enough."""
    if config.get("is_encoder_decoder"):
        yield "are encoder-decoders", "a decoder-only model"
    if (count := _experts(config)) is not None:
        yield f"are mixtures of experts ({count} of them)", "a dense model"
    if kind in _STATEFUL_TYPES or _is_stateful(config):
        yield (
            "have recurrent, convolution or state-space layers, whose state would cross from one packed trajectory to "
            "the next",
            "a model of attention layers alone",
        )
    if (field := _logits_field(config, kind)) is not None:
        yield f"transform their logits ({field})", "a model whose logits are a linear layer's"
    if kind in _MORE_THAN_A_LINEAR_HEAD:
        yield (
            "have more than a linear layer behind their last hidden state",
            "a model whose logits are a linear layer's",
        )
    if kind in _ENCODERS and not config.get("is_decoder"):
        yield "are encoders, which see later tokens too", "a decoder-only model"
    if kind in _NOT_PASSED_ON:
        yield (
            "have layers that do not pass on to attention which trajectory of a pack a token belongs to",
            "a model whose layers pass keyword arguments on",
        )
    if kind in _OWN_ATTENTION:
        yield (
            "have an attention of their own, which knows no packed trajectories",
            "a model that computes attention through transformers' interface",
        )


def _quantized(config: Mapping[str, Any]) -> str | None:
    """``fp8``, ``gptq``, ...; None for weights as they are trained."""
    for name in ("quantization_config", "compression_config"):
        if isinstance(found := config.get(name), Mapping):
            return str(found.get("quant_method") or name)
    return None


def _experts(config: Mapping[str, Any]) -> int | None:
    """How many there are to choose from in a layer; None for a dense model."""
    if any(config.get(switch) is False for switch in _NO_EXPERTS):
        return None
    feed_forward = config.get("ffn_config")  # DBRX has them a level below
    for fields in (config, feed_forward if isinstance(feed_forward, Mapping) else {}):
        for name in _EXPERTS:
            value = fields.get(name)
            count = max(value, default=0) if isinstance(value, list) else value
            if isinstance(count, int) and count > 1:
                return count
    return None


def _is_stateful(config: Mapping[str, Any]) -> bool:
    kinds = [config[name] for name in _KINDS if isinstance(config.get(name), list)]
    if kinds:
        return any(part in str(layer) for layers in kinds for layer in layers for part in _STATEFUL)
    return any(config.get(name) for name in _STATE_FIELDS)


def _logits_field(config: Mapping[str, Any], kind: str) -> str | None:
    """``logit_scale = 0.0625``; None where logits are what the output layer makes of a hidden state."""
    fields: dict[str, Any] = dict([_LOGIT_DEFAULTS[kind]] if kind in _LOGIT_DEFAULTS else []) | dict(config)
    for name in _LOGITS:
        if fields.get(name) not in (None, 1):
            value = fields[name]
            # MPT has words for it (``inv_sqrt_d_model``).
            return f"{name} = {value:g}" if isinstance(value, int | float) else f"{name} = {value}"
    # MiniCPM divides them by hidden_size / dim_model_base.
    if fields.get("dim_model_base") not in (None, fields.get("hidden_size")):
        return "dim_model_base"
    return None
