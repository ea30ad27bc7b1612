"""What is no expression raises Unreadable: a word is never taken for the product of its letters.

Normal text to the tokens of an expression. Used by ``grammar``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rz_workers.reward.verifiers.robust.symbols import GREEK

MAX_CHARS, MAX_TOKENS = 4000, 1000
"""Longer texts are left to the library."""

_FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh arsinh arcosh artanh ln log lg exp abs "
    "sqrt cbrt floor ceil asin acos atan"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())
PRODUCTS = frozenset("uvwxyz")
"""A word of three of these letters at most is a product."""


class UnreadableError(ValueError):
    """The text is no expression of this grammar."""


@dataclass(frozen=True)
class Token:
    kind: Literal["number", "repeating", "name", "function", "command", "sign"]
    text: str


_TOKEN = re.compile(
    r"""\s*(?:
    (?P<repeating>\d*\.\d*(?:\\overline\{\s*\d+\s*\}|\\overline\s*\d|\\bar\{\s*\d+\s*\}|\\dot\{\s*\d\s*\}|\(\d+\))(?!\w))
    |(?P<scientific>(?:\d+(?:\.\d+)?|\.\d+)[eE][+-]?\d+(?![\w.]))
    |(?P<number>\d+(?:\.\d+)?\.?(?!\d)|\.\d+)
    |\\(?P<command>frac|sqrt|binom|overline|operatorname)(?![a-zA-Z])
    |\\(?P<function>[a-zA-Z]+)
    |(?P<word>[a-zA-Z]+|[^\W\d_])
    |(?P<sign>[-+*/^_!%°()\[\]{}|,±⌊⌋⌈⌉∞'])
    )""",
    re.VERBOSE,
)


def tokens(text: str) -> list[Token]:
    if len(text) > MAX_CHARS:
        raise UnreadableError("too long")
    out: list[Token] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.end() == position or len(out) > MAX_TOKENS:
            raise UnreadableError(text[position : position + 10])
        position = found.end()
        kind, written = found.lastgroup, found[found.lastgroup or 0]
        match kind:
            case "scientific" | "number":
                out.append(Token("number", written.rstrip(".")))
            case "repeating" | "command" | "sign":
                out.append(Token(kind, written))
            case "function":
                out.append(Token("function", _function(written)))
            case _:
                out.extend(_word(written, alone=len(written) == len(text)))
    return out


def _function(name: str) -> str:
    if name in FUNCTIONS:
        return name
    raise UnreadableError(name)


def _word(word: str, *, alone: bool) -> list[Token]:
    """Letters without a backslash: a function, a Greek letter, or a product of at most three variables."""
    if len(word) == 1:
        return [Token("sign" if word == "∞" else "name", word)]
    if word in FUNCTIONS:
        return [Token("function", word)]
    if word in GREEK:
        return [Token("name", GREEK[word])]
    if word.lower() in ("infinity", "infty", "inf", "oo"):
        return [Token("sign", "∞")]
    for known in (*sorted(FUNCTIONS, key=len, reverse=True), "pi", "sqrt"):
        # `2sinx`, `xsin(x)`, `pir`: a name that touches a variable, at either end
        if len(word) - len(known) in (1, 2) and known in (word[: len(known)], word[-len(known) :]):
            inside = Token("name", "π") if known == "pi" else Token("function", known)
            head = word.startswith(known)
            around = [Token("name", letter) for letter in (word[len(known) :] if head else word[: -len(known)])]
            return [inside, *around] if head else [*around, inside]
    if len(word) > 3 or (alone and not set(word) <= PRODUCTS):
        raise UnreadableError(word)
    return [Token("name", letter) for letter in word]
