"""A verifier's libraries are imported when it is loaded, in the fork server, and never by the service itself.

Names to verifiers. A loader imports (about 1 s for those with sympy), takes the options of the spec's verifier field,
and returns the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rz_workers.reward.interface import Example, Verifier
from rz_workers.runtime import UserError

Loader = Callable[[Mapping[str, Any]], Verifier]


def load_verifier(name: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """Import the verifier, run it once so that its tables are built, and return it.

    Raises UserError for a name or an option that is not there, AssertionError for a library that gets 1 = 1 wrong.
    """
    if name not in VERIFIERS:
        raise UserError(f"found the verifier {name!r}; there are {', '.join(VERIFIERS)}: name one of them")
    verifier = VERIFIERS[name](options or {})
    if (verifier(Example("1", "1")).reward, verifier(Example("1", "2")).reward) != (1.0, 0.0):
        raise AssertionError(f"the verifier {name} is broken: it gets 1 = 1 or 1 = 2 wrong")
    return verifier


def _math_verify(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.math_verify import math_verify_verifier

    _none(options, "math-verify")
    return math_verify_verifier()


def _legacy(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.legacy import legacy

    _none(options, "legacy")
    return legacy


def _none(options: Mapping[str, Any], name: str) -> None:
    if options:
        raise UserError(f"the verifier {name} has no option {', '.join(options)}: remove it")


VERIFIERS: dict[str, Loader] = {"math-verify": _math_verify, "legacy": _legacy}
"""By the names that ``reward.verifier`` takes."""
