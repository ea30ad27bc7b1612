"""Makes a base model in seconds for the local tests: ``build_base.py OUT`` (the tiny example with 60 steps of
pre-training: it answers, mostly wrong)."""

import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "tiny"))

from build import write_problems
from corpus import documents, packed_batches
from pretrain import Recipe, new_model, pretrain
from task import PROMPT_TEMPLATE, draw_distinct
from tokenizer import build_tokenizer

out = Path(sys.argv[1])
torch.set_num_threads(2)
tokenizer, recipe = build_tokenizer(), Recipe(steps=60)
model = new_model(tokenizer, 0)
batches = packed_batches(documents(0), tokenizer, recipe.rows, recipe.row_tokens)
pretrain(model, batches, recipe, lambda step, loss: None)
(out / "model").mkdir(parents=True)
tokenizer.save_pretrained(out / "model")
model.save_pretrained(out / "model")
write_problems(draw_distinct(random.Random("train"), 40, held_out=False), out / "train.jsonl")
write_problems(draw_distinct(random.Random("heldout"), 8, held_out=True), out / "heldout.jsonl")
(out / "template.txt").write_text(PROMPT_TEMPLATE)
