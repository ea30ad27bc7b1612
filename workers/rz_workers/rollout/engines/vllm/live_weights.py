"""A tensor counts as equal only if the live values themselves were compared; what could not be is counted apart.

Whether the parameters of a running model are the tensors that were published, one by one. For ``worker``. An inference
engine keeps weights otherwise than they are published: several in one parameter, rows of padding behind them, on CPUs
packed for the matrix product and the plain copy thrown away. ``compare`` undoes what it knows of that:

==========================  =====================================================================================
published                   compared with
==========================  =====================================================================================
a parameter of that name    its first rows (embeddings are padded behind)
a part of a fused one       the rows where the model's ``packed_modules_mapping`` puts it
a weight that was packed    what the layer's own product makes of unit vectors, which is the weight, exactly
anything else               nothing: it is counted as not compared
==========================  =====================================================================================

Only fingerprints of what was published are kept: the tensors themselves were there for a moment, on their way in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Comparison", "Published", "Seen", "compare", "fingerprint"]

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
"""What checkpoints call the output layer and the embedding: today's models, and GPT-NeoX's and GPT-2's time."""
_CHUNK = 1 << 20
"""Elements that are multiplied at once: 8 MB of 64-bit products."""
_PROBE_ROWS = 128
"""Unit vectors that a packed layer is asked for at once."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Seen:
    """A published tensor that went by."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    fingerprint: int


class Published:
    """Notes what the tensors of a version are while an engine reads them."""

    def __init__(self, device: torch.device) -> None:
        """``device`` is the model's: tensors are brought there first, where fingerprints cost least."""
        self._device = device
        self.seen: dict[str, Seen] = {}
        self.head: Tensor | None = None
        """``[V, D]`` on the CPU: what makes the logits, the embedding where that is tied."""

    def watch(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            here = tensor.to(self._device)
            self.seen[name] = Seen(here.dtype, tuple(here.shape), fingerprint(here))
            no_head = not any(one.endswith(HEADS) for one in self.seen)
            if name.endswith(HEADS) or (name.endswith(EMBEDDINGS) and no_head):
                self.head = here.to("cpu", copy=True)
            yield name, here


@dataclass(frozen=True)
class Comparison:
    """What became of the published tensors."""

    equal: int
    differing: tuple[str, ...]
    unknown: tuple[str, ...]
    """Not compared: where they lie in the model, or how, is not known."""

    def complaint(self) -> str | None:
        if not self.differing:
            return None
        return (
            f"{len(self.differing)} of {self.equal + len(self.differing)} tensors that were compared are not those "
            f"that were published, {self.differing[0]!r} first: the update was not applied to them"
        )


def compare(model: nn.Module, published: Mapping[str, Seen]) -> Comparison:
    """Compare the live parameters of an unquantized model, whole on this device, with what was published."""
    lookup = _Lookup(model, published)
    equal, differing, unknown = 0, [], []
    for name, seen in published.items():
        live = lookup.find(name, seen)
        if live is None:
            unknown.append(name)
        elif fingerprint(live.to(seen.dtype)) == seen.fingerprint:
            equal += 1
        else:
            differing.append(name)
    return Comparison(equal, tuple(differing), tuple(unknown))


def fingerprint(tensor: Tensor) -> int:
    """64 bits that differ when the values of two tensors of one dtype do, but for chance; the same on every device.

    Elements are taken as integers, times odd numbers that depend on the place, and added up modulo 2**64: a single
    element that differs always shows. Minus zero counts as zero.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    weights = _weights(tensor.device)
    for chunk in torch.split(tensor.detach().reshape(-1), _CHUNK):
        # -0.0 + 0.0 is 0.0: sums over unit vectors (`_unpack`) do not keep the sign of a zero.
        values = chunk + 0.0 if chunk.is_floating_point() else chunk
        products = values.view(_INTEGERS[values.element_size()]).to(torch.int64) * weights[: len(values)]
        # xorshift64*'s multiplier. It is odd, so that no bit of an earlier chunk's sum is lost modulo 2**64.
        total = total * 0x2545F4914F6CDD1D + products.sum()
    return int(total)


@lru_cache
def _weights(device: torch.device) -> Tensor:
    """Odd pseudo-random numbers, ``[_CHUNK]``."""
    generator = torch.Generator().manual_seed(1)
    limits = torch.iinfo(torch.int64)
    return (torch.randint(limits.min, limits.max, (_CHUNK,), generator=generator) | 1).to(device)


class _Lookup:
    """Finds published tensors in a model."""

    def __init__(self, model: nn.Module, published: Mapping[str, Seen]) -> None:
        self._model, self._published = model, published
        self._parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        fused: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})
        self._fused = {part: (whole, parts) for whole, parts in fused.items() for part in parts}
        self._unpacked: tuple[str, Tensor] | None = None
        """The layer that was unpacked last: parts of a fused one follow each other."""

    def find(self, name: str, seen: Seen) -> Tensor | None:
        """The live values, in the shape that was published; None where they are not to be found."""
        rows = seen.shape[0] if seen.shape else 0
        place, start, whole = name, 0, rows
        if name not in self._parameters:
            path, _, leaf = name.rpartition(".")
            above, _, module = path.rpartition(".")
            if module not in self._fused:
                return None
            fused, parts = self._fused[module]
            siblings = [self._published.get(f"{above}.{part}.{leaf}") for part in parts]
            if not all(sibling is not None and sibling.shape for sibling in siblings):
                return None
            heights = [sibling.shape[0] for sibling in siblings if sibling is not None]
            place, start, whole = f"{above}.{fused}.{leaf}", sum(heights[: parts.index(module)]), sum(heights)
        live = self._values(place, seen)
        if live is None or live.dim() != len(seen.shape):
            return None
        is_padded = place == name and live.dim() == 2 and len(live) > rows
        if seen.shape and (live.shape[1:] != torch.Size(seen.shape[1:]) or (len(live) != whole and not is_padded)):
            return None
        if torch.promote_types(live.dtype, seen.dtype) != live.dtype:
            return None  # held in less precision than was published
        return live[start : start + rows] if seen.shape else live

    def _values(self, place: str, seen: Seen) -> Tensor | None:
        live = self._parameters.get(place)
        if live is None or live.numel() or not place.endswith(".weight") or len(seen.shape) != 2:
            return live
        if self._unpacked is None or self._unpacked[0] != place:
            layer = self._model.get_submodule(place.removesuffix(".weight"))
            self._unpacked = place, _unpack(layer, seen.shape[1], live.dtype)
        return self._unpacked[1]


def _unpack(layer: Any, columns: int, dtype: torch.dtype) -> Tensor:
    """``[rows, columns]``: the weight that a layer without a plain copy of it multiplies with. Products with zeros and
    ones are exact."""
    unit = torch.eye(columns, dtype=dtype)
    with torch.inference_mode():
        return torch.cat([layer.quant_method.apply(layer, chunk) for chunk in torch.split(unit, _PROBE_ROWS)]).T
