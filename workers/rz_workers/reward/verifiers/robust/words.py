"""Words are compared as words: their letters are no factors."""

from __future__ import annotations

import re
from fractions import Fraction

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORDY = re.compile(r"[\w\s'’\"“”&:;,.!?/()-]+")
_LETTERS = re.compile(r"[^\W\d_]{2}|^(?:[A-Z][a-z]?\d*){2,}$")
_UP_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety hundred"
_NUMBERS: dict[str, Fraction] = {word: Fraction(n) for n, word in enumerate(_UP_TO_TWENTY.split())}
_NUMBERS |= {word: Fraction(10 * n) for n, word in enumerate(_TENS.split(), start=1)}
_NUMBERS |= {"one hundred": Fraction(100), "half": Fraction(1, 2), "one half": Fraction(1, 2)}
_SAME = {
    "dne": "does not exist",
    "no real solution": "no solution",
    "no real solutions": "no solution",
    "no solutions": "no solution",
    "no solution exists": "no solution",
    "there is no solution": "no solution",
    "there are no solutions": "no solution",
    "empty set": "no solution",
    "null set": "no solution",
    "all reals": "all real numbers",
    "all real number": "all real numbers",
    "reals": "all real numbers",
    "real numbers": "all real numbers",
    "any real number": "all real numbers",
    "infinitely many solutions": "infinitely many",
    "infinite solutions": "infinitely many",
}
NO_SOLUTION, ALL_REALS = "no solution", "all real numbers"


def unwrapped(text: str) -> str:
    r"""Without ``\text{}``."""
    return _TEXT.sub(r" \1 ", text).strip()


def words(text: str) -> str | None:
    """What the words are compared by; None where there are none: at least two letters side by side."""
    plain = " ".join(unwrapped(text).replace("\\ ", " ").split())
    plain = re.sub(r"_\{?(\d+)\}?", r"\1", plain)  # a formula of chemistry
    plain = re.sub(r"(?<=\b[A-Za-z])\.(?=\s*[A-Za-z]\b|\s*$)", "", plain)
    if len(plain) > 500 or re.search(r"\w\(", plain) or not _WORDY.fullmatch(plain) or not _LETTERS.search(plain):
        return None
    signed = re.sub(r"(?<![\w)}])\s*-(?=\s*\d)", " minus ", plain.casefold()).replace("&", " and ")
    key = " ".join(re.sub(r"[-_/'’\"“”,;:.!?()&]", " ", signed).split())
    key = re.sub(r"^(?:the|an?) (?=\w)", "", key)
    key = re.sub(r"(?<=\d) (?=[ap]m$)", "", key)
    key = re.sub(r"\b(non|co|semi|anti|sub|multi|over|equi) (?=\w)", r"\1", key)
    return _SAME.get(key, key)


def number_of(key: str) -> Fraction | None:
    """``twelve``, ``twenty one``."""
    if key in _NUMBERS:
        return _NUMBERS[key]
    tens, _, ones = key.partition(" ")
    if tens in _NUMBERS and ones in _NUMBERS and _NUMBERS[tens] in range(20, 100, 10) and 0 < _NUMBERS[ones] < 10:
        return _NUMBERS[tens] + _NUMBERS[ones]
    return None
