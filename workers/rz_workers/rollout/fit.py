"""Whether tensors are the weights of the run's model: by name, shape, and what is tied. Every engine asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from rz_workers.rollout.engine import WeightsMismatchError

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """What the tensors of a version have to be, under Hugging Face names."""

    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    """Tensor -> the one that it is the same as, e.g. ``lm_head.weight`` -> ``model.embed_tokens.weight``. Either may be
    absent."""

    @staticmethod
    def of(model: PreTrainedModel) -> Layout:
        """``model`` may lie on the meta device."""
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return Layout(shapes, dict(model.all_tied_weights_keys))

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
