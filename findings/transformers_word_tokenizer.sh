#!/usr/bin/env bash
# transformers: AutoTokenizer does not use the tokenizer.json of a folder whose model type it knows better.
#
# Versions: transformers 5.24.0, tokenizers 0.23.3.
# One would expect: tokenizer.json holds the whole tokenizer (how text is split, how tokens become text), so a folder
#   with this file gives the file's ids, whatever model lies beside it.
# Seen: for some model types transformers takes the vocabulary alone out of tokenizer.json and puts a splitting of its
#   own around it (of bytes for qwen2, qwen3 and gpt2). A vocabulary of words loses its words: "10 a+2 b-1 =?" becomes
#   the three tokens 1, 2, 1. No error, no warning. llama, mistral and olmo2 take the file as it is. To name
#   "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json mends qwen3, gpt2 and gemma, but not qwen2.
# Output:
#   tokenizer.json itself                   [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   llama                                   [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   mistral                                 [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   olmo2                                   [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   qwen2                                   [2, 3, 2]               '121'
#   qwen3                                   [2, 3, 2]               '121'
#   gpt2                                    [2, 3, 2]               '121'
#   gemma                                   [2, 0, 3, 0, 2, 0]      '1[UNK]2[UNK]1[UNK]'
#   qwen2 PreTrainedTokenizerFast           [2, 3, 2]               '121'
#   qwen3 PreTrainedTokenizerFast           [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   gpt2 PreTrainedTokenizerFast            [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   gemma PreTrainedTokenizerFast           [5, 10, 7, 11, 8, 9]    '10 a+2 b-1 =?'
#   warnings: none
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2> log <<'PYTHON' || { cat log; exit 1; }
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

WORDS = ["[UNK]", "<eos>", "1", "2", "3", "10", "+1", "+2", "-1", " =?", " a", " b"]
TEXT = "10 a+2 b-1 =?"
by_word = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
by_word.pre_tokenizer = pre_tokenizers.Split(Regex(r"[+-]\d+| ?[a-z]|\d+| =\?"), "isolated")
by_word.decoder = decoders.Fuse()


def load(model_type, tokenizer_class):
    folder = Path(f"{model_type}-{tokenizer_class}")
    folder.mkdir()
    by_word.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<eos>", "unk_token": "[UNK]"}
    if tokenizer_class:
        settings["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return AutoTokenizer.from_pretrained(str(folder))


def show(name, ids, text):
    print(f"{name:<40}{ids!s:<24}{text!r}")


own = by_word.encode(TEXT).ids
show("tokenizer.json itself", own, by_word.decode(own))
assert by_word.decode(own) == TEXT
cases = [  # model type, class in tokenizer_config.json, whether the ids are the file's
    ("llama", None, True),
    ("mistral", None, True),
    ("olmo2", None, True),
    ("qwen2", None, False),
    ("qwen3", None, False),
    ("gpt2", None, False),
    ("gemma", None, False),
    ("qwen2", "PreTrainedTokenizerFast", False),
    ("qwen3", "PreTrainedTokenizerFast", True),
    ("gpt2", "PreTrainedTokenizerFast", True),
    ("gemma", "PreTrainedTokenizerFast", True),
]
for model_type, tokenizer_class, right in cases:
    tokenizer = load(model_type, tokenizer_class)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    show(" ".join(filter(None, (model_type, tokenizer_class))), ids, tokenizer.decode(ids))
    assert (ids == own) == right
PYTHON
warnings=$(grep -v "PyTorch was not found" log || true)
if [ -n "$warnings" ]; then
  echo "there is a warning now: $warnings"
  exit 1
fi
echo "warnings: none"
