"""Trainer and rollouts score the same tokens with every weight version of a run: the canary (DESIGN.md 5).

It is made of the run's own prompts, so that its tokens are likely ones, on which rounding does little: what an engine
scores otherwise than the trainer is computed with other weights.
"""

from __future__ import annotations

from itertools import chain, cycle, islice

from rz_workers.data.prompt_table import read_table
from rz_workers.storage.run_folder import RunFolder

__all__ = ["CANARY_TOKENS", "canary_tokens"]

CANARY_TOKENS = 128
"""Enough that a step of 1e-6 in bfloat16 moves some of their scores, and a forward pass of milliseconds."""


def canary_tokens(folder: RunFolder) -> tuple[int, ...]:
    """The first training prompts, one behind the other, cut to what every engine of the run can score: ``[T]``."""
    room = folder.run.spec.rollout.max_model_length - 1  # vLLM samples one token behind what it scores
    prompts = (row.prompt_token_ids for row in read_table(folder, "train"))
    # Repeated where all prompts together have fewer tokens, as a demo's may.
    return tuple(islice(chain.from_iterable(cycle(prompts)), min(CANARY_TOKENS, room)))
