"""A model's size, and what a pass over it costs, follow from its configuration alone: arithmetic, no weights needed.

Called by the plan's estimates, by the trainer (balance of micro-batches, FLOP/s) and by the benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ModelShape", "forward_flops"]

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "dff"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "attention_heads"),
    "vocab_size": ("vocab_size",),
}
"""Under which names configurations have what is needed: today's, and those of GPT-2's and OPT's time."""

_UNGATED = {
    *("apertus", "apertus1p5_text", "arcee", "biogpt", "codegen", "ctrl", "gpt2", "gpt_bigcode", "gpt_neox", "gptj"),
    *("jais2", "nemotron", "opt", "persimmon", "phi", "starcoder2", "xglm"),
}
"""Model types whose feed-forward layers are two matrices, not three (transformers 5.24)."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer without experts (Llama, Qwen, Mistral and their like)."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding's matrix."""
    qkv_bias: bool = False
    qk_norm: bool = False
    """Whether queries and keys are normalised by head (Qwen3)."""
    gated: bool = True
    """Whether a feed-forward layer has a third matrix, which gates it."""

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ModelShape:
        """From a Hugging Face ``config.json`` (of a model that holds more than text, from its ``text_config``).

        Raises ValueError when a field that is needed is not there.
        """
        # Models that also see images keep the decoder's shape a level below.
        text = config.get("text_config") or config
        found = {
            name: next((text[n] for n in names if isinstance(text.get(n), int)), None) for name, names in _NAMES.items()
        }
        # GPT-2 says nothing where the feed-forward layer has its usual width.
        if found["intermediate_size"] is None and found["hidden_size"] and "n_embd" in text:
            found["intermediate_size"] = 4 * found["hidden_size"]
        if missing := [name for name, value in found.items() if value is None]:
            raise ValueError(
                f"found no {', '.join(missing)} in the configuration of a model of type {config.get('model_type')!r}: "
                "the config.json of a decoder-only transformer is required"
            )
        size = {name: value for name, value in found.items() if value is not None}
        heads, kind = size["num_attention_heads"], str(text.get("model_type") or "")
        return ModelShape(
            hidden_size=size["hidden_size"],
            intermediate_size=size["intermediate_size"],
            layers=size["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            # Qwen3 and Gemma have heads of another size than hidden_size / heads.
            head_size=text.get("head_dim") or size["hidden_size"] // heads,
            vocabulary=size["vocab_size"],
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            # Qwen2's configuration has no field for it: its layers always have the bias (transformers 5.24).
            qkv_bias=bool(text.get("attention_bias", kind.startswith("qwen2"))),
            qk_norm=kind.startswith("qwen3"),
            gated=kind not in _UNGATED,
        )

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices, each of which a token is multiplied with once."""
        attention = self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + (3 if self.gated else 2) * self.hidden_size * self.intermediate_size

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, or of the output layer."""
        return self.vocabulary * self.hidden_size

    def parameters(self) -> int:
        """All parameters, a tied embedding once."""
        biases = self.head_size * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_size if self.qk_norm else 0)
        layers = self.layers * (self.layer_matrices + biases + norms)
        # The last norm, and the embedding once where the output layer is the same matrix.
        return layers + self.hidden_size + self.embedding * (1 if self.tied else 2)


def forward_flops(shape: ModelShape, lengths: Sequence[int], head_rows: int) -> float:
    """Floating-point operations of one forward pass over sequences of ``lengths`` tokens.

    A multiplication and an addition for each matrix element and token; causal attention (half of the square, for the
    scores and again for the values); the output layer on ``head_rows`` rows. A training pass is three times that;
    recomputed activations are not counted.
    """
    tokens = sum(lengths)
    squares = sum(length * length for length in lengths)
    matrices = 2.0 * shape.layers * shape.layer_matrices * tokens
    attention = 2.0 * shape.layers * shape.heads * shape.head_size * squares
    return matrices + attention + 2.0 * shape.embedding * head_rows
