"""Nothing malformed is skipped: the first such record ends the run at its start, with file, line and reason.

Questions with reference answers, from the formats that RECIPE.md lists. The trainer's rank 0 reads them once,
through ``rz_workers.data.prompt_table``; everybody else reads the prompt tables in the run's folder.

======================  ==========================================================================================
format                  one record
======================  ==========================================================================================
``orz``                 ``[{"from": "human", "value": Q}, {"from": "assistant", "ground_truth": {"value": A}}]``
``orz-eval``            ``{"prompt": [{"from": "user", "value": Q}], "final_answer": A, "choices"?: [...]}``
``columns``             ``{"question": Q, "answer": A}``, under the names that the source gives; JSON or Parquet
``reasoning-gym``       an item of the procedural task that the URI names
======================  ==========================================================================================

Files are a JSON array, JSON lines, or Parquet.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rz_api.spec import DataSource
from rz_api.storage_uri import is_local
from rz_api.verifiers import REASONING_GYM_URI, fields_read
from rz_workers.data import procedural
from rz_workers.data.procedural import check_scorer
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectMissingError, ObjectStore, StorageError
from rz_workers.storage.retry import is_transient

LONGEST_FIELDS = 65_536
"""Bytes of JSON that a record's other fields may take: a rollout holds those of every prompt, and sends them with each
response."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Record:
    """One problem."""

    prompt_id: str
    """Unique in its source: the record's ``id`` if it has one, else ``<label>-<row>``."""
    question: str
    reference_answer: str
    fields: str = "{}"
    """The record's other fields, a JSON object; empty where the source's verifier reads none."""


class _MalformedError(ValueError):
    """Reason why a record cannot be used; the caller adds where it is."""


def read_source(source: DataSource, label: str = "0", verifier: str = "") -> list[Record]:
    """All records of one source, in their order. ``label`` names the source in the ids of records that have none.
    ``verifier``: name of what grades its answers (``rz_api.verifiers``), which decides about the records' other fields.

    Raises UserError for a missing or empty file and for a malformed record (with file, line and reason), StorageError
    when storage does not answer.
    """
    if source.uri.startswith(REASONING_GYM_URI) or source.format == "reasoning-gym":
        if verifier == source.uri:
            check_scorer(source.uri)
        located = procedural.items(source.uri)
    elif _suffix(source.uri) in ("parquet", "pq"):
        located = _parquet(source, read_file(source.uri, source.secret_name), verifier)
    else:
        located = _json(source.uri, read_file(source.uri, source.secret_name))
    records = []
    kind: str = source.format
    for row, (place, value) in enumerate(located):
        if kind == "auto":
            kind = _detect(source.uri, value)
        try:
            question, answer, given_id = _parse(kind, value, source)
            fields = _other_fields(kind, value, source, verifier)
        except _MalformedError as reason:
            raise UserError(f"{source.uri}, {place}: {reason}") from None
        records.append(Record(given_id or f"{label}-{row}", question, answer, fields))
    if not records:
        raise UserError(f"{source.uri}: found no record; at least one is required: check the file")
    return unique_ids(records)


def unique_ids(records: Iterable[Record]) -> list[Record]:
    """The same records, the second and later ones of an id renamed to ``ID#2``, ``ID#3``, ..."""
    records = list(records)
    # Also the ids that are still to come: a record may itself be called ID#2.
    taken = {record.prompt_id for record in records}
    seen: dict[str, int] = {}
    unique = []
    for record in records:
        count = seen[record.prompt_id] = seen.get(record.prompt_id, 0) + 1
        if count > 1:
            while (name := f"{record.prompt_id}#{count}") in taken:
                count += 1
            taken.add(name)
            seen[record.prompt_id] = count
            record = replace(record, prompt_id=name)
        unique.append(record)
    return unique


# ------------------------------------------------------------------------------------------- files: place and value


def read_file(uri: str, secret_name: str | None, field: str = "spec.data") -> bytes:
    """The bytes of one file. ``field``: of the spec, where it is named. Raises UserError where that must change,
    StorageError when storage does not answer."""
    scheme = uri.partition("://")[0] + "://" if "://" in uri else ""
    path = uri.removeprefix(scheme)
    parent, slash, name = path.rpartition("/")
    if not name:
        raise UserError(f"{uri}: found a folder; one file is required: correct it in {field}")
    folder = scheme + (parent or slash) if scheme or slash else "."
    try:
        return ObjectStore(folder, secret_name).get(name)
    except ObjectMissingError as error:
        hint = " (a relative path starts at the working directory)" if is_local(uri) else ""
        raise UserError(f"{uri}: there is no such file; correct the uri in {field}{hint}") from error
    except StorageError as error:
        # An outage is no mistake of the user's: a UserError would end the run for good.
        if error.__cause__ is not None and is_transient(error.__cause__):
            raise
        raise UserError(
            f"{uri}: the file cannot be read: {error.__cause__}; check its permissions and secret"
        ) from error


def _suffix(uri: str) -> str:
    return uri.partition("?")[0].rpartition(".")[2].lower()


def _json(uri: str, data: bytes) -> Iterator[tuple[str, Any]]:
    """Values of a JSON array or of JSON lines, each with its place in words."""
    try:
        # utf-8-sig: editors on Windows put a byte order mark in front, which json refuses.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{uri}, line {line}: found bytes that are not UTF-8; data files must be UTF-8 text") from error
    lines = _suffix(uri) in ("jsonl", "ndjson") or not text.lstrip().startswith("[")
    return _json_lines(uri, text) if lines else _json_array(uri, text)


def _json_lines(uri: str, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines: it also cuts at U+2028 and U+0085, which may stand in a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{uri}, line {number}: found invalid JSON ({error.msg} at column {error.colno}); every line "
                    "must be one record"
                ) from error
            yield f"line {number}", value


def _json_array(uri: str, text: str) -> Iterator[tuple[str, Any]]:
    """The array is cut by hand so that each record's line is known."""
    decoder = json.JSONDecoder()
    position, counted, line, number = text.index("[") + 1, 0, 1, 0
    while True:
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            rest = _skip_space(text, position + 1)
            if rest < len(text):
                raise UserError(f"{uri}, line {_line(text, rest)}: found text after the array; remove it")
            return
        if number:
            if text[position : position + 1] != ",":
                raise UserError(
                    f"{uri}, line {_line(text, position)}: found no ',' or ']' after record {number}; the file must be "
                    "one JSON array (or JSON lines, with the suffix .jsonl)"
                )
            position = _skip_space(text, position + 1)
        number += 1
        # Counted on from the record before: from the start each time it would be quadratic.
        line += text.count("\n", counted, position)
        counted = position
        try:
            # Given the whole text, so that an error's line is the file's.
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{uri}, line {error.lineno}: found invalid JSON in record {number} ({error.msg}); correct or remove it"
            ) from error
        yield f"record {number} (line {line})", value


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _parquet(source: DataSource, data: bytes, verifier: str) -> Iterator[tuple[str, Any]]:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{source.uri}: found a file that is not Parquet ({error}); correct the file or its name"
        ) from error
    required = {source.question_column: "questionColumn", source.answer_column: "answerColumn"}
    for column, field in required.items():
        if column not in table.column_names:
            raise UserError(
                f"{source.uri}: found columns {', '.join(table.column_names)}; {column!r} is required: set {field} in "
                "spec.data to the column's name"
            )
    # No other column is made into Python objects unless it is read: a file may hold whole solutions besides.
    read = fields_read(verifier)
    named = table.column_names if read is None else dict.fromkeys([*required, "id", *read])
    wanted = [name for name in named if name in table.column_names]
    return ((f"row {row}", value) for row, value in enumerate(table.select(wanted).to_pylist(), start=1))


# ------------------------------------------------------------------------------------------------- values: records


def _detect(uri: str, value: Any) -> str:
    """Format of a source, from its URI and its first record."""
    if uri.startswith(REASONING_GYM_URI):
        return "reasoning-gym"
    if isinstance(value, list):
        return "orz"
    return "orz-eval" if isinstance(value, dict) and "final_answer" in value else "columns"


def _parse(kind: str, value: Any, source: DataSource) -> tuple[str, str, str | None]:
    """(question, reference answer, given id or None) of one record. Raises _MalformedError."""
    if kind == "orz":
        return (*_orz(value), None)
    if not isinstance(value, dict):
        raise _MalformedError(f"found {_kind(value)}; a record of format {kind} must be an object")
    if kind == "orz-eval":
        question, answer = _orz_eval(value)
    elif kind == "reasoning-gym":
        return _text(value, "question"), _answer(value, "answer"), None
    else:
        question, answer = _text(value, source.question_column), _answer(value, source.answer_column)
    given = value.get("id")
    return question, answer, None if given is None or given == "" else str(given)


def _other_fields(kind: str, value: Any, source: DataSource, verifier: str) -> str:
    """What the record has beside question, answer and id, as JSON. Raises _MalformedError."""
    try:
        if verifier == source.uri:
            fields = procedural.packed(value)
        elif kind == "orz":
            fields = {name: each for name, each in value[1].items() if name not in ("from", "ground_truth")}
        else:
            own = ("prompt", "final_answer") if kind == "orz-eval" else (source.question_column, source.answer_column)
            fields = {name: each for name, each in value.items() if name not in (*own, "id")}
        read = fields_read(verifier)
        fields = {name: each for name, each in fields.items() if read is None or name in read}
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _MalformedError(
            f"its other fields are no JSON values ({error}), as the source's verifier needs them: leave them out"
        ) from None
    if len(text.encode()) > LONGEST_FIELDS:
        raise _MalformedError(
            f"found {len(text.encode())} bytes of fields beside question and answer; at most {LONGEST_FIELDS} are "
            "handed to the source's verifier: leave out what it does not read"
        )
    return text


def _orz(value: Any) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(turn, dict) for turn in value):
        raise _MalformedError(f"found {_kind(value)}; format orz requires a list of a human and an assistant turn")
    human, assistant = value
    if (human.get("from"), assistant.get("from")) != ("human", "assistant"):
        raise _MalformedError(
            f"found turns from {human.get('from')!r} and {assistant.get('from')!r}; required are 'human', 'assistant'"
        )
    truth = assistant.get("ground_truth")
    if not isinstance(truth, dict):
        raise _MalformedError('the assistant turn has no "ground_truth": {"value": …}')
    return _text(human, "value"), _answer(truth, "value")


def _orz_eval(value: dict[str, Any]) -> tuple[str, str]:
    turns = value.get("prompt")
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], dict):
        raise _MalformedError(f'found {_kind(turns)} as "prompt"; format orz-eval requires a list of one user turn')
    question = _text(turns[0], "value")
    choices = value.get("choices")
    if choices:
        if not isinstance(choices, list) or len(choices) > len(_LETTERS):
            raise _MalformedError(f'found {_kind(choices)} as "choices"; a list of at most {len(_LETTERS)} is required')
        # The options belong to the question: the answer names one by its letter.
        question += "".join(f"\n{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
    return question, _answer(value, "final_answer")


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text.strip():
        found = "an empty text" if isinstance(text, str) else _kind(text) if name in value else _fields(value)
        raise _MalformedError(f"found {found}; a question under {name!r} is required")
    return text


def _answer(value: dict[str, Any], name: str) -> str:
    """Answers may be numbers; they are compared as text by the verifier."""
    answer = value.get(name)
    # bool is an int in Python, and no answer.
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    if not isinstance(answer, str) or not answer.strip():
        found = "an empty text" if isinstance(answer, str) else _kind(answer) if name in value else _fields(value)
        raise _MalformedError(f"found {found}; a reference answer (text or number) under {name!r} is required")
    return answer


def _fields(value: dict[str, Any]) -> str:
    return f"the fields {', '.join(map(repr, value))}" if value else "no field"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    name = names.get(type(value), "a number")
    return f"a list of {len(value)}" if isinstance(value, list) else name
