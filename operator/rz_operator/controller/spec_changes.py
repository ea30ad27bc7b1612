"""A change is a difference between two specs that the user wrote, so a field that nobody touched never changes. Pure.

A spec is taken as leaves (a list is one leaf), each at a path. ``accept`` compares the spec of today with the one that
was frozen, and lays the leaves that act over the frozen one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rz_api.spec import ReasonerZeroRunSpec
from rz_api.stored import has

LIVE: tuple[str, ...] = (
    "suspend",
    "rollout.replicas",
    "reward.replicas",
    "failurePolicy",
    "ttlSecondsAfterFinished",
    "scheduling.gangTimeoutSeconds",
)
"""Paths below spec that act at once, from the newest spec in which they are good."""

LIVE_AFTER_THE_END: tuple[str, ...] = ("ttlSecondsAfterFinished",)
"""Those of them that act on a run that has finished."""

OF_THE_GANG: tuple[str, ...] = ("trainer", "scheduling", "storage.retention")
"""Sections on which only the trainer's pods depend (docs/decisions/0006)."""

Path = tuple[str, ...]
_GONE = object()
"""In place of a value where there is none (null is a value)."""

_DEFAULTS: dict[str, Any] = ReasonerZeroRunSpec.model_validate(
    {"model": {"name": "-"}, "data": {"train": [{"uri": "-"}]}, "storage": {"uri": "-"}}
).model_dump(mode="json", by_alias=True)
"""What a field is that was removed from a spec. (Those without a default can't be removed from a good one.)"""


def changes(old: Mapping[str, Any], new: Mapping[str, Any], at: Path = ()) -> list[Path]:
    """Paths of the leaves in which two specs differ; a list is a leaf, an empty section is as good as none."""
    found: list[Path] = []
    for key in (*old, *(key for key in new if key not in old)):
        before, after, path = old.get(key, _GONE), new.get(key, _GONE), (*at, key)
        inner, outer = ({} if value is _GONE else value for value in (before, after))
        if isinstance(inner, Mapping) and isinstance(outer, Mapping):
            found += changes(inner, outer, path)
        elif not _same(before, after):
            found.append(path)
    return found


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: ``True`` is not ``1``."""
    if one is _GONE or other is _GONE:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def unlike(one: ReasonerZeroRunSpec, other: ReasonerZeroRunSpec, paths: Iterable[Path]) -> list[Path]:
    """Those of ``paths`` at which two specs have different values, whatever each of its users wrote there: ``1`` is
    ``1.0`` in a field that is a number with decimals, and a default written out is the default."""
    before, after = (spec.model_dump(mode="json", by_alias=True) for spec in (one, other))
    return [path for path in paths if not _same(_get(before, path), _get(after, path))]


def overlay(spec: ReasonerZeroRunSpec, paths: Iterable[Path], new: Mapping[str, Any]) -> dict[str, Any]:
    """``spec`` with the leaves at ``paths`` as in ``new``; one that is not there gets today's default, or goes."""
    paths = list(paths)
    removed = [path for path in paths if _get(new, path) is _GONE]
    document = with_leaves(spec.model_dump(mode="json", by_alias=True), paths, new)
    return with_leaves(document, removed, _DEFAULTS)


def with_leaves(document: dict[str, Any], paths: Iterable[Path], new: Mapping[str, Any]) -> dict[str, Any]:
    """``document``, changed in place, with the leaves at ``paths`` as in ``new``; one that is not there goes."""
    for path in paths:
        holder = document
        for key in path[:-1]:
            if not isinstance(holder.get(key), dict):
                holder[key] = {}
            holder = holder[key]
        value = _get(new, path)
        if value is _GONE:
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = value
    return document


def _get(document: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(document, Mapping) or key not in document:
            return _GONE
        document = document[key]
    return document


def is_written(document: Any, path: Sequence[str | int]) -> bool:
    """Whether there is something at a path, which may lead through lists."""
    for key in path:
        if not has(document, key):
            return False
        document = document[key]
    return True


def is_below(path: Path, section: str) -> bool:
    """Whether a path is ``section`` (``scheduling.gangTimeoutSeconds``), or below it."""
    parts = tuple(section.split("."))
    return path[: len(parts)] == parts


def is_live(path: Path) -> bool:
    """Whether a change there acts at once."""
    return any(is_below(path, live) for live in LIVE)


def is_of_the_gang(path: Path) -> bool:
    """Whether only the trainer's pods depend on it."""
    return any(is_below(path, section) for section in OF_THE_GANG)
