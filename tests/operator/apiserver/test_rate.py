"""Requests that are held back, by a clock of the test."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_operator.apiserver.rate import Bucket


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def taken(per_second: float, burst: int, arrivals: list[float]) -> list[float]:
    """When each request goes out that comes at one of ``arrivals`` (seconds), or as soon as the one before is out."""
    time, out = Time(), []
    bucket = Bucket(per_second, burst, time.clock, time.sleep)

    async def main() -> None:
        for arrival in arrivals:
            time.now = max(time.now, 100.0 + arrival)
            await bucket.take()
            out.append(time.now - 100.0)

    asyncio.run(main())
    return out


@pytest.mark.parametrize(
    ("arrivals", "wanted"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.0] * 5, [0.0, 0.0, 0.0, 0.5, 1.0]),
        ([0.0] * 3 + [10.0] * 4, [0.0] * 3 + [10.0] * 3 + [10.5]),
        ([0.0] * 3 + [0.5, 0.5], [0.0] * 3 + [0.5, 1.0]),
    ],
    ids=["a burst goes at once", "then two a second", "a pause fills the burst again", "and a short one part of it"],
)
def test_two_a_second_and_three_at_once(arrivals: list[float], wanted: list[float]) -> None:
    assert taken(2.0, 3, arrivals) == pytest.approx(wanted)


@given(
    per_second=st.floats(0.5, 100),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_never_more_than_the_burst_and_the_rate(per_second: float, burst: int, gaps: list[float]) -> None:
    arrivals = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    out = taken(per_second, burst, arrivals)
    assert out == sorted(out), "who comes first goes first"
    for first in range(len(out)):
        for last in range(first, len(out)):
            assert last - first + 1 <= burst + (out[last] - out[first]) * per_second + 1e-6
