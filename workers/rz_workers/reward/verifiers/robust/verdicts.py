"""Yes is yes, whatever explains it; what qualifies it is another answer.

Normal text that begins with yes, no, true or false to a verdict, and the comparison of two.
"""

from __future__ import annotations

import re

from rz_workers.reward.verifiers.robust.kinds import Verdict
from rz_workers.reward.verifiers.robust.words import unwrapped, words

MAX_CHARS = 300
_VERDICT = re.compile(
    r"(?:(?:(?:the|this|that)\s+)?(?:(?:statement|claim|assertion|proposition|conjecture)|it|this|that)(?:\s+is|'s)\s+)?"
    r"(yes|no|true|false)\b"
    r"(?:\s*(?:[,.;:!]|\s-+\s|--+|→|⇒|(?=\()|(?<=[a-z])-(?=\s))\s*|\s+(?=(?:because|since|as|it|they|this|that|the)\b)|$)(.*)",
    re.IGNORECASE | re.DOTALL,
)
_QUALIFIED = re.compile(
    r"(?:\W*\b(?:and|or|but|if|only|unless|sometimes|partially|maybe|except|provided|yes|no|not|true|false)\b)",
    re.IGNORECASE,
)
_SINGLE = {"T": True, "F": False, "Y": True, "N": False}


def verdicts(text: str) -> list[Verdict]:
    if len(text) > MAX_CHARS:
        return []
    plain = " ".join(unwrapped(text).split())
    if plain.strip("().") in _SINGLE:
        return [Verdict(_SINGLE[plain.strip("().")])]
    found = _VERDICT.fullmatch(plain)
    if found is None or _QUALIFIED.match(found[2]):
        return []
    return [Verdict(found[1].lower() in ("yes", "true"), words(found[2]) or found[2].strip(" ()."))]


def equal_verdicts(a: Verdict, b: Verdict) -> bool:
    return a.is_yes == b.is_yes and (not a.rest or not b.rest or a.rest == b.rest)
