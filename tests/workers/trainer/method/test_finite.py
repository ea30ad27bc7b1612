"""An update whose loss or gradient norm is not finite is applied on no rank, and the message names the data."""

import pytest
import torch
from gang import Work, spoil, train

from rz_workers.trainer.method import batch as batches
from rz_workers.trainer.method import ppo
from rz_workers.trainer.method.finite import NonFiniteLossError
from rz_workers.trainer.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"), None)
UPDATES = {"policy": "policy_loss", "critic": "value_loss"}
"""Model -> the function of ``ppo`` that is its loss."""


@pytest.fixture
def learner(make_learner, make_spec):
    return make_learner(make_spec(algorithm={"critic": {"warmupSteps": 0, "learningRate": 1e-3, "miniBatches": 1}}))


@pytest.fixture
def batch(make_trajectories):
    return batches.collate(make_trajectories(groups=3, samples=2))


def update(learner, model, batch, goals):
    if model == "policy":
        return learner.policy_update(batch, goals, None)
    return learner.critic_update(batch, goals, torch.zeros(batch.num_tokens), step=0)


def state(learner, model):
    """Weights, and what the optimizer has noted."""
    optimizer = getattr(learner, f"{model}_optimizer")
    weights = [parameter.detach().clone() for parameter in getattr(learner, model).parameters()]
    return weights, len(optimizer.state)


def assert_refused(learner, model, batch, goals, match):
    before = state(learner, model)
    with pytest.raises(NonFiniteLossError, match=match) as caught:
        update(learner, model, batch, goals)
    weights, noted = state(learner, model)
    assert noted == before[1] == 0
    assert all(torch.equal(a, b) for a, b in zip(before[0], weights, strict=True))
    return caught.value


@pytest.mark.parametrize("model", UPDATES)
def test_a_loss_that_is_not_finite_names_its_prompt_group(learner, batch, model):
    goals = torch.zeros(batch.num_tokens)
    goals[int(batch.offsets[3])] = torch.nan  # the first token of the second sample of group 1
    error = assert_refused(
        learner, model, batch, goals, rf"the {model}'s loss is nan on prompt group\(s\) 1; the update"
    )
    assert (error.model, error.groups) == (model, (1,))


@pytest.mark.parametrize("model", UPDATES)
def test_a_loss_whose_gradient_is_finite_is_not_applied_either(learner, batch, monkeypatch, model):
    monkeypatch.setattr(ppo, UPDATES[model], spoil(getattr(ppo, UPDATES[model])))
    assert_refused(learner, model, batch, torch.ones(batch.num_tokens), r"loss is nan on prompt group\(s\) 0, 1, 2;")


@pytest.mark.parametrize("model", UPDATES)
def test_a_gradient_that_is_not_finite_names_all_groups_of_the_update(learner, batch, model):
    next(getattr(learner, model).parameters()).register_hook(lambda gradient: gradient * torch.inf)
    assert_refused(
        learner, model, batch, torch.ones(batch.num_tokens), r"norm is (nan|inf) on prompt group\(s\) 0, 1, 2;"
    )


def test_a_message_lists_no_more_than_a_few_groups():
    assert "prompt group(s) 0, 1, 2, 3, 4, 5, 6, 7 and 120 more;" in str(
        NonFiniteLossError("policy", "loss", torch.inf, range(128))
    )


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("model", UPDATES)
def test_a_loss_that_is_not_finite_on_one_rank_is_refused_by_all(gang, make_spec, make_trajectories, model, ranks):
    critic = {"warmupSteps": 0, "learningRate": 1e-3, "miniBatches": 1}
    spec = make_spec(algorithm={"critic": critic}, trainer={"nodes": ranks, "maxTokensPerMicroBatch": 64})
    work = Work(spec, [make_trajectories(groups=2, samples=2)], spoiled=UPDATES[model])
    run = gang.train if ranks > 1 else lambda work: train(work, ALONE)
    refused, untrained = run(work), run(Work(spec, []))  # ``Gang.train`` has held the ranks against each other
    assert refused.figures == []
    assert refused.refused is not None
    assert refused.refused.startswith(f"the {model}'s loss is nan on prompt group(s) ")
    kept = [name for name in untrained.parameters if name.startswith(model)]
    assert all(torch.equal(refused.parameters[name], untrained.parameters[name]) for name in kept)
