"""A twin of a few tokens and widths has every kind of layer, and every switch, of the configuration that it is of."""

import pytest
from transformers import CONFIG_MAPPING, PretrainedConfig

from rz_workers.trainer.models.tiny import VOCABULARY, WINDOW, generic_tiny, tiny_copy


def config_of(model_type: str, **fields) -> PretrainedConfig:
    return CONFIG_MAPPING[model_type](**fields)


LAYERS = {
    "a period of sliding layers": (
        config_of("gemma3_text", num_hidden_layers=26),
        {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2, "sliding_window": WINDOW},
    ),
    "windows from one layer on": (
        config_of("qwen2", use_sliding_window=True, max_window_layers=21, num_hidden_layers=28),
        {"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 1, "sliding_window": WINDOW},
    ),
    "a window that is not used": (
        config_of("qwen2"),
        {"layer_types": ["full_attention"] * 2, "use_sliding_window": False, "sliding_window": None},
    ),
    "layers without rotary positions": (
        config_of("smollm3", no_rope_layer_interval=4, num_hidden_layers=36),
        {"no_rope_layers": [1, 0], "num_hidden_layers": 2},
    ),
    "kinds told by the numbers of layers": (
        config_of("flint"),
        {"num_hidden_layers": 3, "mlp_only_layers": [0]},
    ),
    "layers that share keys and values with earlier ones": (
        config_of("gemma3n_text"),
        {"num_kv_shared_layers": 2, "intermediate_size": [96] * 6},
    ),
    "kinds that are listed once and repeated": (
        config_of("gpt_neo"),
        {"attention_layers": ["global", "local"], "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), LAYERS.values(), ids=LAYERS)
def test_every_kind_of_layer_occurs(config, expected):
    small = tiny_copy(config)
    assert {name: getattr(small, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "heads"),
    [
        pytest.param({"num_attention_heads": 32, "num_key_value_heads": 32}, (4, 4, 16), id="as many keys as queries"),
        pytest.param({"num_attention_heads": 32, "num_key_value_heads": 8}, (4, 2, 16), id="grouped"),
        pytest.param({"num_attention_heads": 32, "num_key_value_heads": 1}, (4, 1, 16), id="one for all"),
        pytest.param({"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 256}, (4, 2, 32), id="wide"),
        pytest.param({"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2048}, (4, 4, 16), id="few"),
        pytest.param({"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8}, (2, 2, 8), id="small as it is"),
        pytest.param({"hidden_size": 36, "num_attention_heads": 3, "head_dim": 12}, (3, 3, 12), id="small and odd"),
    ],
)
def test_heads_keep_their_grouping(fields, heads):
    small = tiny_copy(config_of("llama", **{"hidden_size": 4096, **fields}))
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == heads


def test_switches_and_rotary_parameters_are_kept():
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
    config = config_of("qwen3", rope_parameters=rope, attention_bias=True, hidden_act="relu", tie_word_embeddings=True)
    small = tiny_copy(config)
    for name in ("rope_parameters", "attention_bias", "hidden_act", "tie_word_embeddings", "max_position_embeddings"):
        assert getattr(small, name) == getattr(config, name), name


def test_special_tokens_are_in_the_small_vocabulary_and_stay_apart():
    small = tiny_copy(config_of("llama", vocab_size=128_256, bos_token_id=128_000, eos_token_id=[128_001, 128_008]))
    ids = [small.bos_token_id, *small.eos_token_id]
    assert small.vocab_size == VOCABULARY
    assert len(set(ids)) == 3
    assert all(0 <= each < VOCABULARY for each in ids)


def test_a_configuration_of_remote_code_is_copied_by_its_fields():
    class Config(PretrainedConfig):
        model_type = "somebodys"

        def __init__(self, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, window=4096, **more):
            self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
            self.num_attention_heads, self.window = num_attention_heads, window
            super().__init__(**more)

    small = tiny_copy(Config())
    assert isinstance(small, Config)
    assert (small.hidden_size, small.num_hidden_layers, small.num_attention_heads, small.window) == (64, 2, 4, WINDOW)


def test_what_has_no_width_is_refused_by_name():
    class Config(PretrainedConfig):
        model_type = "nothing_known"

    with pytest.raises(ValueError, match=r"found none of hidden_size, .*'nothing_known'"):
        tiny_copy(Config())


def test_a_type_without_usable_defaults_is_refused_by_name():
    with pytest.raises(ValueError, match="'gemma4_assistant' has no usable default"):
        generic_tiny("gemma4_assistant")
