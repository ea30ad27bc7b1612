"""A trajectory whose verifier crashed changes no bit of an update: it is as if it had not been sampled."""

import random
from dataclasses import replace

import pytest
import torch
from gang import Work, train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rz_workers.trainer.method import ppo
from rz_workers.trainer.method.batch import collate
from rz_workers.trainer.method.learner import why_no_update
from rz_workers.trainer.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"), None)

METHODS = {
    "ppo": {},
    "ppo with truncated importance weights and a KL penalty": {
        "samplerCorrection": "tis",
        "klCoefficient": 0.3,
        "klMode": "penalty",
    },
    "grpo": {"name": "grpo"},
}
"""Fields of ``algorithm``."""

batches = st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(0, 10_000))
"""Prompt groups, samples of each, seed of tokens, lengths, rewards and of which are masked."""


def mask(rows, which):
    """``rows`` with a status and, in the reward's place, a number that would be seen anywhere."""
    return [replace(row, reward_status="crashed", reward=1e6) if i in which else row for i, row in enumerate(rows)]


@pytest.fixture
def check(make_spec, make_trajectories):
    """Asserts that two steps with masked trajectories are those without them, to the bit: weights and figures."""

    def compare(run, method, batch, tokens, **trainer):
        spec = make_spec(algorithm=METHODS[method], trainer={"maxTokensPerMicroBatch": tokens, **trainer})
        groups, samples, seed = batch
        chance, with_masked, without = random.Random(seed), [], []
        for step in range(2):
            rows = make_trajectories(step=step, groups=groups, samples=samples, seed=seed + step)
            which = set(chance.sample(range(len(rows)), chance.randint(1, len(rows) - 1)))
            with_masked.append(mask(rows, which))
            without.append([row for i, row in enumerate(rows) if i not in which])
        masked, expected = run(Work(spec, with_masked)), run(Work(spec, without))
        assert masked.figures == expected.figures
        assert masked.parameters.keys() == expected.parameters.keys()
        assert all(torch.equal(masked.parameters[name], value) for name, value in expected.parameters.items())

    return compare


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=batches, tokens=st.integers(1, 160))
def test_on_one_rank(check, method, batch, tokens):
    check(lambda work: train(work, ALONE), method, batch, tokens)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(sorted(METHODS)), batch=batches, tokens=st.integers(1, 160))
def test_on_two_ranks(check, gang, method, batch, tokens):
    check(gang.train, method, batch, tokens, nodes=2)


def test_a_group_of_which_one_is_left_has_the_advantage_0(make_trajectories):
    batch = collate(mask(make_trajectories(groups=2, samples=3), {0, 2}))
    advantages = ppo.group_relative_advantages(batch.rewards, batch.groups, batch.lengths)
    assert batch.groups.tolist() == [0, 1, 1, 1]
    assert not advantages[: int(batch.lengths[0])].any()
    assert advantages[int(batch.lengths[0]) :].any()


UPDATES = [
    ("rewards that differ", [0, 1, 1, 0], "ppo", None),
    ("all 0", [0, 0, 0, 0], "ppo", "all rewards are equal"),
    ("all 1", [1, 1, 1, 1], "ppo", "all rewards are equal"),
    ("ppo: groups that differ from each other alone", [0, 0, 1, 1], "ppo", None),
    ("grpo: groups that differ from each other alone", [0, 0, 1, 1], "grpo", "all rewards are equal"),
    ("grpo: one group in which rewards differ", [0, 0, 0, 1], "grpo", None),
    ("equal but for one that is masked", [0, 0, None, 0], "ppo", "all rewards are equal"),
    ("nothing is left", [None] * 4, "ppo", "every trajectory is masked"),
]


@pytest.mark.parametrize(("rewards", "name", "why"), [case[1:] for case in UPDATES], ids=[case[0] for case in UPDATES])
def test_which_steps_make_no_update_of_the_policy(make_spec, make_trajectories, rewards, name, why):
    rows = make_trajectories(groups=2, samples=2)
    given = [
        replace(row, reward_status="crashed") if reward is None else replace(row, reward=float(reward))
        for row, reward in zip(rows, rewards, strict=True)
    ]
    batch = collate(given)
    spec = make_spec(algorithm={"name": name, "skipUniformSteps": True})
    found = why_no_update(spec.algorithm, batch)
    assert (found or "").startswith(why or "")
    assert (found is None) == (why is None)
    by_default = why_no_update(make_spec(algorithm={"name": name}).algorithm, batch)
    assert (by_default is None) == (batch.num_trajectories > 0), "uniform steps are trained on unless asked"
