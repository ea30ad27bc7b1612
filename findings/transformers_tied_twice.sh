#!/usr/bin/env bash
# transformers: with tie_word_embeddings true, the output layer is the embedding or is not, as the file happens to be.
#
# Versions: transformers 5.24.0, torch 2.13.0, safetensors 0.8.0.
# One would expect: config.json describes the network. `tie_word_embeddings: true` makes the output layer the embedding's
#   matrix, as inference engines take it; a file that has another output layer is an error.
# Seen: where the file has an lm_head.weight that differs from the embedding, the loaded model has two matrices, and its
#   configuration still says that it has one. There is a line in the log. Stored again, the folder says tied and has
#   both, so that every step of a training is computed with a network that no engine serves.
# Output:
#   file with an equal lm_head    configuration: tied True   in memory: tied True    stored again: tied True, lm_head no
#   file with another lm_head     configuration: tied True   in memory: tied False   stored again: tied True, lm_head yes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 safetensors==0.8.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2> log <<'PYTHON' || { cat log; exit 1; }
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

torch.manual_seed(0)
seen = []
for name in ("an equal", "another"):
    folder = Path(name)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    model = AutoModelForCausalLM.from_config(config)
    if name == "an equal":
        model.lm_head.weight.data.copy_(model.model.embed_tokens.weight)
    model.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    loaded.save_pretrained(folder / "again")
    says = json.loads((folder / "again" / "config.json").read_text())["tie_word_embeddings"]
    has = "lm_head.weight" in load_file(folder / "again" / "model.safetensors")
    seen.append((loaded.config.tie_word_embeddings, tied, says, has))
    again = f"stored again: tied {says}, lm_head {'yes' if has else 'no'}"
    print(f"{f'file with {name} lm_head':<30}configuration: tied {seen[-1][0]}   in memory: tied {tied!s:<8}{again}")
assert seen == [(True, True, True, False), (True, False, True, True)]
PYTHON
