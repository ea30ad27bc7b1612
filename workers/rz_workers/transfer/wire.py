"""Both sides know a bucket's layout from the list of ``TensorMeta`` alone: how tensors lie in a bucket, and how they
are cut into buckets. Pure functions.

A bucket is a flat run of bytes: the tensors one after the other, each at the next multiple of 16 bytes, so that every
dtype may be viewed in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rz_workers.transfer.buffers import allocate
from rz_workers.transfer.errors import TransferError

__all__ = ["ALIGNMENT", "TensorMeta", "bucket_nbytes", "cut", "pack", "unpack"]

ALIGNMENT = 16
"""Bytes: the largest element that torch has (complex128)."""


@dataclass(frozen=True)
class TensorMeta:
    """One tensor on the way, without its data. Example: ``TensorMeta("lm_head.weight", "bfloat16", (32, 8))``."""

    name: str
    dtype: str
    """torch's name without the module, e.g. ``bfloat16``."""
    shape: tuple[int, ...]

    @staticmethod
    def of(name: str, tensor: Tensor) -> TensorMeta:
        return TensorMeta(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    @property
    def torch_dtype(self) -> torch.dtype:
        """Raises TransferError for a name that torch does not have."""
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise TransferError(f"tensor {self.name!r} has the dtype {self.dtype!r}, which this torch does not know")
        return found

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.torch_dtype.itemsize


def cut(metas: Iterable[TensorMeta], bucket_bytes: int) -> list[tuple[TensorMeta, ...]]:
    """Buckets in the given order, none larger than ``bucket_bytes``; a tensor that is larger goes alone."""
    buckets: list[list[TensorMeta]] = []
    size = 0
    for meta in metas:
        needed = _aligned(meta.nbytes)
        if not buckets or size + needed > bucket_bytes:
            buckets.append([])
            size = 0
        buckets[-1].append(meta)
        size += needed
    return [tuple(bucket) for bucket in buckets]


def bucket_nbytes(metas: Iterable[TensorMeta]) -> int:
    """Size of a bucket with these tensors, alignment included."""
    return sum(_aligned(meta.nbytes) for meta in metas)


def pack(tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Copy ``tensors`` to the start of ``out`` (uint8, flat), or to a new one on the first tensor's device; returns the
    part of it that they fill.

    Raises ValueError when ``out`` is too small. What lies between the tensors is left as it was.
    """
    needed = sum(_aligned(tensor.nbytes) for tensor in tensors)
    if out is None:
        out = allocate(needed, tensors[0].device if tensors else torch.device("cpu"))
    if needed > out.numel():
        raise ValueError(f"found room for {out.numel()} bytes, the tensors of this bucket require {needed}")
    start = 0
    for tensor in tensors:
        place = out[start : start + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
        # Converts nothing: a view of the tensor's own dtype, so that every bit arrives.
        place.copy_(tensor.detach())
        start += _aligned(tensor.nbytes)
    return out[:needed]


def unpack(metas: Iterable[TensorMeta], flat: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a bucket as views of ``flat`` (uint8), in order."""
    start = 0
    for meta in metas:
        nbytes = meta.nbytes
        # A view starts at a multiple of the element's size, or torch refuses it: hence ``ALIGNMENT``.
        yield meta.name, flat[start : start + nbytes].view(meta.torch_dtype).reshape(meta.shape)
        start += _aligned(nbytes)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
