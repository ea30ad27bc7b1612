"""Small random models of the kinds that people bring, in a folder as they come from the hub; for whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
BOTH_KINDS = ["sliding_attention", "full_attention"]

CONFIGURATION = """
from transformers import LlamaConfig


class OddConfig(LlamaConfig):
    model_type = "odd"
"""
MODELING = """
from transformers import LlamaForCausalLM, LlamaModel

from .configuration_odd import OddConfig


class OddModel(LlamaModel):
    config_class = OddConfig


class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""
AUTO_MAP = {
    "AutoConfig": "configuration_odd.OddConfig",
    "AutoModel": "modeling_odd.OddModel",
    "AutoModelForCausalLM": "modeling_odd.OddForCausalLM",
}


def model_folder(folder: Path, base: Path, kind: str, *, more_rows: int = 0, **changes: Any) -> Path:
    """A model of transformers' type ``kind`` with the tokenizer of the tiny example, in ``folder``.

    ``more_rows``: of the embedding beyond the tokenizer's tokens. ``changes``: of the configuration.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base / "model")
    fields = {
        **SIZES,
        "vocab_size": len(tokenizer) + more_rows,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.1,  # far from uniform, so that a mistake shows
    }
    config = CONFIG_MAPPING[kind](**{**fields, **changes})
    torch.manual_seed(1)
    factory: Any = AutoModelForCausalLM
    factory.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def remote_code(folder: Path, base: Path) -> Path:
    """A model whose classes lie beside its weights."""
    model_folder(folder, base, "llama")
    (folder / "configuration_odd.py").write_text(CONFIGURATION)
    (folder / "modeling_odd.py").write_text(MODELING)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "architectures": ["OddForCausalLM"], "auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def two_ends(folder: Path, base: Path) -> Path:
    """A model that ends its turns with one token and its texts with another, as Llama 3's and Qwen's do."""
    model_folder(folder, base, "qwen3")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"eos_token_id": [settings["eos_token_id"], 7]}))
    return folder


def of(kind: str, **changes: Any) -> Callable[[Path, Path], Path]:
    return lambda folder, base: model_folder(folder, base, kind, **changes)


FOREIGN: dict[str, Callable[[Path, Path], Path]] = {
    "gpt_neox": of("gpt_neox"),
    "olmo2": of("olmo2"),
    "olmo3": of("olmo3", sliding_window=16, layer_types=BOTH_KINDS),
    "gemma3_text": of("gemma3_text", sliding_window=16, layer_types=BOTH_KINDS, tie_word_embeddings=True),
    "mistral with a window of 16": of("mistral", sliding_window=16),
    "phi3": of("phi3"),
    "qwen3": of("qwen3"),
    "remote code": remote_code,
    "two eos tokens": two_ends,
    "a padded vocabulary": of("llama", more_rows=24),
}
