"""Heads of published critics are read whatever they are called, and formats follow from the configuration."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen3Config,
)

from rz_workers.runtime import UserError
from rz_workers.trainer.models import value_head

WEIGHT = torch.arange(16.0)


def read(tmp_path, tensors):
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return value_head.read([tmp_path / "model.safetensors"], 16, "some/critic", "algorithm.critic.initFrom")


@pytest.mark.parametrize("name", ["score.weight", "value_head.weight", "classifier.weight"])
@pytest.mark.parametrize("shape", [(1, 16), (8, 2), (4, 4)], ids=["[1, h]", "[8, h/8]: the 32B critic's", "[4, h/4]"])
def test_a_head_is_read_row_by_row(tmp_path, name, shape):
    head, found = read(tmp_path, {"layers.0.weight": WEIGHT, name: WEIGHT.view(shape).bfloat16()})
    assert (found, head.bias) == (name, None)
    assert torch.equal(head.weight, WEIGHT.view(1, 16))


def test_a_bias_of_zero_is_none(tmp_path):
    head, _ = read(tmp_path, {"score.weight": WEIGHT.view(1, 16), "score.bias": torch.zeros(1)})
    assert torch.equal(head.weight, WEIGHT.view(1, 16))


def test_a_file_without_one_has_none(tmp_path):
    assert read(tmp_path, {"layers.0.weight": WEIGHT, "my_score.weight": WEIGHT.view(1, 16)}) is None


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"score.weight": torch.ones(3, 16)}, r"some/critic has score\.weight of shape \[3, 16\]; .*16 numbers"),
        ({"value_head.weight": torch.ones(1, 8)}, r"value_head\.weight of shape \[1, 8\]"),
        (
            {"score.weight": torch.ones(1, 16), "score.bias": torch.tensor([0.5])},
            r"bias beside score\.weight .* \(0\.5\)",
        ),
        (
            {"score.weight": torch.ones(1, 16), "value_head.weight": torch.ones(1, 16)},
            r"the heads score\.weight, value_head\.weight",
        ),
    ],
    ids=["a classifier of three labels", "another size", "a bias", "two heads"],
)
def test_what_is_no_value_head_is_refused_by_name(tmp_path, tensors, words):
    with pytest.raises(UserError, match=words + r".*check algorithm\.critic\.initFrom"):
        read(tmp_path, tensors)


def test_kaiming_is_what_torch_gives():
    """U(-1/sqrt h, 1/sqrt h): torch's own initialisation of a linear layer."""
    weight = value_head.new_value_head(1024, init="kaiming", seed=0).weight
    assert 0.99 / 32 < weight.abs().max().item() <= 1 / 32


@pytest.mark.parametrize(
    ("init", "spread"),
    [("normal", 1 / 1025), ("kaiming", 1 / 32 / 3**0.5), ("uniform", 5**0.5 / 3**0.5)],
    ids=["published code", "torch's kaiming", "paper to the letter"],
)
def test_the_value_head_has_the_spread_of_its_source(init, spread):
    weight = value_head.new_value_head(1024, init=init, seed=0).weight
    assert weight.std().item() == pytest.approx(spread, rel=0.1)
    assert torch.equal(weight, value_head.new_value_head(1024, init=init, seed=0).weight)


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig, Qwen3Config, Phi3Config, GPTNeoXConfig, GPT2Config])
def test_a_critic_is_a_token_classifier_where_transformers_has_one(config):
    assert value_head.critic_format(config()) == "token-classification"


@pytest.mark.parametrize("config", [Olmo2Config, Olmo3Config, GraniteConfig, Gemma3TextConfig])
def test_a_critic_is_a_backbone_and_a_head_elsewhere(config):
    assert value_head.critic_format(config()) == "backbone-and-head"


def test_a_format_is_known_without_the_memory_of_the_model():
    config = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)
    assert value_head.critic_format(config) == "token-classification"
    assert config.num_labels == 2, "the configuration is not the classifier's"
