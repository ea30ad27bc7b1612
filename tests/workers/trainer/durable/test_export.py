"""Exports load with transformers and compute what the run's models compute."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    Olmo2Config,
    Olmo3Config,
    PreTrainedConfig,
    Qwen2Config,
)

from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable import export
from rz_workers.trainer.durable.checkpoint import Checkpoints
from rz_workers.trainer.models import actor_critic, loading, value_head

PAGE = Path(__file__).parents[4] / "docs" / "run-folder.md"
IDS = torch.tensor([[1, 5, 9]])


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


def test_an_export_loads_in_the_type_that_it_was_written_in(make_models, tokenizer_dir, tmp_path):
    policy, critic = make_models()
    export.write_policy(policy.model, export.gather_state(policy), torch.bfloat16, tokenizer_dir, tmp_path / "policy")
    write(critic, torch.bfloat16, tokenizer_dir, tmp_path / "critic")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "policy").dtype == torch.bfloat16
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "critic").dtype == torch.bfloat16


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
    again = loading.load_critic(str(tmp_path / "critic"), init="normal", seed=99, **options)
    assert torch.equal(again.head.weight, critic.head.weight)
    assert torch.equal(again.backbone.embed_tokens.weight, critic.backbone.embed_tokens.weight)


def test_published_tensors_have_hugging_face_names_and_a_tied_tensor_once(make_models):
    policy, _ = make_models()
    tensors = actor_critic.published_tensors(policy)
    assert "model.embed_tokens.weight" in tensors
    assert "lm_head.weight" not in tensors
    assert set(tensors) | {"lm_head.weight"} == set(policy.model.state_dict())


# -------------------------------------------------------------------------------------------- critics of other families


def critic_of(config_class: type[PreTrainedConfig]) -> tuple[actor_critic.Critic, PreTrainedConfig]:
    config = config_class(
        vocab_size=29, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config, attn_implementation="eager").eval()
    return actor_critic.Critic(backbone, value_head.new_value_head(16, init="kaiming", seed=1)), config


def values_of(critic: actor_critic.Critic) -> torch.Tensor:
    """[1, 3] of ``IDS``, by transformers' own attention."""
    with torch.no_grad():
        return critic.head(critic.backbone(IDS).last_hidden_state).squeeze(-1)


def write(critic: actor_critic.Critic, dtype: torch.dtype, tokenizer_dir: Path, target: Path) -> None:
    export.write_critic(critic.backbone, export.gather_state(critic), dtype, tokenizer_dir, target)


@pytest.mark.parametrize("config_class", [Qwen2Config, GPTNeoXConfig])
def test_a_head_is_the_classifiers_whatever_the_class_calls_it(tokenizer_dir, tmp_path, config_class):
    critic, _ = critic_of(config_class)
    write(critic, torch.float32, tokenizer_dir, tmp_path / "critic")
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "critic", attn_implementation="eager")
    assert loaded.num_labels == 1
    torch.testing.assert_close(loaded(IDS).logits[..., 0], values_of(critic))


def documented_values(folder: str, input_ids: torch.Tensor) -> torch.Tensor:
    """By the lines of the page, as they are written there."""
    block = next(text for text in PAGE.read_text().split("```")[1::2] if "value_head.safetensors" in text)
    given = {"folder": folder, "input_ids": input_ids}
    exec(block, given)
    return given["values"]


@pytest.mark.parametrize("config_class", [Olmo2Config, Olmo3Config, GraniteConfig, Gemma3TextConfig])
def test_a_critic_without_a_classifiers_class_loads_as_the_page_says(tokenizer_dir, tmp_path, config_class):
    critic, _ = critic_of(config_class)
    write(critic, torch.float32, tokenizer_dir, tmp_path / "critic")
    torch.testing.assert_close(documented_values(str(tmp_path / "critic"), IDS)[..., 0], values_of(critic))
    assert (tmp_path / "critic" / "tokenizer.json").exists()


def test_its_readme_has_the_lines_of_the_page(tokenizer_dir, tmp_path):
    critic, _ = critic_of(Olmo2Config)
    write(critic, torch.bfloat16, tokenizer_dir, tmp_path / "critic")
    readme = (tmp_path / "critic" / "README.md").read_text()
    block = next(text for text in PAGE.read_text().split("```")[1::2] if "value_head.safetensors" in text)
    assert all(line in readme for line in block.splitlines())
    assert documented_values(str(tmp_path / "critic"), IDS).dtype == torch.bfloat16


@pytest.mark.parametrize("config_class", [GPTNeoXConfig, Olmo2Config, Gemma3TextConfig])
def test_every_format_is_a_critic_to_start_from(tokenizer_dir, tmp_path, config_class):
    critic, config = critic_of(config_class)
    write(critic, torch.float32, tokenizer_dir, tmp_path / "critic")
    options = {"revision": None, "trust_remote_code": False, "activation_checkpointing": False}
    again = loading.load_critic(str(tmp_path / "critic"), init=None, seed=99, policy_config=config, **options)
    ours, theirs = critic.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ----------------------------------------------------------------------------------------------------------- rz export


def test_code_that_a_run_brings_is_not_executed_unasked(make_run, make_learner, tmp_path):
    run = make_run(model={"trustRemoteCode": True})
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), run)
    folder.claim_incarnation(1)
    learner = make_learner(run.spec)
    checkpoints = Checkpoints(folder, learner.ranks, learner, 1)
    checkpoints.save(2)
    checkpoints.wait()
    with pytest.raises(UserError, match=r"came with code of its own .* say --trust-remote-code"):
        export.export_checkpoint(str(tmp_path / "run"), None, tmp_path / "out")
