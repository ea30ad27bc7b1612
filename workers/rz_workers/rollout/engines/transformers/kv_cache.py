"""A step writes one column and reads the filled ones; nothing is copied but where the cache grows or a row moves.

Keys and values of one ``generate`` call: preallocated, filled from the left, finished rows dropped. A ``transformers``
cache (the engine hands it to ``model.forward``) whose tensors stay where they are: a step writes one column and
attention reads a view of the filled part, where transformers' own caches copy everything each step (dynamic) or read
the unfilled part too (static).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["GROWTH_TOKENS", "DecodeCache", "cache_argument", "last_logits_argument"]

GROWTH_TOKENS = 32
"""Least number of columns by which a full cache grows. It at least doubles each time, so that long limits cost memory
only when responses are long."""


def cache_argument(forward: Callable[..., Any]) -> str:
    """Name under which a model's ``forward`` takes its cache.

    ``cache`` since transformers 5.24, ``past_key_values`` before that and in models of people's own code.
    """
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def last_logits_argument(forward: Callable[..., Any]) -> dict[str, int]:
    """What makes a model's ``forward`` compute the logits of the newest token alone; nothing where people's own code
    knows no such argument."""
    parameters = inspect.signature(forward).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return {"logits_to_keep": 1} if takes_any or "logits_to_keep" in parameters else {}


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, ``[allocated rows, heads, capacity, head_dim]``, of which ``[:rows, :, :filled]``
    count."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self.capacity = capacity
        self.rows = 0
        self.filled = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.rows = key_states.shape[0]
        self.keys = self._allocate(key_states, self.rows, self.capacity)
        self.values = self._allocate(value_states, self.rows, self.capacity)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens, [rows, heads, tokens, head_dim]; returns views of everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        keys, values = self.keys[: self.rows, :, : self.filled], self.values[: self.rows, :, : self.filled]
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def expand(self, source: torch.Tensor, capacity: int) -> None:
        """Row i becomes a copy of what row ``source[i]`` was, with room for ``capacity`` tokens."""
        self.keys = self._spread(self.keys, source, capacity)
        self.values = self._spread(self.values, source, capacity)
        self.rows, self.capacity = source.shape[0], capacity

    def drop(self, holes: torch.Tensor, movers: torch.Tensor, rows: int) -> None:
        """Move rows ``movers`` into ``holes``, in place; the first ``rows`` rows remain."""
        for states in (self.keys, self.values):
            filled = states[:, :, : self.filled]
            filled[holes] = filled[movers]
        self.rows = rows

    def _spread(self, states: torch.Tensor, source: torch.Tensor, capacity: int) -> torch.Tensor:
        wider = self._allocate(states, source.shape[0], capacity)
        wider[:, :, : self.filled] = states[:, :, : self.filled].index_select(0, source)
        return wider

    @staticmethod
    def _allocate(like: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
        # Not zeros: a column is written before it is read.
        return like.new_empty((rows, like.shape[1], capacity, like.shape[3]))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return self.capacity


class DecodeCache(Cache):
    """The cache of all layers, from the prefill of ``prompt_tokens`` columns to the last token."""

    def __init__(self, num_layers: int, prompt_tokens: int) -> None:
        self._own = [_Layer(prompt_tokens) for _ in range(num_layers)]
        super().__init__(layers=list(self._own))

    @property
    def filled(self) -> int:
        """Columns that hold a token."""
        return self._own[0].filled

    @property
    def rows(self) -> int:
        return self._own[0].rows

    def expand(self, source: torch.Tensor, limit: int) -> None:
        """Copy prompt rows to sample rows (``source`` [rows] int64), with room for some of at most ``limit``
        columns."""
        for layer in self._own:
            layer.expand(source, min(limit, self.filled + GROWTH_TOKENS))

    def make_room(self, limit: int) -> None:
        """See to it that one more column fits; ``limit`` is the number of columns that will ever be needed."""
        capacity = self._own[0].capacity
        if self.filled < capacity:
            return
        for layer in self._own:
            layer.expand(torch.arange(self.rows), min(limit, max(2 * capacity, capacity + GROWTH_TOKENS)))

    def drop(self, holes: torch.Tensor, movers: torch.Tensor, rows: int) -> None:
        """Drop finished rows: ``movers`` take the places of ``holes``, then the first ``rows`` rows remain."""
        for layer in self._own:
            layer.drop(holes, movers, rows)
