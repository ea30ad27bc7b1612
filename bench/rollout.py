"""Tokens per second of the rollout engine beside ``model.generate`` of transformers, on one tiny model, in one process.

    OMP_NUM_THREADS=1 python bench/rollout.py [--rounds 3] [--units 2]

The work is what a step of ``examples/tiny`` asks for: lease units of 16 prompts x 8 samples, prompts of 20 to 31
tokens, at most 96 new ones, temperature 1. The model (Llama, 2 layers, hidden 128, 143 tokens) has random weights; 5
of its tokens end a response, so that the mean length is about 30 tokens, close to that run's. ``generate`` gets all
rows as one batch and the same ends as end-of-sequence tokens, which is the fastest form that it has; its log-probs are
not asked for. Both take turns, so that other load on the machine hits both; the best round counts.
Ends with 1 when the ratio is below its bar (``bars.toml``).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bars import hold
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rz_workers.rollout.engines.interface import SampleRequest, SamplingParams
from rz_workers.rollout.engines.transformers.engine import TransformersEngine

PROMPTS, SAMPLES, MAX_NEW_TOKENS = 16, 8, 96
STOP = ("</answer>", "User:", "Human:", "Assistant:")
WORDS, VOCABULARY = 138, 143
EOS_ID, FIRST_STOP_ID = 138, 139


def build_model_folder(folder: Path) -> Any:
    """Save configuration and tokenizer to ``folder``; returns the model with random weights."""
    words = [f"w{i}" for i in range(WORDS)] + ["<eos>", *STOP]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()


def make_units(count: int) -> list[list[SampleRequest]]:
    rng = random.Random(1)
    units = []
    for unit in range(count):
        prompts = [tuple(rng.randrange(WORDS) for _ in range(rng.randint(20, 31))) for _ in range(PROMPTS)]
        seeds = range(unit * PROMPTS * SAMPLES, (unit + 1) * PROMPTS * SAMPLES)
        units.append([SampleRequest(prompts[i // SAMPLES], seed) for i, seed in enumerate(seeds)])
    return units


def engine_tokens(engine: TransformersEngine, units: list[list[SampleRequest]]) -> int:
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=MAX_NEW_TOKENS, stop=STOP)
    return sum(len(done.token_ids) for unit in units for done in engine.generate(unit, params, lambda: False))


def generate_tokens(model: Any, units: list[list[SampleRequest]]) -> int:
    rows = [request.prompt_token_ids for unit in units for request in unit]
    width = max(map(len, rows))
    input_ids = torch.tensor([[EOS_ID] * (width - len(row)) + list(row) for row in rows])
    attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    stops = [EOS_ID, *range(FIRST_STOP_ID, VOCABULARY)]
    with torch.inference_mode():
        out = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=stops,
            pad_token_id=EOS_ID,
        )[:, width:]
    ends = torch.isin(out, torch.tensor(stops))
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, out.shape[1])
    return int(lengths.sum())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rounds", type=int, default=3, help="measured rounds after one that warms up")
    arguments.add_argument("--units", type=int, default=2, help="lease units of 128 rows in a round")
    options = arguments.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers_logging.set_verbosity_error()

    with tempfile.TemporaryDirectory() as folder:
        model = build_model_folder(Path(folder))
        engine = TransformersEngine(Path(folder), "float32", max_model_tokens=1024)
    engine.load_weights(0, model.state_dict())
    units = make_units(options.units)
    best = {"engine": 0.0, "generate": 0.0}
    for round_number in range(options.rounds + 1):
        for name, run in (
            ("engine", lambda: engine_tokens(engine, units)),
            ("generate", lambda: generate_tokens(model, units)),
        ):
            started = time.perf_counter()
            tokens = run()
            seconds = time.perf_counter() - started
            if round_number:
                best[name] = max(best[name], tokens / seconds)
                print(
                    f"round {round_number}: {name:8} {tokens:6d} tokens in {seconds:6.2f} s, "
                    f"{tokens / seconds:8.0f} tokens/s"
                )
    ratio = best["engine"] / best["generate"]
    print(
        f"{torch.get_num_threads()} thread(s), {options.units * PROMPTS * SAMPLES} rows: engine {best['engine']:.0f} "
        f"tokens/s, generate {best['generate']:.0f} tokens/s, ratio {ratio:.2f}"
    )
    return 0 if hold("rollout-beside-generate", ratio) else 1


if __name__ == "__main__":
    sys.exit(main())
