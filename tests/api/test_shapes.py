"""Parameters and operations of models, against transformers' own count and against numbers worked by hand."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rz_api.shapes import ModelShape, forward_flops

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("llama", {}),
        ("llama", {"attention_bias": False, "head_dim": 16}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {}),
    ],
)
def test_parameters_are_counted_as_transformers_makes_them(kind, more):
    config = AutoConfig.for_model(kind, **SMALL, **more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert ModelShape.from_config(config.to_dict()).parameters() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": None}),
        ("gptj", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 128}),
        ("opt", {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 128}),
    ],
)
def test_the_names_of_older_configurations_are_known(kind, fields):
    shape = ModelShape.from_config({"model_type": kind, "vocab_size": 100, **fields})
    assert (shape.hidden_size, shape.intermediate_size, shape.layers, shape.heads, shape.head_size) == (
        32,
        128,
        3,
        4,
        8,
    )


@pytest.mark.parametrize(
    ("hidden", "intermediate", "layers", "heads", "kv_heads", "vocabulary", "tied", "published"),
    [
        (896, 4864, 24, 14, 2, 151_936, True, 0.49e9),
        (1536, 8960, 28, 12, 2, 151_936, True, 1.54e9),
        (3584, 18_944, 28, 28, 4, 152_064, False, 7.61e9),
        (5120, 27_648, 64, 40, 8, 152_064, False, 32.5e9),
    ],
    ids=["0.5B", "1.5B", "7B", "32B"],
)
def test_the_papers_models_have_their_published_size(
    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied, published
):
    shape = ModelShape(hidden, intermediate, layers, heads, kv_heads, hidden // heads, vocabulary, tied, qkv_bias=True)
    assert shape.parameters() == pytest.approx(published, rel=0.01)


def test_operations_of_a_pass_worked_by_hand():
    shape = ModelShape(
        hidden_size=2, intermediate_size=3, layers=5, heads=2, kv_heads=1, head_size=1, vocabulary=7, tied=True
    )
    # A layer's matrices: q 2x2, k 2x1, v 2x1, o 2x2, and three of 2x3: 12 + 18 = 30.
    # 2 * 5 layers * 30 * 7 tokens, attention 2 * 5 * 2 heads * 1 * (9 + 16), output 2 * 14 * 4 rows.
    assert forward_flops(shape, [3, 4], 4) == 2100 + 500 + 112


def test_a_model_of_text_and_more_is_its_text_model():
    nested = {"model_type": "both", "text_config": {**SMALL, "model_type": "qwen2"}, "vision_config": {}}
    assert ModelShape.from_config(nested).layers == 3


def test_what_is_no_configuration_is_refused_by_the_fields_that_lack():
    with pytest.raises(ValueError, match=r"found no intermediate_size, vocab_size in .* type 'bert'"):
        ModelShape.from_config(
            {"model_type": "bert", "hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1}
        )
