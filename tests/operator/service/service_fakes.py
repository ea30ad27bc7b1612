"""For tests of the operator's process: an event loop whose time jumps, a queue that only talks, and figures as
Prometheus would read them."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from rz_operator.controller.options import Options
from rz_operator.service.metrics import OperatorMetrics
from rz_operator.service.settings import Settings

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what the loop would sleep is added to its clock."""

    now = 0.0
    waits = 0
    """How often the loop had nothing to do."""

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits, and no timer is set: this would be for ever"
        self.waits += 1
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0 and stands still while anything can run. No sockets, no threads."""

    def __init__(self) -> None:
        self.selector = _JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run_virtually(main: Callable[[VirtualLoop], Awaitable[T]]) -> T:
    """Run ``main(loop)`` to its end; hours take milliseconds."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def call() -> T:
            return await main(loop)

        return runner.run(call())


@dataclass
class FakeQueue:
    """What the work queue says about itself."""

    depth: int = 0
    waiting: float = 0.0
    stalled: float = 0.0
    running: float = 0.0

    def oldest_due_seconds(self) -> float:
        return self.waiting

    def stalled_seconds(self) -> float:
        return self.stalled

    def longest_running_seconds(self) -> float:
        return self.running


@dataclass
class FakeWatches:
    """What the watches say about themselves."""

    stuck_words: str = ""
    trouble_words: str = ""

    def stuck(self) -> str:
        return self.stuck_words

    def trouble(self) -> str:
        return self.trouble_words


def settings(**fields: Any) -> Settings:
    return Settings(**{"options": Options({}), "bind_host": "127.0.0.1", "port": 0, **fields})


def figures(metrics: OperatorMetrics) -> dict[str, float]:
    """Of our own metrics: ``name{label=value,...}`` -> value, as the text that Prometheus gets has it."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return {name: value for name, value in found.items() if name.startswith("rz_")}
