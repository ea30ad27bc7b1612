"""What is loaded is what the file says: tensors that lack, are too many or of another shape are refused by name."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rz_workers.runtime import UserError
from rz_workers.trainer.models import loading

OPTIONS = {"revision": None, "trust_remote_code": False, "activation_checkpointing": False}
HEAD = torch.linspace(-1, 1, 16).view(1, 16)
MLP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base(tmp_path):
    """Makes a checkpoint; ``tensors`` are put into its file, those that are None taken out of it."""

    def make(tied=False, tensors=None, factory=LlamaForCausalLM, **config):
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
        torch.manual_seed(0)
        model = factory(LlamaConfig(vocab_size=29, num_hidden_layers=2, tie_word_embeddings=tied, **sizes, **config))
        model.save_pretrained(tmp_path / "base")
        file = tmp_path / "base" / "model.safetensors"
        changed = load_file(file) | (tensors or {})
        save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, file, {"format": "pt"})
        return str(tmp_path / "base")

    return make


def load_critic(source, init="normal", **options):
    return loading.load_critic(source, init=init, seed=7, **OPTIONS | options)


# ------------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("load", [lambda source: loading.load_policy(source, **OPTIONS), load_critic])
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({MLP: None}, r"1 missing \(.*layers\.1\.mlp\.up_proj\.weight\)"),
        (
            {MLP: torch.zeros(24, 8)},
            r"1 of another shape \(.*layers\.1\.mlp\.up_proj\.weight \[24, 8\] in place of \[24, 16\]\)",
        ),
        (
            {
                f"model.layers.{layer}.mlp.{name}_proj.weight": None
                for layer in (0, 1)
                for name in ("up", "down", "gate")
            }
            | {f"model.layers.{layer}.self_attn.{name}_proj.weight": None for layer in (0, 1) for name in "qkvo"},
            r"14 missing \(.*layers\.0\.mlp\.down_proj\.weight, .* and 6 more\)",
        ),
    ],
    ids=["a missing matrix", "a matrix of another shape", "many missing"],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_the_names_of_its_tensors(base, load, tensors, words):
    with pytest.raises(UserError, match=words + r".*check model\.name"):
        load(base(tensors=tensors))


@pytest.mark.parametrize("load", [lambda source: loading.load_policy(source, **OPTIONS), load_critic])
def test_numbers_that_are_none_are_refused_by_the_names_of_their_tensors(base, load):
    broken = torch.zeros(24, 16)
    broken[3, 2] = torch.inf
    with pytest.raises(UserError, match=r"hold NaN or infinity: 1 of them \(.*layers\.1\.mlp\.up_proj\.weight\)"):
        load(base(tensors={MLP: broken}))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n" * 3, "half"])
@pytest.mark.parametrize("load", [lambda source: loading.load_policy(source, **OPTIONS), load_critic])
def test_a_file_that_is_cut_or_was_never_fetched_is_the_users_to_change(base, load, content):
    source = base()
    file = Path(source) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(UserError, match=r"does not load: .*check model\.name"):
        load(source)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": "16"}, "'hidden_size': TypeError: Field 'hidden_size' expected int"),
        ({"layer_types": ["full_attention"]}, r"`num_hidden_layers` \(2\) must be equal"),
    ],
)
def test_a_configuration_that_its_class_refuses_is_the_users_to_change(base, fields, words):
    source = base()
    config = Path(source) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    with pytest.raises(UserError, match=rf"does not load: .*{words}.*check model\.name"):
        loading.read_config(source, None, trust_remote_code=False)


def test_tensors_that_the_architecture_has_not_are_refused(base):
    source = base(tensors={"model.layers.0.adapter.weight": torch.zeros(2), "v_head.summary.weight": HEAD})
    with pytest.raises(UserError, match=r"2 unexpected \(model\.layers\.0\.adapter\.weight, v_head\.summary\.weight\)"):
        loading.load_policy(source, **OPTIONS)


def test_buffers_that_the_class_calls_harmless_are_no_fault(base):
    source = base(tensors={"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    loading.load_policy(source, **OPTIONS)
    load_critic(source)


@pytest.mark.parametrize("tied", [True, False])
def test_a_policys_output_layer_is_no_fault_in_the_critics_file(base, tied):
    source = base(tied)
    policy, critic = loading.load_policy(source, **OPTIONS), load_critic(source)
    assert torch.equal(policy.model.model.embed_tokens.weight, critic.backbone.embed_tokens.weight)


def test_an_untied_model_without_an_output_layer_is_refused_with_what_to_change(base):
    with pytest.raises(
        UserError, match=r"1 missing \(lm_head\.weight\).* set tie_word_embeddings: true in config\.json"
    ):
        loading.load_policy(base(tensors={"lm_head.weight": None}), **OPTIONS)


def test_a_tied_model_with_another_output_layer_is_refused_with_what_to_change(base):
    source = base(tied=True, tensors={"lm_head.weight": torch.zeros(29, 16)})
    with pytest.raises(
        UserError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight .*set tie_word_embeddings: false"
    ):
        loading.load_policy(source, **OPTIONS)


def test_a_tied_model_whose_file_has_the_embedding_twice_is_fine(base):
    embedding = load_file(base(tied=True) + "/model.safetensors")["model.embed_tokens.weight"]
    policy = loading.load_policy(base(tied=True, tensors={"lm_head.weight": embedding.clone()}), **OPTIONS)
    assert policy.model.lm_head.weight is policy.model.model.embed_tokens.weight


# -------------------------------------------------------------------------------------------------------------- critics


@pytest.mark.parametrize(
    "tensors",
    [{"value_head.weight": HEAD}, {"value_head.weight": HEAD.view(8, 2)}, {"score.weight": HEAD}],
    ids=["the published 7B critic's", "the published 32B critic's", "a reward model's"],
)
@pytest.mark.parametrize("has_output_layer", [True, False])
def test_a_published_critic_starts_with_its_head(base, caplog, tensors, has_output_layer):
    caplog.set_level(logging.INFO)
    source = base(tied=not has_output_layer, tensors=tensors)
    critic = load_critic(source, init=None)
    assert torch.equal(critic.head.weight, HEAD)
    assert f"with the value head that is there ({next(iter(tensors))})" in caplog.text


def test_a_critic_in_several_files_starts_with_its_head(base, tmp_path):
    source = base(tensors={"value_head.weight": HEAD})
    LlamaForCausalLM.from_pretrained(source).save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    index = tmp_path / "sharded" / "model.safetensors.index.json"
    written = json.loads(index.read_text())
    save_file({"value_head.weight": HEAD}, tmp_path / "sharded" / "last.safetensors", {"format": "pt"})
    written["weight_map"]["value_head.weight"] = "last.safetensors"
    index.write_text(json.dumps(written))
    assert torch.equal(load_critic(str(tmp_path / "sharded"), init=None).head.weight, HEAD)


def test_a_critic_on_the_hub_starts_with_its_head(base, tmp_path):
    """In a process of its own, which finds the model in the hub's cache and nothing else."""
    source = base(tensors={"value_head.weight": HEAD})
    cached = tmp_path / "hub" / "hub" / "models--some--critic"
    for folder in ("refs", "snapshots"):
        (cached / folder).mkdir(parents=True)
    (cached / "refs" / "main").write_text("c0ffee")
    os.rename(source, cached / "snapshots" / "c0ffee")
    program = (
        "from rz_workers.trainer.models import loading\n"
        f"critic = loading.load_critic('some/critic', init=None, seed=0, **{OPTIONS})\n"
        "print(critic.head.weight.sum().item(), critic.head.weight[0, 0].item())"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    total, first = map(float, done.stdout.split())
    assert (total, first) == (pytest.approx(0, abs=1e-5), -1.0)


def test_a_base_model_gets_a_fresh_head_and_says_so(base, caplog):
    caplog.set_level(logging.INFO)
    load_critic(base(), init="kaiming")
    assert "with a fresh value head (kaiming)" in caplog.text


def test_a_critic_without_a_head_is_refused(base):
    with pytest.raises(UserError, match=r"found no value head at .*/base: .*score\.weight.*check algorithm\.critic"):
        load_critic(base(), init=None, field="algorithm.critic.initFrom")


def test_a_critics_head_of_another_name_is_named(base):
    with pytest.raises(UserError, match=r"1 unexpected \(v_head\.summary\.weight\)"):
        load_critic(base(tensors={"v_head.summary.weight": HEAD}), init=None)


def test_a_classifier_of_three_labels_is_no_critic(base):
    source = base(factory=LlamaForSequenceClassification, num_labels=3, pad_token_id=0)
    with pytest.raises(UserError, match=r"score\.weight of shape \[3, 16\]"):
        load_critic(source)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rms_norm_eps": 1e-3}, r"rms_norm_eps 0\.001 in place of 1e-06"),
        ({"head_dim": 4}, r"head_dim 4 in place of 8"),
    ],
    ids=["that computes otherwise", "of another size"],
)
def test_a_critic_is_the_same_network_as_the_policy(base, fields, words):
    policy = loading.load_policy(base(), **OPTIONS)
    critic = base(tensors={"value_head.weight": HEAD}, **fields)
    with pytest.raises(UserError, match=f"is another network than the policy: .*{words}"):
        load_critic(critic, init=None, policy_config=policy.model.config)


def test_a_critic_may_differ_in_what_computes_nothing(base):
    policy = loading.load_policy(base(tied=True), **OPTIONS)
    fields = {"use_cache": False, "max_position_embeddings": 64, "eos_token_id": 5, "pretraining_tp": 2}
    load_critic(
        base(tied=False, tensors={"value_head.weight": HEAD}, **fields), init=None, policy_config=policy.model.config
    )
