"""Wall-clock phases of a step, for the metrics and the report."""

from __future__ import annotations

import math
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

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = self._clock()
        yield
        self._phases.append(Phase(name=name, role=self._role, started=started, seconds=self._clock() - started))

    def seconds(self, name: str) -> float:
        """Seconds of all bars of that name since the last ``take``."""
        return math.fsum(phase.seconds for phase in self._phases if phase.name == name)

    def take(self) -> tuple[Phase, ...]:
        phases, self._phases = tuple(self._phases), []
        return phases
