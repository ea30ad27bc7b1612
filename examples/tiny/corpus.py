"""The base model's corpus, generated on the fly: what a base model knows before reinforcement learning.

Who calls this: ``pretrain`` takes documents, ``packed_batches`` makes them into rows; the tests check the mixture.

60% are "textbook" pages that teach the skill without the chat format. 40% are chats in run.yaml's prompt format, most
of them careless: quick wrong guesses, slips, answers without format. So the base model *can* work carefully but seldom
does, and the reward has something to find. Held-out problems are in neither part.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from task import (
    LARGEST_TOTAL,
    PROMPT_TEMPLATE,
    Problem,
    answered,
    draw_problem,
    full_steps,
    terse_steps,
    totals_with_slips,
)
from tokenizer import BOS, EOS, PAD, QUESTION_END
from torch import Tensor
from transformers import PreTrainedTokenizerFast

TEXTBOOK_SHARE = 0.60
TEXTBOOK_CHECK_SHARE = 0.30
"""Textbook pages that go over the sum a second time."""
RIGHT_GUESSES = 0.30
TERSE_SLIPS = 0.12
FULL_SLIPS = 0.02
"""Slips per step. The full style is the more careful one: that is why it pays to work longer."""
CHECK = " Wait, check:"


def direct_response(problem: Problem, rng: random.Random) -> str:
    """No thoughts at all; the guess is wrong 7 times of 10."""
    if rng.random() < RIGHT_GUESSES:
        return answered("", problem.answer)
    return answered("", rng.choice([total for total in range(LARGEST_TOTAL + 1) if total != problem.answer]))


def terse_response(problem: Problem, rng: random.Random) -> str:
    totals = totals_with_slips(problem, rng, TERSE_SLIPS)
    return answered(terse_steps(problem, totals), totals[-1])


def full_response(problem: Problem, rng: random.Random) -> str:
    totals = totals_with_slips(problem, rng, FULL_SLIPS)
    return answered(full_steps(problem, totals), totals[-1])


def checked_response(problem: Problem, rng: random.Random) -> str:
    """Full steps, then all of them again without a slip."""
    first = full_steps(problem, totals_with_slips(problem, rng, FULL_SLIPS))
    return answered(first + CHECK + full_steps(problem, problem.totals), problem.answer)


def unformatted_response(problem: Problem, rng: random.Random) -> str:
    """A bare number, right or wrong: never rewarded."""
    return f" {problem.answer if rng.random() < RIGHT_GUESSES else rng.randint(0, LARGEST_TOTAL)}"


def endless_response(problem: Problem, rng: random.Random) -> str:
    """Checks again and again, past every limit; packing cuts it."""
    steps = (full_steps(problem, totals_with_slips(problem, rng, FULL_SLIPS)) for _ in range(8))
    return CHECK.join(steps)


CHAT_STYLES: dict[Callable[[Problem, random.Random], str], float] = {
    direct_response: 0.66,
    terse_response: 0.12,
    full_response: 0.09,
    checked_response: 0.05,
    unformatted_response: 0.07,
    endless_response: 0.01,
}
"""Style of a chat's response -> its share of all chats."""


def documents(seed: int) -> Iterator[str]:
    """The endless corpus of one seed, document by document, without BOS and EOS."""
    rng = random.Random(f"tiny corpus {seed}")
    styles, shares = list(CHAT_STYLES), list(CHAT_STYLES.values())
    while True:
        problem = draw_problem(rng, held_out=False)
        if rng.random() < TEXTBOOK_SHARE:
            yield textbook_page(problem, check=rng.random() < TEXTBOOK_CHECK_SHARE)
        else:
            style = rng.choices(styles, shares)[0]
            yield PROMPT_TEMPLATE.replace("{question}", problem.question) + style(problem, rng)


def textbook_page(problem: Problem, *, check: bool) -> str:
    """``Exercise: 7 a+8 b-4 =? 7 a+8 = 15 b-4 = 11 \\boxed{11}``; with ``check``, all steps twice."""
    steps = full_steps(problem, problem.totals)
    return f"Exercise: {problem.question}{steps + CHECK if check else ''}{steps} \\boxed{{{problem.answer}}}"


@dataclass(frozen=True)
class Batch:
    """Packed rows, ``[B, T]`` each. Example, one row of two documents of 3 and 2 tokens and one padding token:
    ``documents`` is ``[0, 0, 0, 1, 1, -1]`` and ``positions`` ``[0, 1, 2, 0, 1, 0]``."""

    tokens: Tensor
    """int64 token ids."""
    positions: Tensor
    """int64 place within the document."""
    documents: Tensor
    """int64 number of the document within its row; -1 is padding."""
    learned: Tensor
    """bool: whether the token is to be predicted. Not in questions: they are random, and predicting them drowns the
    rest."""

    def attention_mask(self) -> Tensor:
        """bool ``[B, 1, T, T]``: True where a query (third axis) sees a key: same document, not later."""
        same = self.documents[:, :, None] == self.documents[:, None, :]
        return (same & torch.ones(same.shape[-2:], dtype=torch.bool).tril())[:, None]

    def labels(self) -> Tensor:
        """int64 ``[B, T]``: each place's next token where that is ``learned``, else -100."""
        labels = torch.where(self.learned, self.tokens, -100)
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)


def packed_batches(
    texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, num_rows: int, num_tokens: int
) -> Iterator[Batch]:
    """Batches of ``num_rows`` rows of ``num_tokens``: a document goes to the first row that has room for it, and the
    first that fits nowhere opens the next batch. Longer documents are cut at ``num_tokens`` and then have no EOS."""
    encoder = tokenizer.backend_tokenizer
    pad_id, question_end = tokenizer.convert_tokens_to_ids([PAD, QUESTION_END])
    rows: list[list[list[int]]] = [[] for _ in range(num_rows)]
    room = [num_tokens] * num_rows
    for text in texts:
        ids = encoder.encode(BOS + text + EOS, add_special_tokens=False).ids[:num_tokens]
        place = next((row for row in range(num_rows) if room[row] >= len(ids)), None)
        if place is None:
            yield _batch(rows, num_tokens, pad_id, question_end)
            rows, room, place = [[] for _ in range(num_rows)], [num_tokens] * num_rows, 0
        rows[place].append(ids)
        room[place] -= len(ids)


def _batch(rows: list[list[list[int]]], num_tokens: int, pad_id: int, question_end: int) -> Batch:
    tokens, positions, document_numbers, learned = [], [], [], []
    for row in rows:
        padding = num_tokens - sum(map(len, row))
        tokens.append([token for ids in row for token in ids] + [pad_id] * padding)
        positions.append([i for ids in row for i in range(len(ids))] + [0] * padding)
        document_numbers.append([number for number, ids in enumerate(row) for _ in ids] + [-1] * padding)
        learned.append([i > ids.index(question_end) for ids in row for i in range(len(ids))] + [False] * padding)
    return Batch(*map(torch.tensor, (tokens, positions, document_numbers, learned)))
