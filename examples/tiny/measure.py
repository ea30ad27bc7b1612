"""What the base model can do before reinforcement learning: accuracy by style, mixture accuracy, response length.

Who calls this: ``build``, for the manifest and for the assertion that long answers are reliable: where they are not,
reinforcement learning shortens responses instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from task import PROMPT_TEMPLATE, Problem, full_steps, is_right, terse_steps
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 96
STOP = " </answer>"

FORCED_STYLES: dict[str, Callable[[Problem], str]] = {
    "direct": lambda problem: " </think>",
    "terse": lambda problem: terse_steps(problem, problem.totals[:1]),
    "full": lambda problem: full_steps(problem, problem.totals[:1]),
}
"""Style -> the first tokens of a response that commit the model to it."""


@dataclass(frozen=True)
class Measured:
    """Fractions and tokens at temperature 1, one sample a problem."""

    accuracy: float
    """Left to itself: the mixture of styles that RL starts from."""
    response_length_mean: float
    """Tokens, the stop string included."""
    truncated_fraction: float
    accuracy_by_style: dict[str, float]
    """Accuracy when the response starts in a given style."""


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], seed: int
) -> Measured:
    """Sample one response to each problem freely, and one in each style.

    Raises AssertionError when the text of a sampled response does not encode to the sampled tokens.
    """
    free = sample(model, tokenizer, [_prompt(problem) for problem in problems], seed)
    for ids in free:
        text = tokenizer.decode(ids)
        assert tokenizer.encode(text, add_special_tokens=False) == ids, (
            f"sampled tokens {ids} do not re-encode: {text!r}"
        )
    by_style = {}
    for style, beginning in FORCED_STYLES.items():
        responses = sample(model, tokenizer, [_prompt(problem) + beginning(problem) for problem in problems], seed)
        texts = [beginning(p) + tokenizer.decode(ids) for p, ids in zip(problems, responses, strict=True)]
        by_style[style] = _mean([is_right(p, text) for p, text in zip(problems, texts, strict=True)])
    return Measured(
        accuracy=_mean([is_right(p, tokenizer.decode(ids)) for p, ids in zip(problems, free, strict=True)]),
        response_length_mean=_mean([len(ids) for ids in free]),
        truncated_fraction=_mean([len(ids) == MAX_NEW_TOKENS for ids in free]),
        accuracy_by_style=by_style,
    )


def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], seed: int
) -> list[list[int]]:
    """Token ids of one response to each prompt at temperature 1, up to and including ``</answer>`` or EOS.

    One batch with left padding through ``generate``: slow, simple, and independent of the run's own sampler.
    """
    torch.manual_seed(seed)
    bos, eos, pad, stop = (
        tokenizer.convert_tokens_to_ids(token)
        for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, STOP)
    )
    rows = [[bos, *tokenizer.encode(prompt, add_special_tokens=False)] for prompt in prompts]
    width = max(map(len, rows))
    output = model.generate(
        input_ids=torch.tensor([[pad] * (width - len(row)) + row for row in rows]),
        attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=[stop, eos],
        pad_token_id=pad,
    )
    responses = []
    for row in output[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in (stop, eos)), len(row))
        responses.append(row[:end])
    return responses


def _prompt(problem: Problem) -> str:
    return PROMPT_TEMPLATE.replace("{question}", problem.question)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
