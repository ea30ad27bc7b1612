"""The recursion of GAE by doubling, against the recursion as it is written."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rz_workers.trainer.method import discounting, ppo
from rz_workers.trainer.method.discounting import discounted_sums


def one_by_one(terms, lengths, factor):
    out, end = [], 0
    for length in lengths.tolist():
        start, end = end, end + length
        total, sums = 0.0, []
        for term in reversed(terms[start:end].tolist()):
            total = term + factor * total
            sums.append(total)
        out += reversed(sums)
    return torch.tensor(out, dtype=torch.float64)


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]),
    st.integers(1, 200),
    st.integers(0, 10_000),
)
def test_sums_by_doubling_are_those_of_the_recursion(lengths, factor, chunk, seed):
    lengths = torch.tensor(lengths)
    terms = torch.randn(int(lengths.sum()), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    before = terms.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discounting, "CHUNK_TOKENS", chunk)
        found = discounted_sums(terms, lengths, factor)
    torch.testing.assert_close(found, one_by_one(terms, lengths, factor), rtol=1e-12, atol=1e-12)
    assert torch.equal(terms, before)


@pytest.mark.parametrize("gae_lambda", [0.95, 0.99, 1.0 - 1e-9])
def test_advantages_of_long_trajectories_are_those_of_the_recursion(gae_lambda):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5000, 1, 317, 4096, 4097])
    values = torch.randn(int(lengths.sum()), generator=generator)
    rewards = ppo.token_rewards(torch.ones(5), lengths)
    after = torch.cat([torch.cat([part[1:], torch.zeros(1)]) for part in values.split(lengths.tolist())])
    expected = one_by_one(rewards.double() + after.double() - values.double(), lengths, gae_lambda)
    advantages, returns = ppo.generalized_advantages(rewards, values, lengths, gamma=1.0, gae_lambda=gae_lambda)
    torch.testing.assert_close(advantages.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(returns, advantages + values)
