"""What a run's result depends on makes up its identity, which never changes: a run as the workers see it.

Identity plus resolved spec; its JSON is ``run.json`` and the run's ConfigMap.

Who calls this: the operator and the local runner write it when a run is accepted (``write_stored_run``); every worker
reads it at its start (``read_stored_run``); the storage layer compares identities to decide whether a folder belongs to
this run. What was stored outlives the version that stored it, so reading is tolerant: docs/decisions/0016.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rz_api.run_defaults import RunDefaults
from rz_api.spec import Name, ReasonerZeroRunSpec, SpecModel
from rz_api.stored import Path, Unknown, put_back, read_tolerantly, show_path, split

SCHEMA_VERSION = 1
"""Of what is stored of a run (docs/decisions/0016). Fields come without a new one; it grows when one is moved, renamed
or given another meaning, which no older reader could make good."""

MUST_UNDERSTAND = "mustUnderstand"
"""Beside the run's own fields in what is stored: paths of all that the result depends on and that is not at its
default. Who does not know one of them would compute something else, without a word."""

RENDERING_VERSION = 2
"""Of runs that are accepted today. 2: requests for every pod, servers that listen on IPv6 too, a scheduler for
``coscheduling``, trainers that nobody disrupts. A run keeps the version under which it was accepted, because its images
are as old as that."""

_IDENTITY_SECTIONS: dict[str, tuple[str, ...] | None] = {
    "model": ("name", "revision", "tokenizer", "initFrom"),
    "data": None,
    "algorithm": None,
    "evaluation": None,
    "rollout": ("engine", "samplesPerLease", "groupsPerLease", "sampling"),
    "reward": ("verifier", "timeoutSeconds"),
    "trainer": ("dtype",),
}
"""What a run's result depends on: section -> its fields, or None for the whole section. Everything else (replicas,
images, resources, suspend, retention, ...) may change while a run goes on."""


class UnreadableRunError(ValueError):
    """What was stored is no run, or not one that this version understands. The message has what was found."""


class NewerRunError(UnreadableRunError):
    """Only a newer version can read it."""


class ResolvedRun(SpecModel):
    """A run that was accepted: who it is and what it does, with every default filled in."""

    name: Name
    """Name of the run, unique in its namespace."""
    namespace: str = "default"
    """Kubernetes namespace; `local` for `rz run`."""
    uid: str
    """Identity that owns the storage folder: the object's UID, or one derived from the run file for `rz run`."""
    schema_version: int = SCHEMA_VERSION
    """Version of this form, `SCHEMA_VERSION`."""
    rendering_version: int = RENDERING_VERSION
    """Version of the rules by which the operator renders this run's children; frozen when the run is accepted."""
    pod_defaults: RunDefaults | None = None
    """What the operator's owner had decided for the pods of all runs when this one was accepted; absent on one machine,
    and in runs that were accepted before there was such a thing."""
    spec: ReasonerZeroRunSpec
    """The resolved spec."""

    def identity(self) -> dict[str, Any]:
        """The part of the spec that the run's result depends on, as plain JSON values (camelCase keys)."""
        return _identity(self.spec.model_dump(mode="json", by_alias=True))

    def identity_digest(self) -> str:
        """sha256 (hex) of ``identity()`` in canonical JSON."""
        # sort_keys: the digest must not depend on the order in which a model declares its fields.
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StoredRun:
    """A run as it was read."""

    run: ResolvedRun
    unknown: tuple[Unknown, ...] = ()
    """Fields that this version does not know: it does without them, and writes them back (``write_stored_run``)."""
    unread: tuple[str, ...] = ()
    """Paths whose value this version cannot read, and has replaced by its default."""
    beyond: tuple[str, ...] = ()
    """Those among both that the run's result depends on: only a newer version may work on it."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Paths of everything that this version does without."""
        return (*(str(each) for each in self.unknown), *self.unread)


def write_stored_run(run: ResolvedRun, earlier: StoredRun | None = None) -> str:
    """What is stored of ``run``. ``earlier`` is what it was made from: what a newer version had put there is not lost
    because an older one writes it again."""
    unknown, beyond = (earlier.unknown, earlier.beyond) if earlier is not None else ((), ())
    document = put_back(run.model_dump(mode="json", by_alias=True), unknown)
    chosen = _identity(run.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    must = [show_path(("spec", *path)) for path in _leaves(chosen)]
    return json.dumps(document | {MUST_UNDERSTAND: [*must, *beyond]}, indent=2, ensure_ascii=False)


def read_stored_run(text: str | bytes, *, odd_values: bool = False) -> StoredRun:
    """The run that a version of this package, older or newer, has stored.

    With ``odd_values`` also what does not fit its field is left out (``StoredRun.unread``), as long as the result does
    not depend on it: for workers, which need a part of the run only. Raises NewerRunError for a newer
    ``schemaVersion``, UnreadableRunError for what is no run.
    """
    try:
        document = json.loads(text, parse_constant=_no_number)
    # RecursionError: ``json.loads`` gives up at deep nesting.
    except (ValueError, RecursionError) as error:
        raise UnreadableRunError(f"found no JSON ({error})") from None
    if not isinstance(document, dict):
        raise UnreadableRunError(f"found a {type(document).__name__}, a resolved run (an object) is required")
    version = document.get("schemaVersion", 1)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerRunError(f"found schemaVersion {version}; this version reads up to {SCHEMA_VERSION}")
    must = document.pop(MUST_UNDERSTAND, [])
    must = {path for path in must if isinstance(path, str)} if isinstance(must, list) else set()
    try:
        if odd_values:
            run, unknown, dropped = read_tolerantly(ResolvedRun, document, _NEEDED)
        else:
            known, unknown = split(ResolvedRun, document)
            run, dropped = ResolvedRun.model_validate(known, by_alias=True, by_name=False), ()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = show_path(first["loc"]) or "the run"
        raise UnreadableRunError(f"found {where}: {first['msg']}") from None
    unread = tuple(map(show_path, dropped))
    left_out = (*map(str, unknown), *unread)
    beyond = sorted(path for path in must if any(_is_at_or_below(path, each) for each in left_out))
    return StoredRun(run, unknown, unread, tuple(beyond))


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


def _is_at_or_below(path: str, above: str) -> bool:
    return path == above or (path.startswith(above) and path[len(above)] in ".[")


def _identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The identity's part of a spec, or of a part of one."""
    picked: dict[str, Any] = {}
    for section, fields in _IDENTITY_SECTIONS.items():
        body = spec.get(section, {})
        picked[section] = body if fields is None else {field: body[field] for field in fields if field in body}
    for source in [*picked["data"]["train"], *picked["data"].get("eval", [])]:
        # Credentials are replaced during a run's life, and change no result.
        source.pop("secretName", None)
    return picked


def _leaves(value: Any, at: Path = ()) -> Iterator[Path]:
    """Paths of the values in it; an empty list is one, an empty section is none."""
    if not isinstance(value, Mapping | list) or value == []:
        yield at
        return
    inner: Iterable[tuple[str | int, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in inner:
        yield from _leaves(item, (*at, key))


_NEEDED: tuple[Path, ...] = (
    ("name",),
    ("uid",),
    ("spec", "storage", "uri"),
    *(
        ("spec", section, *([field] if field is not None else []))
        for section, fields in _IDENTITY_SECTIONS.items()
        for field in (fields or (None,))
    ),
)
"""What no default can stand for."""
