"""A shard holds the whole unit that it is named after, and is read as the bytes that its reference names.

Trajectories as Parquet: the columns, and the shards that rollouts write and ledger, trainer and report read. A shard
holds the rows of one lease unit in canonical order. People read the same files: DuckDB's
``FROM 'RUN/trajectories/*/*.parquet'`` sees every attempt; the step's ``manifest.json`` names those that were trained
on.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rz_workers.protocol.messages import ShardRef, ShardStats
from rz_workers.protocol.schedule import Unit
from rz_workers.protocol.trajectory import SCHEMA_VERSION, Trajectory
from rz_workers.storage.objects import CorruptObjectError, ObjectStore, data_entry

log = logging.getLogger(__name__)

UNUSABLE_VERSION = -1
"""Weight version of a stored attempt that cannot be used; it has 0 rows."""

_READERS = 16
"""Shards that are fetched at a time: a bucket answers one request after 20 to 100 ms, and a step has hundreds."""


SCHEMA = pa.schema(
    [
        pa.field("schema_version", pa.int32(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("group_id", pa.int64(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("response_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("rollout_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("loss_mask", pa.list_(pa.int8())),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("stop_reason", pa.string()),
        pa.field("extracted_answer", pa.string()),
        pa.field("reference_answer", pa.string(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("reward_status", pa.string(), nullable=False),
        pa.field("weight_version", pa.int32(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
    ]
)
"""The columns of a shard, in the order of DESIGN.md 4."""
_LATER = frozenset({"source", "rule"})
"""Columns that shards of earlier releases lack: their rows have the defaults of ``Trajectory``."""


def encode(rows: Iterable[Trajectory]) -> bytes:
    """Rows as one Parquet file (zstd). The same rows give the same bytes."""
    table = pa.Table.from_pylist([_plain(row) for row in rows], schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode(data: bytes) -> list[Trajectory]:
    """Rows of a Parquet file that ``encode`` made. Raises CorruptObjectError when it is not one of this schema
    version."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise CorruptObjectError(f"not a Parquet file of trajectories: {error}") from error
    odd = sorted((set(table.column_names) ^ set(SCHEMA.names)) - (_LATER - set(table.column_names)))
    if odd:
        raise CorruptObjectError(f"not a Parquet file of trajectories of schema {SCHEMA_VERSION}: columns {odd} differ")
    columns = {name: _values(table.column(name).combine_chunks()) for name in table.column_names}
    rows = [Trajectory(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    versions = {row.schema_version for row in rows} - {SCHEMA_VERSION}
    if versions:
        raise CorruptObjectError(
            f"found trajectories of schema {sorted(versions)}, this version reads {SCHEMA_VERSION}"
        )
    return rows


def write_shard(
    store: ObjectStore, unit: Unit, attempt: int, rows: Sequence[Trajectory], weight_version: int
) -> ShardRef:
    """Store one attempt at a unit (exclusive create) and return its reference.

    Raises ObjectExistsError when that attempt is stored already, ValueError when ``rows`` are not the unit's, in
    canonical order, all sampled with ``weight_version``.
    """
    _check_rows(unit, rows, weight_version)
    data = encode(rows)
    key = unit.shard_key(attempt)
    store.put_new(key, data)
    return _reference(unit, attempt, data, rows)


def read_shard(store: ObjectStore, ref: ShardRef) -> list[Trajectory]:
    """The rows of a shard. Raises CorruptObjectError when its bytes are not those that ``ref`` names."""
    data = store.get(ref.key)
    found = data_entry(data)
    if found.sha256 != ref.sha256:
        raise CorruptObjectError(
            f"{store.uri}: {ref.key} has sha256 {found.sha256}, its reference requires {ref.sha256}"
        )
    return decode(data)


def read_shards(store: ObjectStore, refs: Sequence[ShardRef]) -> list[Trajectory]:
    """The rows of many shards, in the order of ``refs``; several are fetched at a time. Raises as ``read_shard``."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read-shards") as pool:
        return [row for rows in pool.map(partial(read_shard, store), refs) for row in rows]


def find_shards(store: ObjectStore, unit: Unit) -> list[ShardRef]:
    """Stored attempts at a unit, by attempt: what a restarted ledger adopts."""
    return find_unit_shards(store, [unit])[unit.unit_id]


def find_unit_shards(store: ObjectStore, units: Iterable[Unit]) -> dict[str, list[ShardRef]]:
    """Unit id -> stored attempts at it, by attempt; one listing for each folder, however many units.

    A shard that cannot be read or does not hold its unit is named in the log and not usable; its attempt number stays
    taken (a reference of 0 rows and ``UNUSABLE_VERSION``), so that the unit is sampled again under a higher one.
    """
    by_folder: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        by_folder[unit.shard_prefix().rpartition("/")[0]].append(unit)
    found: dict[str, list[ShardRef]] = {}
    for folder, members in by_folder.items():
        stored: dict[str, list[int]] = defaultdict(list)
        for key in store.list(f"{folder}/"):
            match = re.fullmatch(r"(.*-a)(\d+)\.parquet", key)
            if match:
                stored[match[1]].append(int(match[2]))
        for unit in members:
            found[unit.unit_id] = [_find(store, unit, attempt) for attempt in sorted(stored[unit.shard_prefix()])]
    return found


def _find(store: ObjectStore, unit: Unit, attempt: int) -> ShardRef:
    key = unit.shard_key(attempt)
    data = store.get(key)
    try:
        rows = decode(data)
        _check_rows(unit, rows, rows[0].weight_version if rows else 0)
    except (CorruptObjectError, ValueError) as error:
        log.warning("%s: %s cannot be used, and is left as it is: %s", store.uri, key, error)
        entry = data_entry(data)
        return ShardRef(
            unit=unit,
            attempt=attempt,
            key=key,
            sha256=entry.sha256,
            size_bytes=entry.size_bytes,
            rows=0,
            weight_version=UNUSABLE_VERSION,
        )
    return _reference(unit, attempt, data, rows)


def _reference(unit: Unit, attempt: int, data: bytes, rows: Sequence[Trajectory]) -> ShardRef:
    entry = data_entry(data)
    return ShardRef(
        unit=unit,
        attempt=attempt,
        key=unit.shard_key(attempt),
        sha256=entry.sha256,
        size_bytes=entry.size_bytes,
        rows=len(rows),
        weight_version=rows[0].weight_version,
        stats=ShardStats(
            reward_sum=sum(row.reward for row in rows if not row.is_masked),
            response_tokens=sum(len(row.response_token_ids) for row in rows),
            truncated=sum(row.finish_reason == "length" for row in rows),
            masked=sum(row.is_masked for row in rows),
        ),
    )


def _check_rows(unit: Unit, rows: Sequence[Trajectory], weight_version: int) -> None:
    expected = [(group, sample) for group, _, sample in unit.rows()]
    found = [(row.group_id, row.sample_index) for row in rows]
    if found != expected:
        raise ValueError(
            f"{unit.unit_id} consists of {len(expected)} rows from (group, sample) {expected[0]} to {expected[-1]}, in "
            f"that order; found {len(found)}: {found[:3]}…"
        )
    wrong = {(row.step, row.weight_version) for row in rows} - {(unit.step, weight_version)}
    if wrong:
        raise ValueError(
            f"{unit.unit_id} is sampled for step {unit.step} with version {weight_version}; found (step, version) "
            f"{sorted(wrong)}"
        )


def _plain(row: Trajectory) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def _values(column: Any) -> list[Any]:
    """A column as Python values; lists of numbers become tuples, by way of numpy (``to_pylist`` makes an object of
    Arrow's for each number)."""
    if not pa.types.is_list(column.type) or column.null_count:
        return [tuple(value) if isinstance(value, list) else value for value in column.to_pylist()]
    # `values` and not `flatten()`: offsets count from the start of the whole, also in a slice (pyarrow).
    bounds, numbers = column.offsets.to_pylist(), column.values.to_numpy().tolist()
    return [tuple(numbers[start:end]) for start, end in itertools.pairwise(bounds)]
