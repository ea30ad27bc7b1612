"""Who is refused a record learns which line of the spec would read it, where one would.

The words for a record that can't be used. Called by ``datasets``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from rz_api.spec import DataSource
from rz_workers.data.formats import ANSWER, FORMATS, QUESTION, USERS
from rz_workers.data.malformed import MalformedError
from rz_workers.data.numbers import plain

SHOWN = 300
"""Characters of a record."""
_QUESTIONS = ("question", "problem", "prompt", "query", "instruction", "input", "q")
_ANSWERS = ("answer", "final_answer", "ground_truth", "answerkey", "target", "label", "solution", "output", "a")
"""Under which names people have them, the likeliest first. They make a suggestion, and are never taken in silence."""
SPEC_NAMES = {"question_column": "questionColumn", "answer_column": "answerColumn"}
_SAID = ("content", "value")
_DEPTH, _WIDTH = 4, 32


def refusal(reason: str, value: Any, source: DataSource, reads: Callable[[DataSource], object] | None) -> str:
    """What is wrong, the record, and what to change. ``reads`` reads the record under another source, or raises
    MalformedError; None where the records before it were read well, so that the record is at fault."""
    try:
        shown = json.dumps(plain(value), ensure_ascii=False, default=str)
    except ValueError:
        shown = str(value)
    shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + " …"
    line = next(filter(None, (_if_it_reads(each, source, reads) for each in _settings(value))), None) if reads else None
    change = f"set {line} at this source in spec.data" if line else "correct the record or take it out"
    return f"{reason}. The record is {shown}: {change}"


def _if_it_reads(setting: dict[str, str], source: DataSource, reads: Callable[[DataSource], object]) -> str | None:
    """The line, if it does."""
    if source.format != "auto":
        setting = {"format": "auto"} | setting
    plainly = {"format": "auto", "question_column": QUESTION, "answer_column": ANSWER}
    try:
        reads(source.model_copy(update=plainly | setting))
    except MalformedError:
        return None
    return ", ".join(f"{SPEC_NAMES.get(name, name)}: {value}" for name, value in setting.items())


def _settings(value: Any) -> Iterator[dict[str, str]]:
    """What might read a record, the likeliest first."""
    for each in FORMATS:
        if each.name != "columns" and each.detects(value, DataSource(uri="a")):
            yield {"format": each.name}
    paths = list(_paths(value))
    for answer in _ranked(paths, _ANSWERS):
        for question in _ranked(paths, _QUESTIONS):
            yield {"question_column": question, "answer_column": answer}


def _ranked(paths: list[tuple[str, ...]], names: tuple[str, ...]) -> list[str]:
    """Paths of that name, the likeliest name first; within a name the shortest path."""
    found = [(names.index(name), len(path), ".".join(path)) for path in paths if (name := _name(path)) in names]
    return [path for _, _, path in sorted(found)]


def _name(path: tuple[str, ...]) -> str:
    """What a field is called: a turn's or a list's element as they are."""
    while len(path) > 1 and (path[-1].isdecimal() or path[-1] in _SAID):
        path = path[:-1]
    return path[-1].lower() if len(path) == 1 or len(path[-1]) > 1 else ""


def _paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a record has texts and numbers; of turns, those of a user."""
    if isinstance(value, str):
        yield path
        return
    fields: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        fields = [*(value.items() if isinstance(value, dict) else enumerate(value))]
    if isinstance(value, dict) and (role := value.get("role", value.get("from"))) is not None:
        fields = [(name, each) for name, each in fields if name in _SAID and role in USERS]
    if len(path) < _DEPTH:
        for name, each in fields[:_WIDTH]:
            yield from _paths(each, (*path, str(name)))
