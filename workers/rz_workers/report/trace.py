"""Two events of one thread never overlap, as the trace event format wants it.

``trace.json``: who worked when, for https://ui.perfetto.dev (or chrome://tracing). Pure. Called by ``main``.

Chrome's trace event format (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): one
process for each role; phases and lease units as complete events, reward and response length as counters. Events of one
thread must not overlap, so that a row that would is given a second thread, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rz_workers.report.record import RunRecord

PROCESSES = ("trainer", "rollout")
"""In the order in which they are shown; a role with another name comes behind them."""
COUNTERS = ("reward_mean", "response_length_mean")

Event = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """Something that took time."""

    role: str
    row: str
    """What stands at the left of it."""
    name: str
    category: str
    started: float
    """Unix seconds."""
    seconds: float
    args: dict[str, Any] = field(default_factory=dict)


def trace(record: RunRecord) -> dict[str, Any]:
    """The file's content; times are microseconds since the start of the first bar."""
    bars = sorted((*_phases(record), *_units(record)), key=lambda bar: (bar.started, bar.row, bar.name))
    origin = bars[0].started if bars else 0.0
    roles = [*PROCESSES, *sorted({bar.role for bar in bars} - set(PROCESSES))]
    events: list[Event] = []
    for pid, role in enumerate(roles, start=1):
        own = [bar for bar in bars if bar.role == role]
        events += _metadata(pid, None, "process", role, pid)
        for tid, (row, lane) in enumerate(_threads(own), start=1):
            events += _metadata(pid, tid, "thread", row, tid)
            events += [_complete(bar, pid, tid, origin) for bar in lane]
    return {
        "traceEvents": [*events, *_counters(record, pid=1, origin=origin)],
        "displayTimeUnit": "ms",
        "otherData": {"run": record.run.name, "started_unix_seconds": origin},
    }


def lanes(bars: Iterable[Bar]) -> list[list[Bar]]:
    """Spread bars (sorted by start) over as few rows as possible, none of which has two at a time.

    Example: 0-2, 1-3 and 2-4 need two rows: 0-2 and 2-4, 1-3.
    """
    found: list[list[Bar]] = []
    for bar in bars:
        free = next((lane for lane in found if lane[-1].started + lane[-1].seconds <= bar.started), None)
        if free is None:
            found.append([bar])
        else:
            free.append(bar)
    return found


def _threads(bars: Sequence[Bar]) -> list[tuple[str, list[Bar]]]:
    """(name, bars) of each thread of a process: rows in the order in which they began."""
    threads = []
    for row in dict.fromkeys(bar.row for bar in bars):
        for i, lane in enumerate(lanes(bar for bar in bars if bar.row == row)):
            threads.append((row if i == 0 else f"{row} ({i + 1})", lane))
    return threads


def _phases(record: RunRecord) -> list[Bar]:
    """The trainer's in one row, for one follows the other; generation and evaluations in one each."""
    return [
        Bar(
            role=phase.role,
            row="phases" if phase.role == "trainer" else phase.name,
            name=phase.name,
            category="phase",
            started=phase.started,
            seconds=phase.seconds,
            args={"step": step},
        )
        for step, phase in record.phases()
    ]


def _units(record: RunRecord) -> list[Bar]:
    """What each rollout held a lease of, in the steps that ``record`` has manifests of."""
    bars = []
    for manifest in record.manifests:
        shards = {shard.unit.unit_id: shard for shard in manifest.shards}
        for times in manifest.units:
            shard = shards[times.unit_id]
            bars.append(
                Bar(
                    role="rollout",
                    row=times.rollout_id,
                    name=f"step {manifest.step}",
                    category="unit",
                    started=times.leased,
                    seconds=times.completed - times.leased,
                    args={
                        "unit": times.unit_id,
                        "responses": shard.rows,
                        "tokens": shard.stats.response_tokens,
                        "weight_version": shard.weight_version,
                    },
                )
            )
    return bars


def _counters(record: RunRecord, pid: int, origin: float) -> list[Event]:
    """Each step's figures at the end of its generation."""
    return [
        {"ph": "C", "name": name, "pid": pid, "ts": _microseconds(phase.started + phase.seconds - origin),
         "args": {name: commit.metrics[name]}}
        for commit in record.commits
        for phase in commit.phases
        if phase.name == "generate"
        for name in COUNTERS
        if name in commit.metrics
    ]  # fmt: skip


def _complete(bar: Bar, pid: int, tid: int, origin: float) -> Event:
    start = _microseconds(bar.started - origin)
    # The end is rounded, not the duration: neighbours in a thread must not overlap by a microsecond.
    end = _microseconds(bar.started + bar.seconds - origin)
    return {
        "ph": "X",
        "name": bar.name,
        "cat": bar.category,
        "pid": pid,
        "tid": tid,
        "ts": start,
        "dur": end - start,
        "args": bar.args,
    }


def _metadata(pid: int, tid: int | None, kind: str, name: str, place: int) -> list[Event]:
    """Name and place of a process or thread."""
    where = {"pid": pid} if tid is None else {"pid": pid, "tid": tid}
    return [
        {"ph": "M", "name": f"{kind}_name", **where, "args": {"name": name}},
        {"ph": "M", "name": f"{kind}_sort_index", **where, "args": {"sort_index": place}},
    ]


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
