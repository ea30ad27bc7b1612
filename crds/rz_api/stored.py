"""What a newer version has stored is read by an older one: fields that it does not know are taken out, and named.

A spec that a person writes is judged strictly (``rz_api.resource``); what a program has stored is not, because no
person can mend it: an operator that is rolled back, or a worker of a pinned image, would be the one to suffer.
``rz_api.run`` reads a run so, ``rz_api.status`` a status. Pure.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Path = tuple[str | int, ...]
"""Keys and positions from the document's root: ``("spec", "data", "train", 0, "uri")``."""

M = TypeVar("M", bound=BaseModel)

MOST_TRIES = 64
"""Values that are taken out of one document before it is called unreadable."""


@dataclass(frozen=True)
class Unknown:
    """A field that this version does not know."""

    path: Path
    value: Any

    def __str__(self) -> str:
        return show_path(self.path)


def show_path(path: Path) -> str:
    """``spec.data.train[0].uri``"""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


# ------------------------------------------------------------------------------------------------------- taking out


def split(model: type[BaseModel], document: Any) -> tuple[Any, tuple[Unknown, ...]]:
    """``document`` without the fields that ``model`` does not have, and those. Fields are known by their names on the
    wire; what is no mapping where one belongs is left for the model to refuse. ``document`` is not changed."""
    found = list[Unknown]()
    return _of_model(model, document, (), found), tuple(found)


def _of_model(model: type[BaseModel], document: Any, at: Path, found: list[Unknown]) -> Any:
    if not isinstance(document, Mapping):
        return document
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    found += [Unknown((*at, key), value) for key, value in document.items() if key not in fields]
    return {key: _of(fields[key], value, (*at, key), found) for key, value in document.items() if key in fields}


def _of(annotation: Any, value: Any, at: Path, found: list[Unknown]) -> Any:
    """``value`` of a field of this type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _of_model(annotation, value, at, found)
    if origin is Annotated:
        return _of(arguments[0], value, at, found)
    if origin in (Union, types.UnionType):
        # The contract has no union of two models: at most one member has fields.
        holder = next((each for each in arguments if _mentions_model(each)), None)
        return value if holder is None else _of(holder, value, at, found)
    if origin in (list, tuple) and isinstance(value, list):
        return [_of(arguments[0], item, (*at, index), found) for index, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {key: _of(arguments[1], item, (*at, key), found) for key, item in value.items()}
    return value


def _mentions_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(_mentions_model, get_args(annotation)))


# ------------------------------------------------------------------------------------------------------- putting back


def put_back(document: dict[str, Any], unknown: Iterable[Unknown]) -> dict[str, Any]:
    """``document``, changed in place, with fields that were taken out of an earlier form of it. Where what held one is
    not there any more, the field is not either."""
    for each in unknown:
        holder: Any = document
        for key in each.path[:-1]:
            holder = holder[key] if has(holder, key) else None
        if isinstance(holder, dict):
            holder.setdefault(each.path[-1], each.value)
    return document


def has(holder: Any, key: str | int) -> bool:
    """Whether there is something at this key of a mapping, or position of a list."""
    if isinstance(holder, list):
        return isinstance(key, int) and key < len(holder)
    return isinstance(holder, Mapping) and key in holder


def without(document: Any, paths: Iterable[Path]) -> Any:
    """A copy of ``document`` without what is at these paths, as far as it is there."""
    taken = set(paths)

    def copy(value: Any, at: Path) -> Any:
        if isinstance(value, Mapping):
            return {key: copy(item, (*at, key)) for key, item in value.items() if (*at, key) not in taken}
        if isinstance(value, list):
            return [copy(item, (*at, index)) for index, item in enumerate(value) if (*at, index) not in taken]
        return value

    return copy(document, ()) if taken else document


# ------------------------------------------------------------------------------------------------------- reading


def read_tolerantly(
    model: type[M], document: Any, required: Sequence[Path] = ()
) -> tuple[M, tuple[Unknown, ...], tuple[Path, ...]]:
    """``document`` as a ``model``, with defaults in place of what this version does not know or cannot read: the
    fields of other names, and the paths of values that are not of the kind that this version wants (a new word in a
    list of words, say).

    Raises ValidationError where the rest is no ``model`` either, or where the value is at, below or around one of
    ``required``.
    """
    known, unknown = split(model, document)
    dropped = list[Path]()
    while True:
        try:
            return model.model_validate(known, by_alias=True, by_name=False), unknown, tuple(dropped)
        except ValidationError as error:
            bad = _deepest(known, error.errors(include_url=False)[0]["loc"])
            needed = any(bad[: len(path)] == path[: len(bad)] for path in required)
            if not bad or needed or len(dropped) == MOST_TRIES:
                raise
            dropped.append(bad)
            known = without(known, [bad])


def _deepest(document: Any, location: Path) -> Path:
    """As much of pydantic's location as is in the document: the rest names members of unions and missing fields. A
    missing field takes its holder with it; the entry of a list goes as a whole, because a part of one means nothing."""
    path: list[str | int] = []
    for key in location:
        if not has(document, key):
            break
        document = document[key]
        path.append(key)
        if isinstance(key, int):
            break
    return tuple(path)
