"""Options are printed once, and a letter is the reference, however a data set writes them.

Multiple choice, in records of every format: under ``choices`` or ``options`` as a list, as an object of letters, or as
arrays of texts and labels. Called by ``formats``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rz_workers.data.malformed import MalformedError, kind_of
from rz_workers.data.numbers import Number

FIELDS = ("choices", "options")
"""Where a record has them; the verifier ``choice`` reads the same ones (``rz_workers.reward.verifiers.simple``)."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]*")


@dataclass(frozen=True)
class Options:
    field: str
    """Of the record, whose they are."""
    texts: dict[str, str]
    """Letter -> text."""
    labels: tuple[str, ...]
    """The record's own names of them, which its answer may use; empty where it has none."""


def options_of(record: dict[str, Any]) -> Options | None:
    """The record's options; None where it has none. Raises MalformedError for what can't be read as options."""
    field = next((name for name in FIELDS if record.get(name)), None)
    if field is None:
        return None
    found = record[field]
    labels: tuple[str, ...] = ()
    if isinstance(found, dict) and isinstance(found.get("text"), list) and isinstance(found.get("label"), list):
        texts, labels = found["text"], tuple(map(str, found["label"]))
    elif isinstance(found, dict):
        texts, labels = list(found.values()), tuple(found)
    else:
        texts = found
    fits = isinstance(texts, list) and len(texts) <= len(_LETTERS) and len(labels) in (0, len(texts))
    if not fits or not all(isinstance(text, str | int | float) for text in texts):
        raise MalformedError(
            f'found {kind_of(found)} as "{field}"; a list of at most {len(_LETTERS)} is required, an object of letters '
            'with texts, or {"text": […], "label": […]}'
        )
    letters = [label.strip().upper() for label in labels]
    if not all(len(letter) == 1 and letter in _LETTERS for letter in letters) or len(set(letters)) < len(texts):
        letters = list(_LETTERS[: len(texts)])
    return Options(field, dict(zip(letters, _bare(letters, texts), strict=True)), labels)


def _bare(letters: list[str], texts: list[Any]) -> list[str]:
    """Options without letters of their own, as ``A)21`` has."""
    own = [text if isinstance(text, str) else str(text) for text in texts]
    pairs = zip(letters, own, strict=True)
    matches = [re.fullmatch(rf"[(\[]?{letter}[)\].:]\s*(.+)", text, re.DOTALL) for letter, text in pairs]
    return [match[1] for match in matches if match] if all(matches) else own


def with_options(question: str, options: Options) -> str:
    """The question with its options in lettered lines, unless it has them already."""
    if _is_printed(question, options.texts):
        return question
    return question + "".join(f"\n{letter}. {text}" for letter, text in options.texts.items())


def _is_printed(question: str, texts: dict[str, str]) -> bool:
    whole = " ".join(question.split())
    found = [
        re.search(rf"(?<!\w)[(\[]?{letter}[)\].:]\s*{re.escape(' '.join(text.split()))}", whole)
        for letter, text in texts.items()
    ]
    if all(found):
        return True
    # A copy may differ from its original in a blank or a dollar sign: lines with all letters and one text will do.
    lines = r"[\s\S]*".join(rf"^\s*[(\[]?{letter}[)\].:]" for letter in texts)
    return any(found) and re.search(lines, question, re.MULTILINE) is not None


def letter_of(answer: str, options: Options) -> str:
    """The letter that an answer means: a label, a letter, an option's text, or its place counted from 0.

    Raises MalformedError where it means none, or two.
    """
    texts, stripped = options.texts, answer.strip()
    letters = list(texts)
    place = {letters[int(stripped)]} if stripped.isdecimal() and int(stripped) < len(letters) else set[str]()
    letter = _LETTER.fullmatch(stripped)
    meant = {each for each, text in texts.items() if text.split() == stripped.split()}
    if stripped in options.labels:
        meant = {letters[options.labels.index(stripped)]}
    elif isinstance(answer, Number) and place:
        # A number beside texts is a place; beside numbers it may be both.
        meant = place | (meant if any(isinstance(text, Number) for text in texts.values()) else set())
    elif letter is not None and letter[1].upper() in texts:
        meant.add(letter[1].upper())
    elif not meant:
        meant = place  # a table of texts has its places as texts
    if len(meant) != 1:
        raise MalformedError(
            f"found the answer {answer!r}, which means {' or '.join(sorted(meant)) or 'no option'} of "
            f'"{options.field}" ({", ".join(letters)}); a letter, the text of one option, or its place counted from 0 '
            "is required"
        )
    return meant.pop()
