"""Where a response ends follows from its own tokens alone: end-of-sequence tokens and stop strings.

The transformers engine asks one table lookup per step for the whole batch, and has text decoded only for rows whose
newest token could complete a stop string. The table is made once per (tokenizer, stop strings).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["GOES_ON", "IS_EOS", "MAY_STOP", "StopMatch", "Stopper", "Tokenizer"]

GOES_ON, MAY_STOP, IS_EOS = 0, 1, 2
"""What a table entry says about a token: it ends nothing; a stop string may end in it; it is an end-of-sequence
token."""

_BROKEN = "�"
"""What decoders put for bytes that are no character (yet)."""


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class StopMatch:
    stop: str
    trailing: int
    """Characters of the newest token behind the stop string; they are no part of the response's text."""


class Stopper:
    """Knows the stop strings and end-of-sequence tokens of one tokenizer.

    ``vocabulary_size`` is the model's, which may exceed the tokenizer's.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str], eos_token_ids: Collection[int], vocabulary_size: int
    ) -> None:
        self._tokenizer = tokenizer
        self._known = frozenset(tokenizer.get_vocab().values())
        self._stop = tuple(stop)
        self._longest = max((len(text) for text in stop), default=0)
        # Tokens for a first try, at one byte each; 4 more for a character that is cut in front.
        self._window = 4 + max((len(text.encode()) for text in stop), default=0)
        self.table = torch.zeros(vocabulary_size, dtype=torch.uint8)
        """[vocabulary] of GOES_ON, MAY_STOP, IS_EOS."""
        if stop:
            self.table[self._may_stop(vocabulary_size)] = MAY_STOP
        # Last, because an end-of-sequence token ends the response whatever its text is.
        self.table[[token for token in eos_token_ids if token < vocabulary_size]] = IS_EOS

    def text(self, token_ids: Sequence[int]) -> str:
        """Tokens as text, special tokens included, spaces as they are. Tokens that the model has and the tokenizer has
        not are nothing: the padding of a vocabulary may be sampled, and not every tokenizer decodes it."""
        known = [token for token in token_ids if token in self._known]
        return self._tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def find(self, token_ids: Sequence[int]) -> StopMatch | None:
        """The stop string that the last of ``token_ids`` completes: the one that ends first, of several the one that is
        listed first. None when it completes none.

        Decodes a tail that is long enough for every stop string to lie in it with its first character in sight.
        """
        if not self._stop:
            return None
        window = self._window
        while True:
            tail = token_ids[-window:]
            # A character whose bytes are not complete yet shows as one or more broken ones; the last token may mend it.
            before = self.text(tail[:-1]).rstrip(_BROKEN)
            if len(before) > self._longest or window >= len(token_ids):
                break
            window *= 2
        text = self.text(tail)
        best: tuple[int, str] | None = None
        for stop in self._stop:
            # Only where it ends behind `before`: what ended earlier would have ended the response then.
            start = text.find(stop, max(0, len(before) - len(stop) + 1))
            if start >= 0 and (best is None or start + len(stop) < best[0]):
                best = start + len(stop), stop
        return None if best is None else StopMatch(best[1], len(text) - best[0])

    def _may_stop(self, vocabulary_size: int) -> list[int]:
        """Tokens in which a stop string may end: they begin with a last part of one, or contain one whole.

        A token's text can differ at the start of a text (decoders strip a leading space there) and behind another
        token, so both are looked at. A token that begins inside a character counts when a stop string has such
        characters.
        """
        alone = [self.text([token]) for token in range(vocabulary_size)]
        anchor = next((token for token, text in enumerate(alone) if text.strip() and text.isascii()), None)
        endings = {stop[start:] for stop in self._stop for start in range(len(stop))}
        if not all(stop.isascii() for stop in self._stop):
            endings.add(_BROKEN)
        starts = tuple(endings)

        def may_stop(text: str) -> bool:
            return text.startswith(starts) or any(stop in text for stop in self._stop)

        def behind_may_stop(token: int) -> bool:
            if anchor is None:
                return True
            both = self.text([anchor, token])
            return not both.startswith(alone[anchor]) or may_stop(both[len(alone[anchor]) :])

        return [token for token, text in enumerate(alone) if may_stop(text) or behind_may_stop(token)]
