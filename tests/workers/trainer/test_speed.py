"""Seconds, rates and shares of a step against worked numbers."""

import pytest

from rz_api.shapes import ModelShape, forward_flops
from rz_api.spec import AlgorithmSpec
from rz_api.step_metrics import STEP_METRICS
from rz_workers.storage.records import Phase
from rz_workers.trainer.speed import TIMED, StepTimes, StepWork, peak_flops, speed_metrics, step_flops


def times(generation: tuple[float, float], *phases: tuple[str, float, float], began=0.0, ended=0.0) -> StepTimes:
    """(start, end) of the generation, (name, start, end) of the trainer's phases."""

    def phase(name: str, role: str, start: float, end: float) -> Phase:
        return Phase(name=name, role=role, started=start, seconds=end - start)

    trainer = tuple(phase(name, "trainer", start, end) for name, start, end in phases)
    return StepTimes(began, ended, phase("generate", "rollout", *generation), trainer)


FIRST = times(
    (0, 10),
    ("wait", 0, 11), ("values", 11, 12), ("policy_update", 12, 16), ("publish", 16, 17), ("critic_update", 17, 22),
    began=0, ended=23,
)  # fmt: skip
SECOND = times(
    (18, 28),
    ("checkpoint", 23, 24), ("wait", 24, 29), ("values", 29, 30), ("policy_update", 30, 34), ("publish", 34, 35),
    ("critic_update", 35, 40),
    began=23, ended=43,
)  # fmt: skip
"""Generation begins a second after the new version is out; four of the critic's five seconds run behind it."""

WORK = StepWork(tokens=1000, response_tokens=600, flops_per_rank=4e12, peak_flops=2e12)


def test_a_step_in_seconds_rates_and_shares():
    found = speed_metrics(SECOND, FIRST, WORK)
    assert found == pytest.approx(
        {
            "seconds_wait": 5.0,
            "seconds_values": 1.0,
            "seconds_policy_update": 4.0,
            "seconds_measure": 0.0,
            "seconds_publish": 1.0,
            "seconds_critic_update": 5.0,
            "seconds_checkpoint": 1.0,
            "seconds_step": 20.0,
            "trainer_idle_fraction": 5 / 20,
            "rollout_idle_fraction": (18 - 10) / (28 - 10),
            "critic_hidden_fraction": 4 / 5,
            "tokens_generated": 600.0,
            "tokens_per_second_generated": 600 / 10,
            "tokens_per_second_trained": 1000 / 10,
            "flops_per_second_trained": 4e12 / 10,
            "mfu": 4e12 / 10 / 2e12,
        }
    )
    assert set(found) <= set(STEP_METRICS)
    assert {f"seconds_{name}" for name in TIMED} <= set(found)


def test_the_first_step_of_a_gang_is_compared_with_nothing():
    found = speed_metrics(FIRST, None, WORK)
    assert found["seconds_step"] == 23.0
    assert {"critic_hidden_fraction", "rollout_idle_fraction"}.isdisjoint(found)


@pytest.mark.parametrize(
    ("step", "work", "absent"),
    [
        pytest.param(times((28, 28), ("values", 30, 31), ended=32), WORK, "tokens_per_second_generated",
                     id="a restarted ledger knows no duration of the generation"),
        pytest.param(SECOND, StepWork(1000, 600, 4e12, None), "mfu", id="a device without a known peak"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_absent(step, work, absent):
    assert absent not in speed_metrics(step, FIRST, work)


def test_an_update_before_the_version_goes_out_hides_nothing():
    before = times((0, 10), ("critic_update", 12, 17), ("publish", 17, 18))
    assert speed_metrics(times((18, 28), ended=30), before, WORK)["critic_hidden_fraction"] == 0.0


def test_generation_that_begins_before_the_last_one_ends_is_never_idle():
    assert speed_metrics(times((8, 28), ended=30), FIRST, WORK)["rollout_idle_fraction"] == 0.0


SHAPE = ModelShape(
    hidden_size=8, intermediate_size=16, layers=2, heads=2, kv_heads=1, head_size=4, vocabulary=100, tied=True
)


@pytest.mark.parametrize(
    ("algorithm", "forward_passes", "scored_passes"),
    [
        pytest.param({}, 7, 3, id="ppo: values, critic, policy"),
        pytest.param({"name": "grpo"}, 3, 3, id="grpo: the policy alone"),
        pytest.param({"klCoefficient": 0.1}, 8, 4, id="ppo with a reference model"),
    ],
)
def test_flops_of_a_step(algorithm, forward_passes, scored_passes):
    lengths, responses = [5, 9], 6
    want = forward_passes * forward_flops(SHAPE, lengths, 0) + scored_passes * 2 * 8 * 100 * responses
    spec = AlgorithmSpec.model_validate(algorithm)
    assert step_flops(SHAPE, spec, lengths, responses, world_size=1) == pytest.approx(want)
    assert step_flops(SHAPE, spec, lengths, responses, world_size=4) == pytest.approx(want / 4)
    skipped = want - 3 * forward_flops(SHAPE, lengths, responses)
    assert step_flops(SHAPE, spec, lengths, responses, world_size=1, updates_policy=False) == pytest.approx(skipped)


@pytest.mark.parametrize(
    ("name", "dtype", "want"),
    [
        pytest.param("NVIDIA H100 80GB HBM3", "bfloat16", 989e12, id="H100 on a board"),
        pytest.param("NVIDIA H100 PCIe", "bfloat16", 756e12, id="H100 in a slot is slower"),
        pytest.param("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12, id="A100"),
        pytest.param("NVIDIA H100 80GB HBM3", "float32", None, id="another type"),
        pytest.param("Some GPU", "bfloat16", None, id="another device"),
        pytest.param(None, "bfloat16", None, id="the CPU"),
    ],
)
def test_peak(name, dtype, want):
    assert peak_flops(name, dtype) == want
