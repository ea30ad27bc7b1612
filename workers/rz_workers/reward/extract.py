r"""Whatever a response holds, looking for its answer takes time linear in its length.

Where the answer is, as text. Pure; called by the reward service for every response. The answer is the last
``\boxed{...}`` inside the last ``<answer>...</answer>`` (RECIPE.md, "Reward"). The prompt ends in ``<think>``, so a
response starts inside the reasoning; its stop string is part of it, so ``</answer>`` is there when the response ended
by it. Responses are hostile input.
"""

from __future__ import annotations

import re

OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"

_BRACE_TOKENS = re.compile(r"\\boxed\s*+\{|\\\\(?!boxed\s*+\{)|\\[{}]|[{}]")
r"""What matters for balance: ``\boxed{`` (also after a doubled backslash, and with white space before the brace, as TeX
reads it), line breaks ``\\`` and escaped braces (both skipped), plain braces."""


def extract_answer(response: str) -> str | None:
    """The answer's text without surrounding white space; None when there is no answer or an empty one."""
    block = last_answer_block(response)
    boxed = None if block is None else last_boxed(block)
    return (boxed or "").strip() or None


def last_answer_block(response: str) -> str | None:
    """Text between the last ``<answer>`` that is closed and its ``</answer>``; None when there is none."""
    last_close = response.rfind(CLOSE_TAG)
    # Before the last end tag: a block that was begun and not closed behind it is no answer.
    start = response.rfind(OPEN_TAG, 0, max(last_close, 0))
    if start < 0:
        return None
    start += len(OPEN_TAG)
    return response[start : response.find(CLOSE_TAG, start)]


def last_boxed(text: str) -> str | None:
    r"""Content of the ``\boxed{...}`` that starts last among those whose braces balance; None when there is none.

    Example: ``\boxed{\frac{1}{2}}`` gives ``\frac{1}{2}``. Escaped braces are text. A box that never closes is none, as
    nobody can say where it ends: ``\boxed{3}, \boxed{4`` gives ``3``. ``\boxed 5`` is none, as TeX boxes one token of
    what follows, and ``\fbox{5}`` is none, as the prompt asks for ``\boxed``.
    """
    open_braces: list[int | None] = []  # start of the content for a box, None for a plain brace
    best: tuple[int, int] | None = None
    for token in _BRACE_TOKENS.finditer(text):
        match token.group():
            case "{":
                open_braces.append(None)
            case "}":
                start = open_braces.pop() if open_braces else None
                # The one that starts last, not that ends last: of nested boxes the inner one.
                if start is not None and (best is None or start > best[0]):
                    best = (start, token.start())
            case box if box.startswith("\\boxed"):
                open_braces.append(token.end())
    return None if best is None else text[best[0] : best[1]]
