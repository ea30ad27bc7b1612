"""A model's size, and what a pass over it costs, follow from its configuration alone: arithmetic, no weights needed.

Called by the plan's estimates, by the trainer (balance of micro-batches, FLOP/s) and by the benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ModelShape", "forward_flops"]

_OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("ffn_dim", "n_inner", "dff"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
}
"""What GPT-2, OPT and their like call them."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer with gated feed-forward layers (Llama, Qwen, Mistral and their like); one whose layers
    are not gated (GPT-2, OPT) has somewhat less than this says."""

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

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ModelShape:
        """From a Hugging Face ``config.json`` (of a model that holds more than text, from its ``text_config``).

        Raises ValueError when a field that is needed is not there.
        """
        # Models that also see images keep the decoder's shape a level below.
        text = dict(config.get("text_config") or config)
        for name, others in _OTHER_NAMES.items():
            text.setdefault(name, next((text[other] for other in others if other in text), None))
        # GPT-2's n_inner is null where it is this.
        if text["intermediate_size"] is None and "n_inner" in text and isinstance(text["hidden_size"], int):
            text["intermediate_size"] = 4 * text["hidden_size"]
        required = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        if missing := [name for name in required if not isinstance(text.get(name), int)]:
            raise ValueError(
                f"found no {', '.join(missing)} in the configuration of a model of type {config.get('model_type')!r}: "
                "the config.json of a decoder-only transformer is required"
            )
        heads, kind = text["num_attention_heads"], str(text.get("model_type") or "")
        return ModelShape(
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            # Qwen3 and Gemma have heads of another size than hidden_size / heads.
            head_size=text.get("head_dim") or text["hidden_size"] // heads,
            vocabulary=text["vocab_size"],
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            # Qwen2's configuration has no field for it: its layers always have the bias (transformers 5.24).
            qkv_bias=bool(text.get("attention_bias", kind.startswith("qwen2"))),
            qk_norm=kind.startswith("qwen3"),
        )

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices, each of which a token is multiplied with once."""
        attention = self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

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
