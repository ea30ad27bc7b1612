"""A value in which ``no_json`` finds nothing can be written as JSON and read again, however somebody made it. Pure.

``accept`` asks it of every spec before anything else looks at it, ``frozen`` of what a ConfigMap holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rz_api.problems import Problem
from rz_operator.controller.words import cut

MAX_DEPTH = 100
"""Levels of nesting of a spec; a real pod template has about 12. Serializers give up at some 250."""


def no_json(value: Any, at: str) -> Problem | None:
    """Why a value could not be stored as JSON and read again; None where it can be. Never recurses."""
    queue: list[tuple[Any, int, str]] = [(value, 0, at)]
    while queue:
        value, depth, path = queue.pop()
        if depth > MAX_DEPTH:
            return Problem(cut(path, 200), f"found more than {MAX_DEPTH} levels of nesting: flatten it")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str) or not is_text(key):
                    said = f"found the key {ascii(key)[:120]}, keys must be text: put it in quotes"
                    return Problem(cut(path, 200), said)
            queue += [(item, depth + 1, f"{path}.{key}"[:300]) for key, item in reversed(list(value.items()))]
        elif isinstance(value, list | tuple):
            items = [(item, depth + 1, f"{path}[{index}]"[:300]) for index, item in enumerate(value)]
            queue += reversed(items)
        else:
            text = _scalar_problem(value)
            if text is not None:
                return Problem(cut(path, 200), text)
    return None


def _scalar_problem(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        # The API server decodes whole numbers as int64.
        return None if -(2**63) <= value < 2**63 else "found a number of more than 64 bits: change the value"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"found {value}, a finite number is required: change the value"
    if isinstance(value, str):
        return None if is_text(value) else f"found {ascii(value)[:120]}, which is no Unicode text: change the value"
    return f"found a {type(value).__name__}, a JSON value is required: change the value"


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold it."""
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        return False
    return True
