"""Every record comes with its place in the file, so that what is wrong with one is found again.

From the bytes of a file to JSON values: a JSON array, JSON lines, CSV or Parquet, each as it is or by gzip. Called by
``datasets``. Numbers are ``Number``: they keep their text.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rz_api.storage_uri import is_local
from rz_workers.data.numbers import Number, shortest
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectMissingError, ObjectStore, StorageError
from rz_workers.storage.retry import is_transient

Located = Iterator[tuple[str, Any]]
Wanted = Callable[[Any], Iterable[str] | None]
"""Of a table's first row, which of its columns are read; None is all."""


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


def records(uri: str, data: bytes, wanted: Wanted) -> Located:
    """Each record with its place in words; of a table whole rows first, then what is ``wanted``. Raises UserError."""
    name = uri.partition("?")[0].lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{uri}: found a file that is not gzip ({error}); correct the file or its name") from error
    match name.rpartition(".")[2]:
        case "parquet" | "pq":
            return _rows(_table(uri, "Parquet", lambda: pq.read_table(io.BytesIO(data))), wanted)
        case "csv":
            return _rows(_table(uri, "CSV", lambda: _csv(data)), wanted)
    return _json(uri, data)


# ------------------------------------------------------------------------------------------------------------ tables


def _table(uri: str, kind: str, read: Callable[[], pa.Table]) -> pa.Table:
    try:
        table = read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri}: found a file that is not {kind} ({error}); correct the file or its name") from error
    names = table.column_names
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{uri}: found two columns {twice[0]!r}; one of each name is required: rename one")
    return table


def _csv(data: bytes) -> pa.Table:
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    names = pa_csv.open_csv(io.BytesIO(data), parse_options=parse).schema.names
    # Texts, not what a guess at their types makes of them: "007" and "1.50" are references.
    texts = pa_csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
    # One block, because a record may not be longer than one.
    return pa_csv.read_csv(
        io.BytesIO(data),
        pa_csv.ReadOptions(block_size=min(max(1 << 20, len(data)), (1 << 31) - 1)),
        parse,
        convert_options=texts,
    )


def _rows(table: pa.Table, wanted: Wanted) -> Located:
    first = _values(table.slice(0, 1))
    if not first:
        return iter(())
    # No other column is made into Python objects unless it is read: a file may hold whole solutions besides.
    names = wanted(first[0])
    if names is not None:
        table = table.select([name for name in dict.fromkeys(names) if name in table.column_names])
    rest = (value for batch in table.slice(1).to_batches() for value in _values(batch))
    return ((f"row {row}", value) for row, value in enumerate(itertools.chain(first, rest), start=1))


def _values(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    numbers = {field.name: field.type for field in rows.schema if _has_numbers(field.type)}
    values: list[dict[str, Any]] = rows.to_pylist()
    for value in values:
        for name, kind in numbers.items():
            value[name] = _texts(value[name], kind)
    return values


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _has_numbers(kind: pa.DataType) -> bool:
    return _is_number(kind) or any(_has_numbers(kind.field(index).type) for index in range(kind.num_fields))


def _texts(value: Any, kind: pa.DataType) -> Any:
    """The value with its numbers as ``Number``; its type says how many digits a number has."""
    if value is None:
        return None
    if pa.types.is_integer(kind):
        return Number(value)
    if _is_number(kind):
        widths = {pa.float16(): np.float16, pa.float32(): np.float32}
        return shortest(widths[kind](value) if kind in widths else value)
    if pa.types.is_struct(kind):
        return {field.name: _texts(value[field.name], field.type) for field in kind}
    return (
        [_texts(each, kind.value_type) for each in value]
        if isinstance(value, list) and hasattr(kind, "value_type")
        else value
    )


# -------------------------------------------------------------------------------------------------------------- JSON

_NUMBERS: dict[str, Any] = {"parse_float": Number, "parse_int": Number, "parse_constant": Number}


def _json(uri: str, data: bytes) -> Located:
    """Values of a JSON array or of JSON lines."""
    try:
        # utf-8-sig: editors on Windows put a byte order mark in front, which json refuses.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{uri}, line {line}: found bytes that are not UTF-8; data files must be UTF-8 text") from error
    return _json_array(uri, text) if _is_array(text) else _json_lines(uri, text)


def _is_array(text: str) -> bool:
    """Whether all is one array of records, by what it is and not by its name: a record may be an array, of turns."""
    start = _skip_space(text, 0)
    if text[start : start + 1] != "[":
        return False
    try:
        first, _ = json.JSONDecoder().raw_decode(text, _skip_space(text, start + 1))
    except json.JSONDecodeError:
        return True
    return not (isinstance(first, dict) and ("from" in first or "role" in first))


def _json_lines(uri: str, text: str) -> Located:
    # Not splitlines: it also cuts at U+2028 and U+0085, which may stand in a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line, **_NUMBERS)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{uri}, line {number}: found invalid JSON ({error.msg} at column {error.colno}); every line "
                    "must be one record"
                ) from error
            yield f"line {number}", value


def _json_array(uri: str, text: str) -> Iterator[tuple[str, Any]]:
    """The array is cut by hand so that each record's line is known."""
    decoder = json.JSONDecoder(**_NUMBERS)
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
