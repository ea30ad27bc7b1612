"""Quantities as Kubernetes writes them: ``512Gi``, ``100m``."""

from __future__ import annotations

from decimal import Decimal


def parse_quantity(text: str | int) -> float:
    """The number that ``text`` means. Raises ValueError where it is no quantity."""
    return float(exact_quantity(text))


def exact_quantity(text: str | int) -> Decimal:
    """``parse_quantity`` to the last digit."""
    from kubernetes.utils import parse_quantity as parse  # a second to import, and no command but one needs it

    return Decimal(parse(text))
