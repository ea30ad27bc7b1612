"""A small twin behaves as its model does: every kind of layer once or more, every switch as it is, and windows of a few
tokens, so that what a long trajectory would show is seen on short ones.

Called by the start-up proof and by the conformance suite. Works by the names that configurations have in transformers
5.24, so that it takes those of remote code too; nothing here reads a weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

__all__ = ["VOCABULARY", "WINDOW", "generic_tiny", "tiny_copy"]

HIDDEN, HEADS, HEAD_SIZE, VOCABULARY, WINDOW = 64, 4, 16, 128, 16
MOST_LAYERS = 8
"""Layers of a twin: 2, or as many as it takes for each kind of layer to occur."""

_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim_model", "embed_dim", "emb_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "kv_n_heads", "num_query_groups")
_HEAD_SIZES = ("head_dim", "d_head", "d_kv", "kv_channels", "attention_head_size", "dim_head")

_FIRST_LAYERS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""Fields that part the layers: those below the number are of one kind, the others of another."""
_LAST_LAYERS = ("num_kv_shared_layers",)
"""The same, counted from the last layer."""
_PERIOD = re.compile(r"(pattern|interval|period|every_n_layers|layer_freq|group_size|sparse_step)$")
"""Every so many layers one is of another kind; where it is a list or there is one, that says more (``_kinds``)."""

# Sizes that have to fit together: an inner width of 128 is 8 state-space heads of 16, MLA's heads are of 16 + 8.
_SIZES = {
    "embedding_size": HIDDEN, "embedding_dim": HIDDEN, "word_embed_proj_dim": HIDDEN, "lru_width": HIDDEN,
    "input_embedding_size": HIDDEN, "output_embedding_size": HIDDEN, "backbone_hidden_size": HIDDEN,
    "hidden_size_per_layer_input": 16, "rotary_dim": 8, "laurel_rank": 8,
    "global_head_dim": 2 * HEAD_SIZE, "swa_head_dim": HEAD_SIZE, "swa_v_head_dim": HEAD_SIZE,
    "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": 2,
    "q_lora_rank": 16, "o_lora_rank": 16, "kv_lora_rank": 16, "o_groups": 2,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "qk_head_dim": 24, "v_head_dim": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2, "n_group": 1, "topk_group": 1,
    "num_expert_group": 1, "zero_expert_num": 2, "moe_latent_size": 16, "moe_num_shared_experts": 1,
    "mamba_n_heads": 8, "mamba_num_heads": 8, "n_mamba_heads": 8, "mamba_d_head": 16, "mamba_head_dim": 16,
    "mamba_headdim": 16, "mamba_d_ssm": 128, "mamba_d_state": 8, "ssm_state_size": 8, "state_size": 8,
    "mamba_n_groups": 1, "n_groups": 2, "time_step_rank": 4, "mamba_dt_rank": 4, "mamba_chunk_size": 8,
    "chunk_size": 8, "block_size": 8, "attention_hidden_size": 2 * HIDDEN, "attention_head_dim": 2 * HEAD_SIZE,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_num_heads": 4, "linear_head_dim": 16, "adapter_rank": 8, "index_n_heads": 2, "index_head_dim": 16,
    "index_topk": 8, "index_block_size": 4, "index_topk_blocks": 2, "router_hidden_size": 16,
    "ple_embed_dim": HIDDEN, "ngram_vocab_size_base": 128, "split_ngram_parts": 1, "hc_lowrank": 8,
    "d_rel": 8, "rel_extent": 64, "gated_norm_rank": 8, "loop_gate_rank": 8, "position_bias_num_buckets": 16,
}  # fmt: skip

_INNER = re.compile(r"(intermediate_size|ffn_dim|n_inner|d_inner|ffn_hidden_size|feed_forward_size|ffn_size|dim_ff)$")
_INNER_NAMES = ("dff", "shared_experts_intermediate_size")
_WINDOW = re.compile(r"(window|attention_chunk_size|local_attention$)")
_NO_WINDOW = re.compile(r"(layers|pattern|^use_)")

EXCEPTIONS: dict[str, dict[str, Any]] = {
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
}
"""Model type -> fields of its twin that no rule finds."""

_HYBRID = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]

DEFAULTS: dict[str, dict[str, Any]] = {
    # Windows, dropout, and layers without attention, that published models have and the class leaves out.
    "mistral": {"sliding_window": 4096},
    "starcoder2": {"sliding_window": 4096, "residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1},
    "phi3": {"sliding_window": 2047},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 16},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 16},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"], "num_hidden_layers": 3, "full_attn_idxs": None},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"], "num_hidden_layers": 3},
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "granitemoehybrid": {"layer_types": _HYBRID, "num_hidden_layers": 4},
    # The class divides by it, or has no value that fits the others.
    "ministral": {"head_dim": 128},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        }
    },
    "xmod": {"default_language": "en_XX"},
    "reformer": {"is_decoder": True},
}
"""Model type -> what its class leaves out by default and published models have, or cannot do without."""


def tiny_copy(config: PretrainedConfig) -> PretrainedConfig:
    """A configuration of the same class whose model has some ten thousand parameters a layer.

    Raises ValueError, which names the fields, where it cannot be made smaller.
    """
    fields = config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        fields.pop(name, None)
    if config.get_text_config() is not config:
        # A model that holds more than text has a configuration for each part.
        parts = {name: value for name, value in fields.items() if isinstance(value, dict) and "model_type" in value}
        fields |= {name: _small_part(value) for name, value in parts.items()}
    else:
        fields = _shrunk(fields, config.model_type)
    try:
        small = type(config).from_dict(fields)
    except Exception as error:  # each class checks in its own way
        raise ValueError(
            f"no small copy of a configuration of type {config.model_type!r} can be made: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from error
    # Where the code of a model that came with code is looked for.
    small.name_or_path = config.name_or_path
    return small


def generic_tiny(model_type: str) -> PretrainedConfig:
    """The twin of what a model type's configuration class has by default.

    Raises ValueError where the class has no usable default or no rule makes it smaller.
    """
    try:
        config = CONFIG_MAPPING[model_type](**DEFAULTS.get(model_type, {}))
    except Exception as error:
        raise ValueError(f"the configuration class of {model_type!r} has no usable default: {error}") from error
    return tiny_copy(config)


def _small_part(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return _shrunk(fields, fields["model_type"])
    except ValueError:  # no transformer: as it is
        return fields


def _shrunk(fields: dict[str, Any], model_type: str) -> dict[str, Any]:
    if not any(isinstance(fields.get(name), int) for name in (*_HIDDEN, "embedding_dim")):
        raise ValueError(f"found none of {', '.join(_HIDDEN)} in a configuration of type {model_type!r}")
    found = {name: _smaller(name, value, fields) for name, value in fields.items()}
    found |= _layers(fields, model_type)
    found |= _special_ids(fields)
    found |= _rope(fields, found)
    return found | EXCEPTIONS.get(model_type, {})


def _smaller(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    """The value of one field that is no matter of layers."""
    if name in ("attn_config", "ffn_config") and isinstance(value, dict):  # a level of its own in dbrx and mpt
        return {inner: _smaller(inner, each, fields) for inner, each in value.items()}
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return value
    if name in _HIDDEN:
        return min(value, HIDDEN)
    if name in (*_HEADS, *_KV_HEADS, *_HEAD_SIZES) and _hidden(fields) <= HIDDEN:
        return value  # small enough, and they fit together as they are
    if name in _HEADS:
        return 1 if value == 1 else HEADS
    if name in _KV_HEADS:
        heads = next((fields[each] for each in _HEADS if isinstance(fields.get(each), int)), value)
        return 1 if value == 1 or heads == 1 else HEADS if value >= heads else HEADS // 2
    if name in _HEAD_SIZES:
        if value == fields.get("qk_rope_head_dim"):
            return _SIZES["qk_rope_head_dim"]
        # Heads whose size is not hidden / heads stay so.
        return HEAD_SIZE if _usual_heads(value, fields) else 2 * HEAD_SIZE
    if name in _SIZES:
        # The heads of a state-space layer make up its inner width: both, whatever they were.
        return _SIZES[name] if "mamba" in name else min(value, _SIZES[name])
    if _INNER.search(name) or name in _INNER_NAMES:
        return min(value, HIDDEN // 2 if "expert" in name or "moe" in name else 3 * HIDDEN // 2)
    if "vocab" in name:
        return min(value, VOCABULARY)
    if _WINDOW.search(name) and not _NO_WINDOW.search(name):
        return min(value, WINDOW)
    # Rotary embeddings may be scaled by it; a table of learned positions is cut.
    if name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len") and not fields.get("rope_parameters"):
        return min(value, 512)
    return value


def _usual_heads(size: int, fields: Mapping[str, Any]) -> bool:
    heads = next((fields[each] for each in _HEADS if isinstance(fields.get(each), int)), 1)
    return size * heads == _hidden(fields)


def _hidden(fields: Mapping[str, Any]) -> int:
    return next((int(fields[each]) for each in _HIDDEN if isinstance(fields.get(each), int)), 0)


def _layers(fields: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """How many layers, and each field that says of which kind they are."""
    counts = [fields[name] for name in _LAYERS if _is_number(fields.get(name))]
    counts += [len(fields[name]) for name in ("layers_block_type", "layer_types") if isinstance(fields.get(name), list)]
    if not counts:
        raise ValueError(f"found none of {', '.join(_LAYERS)} in a configuration of type {model_type!r}")
    count = counts[0]
    kinds = {name: kinds for name, value in fields.items() if (kinds := _kinds(name, value, count)) is not None}
    kept = _chosen(list(zip(*kinds.values(), strict=True)) if kinds else [None] * count, model_type)
    # A pattern that is repeated over the layers has to fit in once.
    longest = max(
        (
            len(v)
            for k, v in fields.items()
            if isinstance(v, list) and re.search(r"(_types|pattern)$", k) and k not in kinds
        ),
        default=0,
    )
    kept = _filled(kept, min(longest, MOST_LAYERS), count)
    found: dict[str, Any] = {name: len(kept) for name in _LAYERS if _is_number(fields.get(name))}
    found |= {name: _of_kept(name, fields[name], kept, count, fields) for name in kinds}
    if isinstance(found.get("attention_layers"), list):  # gpt_neo has them a second time: kinds, and how often
        found["attention_types"] = [[found["attention_layers"], 1]]
    for name, value in fields.items():
        if _PERIOD.search(name) and _is_number(value) and value > 2:
            found[name] = 2
        elif name.endswith("_layer_offset") and _is_number(value):
            found[name] = min(value, 1)
    return found


def _kinds(name: str, value: Any, count: int) -> list[Any] | None:
    """What a field says of each layer, ``[count]``; None where it is not about layers."""
    if name in _FIRST_LAYERS and _is_number(value):
        return [i < value for i in range(count)]
    if name in _LAST_LAYERS and _is_number(value):
        return [i >= count - value for i in range(count)]
    if _is_list_of_layers(name, value, count):
        return [i in value for i in range(count)]
    if name == "per_layer_config" and isinstance(value, dict):
        return [repr(next((each for key, each in value.items() if int(key) == i), None)) for i in range(count)]
    if isinstance(value, list) and len(value) == count > 1:
        return [repr(each) for each in value]
    return None


def _of_kept(name: str, value: Any, kept: list[int], count: int, fields: Mapping[str, Any]) -> Any:
    """The field that says of the layers that stay what it said of them."""
    if name in _FIRST_LAYERS:
        return sum(i < value for i in kept)
    if name in _LAST_LAYERS:
        return sum(i >= count - value for i in kept)
    if _is_list_of_layers(name, value, count):
        return [place for place, i in enumerate(kept) if i in value]
    if name == "per_layer_config":
        own = {int(key): each for key, each in value.items()}
        return {
            str(place): {inner: _smaller(inner, each, fields) for inner, each in own[i].items()}
            for place, i in enumerate(kept)
            if i in own
        }
    # Widths of layers (gemma3n's feed-forward) are sizes like any other.
    return [_smaller(name, value[i], fields) for i in kept]


def _is_list_of_layers(name: str, value: Any, count: int) -> bool:
    """Whether it has the numbers of those layers that are of another kind (``mlp_only_layers``, ``full_attn_idxs``)."""
    if not (isinstance(value, list) and re.search(r"(_layers|_idxs|_indices|_layer_ids)$", name)):
        return False
    numbers = [each for each in value if _is_number(each) and each < count]
    return len(numbers) == len(value) and all(a < b for a, b in pairwise(numbers))


def _chosen(kinds: list[Any], model_type: str) -> list[int]:
    """Layers that stay, in their order: the first of each kind; 2 at least."""
    kept = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())
    if len(kept) > MOST_LAYERS:  # then each part of a kind once
        seen: set[tuple[int, Any]] = set()
        kept = []
        for i, kind in enumerate(kinds):
            if not seen.issuperset(enumerate(kind)):
                seen.update(enumerate(kind))
                kept.append(i)
    if len(kept) > MOST_LAYERS:
        raise ValueError(f"a configuration of type {model_type!r} has layers of {len(kept)} kinds, too many for a copy")
    return _filled(kept, 2, len(kinds))


def _filled(kept: list[int], least: int, count: int) -> list[int]:
    """With the first of those that were left out, up to ``least`` layers."""
    others = [i for i in range(count) if i not in kept]
    return sorted(kept + others[: max(0, least - len(kept))])


def _special_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Token ids that the small vocabulary has not, moved to its end; different ones stay different."""
    vocabulary = min(fields.get("vocab_size") or VOCABULARY, VOCABULARY)
    named = {name: value for name, value in fields.items() if re.search(r"_token_id$|_index$|_idx$", name)}
    ids = {each for value in named.values() for each in (value if isinstance(value, list) else [value])}
    moved = {
        old: vocabulary - 1 - i for i, old in enumerate(sorted(i for i in ids if _is_number(i) and i >= vocabulary))
    }
    return {
        name: [moved.get(each, each) for each in value] if isinstance(value, list) else moved.get(value, value)
        for name, value in named.items()
        if value is not None
    }


def _rope(fields: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters, with those that have an entry for each pair of a head's dimensions cut to the small head."""
    parameters = fields.get("rope_parameters")
    if not isinstance(parameters, dict):
        return {}
    heads = next((small[name] for name in _HEADS if _is_number(small.get(name))), HEADS)
    size = small.get("head_dim") or small.get("qk_rope_head_dim") or HIDDEN // heads
    return {"rope_parameters": {name: _rope_field(name, value, parameters, size) for name, value in parameters.items()}}


def _rope_field(name: str, value: Any, parameters: Mapping[str, Any], size: int) -> Any:
    if isinstance(value, dict):  # by kind of layer
        return {inner: _rope_field(inner, each, value, size) for inner, each in value.items()}
    pairs = int(size * (parameters.get("partial_rotary_factor") or 1.0)) // 2
    if name in ("long_factor", "short_factor") and isinstance(value, list):
        return value[:pairs]
    if name == "mrope_section" and isinstance(value, list):
        rest = pairs - (len(value) - 1) * (pairs // len(value))
        return [rest] + [pairs // len(value)] * (len(value) - 1)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
