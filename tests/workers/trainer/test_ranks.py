"""Several ranks over gloo do what one rank does."""

import pytest
import torch
from gang import Work, train

from rz_workers.trainer.ranks import Ranks

MAX_GRAD_NORM = 0.05

LAYOUTS = {
    "2 ranks": {"nodes": 2},
    "4 ranks": {"nodes": 4},
    "4 ranks, 2 copies of the shards (HSDP)": {"nodes": 4, "shardSize": 2},
    "2 ranks, each with all parameters": {"nodes": 2, "shardSize": 1},
}

SAMPLED = {"policy_update_kl", "critic_loss_before", "critic_loss_after"}
"""Metrics of a sample of the batch, which is another one on other ranks."""


@pytest.fixture(scope="module")
def alone():
    """What one rank makes of a piece of work: the same for all layouts, so it is made once."""
    outcomes = []

    def run(work):
        if not outcomes:
            outcomes.append(train(work, Ranks(0, 1, torch.device("cpu"), None)))
        return outcomes[0]

    return run


@pytest.fixture
def make_work(make_spec, make_trajectories):
    """Uneven work: 9 trajectories a step, of which a mini-batch of the critic has 3, so that of 4 ranks one is left
    without; with gradients that are always clipped."""

    def make(steps: int, **trainer) -> Work:
        optimizer = {"warmupSteps": 0, "learningRate": 3e-4, "maxGradNorm": MAX_GRAD_NORM}
        spec = make_spec(
            trainer={"maxTokensPerMicroBatch": 24, **trainer},
            algorithm={"policy": optimizer, "critic": {**optimizer, "miniBatches": 3}},
        )
        return Work(spec, [make_trajectories(step=step, groups=3, samples=3, seed=step) for step in range(steps)])

    return make


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_ten_steps_give_one_ranks_parameters_and_metrics(gang, alone, make_work, layout):
    one, several = alone(make_work(10)), gang.train(make_work(10, **layout))
    assert one.parameters.keys() == several.parameters.keys()
    for name, value in one.parameters.items():
        assert (several.parameters[name] - value).abs().max() <= 1e-5, name
    for step, (expected, found) in enumerate(zip(one.figures, several.figures, strict=True)):
        assert min(expected["policy_grad_norm"], expected["critic_grad_norm"]) > MAX_GRAD_NORM, "nothing was clipped"
        assert expected.keys() == found.keys()
        for name in expected.keys() - SAMPLED:
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), f"{name} of step {step}"


@pytest.mark.parametrize("nodes", [1, 2])
def test_bfloat16_passes_train_fp32_masters(gang, make_work, nodes):
    outcome = gang.train(make_work(2, nodes=nodes, dtype="bfloat16"))
    assert {value.dtype for value in outcome.parameters.values()} == {torch.float32}
    assert outcome.figures[-1]["policy_grad_norm"] > 0
