#!/usr/bin/env bash
# transformers: save_pretrained writes the type of the model in memory into config.json, not that of the tensors it stores.
#
# Versions: transformers 5.24.0, torch 2.13.0, safetensors 0.8.0.
# One would expect: `save_pretrained(folder, state_dict=...)` stores these tensors, and config.json says of which type
#   they are; or it keeps what the configuration says. Training with fp32 masters stores bfloat16 copies in this way.
# Seen: the file has bfloat16 tensors, config.json says float32, although the configuration said bfloat16 before the call.
#   Who loads the folder as it says gets fp32, twice the memory; engines that go by config.json serve in fp32. To write
#   the configuration again afterwards mends it.
# Output:
#   configuration before: bfloat16   tensors in the file: bfloat16   config.json: float32   loaded as: float32
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

config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
model.config.dtype = torch.bfloat16
model.save_pretrained("out", state_dict={name: tensor.bfloat16() for name, tensor in model.state_dict().items()})
stored = {str(tensor.dtype) for tensor in load_file("out/model.safetensors").values()}
says = json.loads(Path("out/config.json").read_text())["dtype"]
loaded = AutoModelForCausalLM.from_pretrained("out").dtype
short = [str(each).removeprefix("torch.") for each in (*stored, says, loaded)]
print(f"configuration before: bfloat16   tensors in the file: {short[0]}   config.json: {short[1]}   loaded as: {short[2]}")
assert short == ["bfloat16", "float32", "float32"]
PYTHON
