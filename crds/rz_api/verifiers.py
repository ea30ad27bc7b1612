"""A verifier is named by one string, here, in the prompt tables and between rollouts and reward service.

What `reward.verifier` and `data.*[].verifier` may say, and which verifier a source's answers have:

==========================  =========================================================================================
``robust``                  one of ``NAMES``
``my_rewards.maths:grade``  a function of a Python module that the reward image has
``s3://b/rewards.py:grade`` a function of a file, which the trainer reads once and keeps in the run's folder
==========================  =========================================================================================

Who calls this: the rules of the spec, the plan, the trainer (prompt tables, files), the reward service. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rz_api.spec import DataSource, ReasonerZeroRunSpec

REASONING_GYM = "reasoning-gym"
"""The scorer of the source's own task; in prompt tables its name is the source's URI."""
REASONING_GYM_URI = "reasoning-gym://"
NAMES = ("math-verify", "robust", "legacy", "choice", "exact", "numeric", REASONING_GYM)
_FIELDS = {"choice": ("choices", "options"), "numeric": ("tolerance",)}
# No backslash: it stands in a CEL expression too.
OWN_PATTERN = "^([A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*|.+[.]py):[A-Za-z_][A-Za-z0-9_]*$"
"""PLACE:FUNCTION, the place being a dotted module or a path or URL that ends in ``.py``."""


@dataclass(frozen=True)
class OwnPlace:
    """``PLACE:FUNCTION``, taken apart."""

    place: str
    function: str

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")


def own_verifier(verifier: str) -> OwnPlace | None:
    """What a verifier of somebody's own names; None for any other."""
    # A procedural task's URI has a colon too.
    if re.fullmatch(OWN_PATTERN, verifier) is None:
        return None
    place, _, function = verifier.rpartition(":")
    return OwnPlace(place, function)


def is_known(verifier: str) -> bool:
    """Whether a spec may say so."""
    return verifier in NAMES or own_verifier(verifier) is not None


def verifier_of(spec: ReasonerZeroRunSpec, source: DataSource) -> str:
    """Which verifier the source's answers have: its own, else its task's, else the run's."""
    is_procedural = source.uri.startswith(REASONING_GYM_URI)
    verifier = source.verifier or (REASONING_GYM if is_procedural else spec.reward.verifier)
    return source.uri if verifier == REASONING_GYM else verifier


def fields_read(verifier: str) -> tuple[str, ...] | None:
    """Which of its records' other fields it is given; None is all of them."""
    if verifier.startswith(REASONING_GYM_URI) or own_verifier(verifier) is not None:
        return None
    return _FIELDS.get(verifier, ())


def verifiers_of(spec: ReasonerZeroRunSpec) -> tuple[str, ...]:
    """Every verifier that answers of the run may have, each once: also the run's where all sources have their own,
    because prompt tables of earlier releases name none."""
    found = [verifier_of(spec, source) for source in (*spec.data.train, *spec.data.eval)]
    if spec.reward.verifier != REASONING_GYM:
        found.insert(0, spec.reward.verifier)
    return tuple(dict.fromkeys(found))


def files_of(spec: ReasonerZeroRunSpec) -> tuple[str, ...]:
    """Those of ``verifiers_of`` whose code is a file."""
    return tuple(each for each in verifiers_of(spec) if (own := own_verifier(each)) is not None and own.is_file)
