"""How long some intervals ran while others did."""

import pytest

from rz_workers.intervals import Interval, seconds_covered, share_covered, union


@pytest.mark.parametrize(
    ("intervals", "want"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(5, 6), (1, 2)], [(1, 2), (5, 6)], id="apart and sorted"),
        pytest.param([(1, 4), (2, 3), (4, 5)], [(1, 5)], id="within and touching"),
    ],
)
def test_union(intervals: list[Interval], want: list[Interval]) -> None:
    assert union(intervals) == want


@pytest.mark.parametrize(
    ("intervals", "behind", "seconds", "share"),
    [
        pytest.param([(10, 14)], [(11, 20)], 3.0, 0.75, id="three of four seconds"),
        pytest.param([(0, 4)], [(5, 9)], 0.0, 0.0, id="one after the other"),
        pytest.param([(0, 4)], [(0, 3), (1, 2)], 3.0, 0.75, id="covers that overlap count once"),
        pytest.param([(0, 2), (0, 2)], [(1, 9)], 2.0, 0.5, id="what is covered counts each time"),
        pytest.param([(0, 10)], [(1, 2), (3, 4)], 2.0, 0.2, id="two covers apart"),
        pytest.param([], [(0, 1)], 0.0, None, id="no share of nothing"),
        pytest.param([(1, 1)], [(0, 2)], 0.0, None, id="no share of no time"),
    ],
)
def test_covered(intervals: list[Interval], behind: list[Interval], seconds: float, share: float | None) -> None:
    assert seconds_covered(intervals, behind) == pytest.approx(seconds)
    assert share_covered(intervals, behind) == (None if share is None else pytest.approx(share))
