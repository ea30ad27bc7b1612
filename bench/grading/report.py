"""The figures of a judging, kept in ``figures.json``, and the tables that are made of them. Used by ``grade.py``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from judge import FRESH, PAIRS, Status
from pydantic import BaseModel, ConfigDict

FIGURES = Path(__file__).with_name("figures.json")
PAGE = Path(__file__).parents[2] / "docs" / "grading.md"
BEGIN, END = "<!-- Written by `make grading`. -->\n", "<!-- The end of what `make grading` writes. -->\n"
LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy")


class Errors(BaseModel):
    """On pairs of one kind, or of all."""

    model_config = ConfigDict(extra="forbid")
    accepted_wrong: int = 0
    refused_right: int = 0
    timed_out: int = 0
    crashed: int = 0

    def add(self, equal: bool, status: Status) -> None:
        """Count one pair by its label and what the verifier made of it."""
        self.timed_out += status == "timed out"
        self.crashed += status == "crashed"
        self.accepted_wrong += status == "equal" and not equal
        self.refused_right += status == "unequal" and equal

    def short(self) -> str:
        """``2 / 1`` for two wrong answers accepted and one right one refused; a dash for no error."""
        limits = self.timed_out + self.crashed
        text = f"{self.accepted_wrong} / {self.refused_right}" + (f" ({limits} without a verdict)" if limits else "")
        return "–" if text == "0 / 0" else text


class Half(Errors):
    """One verifier on one half of the pairs."""

    equal_pairs: int = 0
    unequal_pairs: int = 0
    cpu_seconds: float = 0.0
    kinds: dict[str, Errors] = {}

    def count(self, kind: str, equal: bool, status: Status, cpu_seconds: float) -> None:
        self.add(equal, status)
        self.kinds.setdefault(kind, Errors()).add(equal, status)
        self.equal_pairs += equal
        self.unequal_pairs += not equal
        self.cpu_seconds = round(self.cpu_seconds + cpu_seconds, 6)


class Itself(BaseModel):
    """The references of a data set, each against itself."""

    model_config = ConfigDict(extra="forbid")
    data: str
    """Name of the file."""
    references: int
    """Different ones."""
    exceptions: list[str]
    """Those that are not equal to themselves."""


class Grade(BaseModel):
    """One verifier."""

    model_config = ConfigDict(extra="forbid")
    halves: dict[str, Half] = {}
    itself: Itself | None = None
    """None where no data set was given."""


class Figures(BaseModel):
    """figures.json."""

    model_config = ConfigDict(extra="forbid")
    pairs: str
    """SHA-256 of pairs.jsonl and fresh.jsonl."""
    libraries: dict[str, str]
    grades: dict[str, Grade]


def digest() -> str:
    return hashlib.sha256(PAIRS.read_bytes() + FRESH.read_bytes()).hexdigest()


def write(grades: Mapping[str, Grade]) -> None:
    """Keep the figures and write the page. References that were not compared this time stay as they were."""
    known = Figures.model_validate_json(FIGURES.read_text()).grades if FIGURES.exists() else {}
    for name, grade in grades.items():
        if grade.itself is None and name in known:
            grade.itself = known[name].itself
    libraries = {name: version(name) for name in LIBRARIES}
    figures = Figures(pairs=digest(), libraries=libraries, grades=dict(grades))
    FIGURES.write_text(figures.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    PAGE.write_text(page(figures, PAGE.read_text()))


def page(figures: Figures, text: str) -> str:
    """``text``, docs/grading.md, with these figures between its markers."""
    libraries = ", ".join(f"{name} {number}" for name, number in figures.libraries.items())
    between = f"{BEGIN}\nWith {libraries}:\n\n{tables(figures.grades)}\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: between, text, flags=re.DOTALL)


def stale(verifiers: Iterable[str]) -> str | None:
    """What of page, figures, pairs and the project's verifiers does not agree; None where all do."""
    figures = Figures.model_validate_json(FIGURES.read_text())
    if figures.pairs != digest():
        return f"{FIGURES.name} is of other pairs than {PAIRS.name} has"
    if set(figures.grades) != set(verifiers):
        return f"{FIGURES.name} has {', '.join(figures.grades)}, but the project's verifiers are {', '.join(verifiers)}"
    text = PAGE.read_text()
    return f"{PAGE.name} is not what {FIGURES.name} says" if page(figures, text) != text else None


def tables(grades: Mapping[str, Grade]) -> str:
    """All figures in Markdown, which is to be read in a terminal too."""
    parts = [
        _confusion(grades),
        "Errors by kind, wrong accepted / right refused, of five each (fresh: of three or more):\n",
        _by_kind(grades),
    ]
    selves = "".join(_itself(name, grade.itself) for name, grade in grades.items() if grade.itself is not None)
    return "\n".join([*parts, *([f"References against themselves, boxed:\n\n{selves}"] if selves else [])])


def _confusion(grades: Mapping[str, Grade]) -> str:
    head = ("verifier", "half", "wrong accepted", "right refused", "timed out", "crashed", "CPU seconds", "a second")
    rows = []
    for name, grade in grades.items():
        for label, half in grade.halves.items():
            accepted = f"{half.accepted_wrong} of {half.unequal_pairs}"
            refused = f"{half.refused_right} of {half.equal_pairs}"
            speed = (half.equal_pairs + half.unequal_pairs) / half.cpu_seconds if half.cpu_seconds else float("nan")
            limits = (str(half.timed_out), str(half.crashed))
            rows.append((f"`{name}`", label, accepted, refused, *limits, f"{half.cpu_seconds:.1f}", f"{speed:.0f}"))
    return _table(head, rows)


def _by_kind(grades: Mapping[str, Grade]) -> str:
    columns = {f"`{name}` {label}": half for name, grade in grades.items() for label, half in grade.halves.items()}
    kinds = dict.fromkeys(kind for half in columns.values() for kind in half.kinds)
    rows = [(kind, *(half.kinds.get(kind, Errors()).short() for half in columns.values())) for kind in kinds]
    return _table(("kind", *columns), rows)


def _itself(name: str, itself: Itself) -> str:
    found = ", ".join(f"`{reference}`" for reference in itself.exceptions)
    equal = itself.references - len(itself.exceptions)
    beside = f"; not {found}" if found else ""
    return f"- `{name}`: {equal} of {itself.references} different ones of {itself.data} equal themselves{beside}.\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], re.sub(r"[^|]+", "---", lines[0]), *lines[1:]]) + "\n"
