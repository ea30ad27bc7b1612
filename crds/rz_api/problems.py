"""Each problem says where (camelCase, from the object's root), what was found, what was required and what to change.

What pydantic found, as sentences for the person who wrote the file. Called by ``rz_api.resource``. An unknown field is
answered with the known one that it resembles, or with where that name belongs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from rz_api.names import NAME_PATTERN
from rz_api.rules import NAME_MESSAGE, show

_MISSING = object()


@dataclass(frozen=True)
class Problem:
    """One thing to change. ``str`` is its line in an error."""

    path: str
    """camelCase, from the object's root: ``spec.data.train[0].uri``."""
    text: str
    """What was found, what was required, what to change."""

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def problems_of(error: ValidationError, model: type[BaseModel], document: Any, at: str) -> list[Problem]:
    """The problems of ``document``, which is at path ``at`` of the object and should have been a ``model``.

    Problems are in pydantic's order, one a path: a value that fits no member of a union is one problem.
    """
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False, include_context=True):
        keys, value = _locate(detail, document)
        path = _join(at, keys)
        text = _unknown(model, keys, value) if detail["type"] == "extra_forbidden" else _text(detail, keys, value)
        # pydantic reports every member of a union; the contract's only one is a string or a whole number.
        if path in found and detail["type"] != "extra_forbidden":
            text = f"{_found(value)}, a string or a whole number is required: put it in quotes"
        found[path] = Problem(path, text)
    return list(found.values())


def _locate(detail: ErrorDetails, document: Any) -> tuple[list[str | int], Any]:
    """The keys that lead to the problem in the document (pydantic adds names of union members), and what is there."""
    keys: list[str | int] = []
    value = document
    for key in detail["loc"]:
        inside = key in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(key, int)
        if inside:
            value = value[key]
        elif detail["type"] == "missing":
            value = _MISSING
        else:
            break
        keys.append(key)
    return keys, value


def _join(at: str, keys: Sequence[str | int]) -> str:
    path = at
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def _found(value: Any) -> str:
    if value is _MISSING:
        return "found nothing"
    if value is None:
        return "found nothing (null)"
    return f"found {show(value)}"


_TYPES = {
    "int": ("a whole number", "write it without quotes, point or unit"),
    "float": ("a number", "write it without quotes or unit"),
    "finite": ("a finite number", "write a large one, or remove the field to get the default"),
    "bool": ("true or false", "write one of them, without quotes"),
    "string": ("a string", "put it in quotes"),
    "list": ("a list", "begin each entry with a dash"),
    "tuple": ("a list", "begin each entry with a dash"),
    "dict": ("a mapping", "write its fields below it, indented"),
    "model": ("a mapping", "write its fields below it, indented"),
}
"""First word of pydantic's error type -> what is required, how to get there."""

_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
}


def _text(detail: ErrorDetails, keys: Sequence[str | int], value: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"found nothing, a value is required: add `{keys[-1]}`"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{_found(value)}, {words.format(context[name])} is required: change the value"
    if kind == "literal_error":
        return f"{_found(value)}, {_choices(context['expected'], value)}"
    if kind == "string_pattern_mismatch":
        if context["pattern"] == NAME_PATTERN:
            return f"{_found(value)}; {NAME_MESSAGE}"
        return f"{_found(value)}, a string that matches {context['pattern']} is required: change the value"
    if kind in ("string_too_long", "too_long", "string_too_short", "too_short"):
        size = f"found {len(value)} {'characters' if kind.startswith('string') else 'entries'}"
        if kind.endswith("long"):
            return f"{size}, at most {context['max_length']} are allowed: shorten it"
        return f"{size}, at least {context['min_length']} is required: fill it in"
    # int_type, int_parsing, int_from_float, ...: all begin with the type that is required.
    required, change = _TYPES.get(kind.split("_")[0], (None, None))
    if required:
        change = "set it, or remove the field to get the default" if value is None else change
        return f"{_found(value)}, {required} is required: {change}"
    return f"{_found(value)}; {detail['msg']}: change the value"


def _choices(expected: str, value: Any) -> str:
    # pydantic gives a literal's values as one sentence: 'a', 'b' or 'c'.
    words = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = difflib.get_close_matches(str(value), words, n=1)
    required = words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    return f"{required} is required: " + (f"did you mean {near[0]}?" if near else "change the value")


# ------------------------------------------------------------------------------------------------ unknown fields


def _unknown(model: type[BaseModel], keys: Sequence[str | int], value: Any) -> str:
    """What to do with a field that is not there."""
    name, parent = str(keys[-1]), _model_at(model, keys[:-1])
    known = aliases(parent)
    # snake_case is what the models' attributes are called, and what people copy from code.
    if to_camel(name) in known:
        return f"found {show(value)}, but the field is written {to_camel(name)}: rename it"
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == name]
    if elsewhere:
        places = " or ".join(elsewhere[:4])
        return f"found {show(value)}, but there is no such field here: move it to {places}"
    near = difflib.get_close_matches(name.lower(), [alias.lower() for alias in known], n=1, cutoff=0.65)
    if near:
        alias = next(alias for alias in known if alias.lower() == near[0])
        return f"found {show(value)}, but there is no such field: did you mean {alias}?"
    return f"found {show(value)}, but there is no such field: remove it; known here are {', '.join(known)}"


def aliases(model: type[BaseModel]) -> list[str]:
    """The names of a model's fields on the wire."""
    return [field.alias or name for name, field in model.model_fields.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions, e.g. ``ModelSpec`` in ``list[ModelSpec] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _model_at(model: type[BaseModel], keys: Sequence[str | int]) -> type[BaseModel]:
    for key in keys:
        if isinstance(key, str):
            field = next(field for name, field in model.model_fields.items() if (field.alias or name) == key)
            model = next(models_in(field.annotation), model)
    return model


def _paths(model: type[BaseModel], at: str = "spec") -> Iterator[str]:
    """Every path of the spec below ``model``; of a list, the entries' fields (``spec.data.train[].uri``)."""
    for name, field in model.model_fields.items():
        path = f"{at}.{field.alias or name}"
        yield path
        for section in models_in(field.annotation):
            yield from _paths(section, path if section is field.annotation else f"{path}[]")
