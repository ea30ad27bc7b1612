"""What a step consists of, against worked numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.schedule import (
    epoch_permutation,
    eval_units,
    is_eval_version,
    prompts_for_step,
    sample_seed,
    total_steps,
    train_units,
)


def make_spec(**sections) -> ReasonerZeroRunSpec:
    document = {"model": {"name": "m"}, "data": {"train": [{"uri": "t"}]}, "storage": {"uri": "s"}}
    return ReasonerZeroRunSpec.model_validate({**document, **sections})


def test_an_epoch_holds_every_prompt_once_in_an_order_of_its_own():
    first, second = epoch_permutation(50, 0, 0), epoch_permutation(50, 0, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_the_order_is_the_same_for_ever():
    # Worked once with hashlib alone; a change here would break the resume of every run.
    assert epoch_permutation(8, 0, 0) == (4, 2, 0, 6, 5, 7, 1, 3)


@given(st.integers(1, 40), st.integers(0, 3), st.integers(1, 12), st.integers(1, 6))
def test_batches_straddle_epochs_so_that_every_prompt_comes_once_an_epoch(prompts, seed, size, epochs):
    steps = -(-prompts * epochs // size)
    drawn = [row for step in range(steps) for row in prompts_for_step(prompts, seed, step, size)]
    for epoch in range(epochs):
        part = drawn[epoch * prompts : (epoch + 1) * prompts]
        assert sorted(part) == list(range(prompts))


def test_no_prompt_at_all_is_refused_with_what_to_check():
    with pytest.raises(ValueError, match=r"data\.train"):
        prompts_for_step(0, 0, 0, 4)


def test_epochs_give_the_number_of_steps_where_total_steps_does_not():
    assert total_steps(make_spec(), 57_000) == 8907  # 20 x 57,000 / 128 = 8906.25
    assert total_steps(make_spec(algorithm={"totalSteps": 10}), 57_000) == 10


def test_a_step_of_the_paper_is_cut_into_units_of_sixteen_samples_of_one_group():
    units = train_units(make_spec(), 1000, 12)
    assert len(units) == 128 * 4
    assert units[1].shard_key(1) == "trajectories/step-000012/group-001536-u1-a1.parquet"
    assert [sample for _, _, sample in units[1].rows()] == list(range(16, 32))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_units_hold_every_rollout_of_a_step_exactly_once(prompts, samples, block, per_lease):
    spec = make_spec(
        algorithm={"promptsPerStep": prompts, "samplesPerPrompt": samples},
        rollout={"groupsPerLease": block, "samplesPerLease": per_lease},
    )
    rows = [(group, sample) for unit in train_units(spec, 30, 2) for group, _, sample in unit.rows()]
    assert sorted(rows) == [(2 * prompts + g, s) for g in range(prompts) for s in range(samples)]


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 5), st.integers(1, 20))
def test_evaluation_units_hold_every_sample_once_and_no_more_rollouts_than_a_training_unit_may(
    problems, samples, block, per_lease
):
    spec = make_spec(evaluation={"samples": samples}, rollout={"groupsPerLease": block, "samplesPerLease": per_lease})
    units = eval_units(spec, 10, "math", problems)
    rows = [(group, sample) for unit in units for group, _, sample in unit.rows()]
    assert sorted(rows) == [(g, s) for g in range(problems) for s in range(samples)]
    assert max(unit.num_rows for unit in units) <= block * per_lease


def test_one_sample_a_problem_fills_a_unit_with_problems():
    spec = make_spec(evaluation={"samples": 1}, rollout={"groupsPerLease": 16, "samplesPerLease": 8})
    assert [unit.num_rows for unit in eval_units(spec, 0, "heldout", 256)] == [128, 128]


def test_the_base_model_every_interval_and_the_last_version_are_evaluated():
    spec = make_spec(data={"train": [{"uri": "t"}], "eval": [{"name": "e", "uri": "u"}]})
    assert [v for v in range(26) if is_eval_version(spec, v, 25)] == [0, 10, 20, 25]


def test_a_seed_depends_on_what_is_sampled_and_on_nothing_else():
    spec = make_spec(rollout={"groupsPerLease": 2})
    unit, other = train_units(spec, 10, 0)[:2]
    evaluated = eval_units(spec, 0, "e", 4)[0]
    seeds = [
        sample_seed(0, unit, 0, 0),
        sample_seed(0, unit, 0, 1),
        sample_seed(0, unit, 1, 0),
        sample_seed(1, unit, 0, 0),
        sample_seed(0, evaluated, 0, 0),
        sample_seed(0, eval_units(spec, 10, "e", 4)[0], 0, 0),
    ]
    assert len(set(seeds)) == len(seeds)
    assert sample_seed(0, unit, 0, 0) == sample_seed(0, other, 0, 0)
    assert all(0 <= seed < 2**63 for seed in seeds)
