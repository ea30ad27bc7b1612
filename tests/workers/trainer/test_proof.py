"""The start-up proof: what it lets pass, and that each fault which it is for makes it refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention

from rz_workers.runtime import UserError
from rz_workers.trainer import proof, twins
from rz_workers.trainer.durable import export
from rz_workers.trainer.models import actor_critic, attention, dropout
from rz_workers.trainer.models.tiny import generic_tiny
from rz_workers.trainer.proof import TOLERANCE, prove
from rz_workers.trainer.twins import logprobs_alone

Patch = pytest.MonkeyPatch

RIGHT = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "olmo2", "olmo3", "phi3", "starcoder2", "gpt_neox", "opt")


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("recomputes", [True, False], ids=["recomputed", "kept"])
def test_a_model_that_is_trained_as_what_it_is_passes(kind: str, recomputes: bool) -> None:
    found = prove(generic_tiny(kind), kind, activation_checkpointing=recomputes)
    assert max(found.logprobs, found.values, found.gradients, found.again, found.exported) <= TOLERANCE
    assert found.gradients > 0, "nothing was compared"


def refusal(kind: str, **changes: Any) -> str:
    config = generic_tiny(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError) as caught:
        prove(config, f"someone/{kind}")
    return str(caught.value)


@pytest.mark.parametrize("kind", ["stablelm", "nemotron"])
def test_layers_that_pass_the_packs_layout_on_to_nobody_are_refused(kind: str) -> None:
    said = refusal(kind)
    assert said.startswith(f"someone/{kind} (type {kind}) can't be trained right: log-probs of packed sequences differ")
    assert "change model.name" in said


@pytest.mark.parametrize("kind", ["falcon_h1", "lfm2", "recurrent_gemma", "jamba"])
def test_state_that_crosses_trajectories_is_refused(kind: str) -> None:
    """Also where no list of types or layers names it (``rz_api.models``)."""
    assert re.search(r"can't be trained right|does not run as it would be trained|in another form", refusal(kind))


def test_a_model_whose_attention_is_its_own_business_is_refused() -> None:
    assert "does not run as it would be trained: ValueError" in refusal("bloom")


# ---------------------------------------------------------------------------------- faults that it would have caught


def test_windows_that_attention_ignores_are_found(monkeypatch: Patch) -> None:
    without = attention.attend

    def ignores(*args: Any, sliding_window: int | None = None, **more: Any) -> Any:
        return without(*args, **more)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.PACKED_SDPA, ignores)
    assert "log-probs of packed sequences differ from each alone" in refusal("mistral")


def test_dropout_that_stays_on_is_found(monkeypatch: Patch) -> None:
    monkeypatch.setattr(dropout, "switch_off", lambda config: None)
    assert "two equal passes differ" in refusal("opt", dropout=0.1)


def test_gradients_that_are_not_the_models_are_found(monkeypatch: Patch) -> None:
    """As with a layer that is cut off from the backward pass; its outputs are right."""
    forward = LlamaAttention.forward

    def detached(self: Any, *args: Any, **more: Any) -> Any:
        out, weights = forward(self, *args, **more)
        return (out.detach() if "pack_layout" in more else out), weights

    monkeypatch.setattr(LlamaAttention, "forward", detached)
    assert "gradients of packed sequences differ from each alone" in refusal("llama")


def test_an_export_that_is_something_else_is_found(monkeypatch: Patch) -> None:
    gather = export.gather_state

    def forgets(module: Any) -> Any:
        state = gather(module)
        return {name: torch.zeros_like(one) if name.endswith("q_proj.weight") else one for name, one in state.items()}

    monkeypatch.setattr(export, "gather_state", forgets)
    assert "what is exported scores otherwise than what was trained" in refusal("llama")


def test_numbers_that_are_none_are_refused(monkeypatch: Patch) -> None:
    monkeypatch.setattr(proof, "packed_values", lambda critic, sequences: torch.full((70,), torch.nan))
    assert "values of packed sequences differ from each alone, by nan" in refusal("llama")


def test_a_twin_that_is_no_small_one_is_not_built(monkeypatch: Patch) -> None:
    monkeypatch.setattr(proof, "tiny_copy", lambda config: LlamaConfig())
    assert "would still have 6,738,415,616 parameters" in refusal("llama")


# ----------------------------------------------------------------------------------------------------- and no harm


def test_the_runs_own_random_numbers_stay_as_they_are() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    prove(generic_tiny("llama"), "llama")
    assert torch.equal(torch.randn(3), expected)


def test_no_gpu_is_touched(monkeypatch: Patch) -> None:
    """The first rank sees those of the other ranks of its node too."""

    def touched(*_: Any) -> None:
        pytest.fail("a GPU's state was asked for")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", touched)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    prove(generic_tiny("llama"), "llama")


def test_a_run_without_a_critic_needs_no_backbone_by_itself(monkeypatch: Patch) -> None:
    """Code that comes with a model may have no class for ``AutoModel``."""

    def unknown(*_: Any, **__: Any) -> None:
        raise ValueError("Unrecognized configuration class")

    monkeypatch.setattr(twins.AutoModel, "from_config", unknown)
    assert prove(generic_tiny("llama"), "llama", is_ppo=False).values == 0.0
    with pytest.raises(UserError, match="Unrecognized configuration class"):
        prove(generic_tiny("llama"), "llama")


def test_logits_that_are_more_than_a_linear_layers_are_said_to_be_it(monkeypatch: Patch) -> None:
    monkeypatch.setattr(proof, "logprobs_alone", lambda model, sequence: logprobs_alone(model, sequence) / 2)
    assert "or its log-probs are more than its backbone and a linear output layer" in refusal("llama")


def test_the_configuration_is_left_as_it_is() -> None:
    config = generic_tiny("opt")
    before = config.to_dict()
    prove(config, "opt")
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("opt", {"dropout": 0.1, "attention_dropout": 0.2, "layerdrop": 0.1}),
        ("gpt2", {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}),
        ("seed_oss", {"residual_dropout": 0.1, "attention_dropout": 0.1}),
        ("starcoder2", {"residual_dropout": 0.1, "embedding_dropout": 0.1}),
        ("biogpt", {"hidden_dropout_prob": 0.1, "activation_dropout": 0.1}),
    ],
)
def test_no_kind_of_dropout_is_left(kind: str, rates: dict[str, float]) -> None:
    config = generic_tiny(kind)
    for name, value in rates.items():
        setattr(config, name, value)
    dropout.switch_off(config)
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(config, attn_implementation=attention.PACKED_SDPA)
    actor_critic.prepare(model, activation_checkpointing=False)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        one, other = (model(input_ids=tokens, use_cache=False).logits for _ in range(2))
    assert torch.equal(one, other)
