"""Exports load with transformers and compute what the run's models compute."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from rz_workers.trainer.durable import export
from rz_workers.trainer.models import actor_critic


@pytest.fixture
def tokenizer_dir(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text("not to be copied")
    return folder


def test_the_policy_loads_as_a_causal_language_model_with_the_same_logits(make_models, tokenizer_dir, tmp_path):
    policy, _ = make_models()
    export.write_policy(policy.model, export.gather_state(policy), torch.float32, tokenizer_dir, tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(loaded(ids).logits, policy.model.eval()(ids).logits)
    assert (tmp_path / "policy" / "tokenizer.json").exists()


def test_a_tied_tensor_is_exported_once(make_models, tokenizer_dir, tmp_path):
    policy, _ = make_models()
    target = tmp_path / "policy"
    export.write_policy(policy.model, export.gather_state(policy), torch.bfloat16, tokenizer_dir, target)
    assert "lm_head.weight" not in load_file(target / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(target)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, policy.model.lm_head.weight.bfloat16())


def test_the_critic_loads_as_a_token_classifier_whose_logit_is_the_value(make_models, tokenizer_dir, tmp_path):
    _, critic = make_models()
    export.write_critic(critic.backbone, export.gather_state(critic), torch.float32, tokenizer_dir, tmp_path / "critic")
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "critic")
    ids = torch.tensor([1, 5, 9])
    values = critic(ids, torch.arange(3), (3,), torch.arange(3))
    assert torch.allclose(loaded(ids[None]).logits[0, :, 0], values, atol=1e-6)


def test_an_exported_critic_is_an_initial_critic_with_its_value_head(make_models, tokenizer_dir, tmp_path):
    _, critic = make_models()
    export.write_critic(critic.backbone, export.gather_state(critic), torch.float32, tokenizer_dir, tmp_path / "critic")
    options = {"revision": None, "trust_remote_code": False, "activation_checkpointing": False}
    again = actor_critic.load_critic(str(tmp_path / "critic"), init="normal", seed=99, **options)
    assert torch.equal(again.head.weight, critic.head.weight)
    assert torch.equal(again.backbone.embed_tokens.weight, critic.backbone.embed_tokens.weight)


def test_published_tensors_have_hugging_face_names_and_a_tied_tensor_once(make_models):
    policy, _ = make_models()
    tensors = actor_critic.published_tensors(policy)
    assert "model.embed_tokens.weight" in tensors
    assert "lm_head.weight" not in tensors
    assert set(tensors) | {"lm_head.weight"} == set(policy.model.state_dict())


@pytest.mark.parametrize(
    ("init", "spread"), [("normal", 1 / 1025), ("uniform", 5**0.5 / 3**0.5)], ids=["published code", "paper"]
)
def test_the_value_head_has_the_spread_of_its_source(init, spread):
    weight = actor_critic.new_value_head(1024, init=init, seed=0).weight
    assert weight.std().item() == pytest.approx(spread, rel=0.1)
    assert torch.equal(weight, actor_critic.new_value_head(1024, init=init, seed=0).weight)
