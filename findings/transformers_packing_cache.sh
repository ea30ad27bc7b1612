#!/usr/bin/env bash
# transformers: whether packed sequences see each other depends on use_cache.
#
# Versions: transformers 5.24.0, torch 2.13.0.
# One would expect: packed sequences (several in one row, position_ids that begin again at 0) are kept apart or they are
#   not. use_cache is about the speed of generation, gradient checkpointing about memory, and a mask of ones hides as
#   little as no mask does. None of them changes a result.
# Seen: transformers keeps the sequences apart where position_ids begin again, but it looks only if there is neither a
#   cache nor an attention mask. use_cache is True by default, in training too: with the defaults the second sequence
#   sees the first, and its logits are others. use_cache=False mends it. So does gradient checkpointing, which
#   turns the cache off (and logs that), so that it changes the loss. A mask of ones spoils it again. No error; no
#   warning with the defaults. Attention `eager` and `sdpa` are alike.
# Output (the same seven lines for sdpa):
#   eager eval, the defaults                          they see each other
#   eager eval, use_cache=False                       apart
#   eager eval, use_cache=False, a mask of ones       they see each other
#   eager train, the defaults                         they see each other
#   eager train, use_cache=False                      apart
#   eager train, use_cache=False, a mask of ones      they see each other
#   eager train, the defaults, gradient checkpointing apart
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
first, second = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
packed = torch.cat([first, second], dim=1)
positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
cases = {  # how the packed row is given -> whether the sequences are kept apart
    "the defaults": ({}, False),
    "use_cache=False": ({"use_cache": False}, True),
    "use_cache=False, a mask of ones": ({"use_cache": False, "attention_mask": torch.ones_like(packed)}, False),
}


def check(name, model, options, apart):
    """Compare the packed row's logits with those of the two sequences alone."""
    alone = torch.cat([model(each).logits for each in (first, second)], dim=1)
    together = model(packed, position_ids=positions, **options).logits
    error = (together - alone).abs().max().item()
    print(f"{name:<50}{'apart' if error < 1e-6 else 'they see each other'}")
    assert error < 1e-6 if apart else error > 0.01, error


for attention in ("eager", "sdpa"):
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for mode in ("eval", "train"):
        getattr(model, mode)()
        for name, (options, apart) in cases.items():
            check(f"{attention:<6}{mode}, {name}", model, options, apart)
    model.activation_checkpointing_enable()
    check(f"{attention:<6}train, the defaults, gradient checkpointing", model, {}, True)
PYTHON
