"""Every shape, and with it every rounding, follows from the requests and the sampled tokens alone.

The decode loop: one batch of prompts in, finished responses out as they end. The engine beside it calls it.

    1. Prefill each distinct prompt once, left-padded to one length.
    2. Copy the prompts' keys and values to the rows that sample them.
    3. Draw one token per row; hand out the responses that it ends; close their gaps in the batch.
    4. Run the model on the new tokens; back to 3.

The fixed cost of a step counts on small models, so masks, positions and random numbers are made ahead, and nothing is
asked of single rows but of those whose newest token may end them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from rz_workers.rollout.engines.interface import EOS, Finished, SampleRequest, SamplingParams
from rz_workers.rollout.engines.stopping import GOES_ON, IS_EOS, Stopper
from rz_workers.rollout.engines.transformers.kv_cache import DecodeCache, cache_argument, last_logits_argument
from rz_workers.rollout.engines.transformers.sampling import draw, log_distribution, uniforms

UNIFORM_BLOCK = 64
"""Tokens for which random numbers are made at once."""


# Of a generator torch leaves the mode at each yield: the caller's own tensors are not touched by it.
@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    requests: Sequence[SampleRequest],
    params: SamplingParams,
    stopper: Stopper,
    cancelled: Callable[[], bool],
) -> Iterator[Finished]:
    """Sample all ``requests`` as one batch; yields in order of length, then of place in the batch."""
    prompts, prompt_of_row = distinct_prompts(requests)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    limit = width + params.max_new_tokens

    cache, prompt_logits = _prefill(model, prompts, lengths)
    cache.expand(prompt_of_row, limit)
    logits = prompt_logits[prompt_of_row]
    padding = _padding_mask(lengths, width, limit, model.dtype)[prompt_of_row]
    positions = lengths[prompt_of_row][:, None]

    seeds = np.array([request.seed for request in requests], dtype=np.uint64)
    tokens_out = torch.empty((len(requests), params.max_new_tokens), dtype=torch.int64)
    logprobs_out = torch.empty((len(requests), params.max_new_tokens), dtype=torch.float32)
    cached = {cache_argument(model.forward): cache, **last_logits_argument(model.forward)}
    live = torch.arange(len(requests))  # live[slot] is the request that the batch's row ``slot`` samples

    for step in range(params.max_new_tokens):
        if cancelled():
            return
        if step % UNIFORM_BLOCK == 0:
            uniform = uniforms(seeds, step, UNIFORM_BLOCK)
        logprobs = log_distribution(logits, params)
        # By request, not by place in the batch: a row that moves keeps its own numbers.
        tokens = draw(logprobs, uniform[live, step % UNIFORM_BLOCK])
        tokens_out[live, step] = tokens
        logprobs_out[live, step] = logprobs.gather(-1, tokens[:, None])[:, 0]

        ended = []
        kinds = stopper.table[tokens]
        is_last = step + 1 == params.max_new_tokens
        for slot in range(len(live)) if is_last else (kinds != GOES_ON).nonzero()[:, 0].tolist():
            row = int(live[slot])
            token_ids = tokens_out[row, : step + 1].tolist()
            finished = _finish(stopper, row, token_ids, int(kinds[slot]), is_last, logprobs_out[row, : step + 1])
            if finished is not None:
                ended.append(slot)
                yield finished
        if len(ended) == len(live):
            return
        if ended:
            holes, movers, kept = gaps(len(live), ended)
            order = torch.arange(kept)
            # As `cache.drop` does it: what goes by slot has to move with the keys and values.
            order[holes] = movers
            cache.drop(holes, movers, kept)
            live, tokens, positions, padding = live[order], tokens[order], positions[order], padding[order]

        cache.make_room(limit)
        logits = model(
            input_ids=tokens[:, None],
            position_ids=positions,
            attention_mask=padding[..., : cache.filled + 1],
            use_cache=True,
            **cached,
        ).logits[:, -1]
        positions = positions + 1


def distinct_prompts(requests: Sequence[SampleRequest]) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """The prompts without repetition, in order of first use, and each request's index into them: [rows] int64."""
    index: dict[tuple[int, ...], int] = {}
    of_row = [index.setdefault(request.prompt_token_ids, len(index)) for request in requests]
    return list(index), torch.tensor(of_row, dtype=torch.int64)


def gaps(rows: int, ended: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """How to close the gaps that ``ended`` (ascending) leave among ``rows``: (holes, movers, rows that remain).

    Rows behind the new end move into the holes before it. Example: of 6 rows 1 and 4 ended: row 5 moves to 1, 4 remain.
    """
    kept = rows - len(ended)
    gone = set(ended)
    holes = [slot for slot in ended if slot < kept]
    movers = [slot for slot in range(kept, rows) if slot not in gone]
    return torch.tensor(holes, dtype=torch.int64), torch.tensor(movers, dtype=torch.int64), kept


def _prefill(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], lengths: torch.Tensor
) -> tuple[DecodeCache, torch.Tensor]:
    """Run the prompts: the filled cache, and the logits behind each prompt's last token, [prompts, vocabulary]."""
    width = int(lengths.max())
    columns = torch.arange(width)
    pad = width - lengths
    input_ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    # A query sees itself and the real tokens before it. Padding sees itself alone: attention over nothing would be NaN.
    causal = columns[None, :] <= columns[:, None]
    real = columns[None, :] >= pad[:, None]
    visible = (causal[None] & real[:, None, :]) | torch.eye(width, dtype=torch.bool)[None]
    cache = DecodeCache(model.config.get_text_config().num_hidden_layers, width)
    logits = model(
        input_ids=input_ids,
        position_ids=(columns[None, :] - pad[:, None]).clamp(min=0),
        attention_mask=_additive(visible[:, None], model.dtype),
        use_cache=True,
        **{cache_argument(model.forward): cache, **last_logits_argument(model.forward)},
    ).logits[:, -1]
    return cache, logits


def _padding_mask(lengths: torch.Tensor, width: int, limit: int, dtype: torch.dtype) -> torch.Tensor:
    """What a new token sees of the cache's columns, additive: [prompts, 1, 1, limit]. A 4D mask is taken as it is, so
    that transformers builds none of its own in each step."""
    visible = torch.arange(limit)[None, :] >= (width - lengths)[:, None]
    return _additive(visible[:, None, None, :], dtype)


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)


def _finish(
    stopper: Stopper, row: int, token_ids: list[int], kind: int, is_last: bool, logprobs: torch.Tensor
) -> Finished | None:
    """The response that ends with its newest token; None when it goes on."""
    match = None
    if kind == IS_EOS:
        text, stop_reason = stopper.text(token_ids), EOS
    elif kind != GOES_ON and (match := stopper.find(token_ids)) is not None:
        text = stopper.text(token_ids)
        text, stop_reason = text[: len(text) - match.trailing], match.stop
    elif is_last:
        return Finished(row, tuple(token_ids), tuple(logprobs.tolist()), stopper.text(token_ids), "length", None)
    else:
        return None
    return Finished(row, tuple(token_ids), tuple(logprobs.tolist()), text, "stop", stop_reason)
