r"""The same text in many dresses comes out as one: LaTeX or Unicode, bold or not, spaced or not.

Text to normal text, in which every operator is one character (``\leq`` and ``<=`` are ``≤``), a set's braces are
``⦃⦄``, TeX's groups are ``{}``, and what is upright is ``\text{...}``. Pure, and linear in the text's length.
"""

from __future__ import annotations

import re
import unicodedata

from rz_workers.reward.verifiers.robust.dress import bare, in_text, undressed
from rz_workers.reward.verifiers.robust.symbols import COMMANDS, FRACTIONS, SUBSCRIPTS, SUPERSCRIPTS

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\x00-\x08\x0b-\x1f\x7f]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000\t\n]+|~")
_SUPERSCRIPT = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
_SUBSCRIPT = re.compile(f"[{''.join(SUBSCRIPTS)}]+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-zπ]|\{|\()?")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_PLAIN = (("<=", "≤"), (">=", "≥"), ("!=", "≠"), ("+/-", "±"), ("=>", "⇒"), ("->", "→"))
_DOTS = re.compile(r"\.\s?\.\s?\.(?!\d)")

_UPRIGHT = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|normal|up)?|mbox|hbox|mathrm|mathsf|mathtt|operatorname\*?|textsc|emph)\s*(?=\{)"
)
_STYLES = "mathbf boldsymbol bm mathit mathcal mathfrak mathnormal ensuremath vec hat boxed fbox underline"
_STYLED = re.compile(rf"\\(?:{'|'.join(_STYLES.split())})\s*(?:\{{([A-Za-z0-9])\}}|(?=[\\{{A-Za-z]))")
_COLOURED = re.compile(r"\\(?:text)?color\{\w+\}")
_ITALIC = re.compile(r"\\text\{([ei])\}")
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![a-zA-Z])\.?|\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![a-zA-Z])"
    r"|\\!\s*|\\[()\[\]](?!\s*\d*(?:pt|em|ex)\])|</?(?:b|i|em|strong|u|p|span|code)>"
)
_SPACED = re.compile(r"(?<!\\)\\[,;: >]|\\(?:quad|qquad|enspace|thinspace|space|hfill)(?![a-zA-Z])|&nbsp;")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_ADDITIVE = {
    r"\tfrac": r"\frac",
    r"\dfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
}

_EMPHASIS = tuple(
    re.compile(
        rf"(?<![\w)\]}}{re.escape(mark[0])}]){re.escape(mark)}(?=\S)(.+?)(?<=\S){re.escape(mark)}(?![\w({re.escape(mark[0])}])"
    )
    for mark in ("***", "**", "__", "`", "*", "_")
)
_DEGREES = re.compile(r"\^\s*(?:\{\s*∘\s*\}|∘)|\\degree(?![a-zA-Z])|\\textdegree(?![a-zA-Z])")
_THOUSANDS = re.compile(r"(?<![\d.,_])(\d{1,3})((?:([, '’_])\d{3})(?:\3\d{3})*)(?![\d_])(?!\3?\d)")
_INTERVALS = (
    (re.compile(r"\]([^\[\]]*[,;][^\[\]]*)\["), r"(\1)"),
    (re.compile(r"(^|[∪∩∖∈=(])\s*\]([^\[\]]*[,;][^\[\]]*)\]"), r"\1(\2]"),
    (re.compile(r"\[([^\[\]]*[,;][^\[\]]*)\[(?=\s*(?:$|[∪∩∖)]))"), r"[\1)"),
)
"""``]0, 1[`` is ``(0, 1)``."""
_JOINED = (
    (re.compile(r"\\text\{\s*(and|or)\s*\}"), r" \1 "),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)"), "*"),
    (re.compile(r"(?<=ℝ)\s*-\s*(?=⦃)"), "∖"),
    (
        re.compile(r"\\p?mod(?![a-z])\s*(?:\{([^{}]*)\}|(\w+))|\(\s*(?:\\?b?mod|\\text\{mod\s*\})\s*([^()]*)\)"),
        r"⟮\1\2\3⟯",
    ),
    (re.compile(r"(?<=[\])])\s*U\s*(?=[\[(])"), "∪"),
    (
        re.compile(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*(\^\{?\d\}?)?\s*\}"),
        r"\\text{\1/\2}\3",
    ),
)
"""What letters mean between others: ``or``, ``3 x 10^4``, ``(mod 7)``, ``[0, 1] U [2, 3]``, metres over seconds."""
_LAST_STOP = re.compile(r"(?:(?<!\.)\.|[,;:?]|\\\\|\\)\s*$")
_PLAIN_SET = re.compile(r"([∈∪∩∖=]\s*)\{([^{}]*,[^{}]*)\}(?=\s*(?:$|[∪∩∖]))")
_CURRENCY = "＄"
"""``$`` as a sign of money, until the marks of mathematics are gone."""


def normal(text: str) -> str:
    r"""Example: ``**\dfrac{1}{2}\,.**`` gives ``\frac{1}{2}``; ``x \leqslant 1{,}234`` gives ``x ≤ 1234``."""
    text = _unicode(undressed(text))
    text = _marks(text)
    text = in_text(_commands(text))
    text = _THOUSANDS.sub(_without_separators, _bare_of_braces(" ".join(text.split())))
    text = _edges(text)
    for written, meant in _INTERVALS if text.startswith("]") or text.endswith("[") else ():
        text = written.sub(meant, text)
    return text


def _unicode(text: str) -> str:
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text).replace("\\~", "~"))
    text = _SUPERSCRIPT.sub(lambda found: "^{" + "".join(SUPERSCRIPTS[letter] for letter in found.group()) + "}", text)
    text = _SUBSCRIPT.sub(lambda found: "_{" + "".join(SUBSCRIPTS[letter] for letter in found.group()) + "}", text)
    text = "".join(FRACTIONS.get(letter, letter) for letter in text)
    text = "".join(letter if letter.isascii() else _plain_letter(letter) for letter in text)
    text = _DOTS.sub("…", text)
    for written, meant in _PLAIN:
        text = text.replace(written, meant)
    return _ROOT.sub(_root, text)


def _plain_letter(letter: str) -> str:
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    if letter in COMMANDS.values():
        return letter
    plain = COMMANDS.get(letter) or unicodedata.normalize("NFKC", letter)
    return COMMANDS.get(plain, plain)


def _root(found: re.Match[str]) -> str:
    sign, under = _ROOTS[found[1]], found[2] or ""
    if under in ("", "{"):
        return sign + under
    return f"{sign}(" if under == "(" else f"{sign}{{{under}}}"


def _marks(text: str) -> str:
    """Without the marks of mathematics and of emphasis."""
    text = text.replace("\\$", _CURRENCY)
    if text.count("$") % 2 == 0:
        text = text.replace("$", "")
    text = text.replace("$", _CURRENCY).strip()
    for mark in _EMPHASIS:
        text = mark.sub(r"\1", text)
    return text.replace("**", "^").replace(_CURRENCY, "$")


def _commands(text: str) -> str:
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _DROPPED.sub("", _SPACED.sub(" ", text)).replace("\\{", "⦃").replace("\\}", "⦄").replace("\\%", "%")
    text = (
        _STYLED.sub(lambda found: found[1] or "", _COLOURED.sub("", _UPRIGHT.sub(lambda _: r"\text", text)))
        .replace("\\|", "|")
        .replace("\\&", "&")
        .replace("\\#", "#")
    )
    text = re.sub(r"\\mathbb\s*\{?\s*([A-Z])\s*\}?", lambda found: COMMANDS.get(f"mathbb{found[1]}", found[1]), text)
    text = _ITALIC.sub(r"\1", text)
    text = _COMMAND.sub(lambda found: _ADDITIVE.get(found.group()) or _sign(found.group()), text)
    for written, meant in _JOINED:
        text = written.sub(meant, text)
    return _DEGREES.sub("°", text)


def _sign(command: str) -> str:
    meant = COMMANDS.get(command, command)
    return meant if not meant.isalpha() or len(meant) > 1 or not meant.isascii() else f"{meant} "


def _bare_of_braces(text: str) -> str:
    """``{{5}}`` is ``5``; a set in plain braces gets a set's."""
    text = _PLAIN_SET.sub(r"\1⦃\2⦄", text).strip()
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        inside = text[1:-1].strip()
        if any(letter in ",;" for letter in at_top(inside)) and not _THOUSANDS.fullmatch(inside.lstrip("-$")):
            return f"⦃{inside}⦄"
        text = inside
    return text


def _without_separators(found: re.Match[str]) -> str:
    """The digits alone where they stand in no brackets: ``(1,234)`` is a pair."""
    before = found.string[: found.start()]
    inside = found[3] == "," and any(before.count(o) > before.count(c) for o, c in ("()", "[]", "⦃⦄", "⟨⟩"))
    listed = found[3] == "," and (before.rstrip().endswith(",") or found.string[found.end() :].lstrip().startswith(","))
    if inside or listed or (found[3] == "_" and len(found[2]) == 4 and int(found[2][1:]) in range(2, 37)):
        return found.group()
    return found[1] + found[2].replace(found[3], "")


def _edges(text: str) -> str:
    """Without what leads up to the answer, and without the punctuation behind it; an ellipsis is none."""
    before = None
    while before != text:
        before = text
        text = _LAST_STOP.sub("", bare(text)).strip()
    return text


# ------------------------------------------------------------------------------------------------------- brackets

OPENING, CLOSING = "([{⦃⟨", ")]}⦄⟩"


def closing(text: str, start: int) -> int:
    """Where the bracket at ``start`` is closed, whatever bracket closes it; -1 where it is not."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] in OPENING:
            depth += 1
        elif text[position] in CLOSING:
            depth -= 1
            if depth == 0:
                return position
    return -1


def at_top(text: str) -> str:
    """The text with a blank for everything that stands in brackets, brackets too; as long as it was."""
    depth, out = 0, []
    for letter in text:
        if letter in OPENING:
            depth += 1
        out.append(letter if depth == 0 else "\0")
        if letter in CLOSING:
            depth = max(depth - 1, 0)
    return "".join(out)


def split_top(text: str, separators: re.Pattern[str]) -> list[str]:
    """Split where a separator stands in no brackets."""
    parts, start = [], 0
    for found in separators.finditer(at_top(text)):
        parts.append(text[start : found.start()].strip())
        start = found.end()
    return [*parts, text[start:].strip()]
