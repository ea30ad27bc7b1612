"""A word-level tokenizer of about 80 tokens whose every token sequence survives decoding and encoding.

Who calls this: ``build``, ``corpus`` and the tests. Runs never do: they load the saved folder with ``AutoTokenizer``,
as for any model.

Tokens carry their leading space (`` 15``, `` a``, `` </think>``), so decoding is concatenation, and a number always has
something in front (`` 15`` or ``{15``), so that no two tokens in a row read as a third. What was sampled is therefore
what its text encodes to.
"""

from __future__ import annotations

from task import LARGEST_TOTAL, LETTERS, OPERANDS
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
QUESTION_END = " =?"
WORDS = (
    *("Exercise:", "User:", " Assistant:", QUESTION_END, " =", " Wait,", " check:"),
    *(" <think>", " </think>", " <answer>", " </answer>", " \\boxed", "}"),
)


def vocabulary() -> list[str]:
    """All tokens; a token's place is its id."""
    numbers = [f"{mark}{number}" for mark in (" ", "{") for number in range(LARGEST_TOTAL + 1)]
    return [
        *(PAD, BOS, EOS, UNKNOWN),
        *WORDS,
        *numbers,
        *(f"{operand:+d}" for operand in OPERANDS),
        *(f" {letter}" for letter in LETTERS),
    ]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, to be saved with ``save_pretrained``. Text outside the vocabulary becomes ``<unk>``, which fails
    the round trip that a run checks at its start."""
    tokens = vocabulary()
    longest_first = sorted(tokens[4:], key=len, reverse=True)
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(_escape, longest_first))), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _escape(token: str) -> str:
    """``token`` as a pattern of Oniguruma, the regex engine of ``tokenizers``."""
    return "".join("\\" + character if character in "\\?+{}" else character for character in token)
