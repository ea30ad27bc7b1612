r"""What is said or set around an answer, and says nothing of it: words in front, braces around a comma, quotation
marks.

Patterns of ``normal``: before Unicode and commands are normal (``undressed``), within upright text (``in_text``), and
at the ends of normal text (``bare``).
"""

from __future__ import annotations

import re

_BEFORE = (
    (re.compile(r"\\math(?:bin|rel|ord|op|open|close|punct|inner)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"``([^`'\"]*)(?:''|\")"), r"\1"),
    (re.compile(r"`([^`'\"]+)'"), r"\1"),
    (re.compile(r"[«„]\s*([^«»„“”]*?)\s*[»“”]"), r"\1"),
    # `20 – 30` is a range, as `x – 30` is a difference: the dash loses its spaces alone
    (re.compile(r"(?<=[\d%°}a-z])\s*[–—]\s*(?=[-−$€£\d])"), "-"),
    (re.compile(r"(?<=\d)(?:\\,|[\u2006\u2009\u200a\u202f])(?=\d{3,4}(?!\d|\s*/))"), ""),
    (re.compile(r"(\.\d{3})(?: |\\,|~)(\d{1,3})(?![\d./])"), r"\1\2"),
    (re.compile(r"(?<=[\w}°])\s*\^\s*(?:\{\s*((?:\\prime\s*|'|′)+)\}|(\\prime(?![a-z])|′|''?))"), r"\1\2"),
    (re.compile(r"\\(?:textdollar|mathdollar)(?![a-zA-Z])"), r"\\$"),
    (re.compile(r"\\underline\s*(?=\{)|\\underbar\s*(?=\{)"), ""),
)
_BRACED = re.compile(r"(?<![\^_])\{\s*([,.:;=+<>…-])\s*\}|(?<=…)\s*\{\s*\}")
_IN_TEXT = re.compile(r"\\text\{[^{}]*\\[^{}]*\}")
_ESCAPED = re.compile(r"\\([_&#%\- ])")
_DOUBLED = re.compile(r"\\text\{\s*\{([^{}]*)\}\s*\}")
_UNWRAPPED = (
    (re.compile(r"\\text\{([A-Z])\}(?=\s*[=(])"), r"\1"),
    (re.compile(r"\\text\{\s*(USD|EUR|GBP|INR|Rs\.?)\s*\}"), r"\1 "),
)
"""``\\text{P}(2, 9)``, ``\\text{USD } 5``."""
_FRACTION = re.compile(r"(?<!frac\d)(?<=\d)\s*\{\s*(\\frac\{\d+\}\{\d+\})\s*\}")
_PUNCTUATION = re.compile(r"\\text\{\s*([,;:.…$€£¥₹¢%°+=/-]|\\ldots|\\dots)\s*\}")
_ANSWER = (
    r"(?:(?:so|thus|hence|therefore|and)?,?\s*(?:the|my|our)?\s*(?:(?:final|correct|right|best|only|required)\s+)*"
    r"(?:answer|result|solution|choice|option|value|ratio|range|point|angle|time|date|number|set|interval|vertex|center|"
    r"centre|sum|probability|total|cost|price)(?:\s+(?:of|for)\s+[^\s=]{1,12})?\s*(?:is|are|was|:|=)\s*(?:exactly\s+|simply\s+)?:?|ans(?:wer)?\s*[.:]|[a-z]\s+is\s+(?=[\d\\(-])|[=≈:]\s*)+"
)
_LEAD = re.compile(_ANSWER, re.IGNORECASE)
_TEXT_LEAD = re.compile(rf"\\text\{{\s*(?:{_ANSWER})\s*([^{{}}]*)\}}", re.IGNORECASE)
_NOUN = re.compile(
    r"(?:\\text\{\s*)?(?:at\s+)?(?:the\s+)?(?:ordered\s+)?(?:point|pair|triple|tuple|interval|set|vector|matrix|coordinates?|"
    r"number|value|equation|line|function|angle|vertex|cent(?:er|re)|focus|midpoint|vertices|foci|at(?=[\s}]))s?\s*(?:\}\s*)?(?=[(\[⦃⟨∅\d√-]|\\(?!text|frac)|[A-Z]'?(?:_\w)?\s*\(|[A-Za-z]\s*=|[A-Z]\s*=)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"([\"'])([^\"']+)\1")


def undressed(text: str) -> str:
    for written, meant in _BEFORE:
        text = written.sub(meant, text)
    return text


def in_text(text: str) -> str:
    r"""Of normal ``\text{…}``: nothing is escaped in it, and what is mere punctuation is no text."""
    if "\\text" in text:
        text = _IN_TEXT.sub(lambda found: _ESCAPED.sub(lambda each: each[1].replace("-", ""), found.group()), text)
        text = _DOUBLED.sub(r"\\text{\1}", text)
        for written, meant in _UNWRAPPED:
            text = written.sub(meant, text)
        text = _PUNCTUATION.sub(r"\1", text)
    text = _FRACTION.sub(r"\1", text) if "{\\frac" in text else text
    return _BRACED.sub(lambda found: found[1] or "", text)


def bare(text: str) -> str:
    """Without the words in front and the quotation marks around."""
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    if text.startswith("\\text") and (found := _TEXT_LEAD.match(text)) and len(found[0]) > len(found[1]):
        text = (f"\\text{{{found[1]}}}" if found[1].strip() else "") + text[found.end() :]
    if (found := _NOUN.match(text)) and found.end() < len(text):
        text = text[found.end() :] if text[: found.end()].count("{") == text[: found.end()].count("}") else text
    if found := _QUOTED.fullmatch(text):
        text = found[2]
    return text
