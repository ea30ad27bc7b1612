"""Names of tensors in a checkpoint, of architectures that transformers renames while it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rz_workers.runtime import UserError
from rz_workers.tensor_names import stored_names
from rz_workers.trainer.models.tiny import generic_tiny


def model_of(kind: str) -> Any:
    factory: Any = AutoModelForCausalLM
    return factory.from_config(generic_tiny(kind))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "gpt_neox", "olmo2", "phi3"])
def test_the_names_are_those_of_the_stored_file(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    names = stored_names(model)
    assert list(names) == list(model.state_dict())
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    own = model.state_dict()
    tied = {names[name] for name in model.all_tied_weights_keys}
    assert stored.keys() | tied == set(names.values())
    for name, tensor in own.items():
        assert torch.equal(tensor, stored.get(names[name], tensor))


def test_the_names_are_the_same_whatever_the_model_was_loaded_from(tmp_path: Path) -> None:
    """A checkpoint of another class has a prefix that transformers would give back."""
    model = model_of("gpt_neox")
    factory: Any = AutoModelForSequenceClassification
    factory.from_config(model.config).save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path)
    assert stored_names(other) == stored_names(model)
    assert stored_names(model)["lm_head.weight"] == "embed_out.weight"


def test_a_model_that_has_only_shapes_has_the_same_names() -> None:
    with torch.device("meta"):
        names = stored_names(model_of("gpt_neox"))
    assert names == stored_names(model_of("gpt_neox"))


def test_a_model_whose_tensors_are_merged_in_memory_is_refused_by_type() -> None:
    with pytest.raises(UserError, match="tensors of a model of type mixtral in another form than it has in memory"):
        stored_names(model_of("mixtral"))
