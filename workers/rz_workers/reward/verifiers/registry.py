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
    same, other = ("A", "B") if name == "choice" else ("1", "2")
    if (verifier(Example(same, same)).reward, verifier(Example(same, other)).reward) != (1.0, 0.0):
        raise AssertionError(f"the verifier {name} is broken: it gets {same} = {same} or {same} = {other} wrong")
    return verifier


def _math_verify(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.math_verify import math_verify_verifier

    _none(options, "math-verify")
    return math_verify_verifier()


def _legacy(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.legacy import legacy

    _none(options, "legacy")
    return legacy


def _robust(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.math_verify import math_verify_equal
    from rz_workers.reward.verifiers.robust import robust_verifier

    _none(options, "robust")
    return robust_verifier(math_verify_equal())


def _exact(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.simple import exact

    _none(options, "exact")
    return exact


def _choice(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.simple import choice

    _none(options, "choice")
    return choice


def _numeric(options: Mapping[str, Any]) -> Verifier:
    from rz_workers.reward.verifiers.simple import TOLERANCE, numeric

    _none({name: value for name, value in options.items() if name != "tolerance"}, "numeric")
    return numeric(options.get("tolerance", TOLERANCE))


def _none(options: Mapping[str, Any], name: str) -> None:
    if options:
        raise UserError(f"the verifier {name} has no option {', '.join(options)}: remove it")


VERIFIERS: dict[str, Loader] = {
    "math-verify": _math_verify,
    "robust": _robust,
    "legacy": _legacy,
    "choice": _choice,
    "exact": _exact,
    "numeric": _numeric,
}
"""By the names that ``reward.verifier`` takes."""
