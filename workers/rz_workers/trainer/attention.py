"""Attention within the trajectories of a pack, through transformers' attention interface.

A pack is one sequence of T tokens with several trajectories (``rz_workers.trainer.batch.MicroBatch``). Linear layers
work on the pack as it is, without padding; here queries, keys and values are laid out as one row per trajectory, so
that the cost is that of the trajectories' own squares and not of the pack's. ``models`` loads every model with
``PACKED_SDPA``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv

PACKED_SDPA = "rz_packed_sdpa"
"""Name under which ``attend`` is registered with transformers (``attn_implementation``)."""


@dataclass(frozen=True)
class PackLayout:
    """Where the tokens of S trajectories, the longest of L tokens, are in a pack of T.

    Example: trajectories of 3 and 1 tokens: ``rows [[0 1 2] [3 0 0]]``, ``places [0 1 2 3]`` (token 3 is at row 1,
    column 0 of the 2 x 3 grid). Cells of the grid that are no token repeat token 0; causal attention never lets a
    token see them.
    """

    rows: Tensor
    """``[S, L]`` token of each cell."""
    places: Tensor
    """``[T]`` cell of each token, in the flattened grid."""


def layout(segments: Tensor) -> PackLayout:
    """The layout of a pack from ``segments [T]`` (trajectory of each token, ascending from 0)."""
    lengths = torch.bincount(segments)
    starts = lengths.cumsum(0) - lengths
    longest = int(lengths.max())
    columns = torch.arange(longest, device=segments.device)
    inside = columns[None, :] < lengths[:, None]
    rows = torch.where(inside, starts[:, None] + columns[None, :], 0)
    places = segments * longest + torch.arange(len(segments), device=segments.device) - starts[segments]
    return PackLayout(rows, places)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pack_layout: PackLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each trajectory with itself, in the form that transformers calls.

    Args:
        query: ``[1, H, T, D]``; key and value ``[1, H or fewer, T, D]``. attention_mask: not used; None. pack_layout:
        absent means that the sequences of the batch are whole (``[B, H, T, D]``), as in an ordinary forward pass.

    Returns:
        ``[1, T, H, D]`` and None (no attention weights).
    """
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if pack_layout is None:
        plain = scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1, scale=scaling)
        return plain.transpose(1, 2).contiguous(), None
    grid = pack_layout.rows
    q, k, v = (_spread(tensor, grid) for tensor in (query, key, value))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    cells = out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])
    return cells.index_select(0, pack_layout.places)[None], None


def _spread(tensor: Tensor, grid: Tensor) -> Tensor:
    """``[1, H, T, D] -> [S, H, L, D]``."""
    tokens = tensor[0].transpose(0, 1)
    picked = tokens.index_select(0, grid.reshape(-1))
    return picked.view(*grid.shape, *tokens.shape[1:]).transpose(1, 2)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(PACKED_SDPA, attend)
AttentionMaskInterface.register(PACKED_SDPA, _no_mask)
