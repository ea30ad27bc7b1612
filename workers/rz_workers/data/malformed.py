"""One word for each kind of value, wherever a record is refused."""

from __future__ import annotations

from typing import Any

from rz_workers.data.numbers import Number


class MalformedError(ValueError):
    """Reason why a record cannot be used; the caller adds where it is."""


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a number" if isinstance(value, Number) else names.get(type(value), "a number")


def fields_of(record: dict[str, Any]) -> str:
    return f"the fields {', '.join(map(repr, record))}" if record else "no field"
