"""Learning rates and mini-batches against worked numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_api.spec import OptimizerSpec
from rz_workers.trainer.method.schedule import learning_rate, mini_batches

PAPER = OptimizerSpec()
ANNEAL = OptimizerSpec(lr_schedule="linear", warmup_steps=0, decay_steps=100)


@pytest.mark.parametrize(
    ("spec", "step", "expected"),
    [
        pytest.param(PAPER, 1, 2e-8, id="the first step has a fiftieth of the peak, not 0"),
        pytest.param(PAPER, 25, 5e-7, id="half-way through the warm-up is half the peak"),
        pytest.param(PAPER, 50, 1e-6, id="the last warm-up step has the peak"),
        pytest.param(PAPER, 5000, 1e-6, id="constant stays"),
        pytest.param(ANNEAL, 50, 6.5e-7, id="linear is half-way after half its steps"),
        pytest.param(ANNEAL, 100, 3e-7, id="linear ends at the final rate"),
        pytest.param(ANNEAL, 999, 3e-7, id="linear stays there"),
        pytest.param(OptimizerSpec(warmup_steps=0), 1, 1e-6, id="no warm-up starts at the peak"),
    ],
)
def test_learning_rate(spec, step, expected):
    assert learning_rate(spec, step) == pytest.approx(expected)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 5), st.integers(0, 5))
def test_mini_batches_hold_every_trajectory_exactly_once_in_nearly_equal_parts(size, count, seed, step):
    parts = mini_batches(size, count, seed, step)
    assert sorted(index for part in parts for index in part) == list(range(size))
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == min(size, count)


def test_mini_batches_differ_between_steps_and_seeds_but_repeat_for_the_same():
    assert mini_batches(64, 4, 0, 7) == mini_batches(64, 4, 0, 7)
    assert mini_batches(64, 4, 0, 7) != mini_batches(64, 4, 0, 8)
    assert mini_batches(64, 4, 0, 7) != mini_batches(64, 4, 1, 7)
