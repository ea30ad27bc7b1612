"""Distributions and draws against worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rollout_builders import params

from rz_workers.rollout.engines.transformers.sampling import draw, log_distribution, splitmix64, uniforms

LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()


def test_the_generator_is_splitmix64() -> None:
    """The published first outputs for seed 1234567."""
    outputs = splitmix64(np.array([1234567], dtype=np.uint64), 0, 5)
    assert outputs.tolist() == [
        [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ]
    ]


def test_a_stream_does_not_depend_on_blocks_or_on_the_other_rows() -> None:
    seeds = np.array([3, 2**63 - 1, 12], dtype=np.uint64)
    whole = uniforms(seeds, 0, 10)
    assert torch.equal(torch.cat([uniforms(seeds, 0, 4), uniforms(seeds, 4, 6)], dim=1), whole)
    assert torch.equal(uniforms(seeds[1:2], 0, 10), whole[1:2])


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    numbers = uniforms(np.arange(1000, dtype=np.uint64), 0, 100)
    assert 0.0 <= float(numbers.min()) < 1e-3
    assert 1 - 1e-3 < float(numbers.max()) < 1.0
    assert float(numbers.mean()) == pytest.approx(0.5, abs=3 / math.sqrt(12 * 100_000))
    assert float(numbers[:, 0].mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 1000))


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param({}, [0.5, 0.25, 0.125, 0.125], id="nothing is changed"),
        pytest.param({"temperature": 0.5}, [8 / 11, 2 / 11, 0.5 / 11, 0.5 / 11], id="temperature 1/2 squares"),
        pytest.param({"top_k": 2}, [2 / 3, 1 / 3, 0, 0], id="top-k keeps the two likeliest"),
        pytest.param({"top_k": 3}, [4 / 7, 2 / 7, 1 / 7, 0], id="of equal ones the lower id stays"),
        pytest.param({"top_k": 9}, [0.5, 0.25, 0.125, 0.125], id="top-k beyond the vocabulary keeps all"),
        pytest.param({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0], id="top-p keeps the token that crosses it"),
        pytest.param({"top_p": 0.49}, [1, 0, 0, 0], id="top-p stops with the token that reaches it"),
        pytest.param({"top_p": 0.01}, [1, 0, 0, 0], id="the likeliest token always stays"),
        pytest.param({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0], id="top-p counts within top-k"),
        pytest.param({"temperature": 0.5, "top_p": 0.75}, [0.8, 0.2, 0, 0], id="top-p counts at the temperature"),
    ],
)
def test_the_distribution_that_is_sampled_from(changes: dict[str, float], want: list[float]) -> None:
    probabilities = log_distribution(LOGITS, params(**changes)).exp()
    torch.testing.assert_close(probabilities, torch.tensor([want], dtype=torch.float32), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("uniform", "want"),
    [
        pytest.param(0.0, 0, id="0 is the first token"),
        pytest.param(0.49, 0, id="below 0.5 is the first token"),
        pytest.param(0.51, 1, id="above 0.5 is the second"),
        pytest.param(0.76, 2, id="above 0.75 is the third"),
        pytest.param(1 - 2**-53, 3, id="the largest number is the last"),
    ],
)
def test_a_draw_inverts_the_cumulative_distribution(uniform: float, want: int) -> None:
    logprobs = log_distribution(LOGITS, params())
    assert draw(logprobs, torch.tensor([uniform], dtype=torch.float64)).tolist() == [want]


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]])
    token = int(draw(log_distribution(logits, params()), torch.tensor([uniform], dtype=torch.float64)))
    assert token in (1, 3)


def test_draws_have_the_distributions_frequencies() -> None:
    rows = 20_000
    uniform = uniforms(np.arange(rows, dtype=np.uint64), 7, 1)[:, 0]
    tokens = draw(log_distribution(LOGITS, params()).expand(rows, -1), uniform)
    shares = torch.bincount(tokens, minlength=4) / rows
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.25, 0.125, 0.125]), rtol=0, atol=0.012)
