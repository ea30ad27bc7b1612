r"""Tables: what is written in many ways, and the one character that stands for it in normal text."""

from __future__ import annotations

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ", "0123456789+-nx", strict=True))
FRACTIONS = {
    letter: rf"\frac{{{above}}}{{{below}}}"
    for letter, above, below in (
        ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
        ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
        ("⅑", 1, 9), ("⅒", 1, 10),
    )
}  # fmt: skip

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon "
    "phi chi psi omega"
)
_LETTERS = "αβγδεζηθικλμνξοπρστυφχψω"
GREEK = dict(zip(_GREEK.split(), _LETTERS, strict=True))

_WRITTEN: dict[str, str] = {
    "≤": r"\le \leq \leqslant \leqq ⩽ ≦",
    "≥": r"\ge \geq \geqslant \geqq ⩾ ≧",
    "<": r"\lt &lt;",
    ">": r"\gt &gt;",
    "≠": r"\ne \neq",
    "≈": r"\approx \simeq ≃",
    "≡": r"\equiv",
    "±": r"\pm ±",
    "∓": r"\mp",
    "*": r"\cdot \times \ast · × ⋅ ∙ • ∗ ✕ ⨯",
    "/": r"\div ÷ ∕ ⁄",
    "-": "− – — ‐ ‑ ‒ ― ﹣",
    "∪": r"\cup",
    "∩": r"\cap",
    "∈": r"\in",
    "∉": r"\notin",
    "∖": r"\setminus \smallsetminus \backslash",
    "∅": r"\emptyset \varnothing",
    "∞": r"\infty",
    "∘": r"\circ",
    "°": "º ˚",
    "…": r"\ldots \dots \cdots \dotsc \dotsb \dotsm \dotso \vdots \ddots \textellipsis \mathellipsis ⋯ …",
    ":": r"\colon ∶ ：",
    "¢": r"\cent \cents \textcent ￠",
    "⦃": r"\lbrace",
    "⦄": r"\rbrace",
    "⟨": r"\langle",
    "⟩": r"\rangle",
    "|": r"\mid \vert \lvert \rvert ∣ ｜",
    "⌊": r"\lfloor",
    "⌋": r"\rfloor",
    "⌈": r"\lceil",
    "⌉": r"\rceil",
    "(": r"\lparen",
    ")": r"\rparen",
    "[": r"\lbrack",
    "]": r"\rbrack",
    "→": r"\to \rightarrow \longrightarrow",
    "⇒": r"\implies \Rightarrow \Longrightarrow",
    "∧": r"\land \wedge",
    "∨": r"\lor \vee",
    "△": r"\triangle ∆",
    "∠": r"\angle \measuredangle",
    "'": r"\prime ’ ′ ‘",
    '"': r"\textquotedblleft \textquotedblright “ ” ″",
    ".": "。 ．",
    ",": "、 ，",
    "ℝ": r"\R mathbbR",
    "ℤ": r"\Z mathbbZ",
    "ℕ": r"\N mathbbN",
    "ℚ": r"\Q mathbbQ",
    "ℂ": r"\C mathbbC",
    "Δ": r"\Delta",
    "Γ": r"\Gamma",
    "Θ": r"\Theta",
    "Λ": r"\Lambda",
    "Σ": r"\Sigma",
    "Φ": r"\Phi",
    "Ψ": r"\Psi",
    "Ω": r"\Omega",
    "€": r"\euro \texteuro \EUR",
    "£": r"\pounds \textsterling",
    "ε": r"\varepsilon ϵ",
    "φ": r"\varphi ϕ",
    "θ": r"\vartheta ϑ",
    "μ": "µ",
}

COMMANDS: dict[str, str] = {way: sign for sign, ways in _WRITTEN.items() for way in ways.split()}
COMMANDS |= {f"\\{name}": letter for name, letter in GREEK.items()}
"""By the way in which it is written: the sign."""
for _sign in (*_WRITTEN, *_LETTERS):
    COMMANDS.setdefault(_sign, _sign)

LATEX: dict[str, str] = {
    sign: f"{ways.split()[0]} " for sign, ways in _WRITTEN.items() if ways.startswith("\\") and not sign.isascii()
} | {letter: f"\\{name} " for name, letter in GREEK.items()}
LATEX |= {
    "⦃": r"\{",
    "⦄": r"\}",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "⟮": r"\pmod{",
    "⟯": "}",
}
LATEX |= {"ℂ": r"\mathbb{C}", "°": r"^\circ ", "*": r"\cdot ", "%": r"\%", "$": r"\$"}
LATEX |= {"⟮": r"\pmod{", "⟯": "}"}
"""For the library: a sign of normal text as LaTeX."""


def to_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
