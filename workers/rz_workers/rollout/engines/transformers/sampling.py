"""A row's draw reads only its own logits and its own stream, so that no row depends on its neighbours' luck.

From logits to tokens: the distribution that is sampled from, and one uniform number per token from the row's own
stream. Pure functions over tensors, called by ``decode``. Tie-breaks and sums have a fixed order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rz_workers.rollout.engines.interface import SamplingParams

# SplitMix64's own three constants: others would be another generator.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(seeds: npt.NDArray[np.uint64], first: int, count: int) -> npt.NDArray[np.uint64]:
    """Outputs ``first`` .. ``first + count - 1`` of one SplitMix64 stream per seed: [rows, count].

    A counter-based generator (Steele, Lea, Flood 2014): any element follows from (seed, position) by integer arithmetic
    alone, so that a stream is the same on every platform and library version and can be read in blocks of any size.
    """
    position = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    # numpy's arrays wrap around in silence, as is wanted here; its scalars would warn.
    z: npt.NDArray[np.uint64] = seeds[:, None] + position[None, :] * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def uniforms(seeds: npt.NDArray[np.uint64], first: int, count: int) -> torch.Tensor:
    """The rows' uniform numbers for tokens ``first`` .. ``first + count - 1``: [rows, count] float64 in [0, 1)."""
    # The upper 53 bits: as many as a double holds, so that 1 is never reached by rounding.
    return torch.from_numpy((splitmix64(seeds, first, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def log_distribution(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Log-probabilities of the distribution that is sampled from: [rows, vocabulary] float32.

    Temperature, then top-k, then top-p (the order of vLLM and transformers), then renormalised; dropped tokens get
    -inf.
    """
    logits = logits.float()
    if params.temperature != 1.0:
        logits = logits / params.temperature
    if params.top_k or params.top_p < 1.0:
        logits = _keep_top(logits, params.top_k, params.top_p)
    return torch.log_softmax(logits, dim=-1)


def draw(logprobs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution, in float64 and vocabulary order: [rows, vocabulary], [rows] -> [rows]
    int64.

    The token is the first whose cumulative probability exceeds ``uniform`` times the total, so a token of probability
    0 is never drawn (the total may miss 1 by rounding; the target is kept below it for the same reason).
    """
    # float32 loses tokens behind the likely ones: beside a sum of 1 it has no room below 6e-8.
    cumulative = logprobs.double().exp_().cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def _keep_top(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Logits with everything outside top-k and nucleus at -inf; of equal logits the lower token id ranks higher."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if 0 < top_k < logits.shape[-1]:
        ordered[:, top_k:] = -torch.inf
    if top_p < 1.0:
        probabilities = torch.softmax(ordered.double(), dim=-1)
        mass_before = probabilities.cumsum(dim=-1) - probabilities
        mass_before[:, 0] = 0.0  # the likeliest token always stays, whatever rounding says
        ordered[mass_before >= top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(-1, order, ordered)
