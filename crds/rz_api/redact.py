"""Takes credentials out of text that more people read than may know them: conditions, events, last words.

``redact`` is called where such text is written: by ``conditions.set_condition`` and ``RunStatus.to_dict`` (whatever
the operator puts into a status), by the operator's events, by the workers' last words and their open status port. A
text is passed again further on, so that redacting twice is redacting once.

It knows credentials by what is around them (a query value, a header, a URL's user) or by how they begin. A bare secret
without any of that, such as the second half of one that a kubelet cut in two, is no different from any other word.
"""

from __future__ import annotations

import re

__all__ = ["REMOVED", "redact"]

REMOVED = "***"
"""In place of a credential; what names it stays, so that one sees which it was."""

_END = r"\s\"'<>`&;,"
"""What ends a value: it stands in a URL, in JSON, in a header or in a sentence."""

_SIGNED = r"x-(?:amz|goog|ms)-(?:signature|credential|security-token)"
"""Of presigned URLs, and of headers."""

_LONG = r"[\w-]{0,40}(?:password|passwd|secret|api[-_]?key|access_?key(?:_?id)?|account_?key|access_?signature)"
"""Names that say it whatever stands before them, in small letters: ``db_password``, ``SharedAccessSignature``."""

_SHORT = (
    r"(?:(?:access|refresh|id|auth|api|oauth|bearer|sas|private|personal|hf|hub|session|security)[-_]?)?token"
    r"|(?:aws_)?(?:session|security)_token|signature|sig|credentials?|pwd"
)
"""Names that mean a credential alone, and something else with other words before them, as in ``eos_token``."""

_NAMES = f"{_SIGNED}|{_LONG}|{_SHORT}"

_RULES: tuple[tuple[str, str], ...] = (
    # A private key, also one whose end was cut off.
    (r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:(?=-----END)|\Z)", r"\1"),
    # What is known by its beginning, wherever it stands.
    (r"\b(AKIA|ASIA)[A-Z0-9]{8,}", r"\1"),
    (r"\b(hf_|gh[oprsu]_|github_pat_|glpat-|xox[abprs]-|ya29\.)[A-Za-z0-9_-]{16,}", r"\1"),
    (r"\b(sk-)[A-Za-z0-9_-]{20,}", r"\1"),
    (r"\b()eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?", r"\1"),
    # A header: Authorization: Bearer abc, "Authorization": "Basic abc".
    (
        rf"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|digest|token|negotiate|apikey)\s+)[^{_END}]+",
        r"\1",
    ),
    (rf"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?=[^{_END}]*\d)[^{_END}]{{16,}}", r"\1"),
    (rf"(?i)\b({_SIGNED}:\s*)[^{_END}]+", r"\1"),
    # The first of them without its header. A word of letters alone is prose: "the bearer authentication".
    (r"(?i)\b(bearer\s+)(?=[a-z._~+/=-]*\d|[a-z._~+/=-]{20})[a-z0-9._~+/=-]{8,}", r"\1"),
    # scheme://user:password@host; of http and git a user alone is a token. Azure's container@account is none.
    (r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/@:?#\"'<>]*:[^\s/@?#\"'<>]*(?=@)", r"\1"),
    (r"(?i)\b((?:git\+)?https?://)[^\s/@:?#\"'<>]+(?=@)", r"\1"),
    # "name": "value" of JSON and Python. A sentence has no quotes around the name.
    (rf"(?i)(\"(?:{_NAMES})\"\s*:\s*\")[^\"]+", r"\1"),
    (rf"(?i)('(?:{_NAMES})'\s*:\s*')[^']+", r"\1"),
    # name=value of a query, an environment or a connection string; name = value of a file of settings.
    (rf"(?i)(?<![\w.-])((?:{_NAMES})=[\"']?)[^{_END}]+", r"\1"),
    (rf"(?i)(?<![\w.-])((?:{_LONG}|aws_\w*token)\s=\s[\"']?)[^{_END}]+", r"\1"),
    # NAME_TOKEN=value of an environment: capitals, or every tokenizer's eos_token would be one.
    (rf"\b([A-Z0-9_]*(?:TOKEN|PRIVATE_KEY)=[\"']?)[^{_END}]+", r"\1"),
)
"""(what is found, what of it stays), in this order: names and values before what could take them for a value."""

_COMPILED = tuple((re.compile(found), kept + REMOVED) for found, kept in _RULES)


def redact(text: str) -> str:
    """``text`` with its credentials as ``***``. Example: ``GET https://b.s3/k?X-Amz-Signature=0a1b&v=2`` becomes
    ``GET https://b.s3/k?X-Amz-Signature=***&v=2``."""
    for found, instead in _COMPILED:
        text = found.sub(instead, text)
    return text
