"""A run keeps its prompts for life: tables in its folder, made once by the trainer, read by rollouts and ledger.

``prepare`` turns sources into rows (pure but for reading the sources), ``publish_data`` stores them with a manifest
written last, ``read_table`` reads them back. The fingerprint fixes the data for the life of the run: (fingerprint,
seed, step) names the prompts of a step, so a resume with other data is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.data.datasets import Record, read_source, unique_ids
from rz_workers.data.prompts import brings_bos, check_round_trip, render, tokenize
from rz_workers.protocol.schedule import total_steps
from rz_workers.runtime import UserError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectExistsError, ObjectMissingError, data_entry
from rz_workers.storage.records import DataManifest, DroppedPrompt
from rz_workers.storage.run_folder import RunFolder, check_entry

log = logging.getLogger(__name__)

TRAIN_TABLE = "train"
SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        # int32 holds every vocabulary, in half of int64's memory.
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("reference_answer", pa.string(), nullable=False),
    ]
)
_DROPPED_SHOWN = 5


@dataclass(frozen=True)
class PromptRow:
    """One prompt, ready to be sampled from."""

    prompt_id: str
    prompt: str
    prompt_token_ids: tuple[int, ...]
    """[P]: BOS in front if the tokenizer has one, once."""
    reference_answer: str


@dataclass(frozen=True)
class PreparedData:
    """What a spec's sources come to under one tokenizer."""

    train: tuple[PromptRow, ...]
    eval: dict[str, tuple[PromptRow, ...]]
    """Set -> its problems."""
    dropped: tuple[DroppedPrompt, ...]
    """Prompts longer than ``data.maxPromptTokens``, of all sources."""
    fingerprint: str
    """Of ``train``; see ``fingerprint``."""


def eval_table(eval_set: str) -> str:
    """Name of an evaluation set's table."""
    return f"eval-{eval_set}"


def prepare(spec: ReasonerZeroRunSpec, tokenizer: Any) -> PreparedData:
    """Read all sources, render and tokenize. Prompts longer than ``data.maxPromptTokens`` are dropped and listed.

    Raises UserError for what is wrong with a source, for a tokenizer that does not round-trip the prompt, and when a
    table ends up empty.
    """
    data = spec.data
    # Across sources too: two files may number their records from 0 under one ``id`` column.
    records = unique_ids(
        record for index, source in enumerate(data.train) for record in read_source(source, str(index))
    )
    check_round_trip(tokenizer, data.prompt_template, records[0].question)
    if brings_bos(tokenizer, data.prompt_template):
        log.info("data.promptTemplate begins with the BOS text %s: no second one is put in front", tokenizer.bos_token)
    train, dropped = _rows(spec, tokenizer, records, "data.train")
    tables: dict[str, tuple[PromptRow, ...]] = {}
    for source in data.eval:
        problems = read_source(source, source.name)
        tables[source.name], too_long = _rows(spec, tokenizer, problems, f"data.eval {source.name}")
        dropped += too_long
    return PreparedData(train=train, eval=tables, dropped=dropped, fingerprint=fingerprint(train))


def fingerprint(rows: Iterable[PromptRow]) -> str:
    """sha256 (hex) over prompt ids, token ids and reference answers, in order."""
    whole = hashlib.sha256()
    for row in rows:
        # A JSON list a line: no two different tables give the same bytes, as plain concatenation could.
        whole.update(json.dumps([row.prompt_id, row.prompt_token_ids, row.reference_answer]).encode())
        whole.update(b"\n")
    return whole.hexdigest()


def publish_data(folder: RunFolder, spec: ReasonerZeroRunSpec, prepared: PreparedData) -> DataManifest:
    """Store the tables and then their manifest, or confirm that the stored ones are the same.

    Raises UserError when the run was started with other data.
    """
    stored = folder.data_manifest()
    if stored is not None:
        _check_unchanged(folder, stored, prepared)
        return stored
    tables = {TRAIN_TABLE: prepared.train, **{eval_table(name): rows for name, rows in prepared.eval.items()}}
    files = {}
    for name, rows in tables.items():
        encoded = encode(rows)
        # Not put_new: no table counts before the manifest names it, and a publication that was cut off is repeated.
        folder.store.put(layout.data_key(name), encoded)
        files[layout.data_key(name).removeprefix("data/")] = data_entry(encoded)
    manifest = DataManifest(
        fingerprint=prepared.fingerprint,
        num_prompts=len(prepared.train),
        eval_sets={name: len(rows) for name, rows in prepared.eval.items()},
        total_steps=total_steps(spec, len(prepared.train)),
        dropped=prepared.dropped,
        files=files,
        eval_fingerprints={name: fingerprint(rows) for name, rows in prepared.eval.items()},
    )
    try:
        folder.store.put_new(layout.DATA_MANIFEST, manifest.model_dump_json(indent=2).encode())
    except ObjectExistsError:
        # Another gang wrote it between the look and the put: hold our data against that one's.
        return publish_data(folder, spec, prepared)
    return manifest


def read_table(folder: RunFolder, table: str) -> list[PromptRow]:
    """Rows of ``train`` or ``eval-<set>``, checked against the manifest.

    Raises ObjectMissingError while the data are not published, or when there is no such table.
    """
    manifest = folder.data_manifest()
    key = layout.data_key(table)
    expected = manifest.files.get(key.removeprefix("data/")) if manifest else None
    if expected is None:
        raise ObjectMissingError(f"{folder.store.uri}: the data manifest names no {key!r}")
    data = folder.store.get(key)
    check_entry(f"{folder.store.uri}: {key}", data_entry(data), expected)
    return decode(data)


def encode(rows: Sequence[PromptRow]) -> bytes:
    """Rows as one Parquet file (zstd)."""
    buffer = io.BytesIO()
    plain = [{name: getattr(row, name) for name in SCHEMA.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def decode(data: bytes) -> list[PromptRow]:
    """Rows of a Parquet file that ``encode`` made."""
    values = pq.read_table(io.BytesIO(data), schema=SCHEMA).to_pylist()
    return [PromptRow(**{**row, "prompt_token_ids": tuple(row["prompt_token_ids"])}) for row in values]


def _rows(
    spec: ReasonerZeroRunSpec, tokenizer: Any, records: Sequence[Record], where: str
) -> tuple[tuple[PromptRow, ...], tuple[DroppedPrompt, ...]]:
    """Rows that are short enough, and those that are not. Raises UserError when none is."""
    limit, template = spec.data.max_prompt_tokens, spec.data.prompt_template
    has_bos = brings_bos(tokenizer, template)
    rows, dropped = [], []
    for record in records:
        text = render(template, record.question)
        ids = tuple(tokenize(tokenizer, text, has_bos=has_bos))
        # Dropped, not cut as the published code does: a question that lacks its end has no answer (RECIPE.md, Prompt).
        if len(ids) > limit:
            dropped.append(DroppedPrompt(prompt_id=record.prompt_id, tokens=len(ids)))
        else:
            rows.append(PromptRow(record.prompt_id, text, ids, record.reference_answer))
    if dropped:
        shown = ", ".join(f"{prompt.prompt_id} ({prompt.tokens})" for prompt in dropped[:_DROPPED_SHOWN])
        log.warning("%s: dropped %d prompts of more than %d tokens: %s …", where, len(dropped), limit, shown)
    if not rows:
        shortest = min(prompt.tokens for prompt in dropped)
        raise UserError(
            f"{where}: found {len(records)} prompts, the shortest of {shortest} tokens; one of at most {limit} "
            "is required: raise data.maxPromptTokens"
        )
    return tuple(rows), tuple(dropped)


def _check_unchanged(folder: RunFolder, stored: DataManifest, prepared: PreparedData) -> None:
    before, now = stored.eval_fingerprints, {name: fingerprint(rows) for name, rows in prepared.eval.items()}
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if stored.fingerprint != prepared.fingerprint:
        what = (
            f"data.train: found {len(prepared.train)} prompts with fingerprint {prepared.fingerprint[:12]}, the run "
            f"was started with {stored.num_prompts} and {stored.fingerprint[:12]}"
        )
    elif changed:
        what = f"data.eval: {', '.join(changed)} is not what the run was started with"
    else:
        return
    raise UserError(
        f"the data changed since {folder.store.uri} was started ({what}). A run keeps its data: restore the files, or "
        "start a new run with another storage.uri."
    )
