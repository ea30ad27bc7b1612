"""A weight version has the same digest whichever way it came.

Checksums of tensors, and the digest that they add up to, for ``rz_workers.storage.weights`` and ``rz_workers.transfer``
(decision 7). xxh3_128 finds what went wrong on the way, at the speed of memory; it is no defence against somebody who
forges tensors on purpose.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash
from torch import Tensor

__all__ = ["Description", "describe", "describe_all", "digest", "tensor_checksum"]

Description = tuple[str, tuple[int, ...], str]
"""dtype (torch's name without the module, e.g. ``bfloat16``), shape, checksum."""

_MAX_THREADS = 8
"""Memory is read no faster by more."""


def tensor_checksum(tensor: Tensor) -> str:
    """xxh3_128 (hex) of a tensor's bytes: row-major, little-endian, from any device, of any dtype."""
    # As bytes, because numpy has no bfloat16; flat first, because torch refuses that of a tensor with no dimension.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return xxhash.xxh3_128_hexdigest(flat.numpy().data)


def describe(tensor: Tensor) -> Description:
    """What a manifest or a trailer says of a tensor."""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor_checksum(tensor)


def describe_all(tensors: Mapping[str, Tensor]) -> dict[str, Description]:
    """``describe`` of many tensors, several at a time (hashing holds no lock of the interpreter)."""
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="checksums") as pool:
        return dict(zip(tensors, pool.map(describe, tensors.values()), strict=True))


def digest(described: Mapping[str, Description]) -> str:
    """sha256 (hex) over (name, dtype, shape, checksum) of all tensors, sorted by name. The same weights have the same
    digest wherever they lie and however they are cut into files or buckets."""
    lines = [[name, dtype, list(shape), checksum] for name, (dtype, shape, checksum) in sorted(described.items())]
    return hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()
