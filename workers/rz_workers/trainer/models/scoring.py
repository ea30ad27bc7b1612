"""The logits of more than a few rows never exist at once: log-probs and entropies of given tokens from hidden states.

Logits of a whole micro-batch would be its largest tensor by far (8k rows x 152k tokens in fp32: 5 GB, and as much again
for their gradient). Here the output layer, the softmax and their backward pass go over chunks of rows; between the
passes only one number a row is kept (the log of the softmax's denominator), and the backward pass computes the chunk's
logits again. The idea is that of fused linear cross entropy (e.g. Liger Kernel, arXiv 2410.10989, section 3.2).

Called by ``rz_workers.trainer.models.actor_critic.Policy``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rz_workers.wide_linear import wide_linear

__all__ = ["CHUNK_BYTES", "score"]

CHUNK_BYTES = 256 * 2**20
"""Size of one chunk's fp32 logits; the forward pass holds two such buffers, the backward pass one and a half."""


def score(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs of ``targets`` and entropies under ``softmax((hidden weight^T + bias) / temperature)``.

    Args:
        hidden: ``[n, D]``, the dtype of the forward pass. weight: ``[V, D]``. bias: ``[V]`` or None.
        targets: ``[n]``.

    Returns:
        ``[n]`` log-probs and ``[n]`` entropies (nats, without gradient), fp32 or, for fp64 input, fp64.
    """
    chunk = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    scored: tuple[Tensor, Tensor] = _LinearLogSoftmax.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, temperature, chunk
    )
    return scored


class _LinearLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        n, kind = len(hidden), _accumulator(hidden)
        logprobs, entropies, normalizers = (torch.empty(n, dtype=kind, device=hidden.device) for _ in range(3))
        for start in range(0, n, chunk):
            rows = slice(start, start + chunk)
            logits = _logits(hidden[rows], weight, bias, temperature)
            # logsumexp subtracts the largest logit first: exp of a logit near 90 would overflow in fp32.
            normalizers[rows] = torch.logsumexp(logits, dim=-1)
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - normalizers[rows]
            probabilities = (logits - normalizers[rows, None]).exp_()
            # H = -sum p log p = log Z - sum p z, in place: one buffer less than log p by itself.
            entropies[rows] = normalizers[rows] - probabilities.mul_(logits).sum(-1)
            # Before the next chunk is made: else three buffers exist at once, not two.
            del logits, probabilities
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _entropies: Tensor) -> tuple[Tensor | None, ...]:
        """With p the softmax: d logprob / d logits = (one-hot of the target - p), divided by the temperature."""
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        kind = _accumulator(hidden)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        # fp32 while chunks are added up: bfloat16 would round the sum after each (docs/decisions/0008).
        d_weight = torch.zeros(weight.shape, dtype=kind, device=weight.device) if needs_weight else None
        d_bias = torch.zeros(bias.shape, dtype=kind, device=weight.device) if needs_bias and bias is not None else None
        scale = upstream.to(kind) / ctx.temperature
        for start in range(0, len(hidden), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            part = hidden[rows]
            d_logits = _logits(part, weight, bias, ctx.temperature)
            d_logits.sub_(normalizers[rows, None]).exp_().mul_(-scale[rows, None])
            d_logits[torch.arange(len(part), device=part.device), targets[rows]] += scale[rows]
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            # Matrices are multiplied in the dtype of the pass, as autograd does for a linear layer.
            narrow = d_logits.to(hidden.dtype)
            del d_logits
            if d_hidden is not None:
                torch.mm(narrow, weight, out=d_hidden[rows])
            if d_weight is not None:
                _add_product(d_weight, narrow.t(), part)
        return (
            d_hidden,
            d_weight.to(weight.dtype) if d_weight is not None else None,
            d_bias.to(weight.dtype) if d_bias is not None else None,
            None,
            None,
            None,
        )


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """``[rows, V]`` in fp32 (fp64 for fp64)."""
    logits = wide_linear(hidden, weight, bias)
    return logits.div_(temperature) if temperature != 1.0 else logits


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, the sum over chunks in ``total``'s precision."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
