"""No engine takes tensors that are not the model's, or rows that do not fit its context.

What every engine asks: whether tensors are the weights of the run's model (by name, shape, and what is tied), whether
requests fit its context, and which tokens end a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from rz_workers.rollout.engines.interface import SampleRequest, SamplingParams, WeightsMismatchError
from rz_workers.runtime import UserError
from rz_workers.tensor_names import stored_names

__all__ = ["Layout", "check_room", "eos_token_ids"]


@dataclass(frozen=True)
class Layout:
    """What the tensors of a version have to be, under the names of a Hugging Face checkpoint."""

    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    """Tensor -> the one that it is the same as, e.g. ``lm_head.weight`` -> ``model.embed_tokens.weight``. Either may be
    absent."""

    @staticmethod
    def of(model: PreTrainedModel) -> Layout:
        """``model`` may lie on the meta device."""
        names = stored_names(model)
        shapes = {names[name]: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return Layout(shapes, {names[one]: names[other] for one, other in model.all_tied_weights_keys.items()})

    def check(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise WeightsMismatchError unless these are the model's weights. Of tensors that are tied and both there one
        would silently be lost, so that they have to be equal."""
        self.check_names(version, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for name, source in self.tied.items():
            if name in tensors and source in tensors and not torch.equal(tensors[name], tensors[source]):
                raise self.torn(version, name)

    def check_names(self, version: int, found: Mapping[str, tuple[int, ...]]) -> None:
        """The same by name -> shape alone."""
        absent = sorted(self.shapes.keys() - found.keys() - self.tied.keys())
        unknown = sorted(found.keys() - self.shapes.keys())
        reshaped = sorted(name for name in self.shapes.keys() & found.keys() if self.shapes[name] != found[name])
        if absent or unknown or reshaped:
            raise WeightsMismatchError(
                f"weights version {version} do not fit the model/ folder of this run: {len(absent)} tensors are "
                f"absent {absent[:3]}, {len(unknown)} unknown {unknown[:3]}, {len(reshaped)} of another shape "
                f"{reshaped[:3]}"
            )

    def torn(self, version: int, name: str) -> WeightsMismatchError:
        """``name`` came with other values than what it is tied to."""
        return WeightsMismatchError(
            f"weights version {version}: {name} and {self.tied[name]} differ, but the model's configuration ties them"
        )


def check_room(requests: Sequence[SampleRequest], params: SamplingParams, max_model_tokens: int) -> None:
    """Raise UserError unless the longest prompt and response fit the context together."""
    assert all(request.prompt_token_ids for request in requests), "a row has no prompt"
    longest = max(len(request.prompt_token_ids) for request in requests)
    if longest + params.max_new_tokens > max_model_tokens:
        raise UserError(
            f"a prompt of {longest} tokens and rollout.sampling.maxNewTokens {params.max_new_tokens} do not fit "
            f"rollout.maxModelLength {max_model_tokens}; raise that, or lower one of the other two"
        )


def eos_token_ids(folder: Path, of_tokenizer: int | None) -> frozenset[int]:
    """End-of-sequence tokens of the tokenizer and of ``generation_config.json``, or where that names none, of
    ``config.json``."""
    named = None
    if (folder / "generation_config.json").exists():
        named = GenerationConfig.from_pretrained(folder).eos_token_id
    if named is None:
        # As it is written: a configuration's class has a default, which belongs to another tokenizer.
        config, _ = PreTrainedConfig.get_config_dict(folder)
        named = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
    found = {of_tokenizer, *(named if isinstance(named, list) else [named])}
    return frozenset(token for token in found if token is not None)
