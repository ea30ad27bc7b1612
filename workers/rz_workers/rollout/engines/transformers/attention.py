"""A token of a layer with a sliding window sees that many columns of the cache and no more, whatever the mask says.

``decode`` gives every layer one mask, of what is padding. Its columns are in the order of the tokens, without gaps
behind the padding, so that a window is the newest columns: in a step they are cut out, in the prefill masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["WINDOWED_SDPA"]

WINDOWED_SDPA = "rz_windowed_sdpa"
"""Name under which ``attend`` is registered with transformers (``attn_implementation``)."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' own attention within ``sliding_window`` tokens.

    Args:
        query: ``[B, H, Q, D]``; key and value ``[B, H or fewer, K, D]``, of which the last Q are the query's tokens.
        attention_mask: additive or bool ``[B, 1, Q, K]``; None for causal.
    """
    queries, keys = query.shape[2], key.shape[2]
    if sliding_window is not None and 0 < sliding_window < keys:
        if queries == 1:
            first = keys - sliding_window
            key, value = key[:, :, first:], value[:, :, first:]
            attention_mask = attention_mask[..., first:] if attention_mask is not None else None
        else:
            attention_mask = _masked(attention_mask, queries, keys, sliding_window, query)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **more)


def _masked(mask: Tensor | None, queries: int, keys: int, window: int, like: Tensor) -> Tensor:
    seen = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
    seen = seen.tril(keys - queries).triu(keys - queries + 1 - window)
    if mask is None:
        return seen[None, None]
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)


AttentionInterface.register(WINDOWED_SDPA, attend)
AttentionMaskInterface.register(WINDOWED_SDPA, sdpa_mask)
