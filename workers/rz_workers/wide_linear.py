"""A product of bfloat16 tensors is summed in fp32 either way; here it is not rounded to bfloat16 behind the sum.

The output layer and the value head, alike in the trainer and in the rollout engine that is ours
(docs/decisions/0017). bfloat16 has 8 bits: between 16 and 32 a logit is rounded to an eighth, and a log-prob with it.
vLLM does the same by an option of its own (``rollout.engines.vllm``).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK_BYTES", "wide_linear"]

BLOCK_BYTES = 8 * 2**20
"""Most of the weight that is held in fp32 at once, on a CPU: it stays in the caches until it was multiplied."""


def wide_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``hidden weight^T + bias``, ``[..., V]`` in fp32 (fp64 for fp64). Without gradient unless the inputs are as wide.

    Args:
        hidden: ``[..., D]``. weight: ``[V, D]`` of the same dtype. bias: ``[V]`` or None.
    """
    kind = torch.promote_types(hidden.dtype, torch.float32)
    if hidden.dtype == kind:
        return torch.nn.functional.linear(hidden, weight, bias)
    rows = hidden.reshape(-1, hidden.shape[-1])
    if hidden.is_cuda:
        product = torch.mm(rows, weight.t(), out_dtype=kind)
    else:
        product = torch.empty(len(rows), len(weight), dtype=kind, device=hidden.device)
        wide, block = rows.to(kind), max(1, BLOCK_BYTES // (4 * weight.shape[1]))
        for start in range(0, len(weight), block):
            part = slice(start, start + block)
            torch.mm(wide, weight[part].to(kind).t(), out=product[:, part])
    if bias is not None:
        product += bias.to(kind)
    return product.reshape(*hidden.shape[:-1], len(weight))
