"""Every phase that ended is handed out once: wall-clock phases of a step, for the metrics and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rz_workers.storage.records import Phase


class Timeline:
    """Notes which phase ran when; ``clock`` gives unix seconds.

    ``with timeline.phase("values"): …`` adds a bar; ``take()`` hands the bars out and starts anew.
    """

    def __init__(self, role: str, clock: Callable[[], float] = time.time) -> None:
        self._role, self._clock = role, clock
        self._phases: list[Phase] = []
        self.current: str | None = None
        """The phase that runs now, None between two; the status port reads it from another thread."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        # Unix time, not a monotonic clock: the report lays these bars beside those of other machines.
        started, self.current = self._clock(), name
        try:
            yield
        finally:
            self.current = None
        # Not in the finally: what raised is no phase that ended.
        self._phases.append(Phase(name=name, role=self._role, started=started, seconds=self._clock() - started))

    def take(self) -> tuple[Phase, ...]:
        phases, self._phases = tuple(self._phases), []
        return phases
