"""No unit is begun that would only wait for others, and none fails unseen.

How many units are sampled at a time: one after the other, or beside each other for as long as the engine has room.
``main`` begins every unit through one of the two classes here, from its one thread:

======================  ================  =================================================
call                    ``OneAtATime``    ``SideBySide`` (engines with continuous batching)
======================  ================  =================================================
``start``               runs the unit     runs it in a thread of its own
``wait_for_room``       returns at once   until the engine says that it has room
``wait_until_sampled``  returns at once   until no unit needs the engine (before new weights)
``join``                returns at once   until every unit is stored or dropped
======================  ================  =================================================

A unit that fails ends the process: its error is raised by the next call that ``main`` makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from rz_workers.rollout.engines.interface import ConcurrentEngine, Engine
from rz_workers.runtime import WorkerError

__all__ = ["OneAtATime", "SideBySide", "Unit", "Units", "units_for"]

POLL_SECONDS = 0.01
"""How often the engine is asked for room: about one step of a small model."""
MAX_UNITS = 64
"""Most units under way. Sampled units wait here for verdicts and storage, and must not pile up when those are out."""

Sampled = Callable[[], None]
Unit = Callable[[Sampled], None]
"""Samples a unit, says so by calling its argument, then scores, writes and hands it in."""


class Units(Protocol):
    """The units of one rollout process that are under way."""

    @property
    def are_under_way(self) -> bool: ...
    def start(self, name: str, unit: Unit) -> None: ...
    def wait_for_room(self) -> None: ...
    def wait_until_sampled(self) -> None: ...
    def join(self) -> None: ...


class OneAtATime:
    """Each unit runs to its end in the thread that starts it."""

    are_under_way = False

    def start(self, name: str, unit: Unit) -> None:
        unit(lambda: None)

    def wait_for_room(self) -> None:
        pass

    def wait_until_sampled(self) -> None:
        pass

    def join(self) -> None:
        pass


class SideBySide:
    """Each unit runs in a thread of its own. ``has_room`` is the engine's; the methods are called from one thread."""

    def __init__(self, has_room: Callable[[], bool], max_units: int = MAX_UNITS) -> None:
        self._has_room, self._max_units = has_room, max_units
        self._changed = threading.Condition()
        self._under_way = self._sampling = 0
        self._error: BaseException | None = None

    @property
    def are_under_way(self) -> bool:
        with self._changed:
            return self._under_way > 0

    def start(self, name: str, unit: Unit) -> None:
        with self._changed:
            self._under_way += 1
            self._sampling += 1
        threading.Thread(target=self._run, args=(unit,), name=name, daemon=True).start()

    def wait_for_room(self) -> None:
        self._wait(lambda: self._under_way < self._max_units and self._has_room(), POLL_SECONDS)

    def wait_until_sampled(self) -> None:
        self._wait(lambda: self._sampling == 0)

    def join(self) -> None:
        self._wait(lambda: self._under_way == 0)

    def _wait(self, holds: Callable[[], bool], poll_seconds: float | None = None) -> None:
        with self._changed:
            while self._error is None and not holds():
                self._changed.wait(poll_seconds)
            if self._error is not None:
                raise self._error

    def _run(self, unit: Unit) -> None:
        is_sampling = True

        def sampled() -> None:
            nonlocal is_sampling
            with self._changed:
                # At most once for each unit, whoever says so first: the unit, or its end.
                self._sampling -= is_sampling
                is_sampling = False
                self._changed.notify_all()

        try:
            unit(sampled)
        except BaseException as error:
            # Before the counts fall: a `join` that they release must find the error.
            self._note(error)
        # A unit that failed while it sampled has not said so itself.
        sampled()
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def _note(self, error: BaseException) -> None:
        """Keep the first error. What is no ``Exception`` would pass by the handlers of the main thread."""
        if not isinstance(error, Exception):
            error = WorkerError(f"a unit was ended by {error!r}")
        with self._changed:
            self._error = self._error or error


def units_for(engine: Engine) -> Units:
    return SideBySide(engine.has_room) if isinstance(engine, ConcurrentEngine) else OneAtATime()
