"""Rows that the scheduler may not have seen yet count as waiting: there is never room only because of old figures.

How full vLLM is, and whether it moves: the rows that it was given, and what its scheduler says of them. For ``engine``;
no torch.

A step's figures arrive after the step, so that they never know of what was submitted since. Rows that were submitted
and are not among those that run are taken as waiting, whether the scheduler has seen them or not: one lease too few is
made up for in the next step, one too many waits here while another engine idles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["FULL", "LoadGauge", "has_room"]

FULL = 0.8
"""Share of KV blocks in use from which on no further unit is begun. Responses that are under way go on growing; what
does not fit then is preempted and computed again."""


def has_room(rows: int, running: int, blocks_in_use: float) -> bool:
    """Whether further rows would be sampled now. Pure.

    ``rows`` are submitted and not finished, ``running`` of them are in the batch, ``blocks_in_use`` is a share of 1.
    """
    return rows == 0 or (rows <= running and blocks_in_use < FULL)


class LoadGauge:
    """Counts rows (any thread) and takes vLLM's figures (its event loop's thread)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows = 0
        self._running, self._blocks_in_use = 0, 0.0
        self._moved = clock()
        """When there last was a token, or nothing to do."""

    def add(self, rows: int) -> None:
        """Count rows that were submitted; negative for rows that have ended."""
        with self._lock:
            # The clock begins with the first row: an engine that idled for an hour is not stuck.
            if self._rows == 0:
                self._moved = self._clock()
            self._rows += rows

    def stuck_seconds(self) -> float:
        """For how long there have been rows, and not one token for any of them."""
        with self._lock:
            return self._clock() - self._moved if self._rows else 0.0

    def has_room(self) -> bool:
        with self._lock:
            return has_room(self._rows, self._running, self._blocks_in_use)

    def stat_logger(self, _config: object, _engine_index: int = 0) -> _StatLogger:
        """The factory that ``AsyncLLM`` calls once for each scheduler."""
        return _StatLogger(self)

    def note(self, running: int, blocks_in_use: float) -> None:
        with self._lock:
            self._running, self._blocks_in_use = running, blocks_in_use

    def note_tokens(self, tokens: int) -> None:
        """Count the tokens of a step, of prompts and responses: with any, the engine moves."""
        with self._lock:
            if tokens:
                self._moved = self._clock()


class _StatLogger:
    """vLLM's ``StatLoggerBase`` by shape."""

    def __init__(self, gauge: LoadGauge) -> None:
        self._gauge = gauge

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            self._gauge.note(scheduler_stats.num_running_reqs, scheduler_stats.kv_cache_usage)
        if iteration_stats is not None:
            self._gauge.note_tokens(iteration_stats.num_generation_tokens + iteration_stats.num_prompt_tokens)

    def log_engine_initialized(self) -> None:
        pass

    def log(self) -> None:
        pass

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        pass

    def record_admission_rejection(self, reason: str) -> None:
        pass
