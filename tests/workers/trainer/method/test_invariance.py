"""Packing, micro-batching, the number of ranks and activation checkpointing change no gradient (fp64, to 1e-6 of its
largest entry; what is seen is 1e-15)."""

from dataclasses import replace

import pytest
import torch
from gang import Work, train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rz_workers.trainer.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"), None)

METHODS = {
    "ppo": {},
    "ppo with a value clip, gamma and lambda below 1": {
        "gamma": 0.95,
        "gaeLambda": 0.9,
        "critic": {"valueClip": 0.05},
    },
    "ppo against the sampler's log-probs, with a KL loss": {"maxStaleness": 1, "klCoefficient": 0.3},
    "ppo with truncated importance weights and a KL penalty": {
        "samplerCorrection": "tis",
        "klCoefficient": 0.3,
        "klMode": "penalty",
    },
    "grpo": {"name": "grpo"},
}
"""Fields of ``algorithm``."""

batches = st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(0, 10_000))
"""Prompt groups, samples of each, seed of tokens, lengths and rewards."""
packings = st.one_of(
    st.fixed_dictionaries({"tokens": st.integers(1, 160)}), st.fixed_dictionaries({"seed": st.integers(0, 10_000)})
)
"""The trainer's own under a token budget, or any."""


@pytest.fixture
def check(make_spec, make_trajectories):
    """Asserts that ``run``'s gradients are those of one rank that passes the whole batch at once."""

    def compare(run, method, batch, packing, **trainer):
        def work(**more_trainer) -> Work:
            algorithm = METHODS[method]
            critic = {"warmupSteps": 0, "learningRate": 1e-3, "miniBatches": 3, **algorithm.get("critic", {})}
            spec = make_spec(algorithm={**algorithm, "critic": critic}, trainer={**trainer, **more_trainer})
            return Work(spec, [rows], float64=True, note_gradients=True)

        groups, samples, seed = batch
        rows = make_trajectories(groups=groups, samples=samples, seed=seed)
        whole = train(
            work(nodes=1, shardSize=None, maxTokensPerMicroBatch=10_000, activationCheckpointing=False), ALONE
        ).gradients
        packed = work(maxTokensPerMicroBatch=packing.get("tokens", 64))
        found = run(replace(packed, packing_seed=packing.get("seed"))).gradients
        assert len(found) == len(whole)
        for expected, gradients in zip(whole, found, strict=True):
            assert gradients.keys() == expected.keys()
            largest = max(float(tensor.abs().max()) for tensor in expected.values())
            for name, tensor in expected.items():
                assert tensor.dtype == gradients[name].dtype == torch.float64
                assert float((gradients[name] - tensor).abs().max()) <= 1e-6 * largest, name

    return compare


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=batches, packing=packings)
def test_on_one_rank(check, method, batch, packing):
    check(lambda work: train(work, ALONE), method, batch, packing)


@pytest.mark.parametrize(
    "layout",
    [
        {"nodes": 2},
        pytest.param({"nodes": 4}, marks=pytest.mark.thorough),
        pytest.param({"nodes": 4, "shardSize": 2}, marks=pytest.mark.thorough),
    ],
    ids=["2 ranks", "4 ranks", "4 ranks, 2 copies of the shards (HSDP)"],
)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(sorted(METHODS)), batch=batches, packing=packings, recomputed=st.booleans())
def test_on_several_ranks(check, gang, layout, method, batch, packing, recomputed):
    check(gang.train, method, batch, packing, **layout, activationCheckpointing=recomputed)
