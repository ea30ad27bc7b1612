"""Figures of a step's tensors against worked numbers."""

import math

import pytest
import torch

from rz_workers.trainer.method.figures import effective_sample_fraction, value_deciles


@pytest.mark.parametrize(
    ("values", "lengths", "want"),
    [
        pytest.param(
            [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            [10],
            {i: float(i) for i in range(1, 11)},
            id="ten tokens are one in each tenth",
        ),
        pytest.param(
            [1.0, 2, 3, 4, 5], [5], {1: 1.0, 3: 2.0, 5: 3.0, 7: 4.0, 9: 5.0}, id="five tokens leave every second empty"
        ),
        pytest.param([7.0, 9.0], [1, 1], {1: 8.0}, id="a single token is at the start of its response"),
        pytest.param(
            [*[0.0] * 10, *[1.0] * 10, 3.0, 5.0],
            [20, 2],
            {1: 1.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.0, 6: 7 / 3, 7: 1.0, 8: 1.0, 9: 1.0, 10: 1.0},
            id="tokens, not responses, have the same weight: (0 + 0 + 3) / 3 and (1 + 1 + 5) / 3",
        ),
    ],
)
def test_value_by_tenth_of_the_response(values, lengths, want):
    found = value_deciles(torch.tensor(values), torch.tensor(lengths))
    assert found == pytest.approx({f"value_decile_{i}_mean": mean for i, mean in want.items()})


@pytest.mark.parametrize(
    ("weights", "cap", "want"),
    [
        pytest.param([1.0, 1.0, 1.0], None, 1.0, id="equal policies lose nothing"),
        pytest.param([2.0, 2.0], None, 1.0, id="a common factor changes nothing"),
        pytest.param([1.0, 3.0], None, 16 / 20, id="(1 + 3)^2 / (2 (1 + 9))"),
        pytest.param([1.0, 3.0], 2.0, 9 / 10, id="the cap makes it (1 + 2)^2 / (2 (1 + 4))"),
        pytest.param([1e-30, 1e-30, 1e-30, 1.0], None, 1 / 4, id="one token has all the weight"),
    ],
)
def test_effective_sample_size(weights, cap, want):
    sampled = torch.full((len(weights),), -1.5, dtype=torch.float64)
    trained = sampled + torch.tensor(weights, dtype=torch.float64).log()
    assert effective_sample_fraction(trained, sampled, cap=cap) == pytest.approx(want)


def test_log_probs_far_apart_do_not_overflow():
    found = effective_sample_fraction(torch.tensor([0.0, 0.0]), torch.tensor([-2000.0, -1.0]), cap=None)
    assert math.isclose(found, 0.5)
