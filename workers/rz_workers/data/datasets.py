"""Nothing malformed is skipped: the first such record ends the run at its start, with file, line and reason.

Questions with reference answers, from files (``files``) in any of the ``formats``, or from a procedural task
(``procedural``). The trainer's rank 0 reads them once, through ``rz_workers.data.prompt_table``; everybody else reads
the prompt tables in the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rz_api.spec import DataSource
from rz_api.verifiers import REASONING_GYM_URI, fields_read
from rz_workers.data import choices, files, procedural
from rz_workers.data.files import read_file
from rz_workers.data.formats import BY_NAME, TASK, Format, detect
from rz_workers.data.malformed import MalformedError, kind_of
from rz_workers.data.numbers import plain
from rz_workers.data.refusals import refusal
from rz_workers.runtime import UserError

LONGEST_FIELDS = 65_536
"""Bytes of JSON that a record's other fields may take: a rollout holds those of every prompt, and sends them with each
response."""


@dataclass(frozen=True)
class Record:
    """One problem."""

    prompt_id: str
    """Unique in its source: the record's ``id`` if it has one, else ``<label>-<row>``."""
    question: str
    reference_answer: str
    fields: str = "{}"
    """The record's other fields, a JSON object; empty where the source's verifier reads none."""


def read_source(source: DataSource, label: str = "0", verifier: str = "", items: bytes | None = None) -> list[Record]:
    """All records of one source, in their order. ``label`` names the source in the ids of records that have none.
    ``verifier``: name of what grades its answers (``rz_api.verifiers``), which decides about the records' other fields.
    ``items``: of a procedural task, where they are made already (``procedural.make``).

    Raises UserError for a missing or empty file and for a malformed record (with file, line and reason), StorageError
    when storage does not answer.
    """
    if source.uri.startswith(REASONING_GYM_URI) or source.format == "reasoning-gym":
        items = procedural.make(source.uri) if items is None else items
        if verifier == source.uri:
            procedural.check_scorer(source.uri, items)
        located = procedural.located(items)
    else:
        data = read_file(source.uri, source.secret_name)
        located = files.records(source.uri, data, lambda first: _columns(first, source, verifier))
    records: list[Record] = []
    kind: Format | None = None
    for row, (place, value) in enumerate(located):
        kind = kind or _format(source, value)
        try:
            records.append(_record(kind, value, source, verifier, f"{label}-{row}"))
        except MalformedError as reason:
            raise UserError(f"{source.uri}, {place}: {_refusal(reason, kind, value, source, row == 0)}") from None
    if not records:
        raise UserError(f"{source.uri}: found no record; at least one is required: check the file")
    return unique_ids(records)


def _refusal(reason: MalformedError, kind: Format, value: Any, source: DataSource, is_first: bool) -> str:
    if kind is TASK:
        return str(reason)  # another format is no way out
    # Where the first record was read, no setting of the source is at fault.
    reads = (lambda other: _record(_format(other, value), value, other, "", "")) if is_first else None
    return refusal(str(reason), value, source, reads)


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


def _format(source: DataSource, value: Any) -> Format:
    if source.uri.startswith(REASONING_GYM_URI):
        return TASK
    return detect(value, source) if source.format == "auto" else BY_NAME[source.format]


def _columns(first: Any, source: DataSource, verifier: str) -> Sequence[str] | None:
    """The columns of a table that are read; None is all."""
    read = fields_read(verifier)
    if read is None:
        return None
    uses = [_top(first, path) for path in _format(source, first).uses(source)]
    return ["id", *uses, *choices.FIELDS, *read]


def _top(value: dict[str, Any], path: str) -> str:
    """The record's own field in which a path begins."""
    return path if path in value else path.partition(".")[0]


def _record(kind: Format, value: Any, source: DataSource, verifier: str, default_id: str) -> Record:
    """Raises MalformedError."""
    if not isinstance(value, dict) and kind.name not in ("orz", "messages"):
        raise MalformedError(f"found {kind_of(value)}; a record of format {kind.name} must be an object")
    question, answer = kind.read(value, source)
    prompt_id, shown = default_id, dict[str, Any]()
    if isinstance(value, dict) and kind is not TASK:
        given = value.get("id")
        prompt_id = default_id if given is None or given == "" else str(given)
        if (options := choices.options_of(value)) is not None:
            # The options belong to the question: the answer names one by its letter.
            question, answer = choices.with_options(question, options), choices.letter_of(answer, options)
            shown = {options.field: options.texts}
    return Record(prompt_id, question, str(answer), _fields(kind, value, source, verifier, shown))


def _fields(kind: Format, value: Any, source: DataSource, verifier: str, options: dict[str, Any]) -> str:
    """What the record has beside question, answer and id, as JSON; options as letters with texts. Raises
    MalformedError."""
    read = fields_read(verifier)
    if read == ():
        return "{}"
    try:
        if verifier == source.uri:
            fields = procedural.packed(value)
        elif isinstance(value, list):
            beside = value[1] if kind.name == "orz" else {}
            fields = {name: each for name, each in beside.items() if name not in ("from", "ground_truth")}
        else:
            own = {"id", *(_top(value, path) for path in kind.uses(source))}
            fields = {name: each for name, each in (value | options).items() if name not in own}
        fields = {name: plain(each) for name, each in fields.items() if read is None or name in read}
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MalformedError(
            f"its other fields are no JSON values ({error}), as the source's verifier needs them: leave them out"
        ) from None
    if len(text.encode()) > LONGEST_FIELDS:
        raise MalformedError(
            f"found {len(text.encode())} bytes of fields beside question and answer; at most {LONGEST_FIELDS} are "
            "handed to the source's verifier: leave out what it does not read"
        )
    return text
