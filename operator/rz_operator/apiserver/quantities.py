"""Quantities as Kubernetes writes them: ``512Gi``, ``100m``."""

from __future__ import annotations


def parse_quantity(text: str | int) -> float:
    """The number that ``text`` means. Raises ValueError where it is no quantity."""
    from kubernetes.utils import parse_quantity as parse  # a second to import, and no command but one needs it

    return float(parse(text))
