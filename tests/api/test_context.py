"""How many positions a model knows, from configurations as they are published."""

import pytest

from rz_api.context import too_long
from rz_api.models import refusal

QWEN = {"model_type": "qwen2", "max_position_embeddings": 4096}  # Qwen2.5-Math
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
PHI = {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}  # Phi-3-mini-128k
LLAMA = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
BY_LAYER = {
    "full_attention": {"rope_type": "linear", "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}

CASES = {
    "as many as it knows": (QWEN, 4096, ""),
    "more": (QWEN, 10_240, "the model knows 4096 positions, and rollout.maxModelLength is 10240: at most 4096"),
    "a file that does not say": ({"model_type": "bloom"}, 10_240, ""),
    "GPT-2's name for it": ({"n_positions": 1024}, 1025, "knows 1024 positions"),
    "yarn, from the original length": ({"max_position_embeddings": 32_768, "rope_scaling": YARN}, 131_072, ""),
    "more than yarn gives": ({"max_position_embeddings": 32_768, "rope_scaling": YARN}, 131_073, "knows 131072"),
    "yarn, whose file has the new length": ({"max_position_embeddings": 131_072, "rope_parameters": YARN}, 131_072, ""),
    "linear": ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}}, 4096, ""),
    "linear in one kind of layer": ({"max_position_embeddings": 2048, "rope_parameters": BY_LAYER}, 16_384, ""),
    "llama 3, whose file has the new length": (
        {"max_position_embeddings": 131_072, "rope_scaling": LLAMA},
        131_072,
        "",
    ),
    "dynamic, below the length at which it changes": (
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        4096,
        "",
    ),
    "dynamic, above it": (
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        4097,
        "of kind dynamic change where a sequence of the pass is longer than 4096",
    ),
    "longrope, below the length at which it changes": (
        {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "rope_scaling": PHI},
        4096,
        "",
    ),
    "longrope, above it": (
        {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "rope_scaling": PHI},
        10_240,
        "of kind longrope change where a sequence of the pass is longer than 4096",
    ),
    "a decoder a level below": ({"text_config": QWEN, "max_position_embeddings": 9}, 4097, "knows 4096"),
    "nonsense": ({"rope_scaling": "x", "max_position_embeddings": "many"}, 10, ""),
}


@pytest.mark.parametrize(("config", "tokens", "said"), CASES.values(), ids=CASES)
def test_a_run_asks_for_no_more_positions_than_the_model_knows(config, tokens, said):
    assert said in (too_long(config, tokens) or "")
    assert bool(too_long(config, tokens)) is bool(said)


def test_it_is_asked_where_models_are_refused():
    assert refusal(QWEN) is None
    assert "knows 4096 positions" in refusal(QWEN, 4097)
