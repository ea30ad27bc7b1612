"""The arithmetic of the method against worked numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rz_workers.trainer.method import ppo


def floats(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_the_reward_sits_at_the_last_token_of_each_trajectory():
    rewards = ppo.token_rewards(floats(1.0, 0.0, 1.0), torch.tensor([3, 2, 1]))
    assert rewards.tolist() == [0, 0, 1, 0, 0, 1]


def test_lambda_gamma_1_gives_the_reward_as_return_and_reward_minus_value_as_advantage_exactly():
    lengths = torch.tensor([3, 2])
    values = floats(0.1, 0.7, 0.3, 0.2, 0.9)
    advantages, returns = ppo.generalized_advantages(
        ppo.token_rewards(floats(1.0, 0.0), lengths), values, lengths, gamma=1.0, gae_lambda=1.0
    )
    assert returns.tolist() == [1, 1, 1, 0, 0]
    assert torch.equal(advantages, returns - values)


def test_gae_in_general_matches_numbers_worked_by_hand():
    # gamma 0.9, lambda 0.8, rewards 0 0 1, values 0.5 0.4 0.2:
    # delta_2 = 1 - 0.2 = 0.8; delta_1 = 0.9*0.2 - 0.4 = -0.22; delta_0 = 0.9*0.4 - 0.5 = -0.14
    # A_2 = 0.8; A_1 = -0.22 + 0.72*0.8 = 0.356; A_0 = -0.14 + 0.72*0.356 = 0.11632
    advantages, returns = ppo.generalized_advantages(
        floats(0, 0, 1), floats(0.5, 0.4, 0.2), torch.tensor([3]), gamma=0.9, gae_lambda=0.8
    )
    assert advantages.tolist() == pytest.approx([0.11632, 0.356, 0.8], abs=1e-6)
    assert returns.tolist() == pytest.approx([0.61632, 0.756, 1.0], abs=1e-6)


def test_gae_never_looks_across_the_border_of_a_trajectory():
    lengths = torch.tensor([2, 2])
    one = ppo.generalized_advantages(floats(0, 1, 0, 0), floats(0.3, 0.4, 9, 9), lengths, gamma=0.9, gae_lambda=0.9)
    other = ppo.generalized_advantages(floats(0, 1, 0, 5), floats(0.3, 0.4, 1, 2), lengths, gamma=0.9, gae_lambda=0.9)
    assert torch.equal(one[0][:2], other[0][:2])


@given(
    st.lists(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(0, 10_000),
)
def test_the_general_recursion_and_the_telescoped_sum_agree(values_of, seed):
    lengths = torch.tensor([len(values) for values in values_of])
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(int(lengths.sum()), generator=generator)
    values = floats(*[value for values in values_of for value in values])
    exact, _ = ppo.generalized_advantages(rewards, values, lengths, gamma=1.0, gae_lambda=1.0)
    general, _ = ppo.generalized_advantages(rewards, values, lengths, gamma=1.0, gae_lambda=1.0 - 1e-9)
    assert torch.allclose(exact, general, atol=1e-5)


def test_normalisation_uses_the_population_deviation_over_all_tokens():
    # mean 2, population variance (4+0+4)/3
    assert ppo.normalize(floats(0, 2, 4)).tolist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)], abs=1e-6)


@given(
    st.lists(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=6), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_gae_is_the_sum_that_defines_it(trajectories, gamma, gae_lambda):
    """Rewards at any token (a KL penalty has them), values, and both written out as sums over later tokens."""
    expected = []
    for trajectory in trajectories:
        following = [value for _, value in trajectory[1:]] + [0.0]
        deltas = [reward + gamma * after - value for (reward, value), after in zip(trajectory, following, strict=True)]
        for t in range(len(deltas)):
            expected.append(sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas[t:])))
    rewards, values = (floats(*[pair[i] for trajectory in trajectories for pair in trajectory]) for i in (0, 1))
    lengths = torch.tensor([len(trajectory) for trajectory in trajectories])
    advantages, returns = ppo.generalized_advantages(rewards, values, lengths, gamma=gamma, gae_lambda=gae_lambda)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(returns, advantages + values, atol=1e-5)


def test_normalisation_of_equal_advantages_is_zero_not_nan():
    assert ppo.normalize(floats(0.5, 0.5, 0.5)).tolist() == [0, 0, 0]


def test_normalisation_of_nearly_equal_advantages_divides_by_the_floor_of_the_deviation():
    # population variance 1e-10, held at 1e-8: a deviation of 1e-5 becomes 0.1
    assert ppo.normalize(floats(0, 2e-5)).tolist() == pytest.approx([-0.1, 0.1], abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        pytest.param(1.0, 2.0, -2.0, id="ratio 1 gives minus the advantage"),
        pytest.param(1.5, 2.0, -2.4, id="a gain beyond the clip is cut at 1.2"),
        pytest.param(1.5, -2.0, 3.0, id="a loss beyond the clip is kept whole"),
        pytest.param(0.5, -2.0, 1.6, id="a gain below the clip is cut at 0.8"),
        pytest.param(0.5, 2.0, -1.0, id="a loss below the clip is kept whole"),
    ],
)
def test_clipped_surrogate(ratio, advantage, expected):
    loss = ppo.policy_loss(floats(math.log(ratio)), floats(0.0), floats(advantage), clip_ratio=0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    logprobs = floats(-1.0, -2.0).requires_grad_()
    ppo.policy_loss(logprobs, logprobs.detach(), floats(0.5, -3.0), clip_ratio=0.2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-0.5, 3.0]


def test_importance_weights_multiply_the_loss_and_are_capped():
    weights = ppo.truncated_importance_weights(floats(0.0, -1.0), floats(-3.0, -1.0), cap=2.0)
    assert weights.tolist() == [2.0, 1.0]
    loss = ppo.policy_loss(floats(0, 0), floats(0, 0), floats(1, 1), clip_ratio=0.2, weights=weights)
    assert loss.tolist() == [-2.0, -1.0]


@pytest.mark.parametrize(
    ("value", "old", "clip", "expected"),
    [
        pytest.param(0.2, 0.0, None, 0.32, id="unclipped is half the squared error"),
        pytest.param(0.8, 0.2, 0.2, 0.18, id="a move towards the return beyond the clip is judged at the clip"),
        pytest.param(0.3, 0.2, 0.2, 0.245, id="a move within the clip is judged as it is"),
    ],
)
def test_value_loss(value, old, clip, expected):
    assert ppo.value_loss(floats(value), floats(old), floats(1.0), value_clip=clip).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_k3_is_zero_for_equal_and_positive_for_different_log_probs():
    # d = log q - log p = 0.5: exp(0.5) - 1 - 0.5
    assert ppo.k3(floats(-1.0, -1.0), floats(-1.0, -0.5)).tolist() == pytest.approx([0.0, 0.148721], abs=1e-6)


def test_group_relative_advantages_compare_with_the_own_group_alone():
    advantages = ppo.group_relative_advantages(
        floats(1, 0, 1, 1), torch.tensor([7, 7, 9, 9]), torch.tensor([1, 2, 1, 1])
    )
    assert advantages.tolist() == pytest.approx([1, -1, -1, 0, 0], abs=1e-5)


def test_explained_variance_of_a_perfect_a_constant_and_a_meaningless_critic():
    returns = floats(0, 1, 0, 1)
    assert ppo.explained_variance(returns, returns) == 1.0
    assert ppo.explained_variance(floats(0.5, 0.5, 0.5, 0.5), returns) == 0.0
    assert ppo.explained_variance(floats(0.1, 0.2, 0.3, 0.4), floats(1, 1, 1, 1)) is None


def test_mismatch_of_sampler_and_trainer():
    gap = ppo.mismatch(floats(-1.0, -2.0), floats(-1.0, -1.5))
    assert gap.abs_mean == pytest.approx(0.25)
    assert gap.max == pytest.approx(0.5)
    assert gap.k3 == pytest.approx((math.exp(-0.5) - 1 + 0.5) / 2)
