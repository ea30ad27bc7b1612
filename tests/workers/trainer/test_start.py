"""What a run starts from: its base model, a critic that is given with it, and models that come with code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rz_workers.data import procedural
from rz_workers.runtime import Settings, UserError
from rz_workers.trainer import startup
from rz_workers.trainer.durable.checkpoint import Checkpoints
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.ranks import Ranks

HEAD = torch.linspace(-1, 1, 16).view(1, 16)
ONE_RANK = Ranks(0, 1, torch.device("cpu"), None)


def write_base(folder: Path, seed: int = 0, tensors=None) -> str:
    """A random model with a byte tokenizer; ``tensors`` are put into its file."""
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=16,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16_384,
        )
    ).save_pretrained(folder)
    if tensors:
        file = folder / "model.safetensors"
        save_file(load_file(file) | tensors, file, {"format": "pt"})
    return str(folder)


@pytest.fixture
def make_settings(make_run, tmp_path):
    """Of a run from ``name``, with its data."""
    (tmp_path / "train.jsonl").write_text('{"question": "1+1", "answer": "2"}\n{"question": "1+2", "answer": "3"}\n')

    def make(name, critic=None, train=str(tmp_path / "train.jsonl"), **model):
        run = make_run(
            model={"name": name, **model},
            data={"train": [{"uri": train}], "promptTemplate": "{question}="},
            storage={"uri": str(tmp_path / "run")},
            algorithm={"critic": {"miniBatches": 3} | (critic or {})},
        )
        (tmp_path / "run-file.json").write_text(run.model_dump_json(by_alias=True))
        scratch = str(tmp_path / "scratch")
        return Settings.from_environment(
            {"RZ_RUN_FILE": str(tmp_path / "run-file.json"), "RZ_SCRATCH": scratch, "RZ_INCARNATION": "1"}
        )

    return make


def read_inputs(settings):
    return startup.read_inputs(settings.run, settings.scratch)


def test_a_run_that_starts_again_has_its_items_from_its_folder(make_settings, tmp_path, monkeypatch):
    settings = make_settings(write_base(tmp_path / "base"), train="reasoning-gym://chain_sum?size=3")
    inputs = read_inputs(settings)
    startup.claim_folder(settings, inputs)
    monkeypatch.setattr(procedural, "make", pytest.fail)
    assert read_inputs(settings).prepared == inputs.prepared


# ------------------------------------------------------------------------------------------------------- given critics


@pytest.mark.parametrize("form", ["{}", "file://{}"], ids=["a folder", "a URL"])
def test_a_run_starts_from_the_critic_that_is_given(make_settings, tmp_path, form):
    base, given = write_base(tmp_path / "base"), write_base(tmp_path / "given", 1, {"value_head.weight": HEAD})
    inputs = read_inputs(make_settings(base, critic={"initFrom": form.format(given)}))
    assert torch.equal(inputs.critic.head.weight, HEAD)
    embedding = load_file(tmp_path / "given" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(inputs.critic.backbone.embed_tokens.weight, embedding)
    assert not torch.equal(inputs.policy.model.model.embed_tokens.weight, embedding)


@pytest.mark.parametrize("place", ["nothing-here", "owner/nothing/here"])
def test_a_critic_that_is_not_there_is_the_users_to_change(make_settings, tmp_path, place):
    settings = make_settings(write_base(tmp_path / "base"), critic={"initFrom": place})
    with pytest.raises(UserError, match=rf"found no folder {place}.*check algorithm\.critic\.initFrom"):
        read_inputs(settings)


def test_a_given_critic_without_a_head_is_refused(make_settings, tmp_path):
    base = write_base(tmp_path / "base")
    with pytest.raises(UserError, match=r"found no value head .*check algorithm\.critic\.initFrom"):
        read_inputs(make_settings(base, critic={"initFrom": base}))


def test_an_export_whose_critic_has_no_head_is_refused(make_settings, tmp_path):
    base = write_base(tmp_path / "base")
    for part in ("policy", "critic"):
        write_base(tmp_path / "export" / part)
    with pytest.raises(UserError, match=r"found no value head at .*/export/critic.*check model\.initFrom"):
        read_inputs(make_settings(base, initFrom=str(tmp_path / "export")))


def test_a_given_critic_comes_before_that_of_the_checkpoint(make_settings, tmp_path):
    base, given = write_base(tmp_path / "base"), write_base(tmp_path / "given", 1, {"score.weight": HEAD})
    _save_checkpoint(make_settings(base))
    os.rename(tmp_path / "run", tmp_path / "earlier")
    checkpoint = str(tmp_path / "earlier" / "checkpoints" / "step-000002-i1")
    inputs = read_inputs(make_settings(base, initFrom=checkpoint, critic={"initFrom": given}))
    assert torch.equal(inputs.critic.head.weight, HEAD)
    assert (inputs.policy.model.lm_head.weight == 1.0).all()


def test_a_run_with_a_checkpoint_of_its_own_needs_the_given_critic_no_more(make_settings, tmp_path):
    base, given = write_base(tmp_path / "base"), write_base(tmp_path / "given", 1, {"score.weight": HEAD})
    settings = make_settings(base, critic={"initFrom": given})
    _save_checkpoint(settings)
    os.rename(given, tmp_path / "moved")
    assert read_inputs(settings).critic is not None


def _save_checkpoint(settings) -> None:
    """Of the run, after 2 steps; its policy's output layer is all ones."""
    inputs = read_inputs(settings)
    folder, _ = startup.claim_folder(settings, inputs)
    torch.nn.init.ones_(inputs.policy.model.lm_head.weight)
    learner = Learner(settings.run.spec, ONE_RANK, inputs.policy, inputs.critic, None)
    checkpoints = Checkpoints(folder, ONE_RANK, learner, 1)
    checkpoints.save(2)
    checkpoints.wait()


# --------------------------------------------------------------------------------------------------- code of the model

CONFIGURATION = """
from transformers import LlamaConfig
class XConfig(LlamaConfig):
    model_type = "x"
"""
MODELING = """
from transformers import LlamaForCausalLM, LlamaModel
from .configuration_x import XConfig
class XModel(LlamaModel):
    config_class = XConfig
class XForCausalLM(LlamaForCausalLM):
    config_class = XConfig
"""


@pytest.fixture
def remote_base(tmp_path):
    """A model that transformers does not know, with its code."""
    base = tmp_path / "base"
    write_base(base)
    (base / "configuration_x.py").write_text(CONFIGURATION)
    (base / "modeling_x.py").write_text(MODELING)
    config = json.loads((base / "config.json").read_text()) | {"model_type": "x", "architectures": ["XForCausalLM"]}
    names = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel"}
    config["auto_map"] = names | {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    (base / "config.json").write_text(json.dumps(config))
    return str(base)


def test_code_of_a_model_is_refused_unless_it_is_trusted_and_nobody_is_asked(make_settings, remote_base):
    with pytest.raises(UserError, match=r"does not load: .*custom code"):
        read_inputs(make_settings(remote_base))


def test_code_of_a_model_goes_with_the_run_wherever_it_is_loaded(make_settings, remote_base, tmp_path):
    """To processes that know nothing of the base model, which is gone, and have no terminal to be asked at."""
    make_settings(remote_base, trustRemoteCode=True)

    def run(word):
        scratch = tmp_path / word
        env = {**os.environ, "RZ_RUN_FILE": str(tmp_path / "run-file.json"), "RZ_SCRATCH": str(scratch)}
        env |= {"RZ_INCARNATION": "1", "HF_HOME": str(scratch), "OMP_NUM_THREADS": "1"}
        program = Path(__file__).with_name("remote_code.py")
        done = subprocess.run(
            [sys.executable, program, word], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{word}: {done.stderr}"

    run("start")
    os.rename(remote_base, tmp_path / "gone")
    for word in ("other-rank", "sample", "export"):
        run(word)
