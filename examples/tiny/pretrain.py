"""Pre-training of the base model: a Llama of about 340,000 parameters, in less than a minute on two threads.

Who calls this: ``build``. Llama because ``AutoTokenizer`` leaves a word-level ``tokenizer.json`` alone for it (for
qwen2 it silently puts its own tokenizer in the place), and because every inference engine knows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from corpus import Batch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

INITIALIZER_RANGE = 0.06
"""Standard deviation of new weights: about 1/sqrt(hidden size). The usual 0.02 is for models 20 times as wide: with it,
and with questions predicted too, totals were learned after 400 steps instead of 250."""


@dataclass(frozen=True)
class Recipe:
    """The numbers of pre-training."""

    steps: int = 500
    rows: int = 16
    row_tokens: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: linear warm-up, then a cosine down to 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def new_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """An untrained model in fp32 for ``tokenizer``; its weights follow from ``seed``."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=tokenizer.convert_tokens_to_ids(tokenizer.bos_token),
        eos_token_id=tokenizer.convert_tokens_to_ids(tokenizer.eos_token),
        pad_token_id=tokenizer.convert_tokens_to_ids(tokenizer.pad_token),
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy, nats, over the tokens of a batch that are to be predicted."""
    logits = model(
        input_ids=batch.tokens,
        position_ids=batch.positions,
        attention_mask=batch.attention_mask(),
        use_cache=False,
    ).logits
    return cross_entropy(logits.flatten(0, 1), batch.labels().flatten(), ignore_index=-100)


def pretrain(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    recipe: Recipe,
    on_step: Callable[[int, float], None],
) -> int:
    """Train ``model`` in place; ``on_step(steps done, loss)`` after each step. Returns the tokens trained on.

    Raises FloatingPointError when the loss is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True)
    tokens = 0
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batch = next(batches)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int((batch.documents >= 0).sum())
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError(f"the loss of pre-training step {step} is {value}; lower Recipe.learning_rate")
        on_step(step + 1, value)
    model.eval()
    return tokens
