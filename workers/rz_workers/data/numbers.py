"""A number keeps the text that a person wrote: 0.00001 never becomes 1e-05, which no right answer would equal.

Called by ``files``, which makes ``Number`` of what stands in JSON and in Parquet's columns, and by ``formats``.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np

LONGEST_POSITIONAL = 40
"""Characters; beyond it a person writes an exponent."""


class Number(str):
    """A number's own text; not a text of the record's."""

    __slots__ = ()


def shortest(value: Any) -> Number:
    """The shortest text that gives the same number, without an exponent up to ``LONGEST_POSITIONAL``: of 1e-05
    ``0.00001``, of 72.0 ``72``, of a float32's 0.1 ``0.1``."""
    if not math.isfinite(value):
        return Number(value)
    if isinstance(value, Decimal):
        return Number(format(value, "f"))
    text = np.format_float_positional(value, trim="-")
    if len(text) > LONGEST_POSITIONAL:
        text = np.format_float_scientific(value, trim="-", exp_digits=1).replace("e+", "e")
    return Number(text)


def is_finite(text: str) -> bool:
    """Whether a text is not one of those that programs write where there is no number (``infinity``, in full, is an
    answer that people give)."""
    return text.strip().lstrip("+-").lower() not in ("nan", "inf")


def plain(value: Any) -> Any:
    """The same value with Python's numbers, as JSON is written from it."""
    if isinstance(value, Number):
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value
