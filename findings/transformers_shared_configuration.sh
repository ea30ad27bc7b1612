#!/usr/bin/env bash
# transformers: making a model changes how another one computes that was made from the same configuration object.
#
# Versions: transformers 5.24.0, torch 2.13.0.
# One would expect: `attn_implementation` is an argument of the model that is made. A model that exists keeps what it was
#   made with, as it keeps its weights; a configuration can describe several models.
# Seen: the argument is written into the configuration object, models keep that object and look there in every forward
#   pass. A model that was made with eager attention computes by whatever the newest model of the same object asked for:
#   it returns no attention weights any more, and a comparison of two attention implementations compares one with
#   itself. No error, no warning. A copy of the configuration for each model mends it.
# Output:
#   alone                                                  eager   2 attention weights
#   after another model of an equal configuration          eager   2 attention weights
#   after another model of the same configuration object   sdpa    0 attention weights
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2> log <<'PYTHON' || { cat log; exit 1; }
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
tokens = torch.arange(16)[None]
first = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def seen(what):
    with torch.no_grad():
        weights = first(input_ids=tokens, output_attentions=True).attentions or ()
    found = (first.config._attn_implementation, sum(each is not None for each in weights))
    print(f"{what:<55}{found[0]:<8}{found[1]} attention weights")
    return found


alone = seen("alone")
AutoModelForCausalLM.from_config(type(config).from_dict(config.to_dict()), attn_implementation="sdpa")
beside = seen("after another model of an equal configuration")
AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
shared = seen("after another model of the same configuration object")
assert (alone, beside, shared) == (("eager", 2), ("eager", 2), ("sdpa", 0))
PYTHON
