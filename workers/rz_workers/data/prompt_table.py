"""A run keeps its prompts for life: tables in its folder, made once by the trainer, read by rollouts and ledger.

``prepare`` turns sources into rows (pure but for reading the sources), ``publish_data`` stores them with a manifest
written last, ``read_table`` reads them back. The fingerprint fixes the data for the life of the run: (fingerprint,
seed, step) names the prompts of a step, so a resume with other data is refused.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rz_api.spec import DataSource, ReasonerZeroRunSpec
from rz_api.verifiers import REASONING_GYM_URI, verifier_of
from rz_workers.data import procedural
from rz_workers.data.datasets import Record, read_source, unique_ids
from rz_workers.data.earlier import Earlier, store_items
from rz_workers.data.own_verifiers import read_files
from rz_workers.data.prompts import brings_bos, check_round_trip, render, tokenize
from rz_workers.protocol.schedule import total_steps
from rz_workers.runtime import UserError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectExistsError, ObjectMissingError, data_entry
from rz_workers.storage.records import DataManifest, DroppedPrompt, FileEntry
from rz_workers.storage.run_folder import RunFolder, check_entry
from rz_workers.storage.verifier_code import digest, store_code

log = logging.getLogger(__name__)

TRAIN_TABLE = "train"
SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        # int32 holds every vocabulary, in half of int64's memory.
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("reference_answer", pa.string(), nullable=False),
        # Null in tables of earlier releases, which have no such columns.
        pa.field("source", pa.string()),
        pa.field("verifier", pa.string()),
        pa.field("question", pa.string()),
        pa.field("fields", pa.string()),
    ]
)
_DROPPED_SHOWN = 5
_FIRST_START = Earlier()
LONGEST_SOURCE_NAME = 60


@dataclass(frozen=True)
class PromptRow:
    """One prompt, ready to be sampled from."""

    prompt_id: str
    prompt: str
    prompt_token_ids: tuple[int, ...]
    """[P]: BOS in front if the tokenizer has one, once."""
    reference_answer: str
    source: str = ""
    """Name of the entry of ``data`` that it is from: ``source_names``; empty where an earlier release wrote it, as the
    fields below."""
    verifier: str = ""
    """Name of what grades its answers (``rz_api.verifiers``); empty takes the run's."""
    question: str = ""
    """Without the template."""
    fields: str = "{}"
    """The record's other fields, a JSON object."""


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
    code: Mapping[str, bytes] = field(default_factory=dict)
    """Verifier of the user's own -> its file."""
    items: Mapping[str, bytes] = field(default_factory=dict)
    """URI of a procedural task -> its items."""


def eval_table(eval_set: str) -> str:
    """Name of an evaluation set's table."""
    return f"eval-{eval_set}"


def prepare(spec: ReasonerZeroRunSpec, tokenizer: Any, earlier: Earlier = _FIRST_START) -> PreparedData:
    """Read all sources, render and tokenize. Training prompts longer than ``data.maxPromptTokens`` are dropped and
    listed. ``earlier``: what the run was started with.

    Raises UserError for what is wrong with a source, for a tokenizer that does not round-trip the prompt, for a problem
    to evaluate on that is too long, and when a table ends up empty.
    """
    data = spec.data
    code = read_files(spec)
    items = _items(spec, earlier)
    sources = dict(zip(source_names(data.train), data.train, strict=True))
    found = [
        (name, record)
        for index, (name, source) in enumerate(sources.items())
        for record in read_source(source, str(index), verifier_of(spec, source), items.get(source.uri))
    ]
    # Across sources too: two files may number their records from 0 under one ``id`` column.
    records = unique_ids(record for _, record in found)
    check_round_trip(tokenizer, data.prompt_template, records[0].question)
    if brings_bos(tokenizer, data.prompt_template):
        log.info("data.promptTemplate begins with the BOS text %s: no second one is put in front", tokenizer.bos_token)
    origins = [(name, verifier_of(spec, sources[name])) for name, _ in found]
    train, dropped = _rows(spec, tokenizer, records, origins, "data.train")
    tables: dict[str, tuple[PromptRow, ...]] = {}
    for source in data.eval:
        verifier = verifier_of(spec, source)
        problems = read_source(source, source.name, verifier, items.get(source.uri))
        origins = [(source.name, verifier)] * len(problems)
        where = f"data.eval {source.name}"
        tables[source.name], too_long = _rows(spec, tokenizer, problems, origins, where)
        _check_whole(where, len(problems), [prompt for prompt in too_long if prompt.prompt_id not in earlier.dropped])
        dropped += too_long
    return PreparedData(train, tables, dropped, fingerprint(train), code, items)


def _items(spec: ReasonerZeroRunSpec, earlier: Earlier) -> dict[str, bytes]:
    """URI -> items of each procedural task, each made once in a run's life."""
    train, evaluation = ([source.uri for source in sources] for sources in (spec.data.train, spec.data.eval))
    procedural.check_seeds(train, evaluation)
    uris = (uri for uri in dict.fromkeys((*train, *evaluation)) if uri.startswith(REASONING_GYM_URI))
    return {uri: earlier.items.get(uri) or procedural.make(uri) for uri in uris}


def _check_whole(where: str, problems: int, too_long: Sequence[DroppedPrompt]) -> None:
    """An accuracy over fewer problems than the set has is another set's (a run of an earlier release, which left them
    out, goes on without them)."""
    if too_long:
        longest = max(too_long, key=lambda prompt: prompt.tokens)
        raise UserError(
            f"{where}: found {len(too_long)} of {problems} problems over data.maxPromptTokens, the longest of "
            f"{longest.tokens} tokens ({longest.prompt_id}); an evaluation has all problems of its set: set "
            f"data.maxPromptTokens: {longest.tokens}, or take them out of the file"
        )


def source_names(sources: Sequence[DataSource]) -> tuple[str, ...]:
    """A name for each training source, as charts show it: of a file without folders and suffix, of a procedural task
    the task's; the second of a name gets ``-2``."""
    names: list[str] = []
    for source in sources:
        plain = source.uri.partition("?")[0].rstrip("/").rpartition("/")[2].removesuffix(".gz")
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain.rpartition(".")[0] or plain)[:LONGEST_SOURCE_NAME]
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        names.append(stem if stem not in names else next(name for name in numbered if name not in names))
    return tuple(names)


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
    files: dict[str, FileEntry] = {}
    for code in prepared.code.values():
        name, entry = store_code(folder, code)
        files[name] = entry
    files |= store_items(folder, prepared.items)
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
        verifiers={verifier: digest(code) for verifier, code in prepared.code.items()},
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
    return [
        PromptRow(**{name: value for name, value in row.items() if value is not None} | _token_ids(row))
        for row in values
    ]


def _token_ids(row: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {"prompt_token_ids": tuple(row["prompt_token_ids"])}


def _rows(
    spec: ReasonerZeroRunSpec,
    tokenizer: Any,
    records: Sequence[Record],
    origins: Sequence[tuple[str, str]],
    where: str,
) -> tuple[tuple[PromptRow, ...], tuple[DroppedPrompt, ...]]:
    """Rows that are short enough, and those that are not; ``origins``: source and verifier of each record. Raises
    UserError when none is."""
    limit, template = spec.data.max_prompt_tokens, spec.data.prompt_template
    has_bos = brings_bos(tokenizer, template)
    rows, dropped = [], []
    for record, (source, verifier) in zip(records, origins, strict=True):
        text = render(template, record.question)
        ids = tuple(tokenize(tokenizer, text, has_bos=has_bos))
        # Dropped, not cut as the published code does: a question that lacks its end has no answer (RECIPE.md, Prompt).
        if len(ids) > limit:
            dropped.append(DroppedPrompt(prompt_id=record.prompt_id, tokens=len(ids)))
        else:
            given = (record.question, record.fields)
            rows.append(PromptRow(record.prompt_id, text, ids, record.reference_answer, source, verifier, *given))
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
    elif code := sorted(name for name in prepared.code if stored.verifiers.get(name) != digest(prepared.code[name])):
        what = f"the code of the verifier {', '.join(code)} is not what the run was started with"
    elif changed:
        what = f"data.eval: {', '.join(changed)} is not what the run was started with"
    else:
        return
    raise UserError(
        f"the data changed since {folder.store.uri} was started ({what}). A run keeps its data: restore the files, or "
        "start a new run with another storage.uri."
    )
