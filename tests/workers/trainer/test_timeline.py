"""What the timeline tells while phases run and after them."""

import pytest

from rz_workers.storage.records import Phase
from rz_workers.trainer.timeline import Timeline


def test_the_phase_that_runs_is_named_and_a_finished_one_is_a_bar():
    ticks = iter([100.0, 102.5, 110.0, 111.0])
    timeline = Timeline("trainer", clock=lambda: next(ticks))
    assert timeline.current is None
    with timeline.phase("values"):
        assert timeline.current == "values"
    assert timeline.current is None
    with timeline.phase("publish"):
        assert timeline.current == "publish"
    want = (
        Phase(name="values", role="trainer", started=100.0, seconds=2.5),
        Phase(name="publish", role="trainer", started=110.0, seconds=1.0),
    )
    assert timeline.take() == want
    assert timeline.take() == ()


def test_a_phase_that_fails_does_not_go_on():
    timeline = Timeline("trainer")
    with pytest.raises(RuntimeError, match="out of memory"), timeline.phase("values"):
        raise RuntimeError("out of memory")
    assert timeline.current is None
