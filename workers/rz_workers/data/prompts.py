"""A prompt's tokens say what its text says: a tokenizer that does not round-trip it is refused.

From a question to prompt tokens, and the tokenizer that does it. Called by ``rz_workers.data.prompt_table``
(trainer) and by the engines, which decode with the same tokenizer. transformers is imported only when a tokenizer is
loaded.
"""

from __future__ import annotations

import unicodedata
from itertools import takewhile
from pathlib import Path
from typing import Any

from rz_workers.runtime import UserError

PROBE_QUESTION = "7"
"""Any tokenizer for arithmetic has it; ``prepare`` probes with the run's first question."""


def render(template: str, question: str) -> str:
    """The prompt's text: ``{question}`` is replaced, every other brace is literal."""
    return template.replace("{question}", question)


def brings_bos(tokenizer: Any, template: str) -> bool:
    """Whether the template begins with the tokenizer's BOS text, as one that was copied from a chat template may. What
    a question begins with is data, and does not count."""
    bos = tokenizer.bos_token
    return bool(bos) and template.partition("{question}")[0].startswith(bos)


def tokenize(tokenizer: Any, text: str, *, has_bos: bool = False) -> list[int]:
    """Token ids of a prompt: BOS in front if the tokenizer has one, no other special tokens (RECIPE.md).

    Args:
        has_bos: the text's own BOS is the one (``brings_bos``): there is no second one.
    """
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    # By hand: add_special_tokens would also put EOS or others where a tokenizer's template has them.
    bos = tokenizer.bos_token_id
    return ids if bos is None or (has_bos and ids[:1] == [bos]) else [int(bos), *ids]


def check_round_trip(tokenizer: Any, template: str, question: str = PROBE_QUESTION) -> None:
    """Raise UserError unless the tokenizer gives back the rendered template that it encoded.

    A tokenizer that was loaded under the wrong class can lose most of a prompt without any error (TINY.md). Texts are
    compared in Unicode form NFC, which many tokenizers apply on purpose.
    """
    text = render(template, question)
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    # No clean-up: it takes away blanks before punctuation, and the text would differ from the prompt.
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    expected, found = unicodedata.normalize("NFC", text), unicodedata.normalize("NFC", decoded)
    if found != expected:
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(expected, found, strict=False)))
        start = max(0, equal - 20)
        raise UserError(
            f"the tokenizer ({type(tokenizer).__name__}) does not round-trip the prompt: from character {start} on it "
            f"gives {found[start : start + 60]!r}, required is {expected[start : start + 60]!r}. Either the tokenizer "
            "lacks characters of the prompt, or transformers loaded it under another class than it was made for; set "
            "model.tokenizer to one that fits, or change data.promptTemplate."
        )


def load_tokenizer(path_or_id: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or of a Hugging Face id, by ``AutoTokenizer``.

    Raises UserError, with the reason in one line, when it does not load.
    """
    # Here, not above: the ledger reads prompt tables in a process without torch and transformers.
    from transformers import AutoTokenizer

    name = str(path_or_id)
    if name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().is_dir():
        raise UserError(
            f"the tokenizer {name} does not load: there is no such folder; correct model.name or model.tokenizer"
        )
    try:
        return AutoTokenizer.from_pretrained(
            str(Path(name).expanduser()) if name.startswith("~") else name,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        # Whatever the files of a model make transformers raise, the model is what has to change.
        raise UserError(
            f"the tokenizer {name} does not load: {_first_line(error)}. Required is a folder or an id on the hub with "
            "tokenizer files that transformers knows; correct model.name, tokenizer, revision or secretName."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
