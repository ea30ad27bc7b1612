"""A token attends to its own trajectory's earlier tokens and itself, whatever it is packed with: attention within a
pack, through transformers' attention interface.

A pack is one sequence of T tokens with several trajectories (``rz_workers.trainer.method.batch.MicroBatch``). Linear
layers work on the pack as it is, without padding; attention costs the trajectories' own squares, not the pack's:

- on a GPU, in bfloat16 or float16, by torch's varlen kernel (flash attention over ``bounds``);
- elsewhere by ordinary scaled dot-product attention on grids with a row for each trajectory; those of like length share
  a grid, so that padding costs little.

A layer with a sliding window says so in each call, and gets it. Whatever else a layer asks of its attention and is not
known here (soft-capping, sinks, biases by position) is a UserError, not a wrong number. ``models`` loads every model
with ``PACKED_SDPA``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv

from rz_workers.runtime import UserError

PACKED_SDPA = "rz_packed_sdpa"
"""Name under which ``attend`` is registered with transformers (``attn_implementation``)."""

PADDING = 1.5
"""Most that the cells of a grid's squares may be of those of its trajectories, beyond ``SMALL``."""

SMALL = 256 * 256
"""Padding that is cheaper than one more grid, in cells of the attention matrix."""


class PackLayout:
    """Where the trajectories of a pack are; made once for a pass, used in every layer."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """``lengths``: tokens of each trajectory, in the pack's order."""
        self.lengths, self.longest, self._device = tuple(lengths), max(lengths), device
        self._visible: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def bounds(self) -> Tensor:
        """``[S + 1]`` int32: where each trajectory starts and the last one ends."""
        # int32: flash attention's kernels take no other type.
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32).to(self._device)

    @cached_property
    def grids(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """Grids ``[S, L]`` of S trajectories, the longest of L tokens, with the pack's token of each cell; and ``[T]``
        the cell of each token, counted through all grids.

        Example: trajectories of 3 and 1 tokens: one grid ``[[0 1 2] [3 0 0]]``, cells ``[0 1 2 3]``. Cells that are no
        token repeat token 0; causal attention never lets a token see them.
        """
        # Built on the host and moved once: element by element on a GPU each would be a kernel.
        starts = [0, *accumulate(self.lengths)]
        grids, cells, cell = [], torch.empty(starts[-1], dtype=torch.int64), 0
        for members in alike(self.lengths):
            columns = torch.arange(self.lengths[members[0]])
            length = torch.tensor([self.lengths[m] for m in members])[:, None]
            start = torch.tensor([starts[m] for m in members])[:, None]
            grids.append(torch.where(columns < length, start + columns, 0).to(self._device))
            for m in members:
                cells[starts[m] : starts[m + 1]] = torch.arange(cell, cell + self.lengths[m])
                cell += len(columns)
        return tuple(grids), cells.to(self._device)

    def visible(self, longest: int, window: int) -> Tensor:
        """``[L, L]`` bool: what a token sees of its row in a layer with a window. Kept: there are many such layers."""
        if (longest, window) not in self._visible:
            self._visible[longest, window] = in_window(longest, window, self._device)
        return self._visible[longest, window]


def in_window(length: int, window: int, device: torch.device) -> Tensor:
    """``[L, L]`` bool: a token sees itself and the ``window - 1`` before it."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Trajectories that share a grid: indices into ``lengths``, the longest first, a new grid where padding would cost
    more than ``PADDING`` allows."""
    groups: list[list[int]] = []
    squares = 0
    # Longest first: the first of a grid sets its width, all others are padded to that.
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        own = lengths[i] ** 2
        if groups:
            padded = (len(groups[-1]) + 1) * lengths[groups[-1][0]] ** 2
            if padded - (squares + own) <= max(SMALL, (PADDING - 1) * (squares + own)):
                groups[-1].append(i)
                squares += own
                continue
        groups.append([i])
        squares = own
    return groups


_HARMLESS = {
    *("attention_mask", "cache", "cache_position", "is_causal", "logits_to_keep", "output_attentions"),
    *(
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    ),
}
"""What layers pass on that says nothing about the result, or what is so anyway (``attend`` looks at ``is_causal``)."""


# Packs differ from pass to pass, and each new layout would be compiled anew (docs/decisions/0008).
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    pack_layout: PackLayout | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each trajectory with itself, in the form that transformers calls.

    Args:
        query: ``[1, H, T, D]``; key and value ``[1, H or fewer, T, D]``. attention_mask: not used; None.
        sliding_window: tokens that a token sees, itself included; all where it is None. pack_layout: absent means that
        the sequences of the batch are whole (``[B, H, T, D]``), as in an ordinary forward pass.

    Returns:
        ``[1, T, H, D]`` and None (no attention weights).

    Raises UserError when the layer asks for what this cannot do.
    """
    _check(module, dropout, attention_mask, more)
    window = sliding_window if sliding_window and sliding_window > 0 else None
    # The kernel knows grouped keys and values; elsewhere they are repeated, as in transformers' own sdpa.
    groups = getattr(module, "num_key_value_groups", 1)
    if pack_layout is not None and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return varlen(query[0], key[0], value[0], pack_layout, scaling, window)[None], None
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if pack_layout is None:
        plain = _whole(query, key, value, scaling, window)
        return plain.transpose(1, 2).contiguous(), None
    tokens = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    grids, cells = pack_layout.grids
    outputs = []
    for grid in grids:
        q, k, v = (_spread(tensor, grid) for tensor in tokens)
        longest = grid.shape[1]
        # Padding is behind every token of its row, so that the causal mask hides it: no mask of [L, L] is made but for
        # windows that hide something.
        visible = pack_layout.visible(longest, window) if window is not None and window < longest else None
        out = scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None, scale=scaling)
        outputs.append(out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3]))
    return torch.cat(outputs).index_select(0, cells)[None], None


def _check(module: nn.Module, dropout: float, attention_mask: Tensor | None, more: dict[str, Any]) -> None:
    unknown = [name for name, value in more.items() if value is not None and name not in _HARMLESS]
    if attention_mask is not None:  # ``_no_mask`` made none
        unknown.append("a mask of its own")
    if dropout:
        unknown.append(f"dropout of {dropout:g}")
    if more.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        unknown.append("is_causal=False")
    if unknown:
        raise UserError(
            f"the attention of {type(module).__name__} asks for {', '.join(sorted(unknown))}, which attention within "
            "packed sequences does not know: a model with causal attention, full or in sliding windows, is required; "
            "change model.name"
        )


def _whole(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    length, keys = query.shape[2], key.shape[2]
    if window is not None and window < keys and length == keys:
        visible = in_window(length, window, query.device)
        return scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling)
    # torch aligns a causal mask to the upper left: a single query behind a cache would see the first key alone.
    return scaled_dot_product_attention(query, key, value, is_causal=length > 1, scale=scaling)


def varlen(
    query: Tensor, key: Tensor, value: Tensor, pack_layout: PackLayout, scaling: float | None, window: int | None = None
) -> Tensor:
    """The same by torch's flash attention kernel: ``[H, T, D]`` (fewer heads of keys and values) ``-> [T, H, D]``."""
    bounds, longest = pack_layout.bounds, pack_layout.longest
    q, k, v = (tensor.transpose(0, 1) for tensor in (query, key, value))
    # The function counts the tokens before the token itself, which a window counts in; -1 is all, 0 none after.
    before = -1 if window is None else window - 1
    out = varlen_attn(
        q,
        k,
        v,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(before, 0),
        enable_gqa=len(query) > len(key),
    )
    assert isinstance(out, Tensor)
    return out


def _spread(tokens: Tensor, grid: Tensor) -> Tensor:
    """``[T, H, D] -> [S, H, L, D]``."""
    picked = tokens.index_select(0, grid.reshape(-1))
    return picked.view(*grid.shape, *tokens.shape[1:]).transpose(1, 2)


# transformers would make a mask of [T, T] for a pack, which nothing here looks at.
def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(PACKED_SDPA, attend)
AttentionMaskInterface.register(PACKED_SDPA, _no_mask)
