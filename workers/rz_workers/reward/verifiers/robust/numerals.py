"""Numbers in words are numbers: ``two hundred fifty``, ``1.2 million``, ``three fifths``, ``4 and 2/5``.

Normal text to the same text in digits, which is read in its place.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rz_workers.reward.verifiers.robust.words import number_of, unwrapped

MAX_CHARS = 200
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_UNITS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)
_WORD = rf"(?:{'|'.join([_UNITS, *_SCALES])})"
_WHOLE = rf"\b{_WORD}(?:[\s-]+(?:and\s+)?{_WORD})*\b"
_IN_WORDS = re.compile(
    rf"(?:\b(minus|negative)\s+)?(?:({_WHOLE})\s+and\s+(?=(?:a|one|two|three|four|five|six|seven|eight|nine|\d+)[\s-]+(?:{'|'.join(_PARTS)})))?"
    rf"(?:({_WHOLE}|\ba)(?:[\s-]+({'|'.join(_PARTS)})s?\b(?:\s+of\b(?=\s+a\b))?)?)",
    re.IGNORECASE,
)
_SCALED = re.compile(
    r"(\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\})\s*(?:\\text\{\s*)?(?<!\w)(hundred|thousand|million|billion|trillion|dozen)s?\b(\s*\})?",
    re.IGNORECASE,
)
_MIXED = re.compile(
    r"(-?\s*\d+)\s*(?:\\text\{\s*and\s*\}|and|&)\s*(\d+\s*/\s*\d+|\\frac\{\d+\}\{\d+\}|\\frac\s*\d\d)(?!\d)(.*)"
)
_ANY = re.compile(rf"\b(?:{_WORD}|a (?:half|third|quarter))\b", re.IGNORECASE)


def in_digits(text: str) -> list[str]:
    """The text with its numbers in digits, where one is in words."""
    if len(text) > MAX_CHARS:
        return []
    if found := _MIXED.fullmatch(text):
        above, below = re.findall(r"\d+" if re.search("[/{]", found[2]) else r"\d", found[2])
        return [f"{found[1]}\\frac{{{above}}}{{{below}}}{found[3]}"]
    if _ANY.search(text) is None:
        return []
    plain = unwrapped(text)
    if not re.fullmatch(r"[\w\s,.$€£%/:'\"-]+", plain):
        return []
    written = _IN_WORDS.sub(_digits, plain)
    return [written] if written != plain else []


def scaled(text: str) -> str:
    """``1.2 million`` as ``1200000``."""
    return _SCALED.sub(_scaled, text) if len(text) <= MAX_CHARS else text


def _scaled(found: re.Match[str]) -> str:
    size = found[1] if found[1][0] != "\\" else "{}/{}".format(*re.findall(r"\d+", found[1]))
    text = _written(Fraction(size) * _SCALES[found[2].lower()])
    return text if found[3] or "\\text{" not in found.group() else f"{text}\\text{{"


def _digits(found: re.Match[str]) -> str:
    sign, whole, words, part = found.groups()
    if words.lower() == "a" and part is None:
        return found.group()
    size: Fraction | None = Fraction(1) if words.lower() == "a" else _whole(words)
    if size is None:
        return found.group()
    if part:
        size /= _PARTS[part.lower()]
    if whole:
        more = _whole(whole)
        if more is None:
            return found.group()
        size += more
    return _written(-size if sign else size)


def _whole(words: str) -> Fraction | None:
    """``two hundred and fifty thousand``; None where the words follow in no order."""
    total = group = Fraction(0)
    tens = False
    for word in re.findall(r"[a-z]+", words.lower()):
        if word == "and":
            continue
        if word in _SCALES:
            scale = _SCALES[word]
            if scale < 1000:
                group = Fraction(scale) * (group or 1)
            else:
                total, group = total + Fraction(scale) * (group or 1), Fraction(0)
            tens = False
            continue
        value = number_of(word)
        if value is None or (group % 100 and not (tens and value < 10)):
            return None
        group, tens = group + value, value >= 20
    return total + group


def _written(value: Fraction) -> str:
    return str(value)
