"""Makes all that the tiny run needs, from nothing: ``python examples/tiny/build.py --seed 0 --out runs/tiny/base``.

Who calls this: ``make demo``, people, the tests. The output folder is complete or absent::

    OUT/model/           config, weights and tokenizer: loads with AutoModelForCausalLM and AutoTokenizer
    OUT/train.jsonl      4,000 problems: question, answer
    OUT/heldout.jsonl    256 problems that no part of corpus or training data contains
    OUT/manifest.json    what was made and measured

The same seed gives the same bytes of model and data on the same kind of CPU with the same number of threads: 2, fixed
here, whatever OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from corpus import documents, packed_batches
from measure import Measured, measure
from pretrain import Recipe, new_model, pretrain
from task import PROMPT_TEMPLATE, Problem, draw_distinct
from tokenizer import build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

THREADS = 2
NUM_TRAIN = 4000
NUM_HELD_OUT = 256
REQUIRED_FULL_ACCURACY = 0.60
"""Below this the long style does not pay, and reinforcement learning shortens responses."""
SECONDS_BETWEEN_LINES = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the tiny base model, its tokenizer and its data from nothing.")
    parser.add_argument("--seed", type=int, default=0, help="seed of model, corpus and data (0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/tiny/base"), help="folder to make (default runs/tiny/base)"
    )
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"{arguments.out} exists already and is never overwritten: remove it, or give another --out")
    build(arguments.seed, arguments.out)


def build(seed: int, out: Path, recipe: Recipe | None = None) -> None:
    """Make ``out``: train, save, load again as a run would, measure, check, and only then move into place."""
    recipe = recipe or Recipe()
    torch.set_num_threads(THREADS)
    transformers_logging.disable_progress_bar()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "model").mkdir(parents=True)

    train = draw_distinct(random.Random(f"tiny train {seed}"), NUM_TRAIN, held_out=False)
    held_out = draw_distinct(random.Random(f"tiny heldout {seed}"), NUM_HELD_OUT, held_out=True)
    write_problems(train, partial / "train.jsonl")
    write_problems(held_out, partial / "heldout.jsonl")

    tokenizer = build_tokenizer()
    model = new_model(tokenizer, seed)
    print(f"pre-training {model.num_parameters():,} parameters, {recipe.steps} steps, {THREADS} threads", flush=True)
    started, cpu_started = time.monotonic(), time.process_time()
    batches = packed_batches(documents(seed), tokenizer, recipe.rows, recipe.row_tokens)
    num_tokens = pretrain(model, batches, recipe, progress_printer(recipe.steps, time.monotonic))
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    tokenizer.save_pretrained(partial / "model")
    model.save_pretrained(partial / "model")

    loaded_tokenizer = AutoTokenizer.from_pretrained(partial / "model")
    check_round_trip(loaded_tokenizer, [*train, *held_out])
    measured = measure(AutoModelForCausalLM.from_pretrained(partial / "model"), loaded_tokenizer, held_out, seed)
    print(summary(measured), flush=True)
    check_reliable(measured, seed)
    manifest = {
        "seed": seed,
        "threads": THREADS,
        "torch": torch.__version__,
        "pretraining": asdict(recipe),
        "pretraining_tokens": num_tokens,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "train_problems": len(train),
        "heldout_problems": len(held_out),
        "weights_sha256": hashlib.sha256((partial / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "measured": asdict(measured),
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    partial.rename(out)
    print(f"built {out}", flush=True)


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """One JSON object a line: ``{"question": "7 a+8 b-4 =?", "answer": "11"}``."""
    lines = (json.dumps({"question": problem.question, "answer": str(problem.answer)}) for problem in problems)
    path.write_text("".join(line + "\n" for line in lines))


def check_round_trip(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> None:
    """Raises AssertionError when a prompt's tokens do not decode to the prompt, as loaded by ``AutoTokenizer``."""
    for problem in problems:
        prompt = PROMPT_TEMPLATE.replace("{question}", problem.question)
        decoded = tokenizer.decode(tokenizer.encode(prompt, add_special_tokens=False))
        assert decoded == prompt, f"AutoTokenizer gives {decoded!r} for {prompt!r}: it took another tokenizer"


def check_reliable(measured: Measured, seed: int) -> None:
    """End the program when the long style is too unreliable for the run to make sense."""
    found = measured.accuracy_by_style["full"]
    if found < REQUIRED_FULL_ACCURACY:
        sys.exit(
            f"full-style answers of the base model of seed {seed} are right in {found:.1%} of cases, at least "
            f"{REQUIRED_FULL_ACCURACY:.0%} is required: raise Recipe.steps in examples/tiny/pretrain.py, or take "
            "another seed"
        )


def summary(measured: Measured) -> str:
    styles = ", ".join(f"{style} {accuracy:.0%}" for style, accuracy in measured.accuracy_by_style.items())
    return (
        f"base model on held-out problems: accuracy {measured.accuracy:.1%}, "
        f"response length {measured.response_length_mean:.1f} tokens; by style: {styles}"
    )


def progress_printer(steps: int, clock: Callable[[], float]) -> Callable[[int, float], None]:
    """``on_step`` for ``pretrain``: a line every few seconds and at the end."""
    started = last = clock()

    def on_step(done: int, loss: float) -> None:
        nonlocal last
        now = clock()
        if now - last >= SECONDS_BETWEEN_LINES or done == steps:
            last = now
            remaining = (now - started) / done * (steps - done)
            print(f"  step {done:4d}/{steps}  loss {loss:.3f}  about {remaining:.0f} s left", flush=True)

    return on_step


if __name__ == "__main__":
    main()
