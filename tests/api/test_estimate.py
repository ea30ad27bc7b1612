"""Estimates: formulas by hand on small numbers, and the paper's layouts as a check of the whole."""

from typing import Any

import pytest

from rz_api.estimate import GB, Assumptions, alternatives, estimate, host_memory, kv_bytes, trainer_memory
from rz_api.gpus import GPUS
from rz_api.shapes import ModelShape
from rz_api.spec import ReasonerZeroRunSpec

HALF_B = ModelShape(896, 4864, 24, 14, 2, 64, 151_936, tied=True, qkv_bias=True)
SEVEN_B = ModelShape(3584, 18_944, 28, 28, 4, 128, 152_064, tied=False, qkv_bias=True)
THIRTY_TWO_B = ModelShape(5120, 27_648, 64, 40, 8, 128, 152_064, tied=False, qkv_bias=True)


def spec(**sections: dict[str, Any]) -> ReasonerZeroRunSpec:
    document: dict[str, Any] = {
        "model": {"name": "m"},
        "data": {"train": [{"uri": "d"}]},
        "storage": {"uri": "s"},
        **sections,
    }
    return ReasonerZeroRunSpec.model_validate(document)


def of(shape: ModelShape, gpu: str = "H100-80GB", **sections: dict[str, Any]):
    run = spec(**sections)
    return estimate(run, shape, Assumptions.for_spec(run, GPUS[gpu]))


def test_states_are_spread_over_the_ranks_that_share_them():
    run = spec(trainer={"nodes": 4, "gpusPerNode": 8})
    parts = trainer_memory(run, SEVEN_B, None).parts
    both = 2 * SEVEN_B.parameters() - SEVEN_B.embedding + 3584  # the critic has no output layer, but a value head
    assert parts["parameters and optimizer"] == pytest.approx(12 * both / 32)
    assert parts["gradients"] == pytest.approx(4 * SEVEN_B.parameters() / 32)
    shards = trainer_memory(spec(trainer={"nodes": 4, "gpusPerNode": 8, "shardSize": 8}), SEVEN_B, None).parts
    assert shards["parameters and optimizer"] == pytest.approx(12 * both / 8)


def test_offload_moves_states_from_the_gpu_to_the_host():
    trainer = {"nodes": 1, "gpusPerNode": 8}
    there, gone = (spec(trainer={**trainer, "offload": where}) for where in ("none", "all"))
    assert "parameters and optimizer" not in trainer_memory(gone, SEVEN_B, None).parts
    moved = host_memory(gone, SEVEN_B, None).total - host_memory(there, SEVEN_B, None).total
    assert moved > 12 * SEVEN_B.parameters()


def test_activation_checkpointing_keeps_one_input_a_layer_and_one_layer_whole():
    trainer = {"maxTokensPerMicroBatch": 16_384}
    recomputed = trainer_memory(spec(trainer=trainer), SEVEN_B, None).parts["activations"]
    kept = trainer_memory(spec(trainer={**trainer, "activationCheckpointing": False}), SEVEN_B, None).parts[
        "activations"
    ]
    layer = 2 * (6 * 3584 + (2 * 28 + 2 * 4) * 128 + 4 * 18_944)
    assert recomputed == 16_384 * (28 * 2 * 3584 + layer)
    assert kept == 16_384 * 28 * layer


def test_grpo_has_no_critic_and_a_kl_coefficient_a_reference_model():
    ppo, grpo = (trainer_memory(spec(algorithm={"name": name}), SEVEN_B, None) for name in ("ppo", "grpo"))
    assert grpo.parts["parameters and optimizer"] < 0.53 * ppo.parts["parameters and optimizer"]
    assert "reference model" in trainer_memory(spec(algorithm={"klCoefficient": 0.01}), SEVEN_B, None).parts


def test_a_tokens_keys_and_values():
    assert kv_bytes(spec(), SEVEN_B) == 2 * 28 * 4 * 128 * 2
    assert kv_bytes(spec(rollout={"tensorParallel": 2}), SEVEN_B) == 28 * 4 * 128 * 2


@pytest.mark.parametrize(
    ("shape", "sections", "published"),
    [
        (SEVEN_B, {"trainer": {"nodes": 8}, "rollout": {"placement": "colocated"}}, 475),
        (THIRTY_TWO_B, {"trainer": {"nodes": 8}, "rollout": {"replicas": 16, "tensorParallel": 4}}, None),
        (HALF_B, {"trainer": {"nodes": 1}, "rollout": {"placement": "colocated"}}, None),
        (HALF_B, {"trainer": {"nodes": 1, "gpusPerNode": 1}, "rollout": {"placement": "colocated"}}, None),
    ],
    ids=["7B on 64", "32B on 128", "0.5B on 8", "0.5B on 1"],
)
def test_the_papers_layouts_fit_and_take_the_order_of_time_that_was_published(shape, sections, published):
    made = of(shape, **sections)
    assert made.problems == ()
    if published is not None:
        assert published / 5 < made.time.total < published * 1.5


def test_what_does_not_fit_says_by_how_much_and_what_to_change():
    made = of(THIRTY_TWO_B, gpu="A100-40GB", trainer={"nodes": 1}, rollout={"tensorParallel": 1})
    trainer, engine = made.problems
    assert "a trainer GPU would hold" in trainer
    assert "it has 40 GB" in trainer
    assert "raise trainer.nodes; or set trainer.offload: all" in trainer
    assert "raise rollout.tensorParallel" in engine
    assert of(THIRTY_TWO_B, trainer={"nodes": 8}, rollout={"tensorParallel": 4, "replicas": 16}).problems == ()


def test_a_cache_that_holds_no_whole_sequence_is_a_problem():
    made = of(SEVEN_B, rollout={"maxModelLength": 1_000_000})
    assert any("one sequence may have 1,000,000" in problem for problem in made.problems)


def test_the_critic_is_free_where_it_runs_behind_a_longer_generation():
    behind = of(SEVEN_B, trainer={"nodes": 8}, rollout={"replicas": 2}).time
    assert behind.generate > behind.critic
    assert behind.total == behind.generate + behind.values + behind.policy + behind.publish
    after = of(SEVEN_B, trainer={"nodes": 8, "overlapCritic": False}, rollout={"replicas": 2}).time
    assert after.total == pytest.approx(behind.total + behind.critic)


def test_alternatives_use_as_many_gpus_and_the_first_is_the_fastest():
    run = spec(trainer={"nodes": 4}, rollout={"replicas": 32})
    found = alternatives(run, SEVEN_B, Assumptions.for_spec(run))
    assert len(found) >= 5
    assert found[0][1].time.total == min(made.time.total for _, made in found)
    assert any(name == "trainer.nodes 8, rollout.placement colocated" for name, _ in found)
    assert any(name == "trainer.nodes 5, rollout.replicas 24" for name, _ in found)


def test_more_gpus_never_need_more_memory_each():
    sizes = [of(SEVEN_B, trainer={"nodes": nodes}).trainer.total for nodes in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 5 * GB
