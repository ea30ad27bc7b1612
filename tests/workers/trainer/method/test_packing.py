"""Which trajectories share a micro-batch, and whose it is."""

from hypothesis import given
from hypothesis import strategies as st

from rz_workers.trainer.method.packing import balance, cost

lengths = st.lists(st.integers(1, 400), min_size=1, max_size=80)


def test_the_worked_example_of_the_docstring():
    assert balance([5, 3, 3, 1], max_tokens=6, world_size=2) == [[[0, 3], [1, 2]]]


@given(lengths, st.integers(1, 600), st.integers(1, 7), st.sampled_from([0.0, 0.001, 0.1]))
def test_every_trajectory_is_passed_once_within_the_limit_and_ranks_have_as_many(sizes, limit, ranks, ratio):
    rounds = balance(sizes, limit, ranks, ratio)
    packs = [pack for packs in rounds for pack in packs]
    assert sorted(i for pack in packs for i in pack) == list(range(len(sizes)))
    assert all(len(packs) == ranks for packs in rounds)
    assert all(len(pack) == 1 or sum(sizes[i] for i in pack) <= limit for pack in packs)
    assert all(pack == sorted(pack) for pack in packs)
    assert all(packs[0] for packs in rounds), "a rank without work passes the round's first again"


@given(lengths, st.integers(400, 900), st.integers(1, 4))
def test_micro_batches_of_one_round_differ_by_no_more_than_one_trajectory(sizes, limit, ranks):
    ratio = 0.01
    for packs in balance(sizes, limit, ranks, ratio):
        if all(packs):
            costs = [sum(cost(sizes[i], ratio) for i in pack) for pack in packs]
            assert max(costs) - min(costs) <= cost(max(sizes), ratio) + 1e-9


def test_attention_weighs_long_trajectories_as_their_squares():
    """One of 1000 tokens costs as much attention as 100 of 100: it gets a micro-batch to itself."""
    sizes = [1000, *[100] * 10]
    by_tokens = balance(sizes, 2000, 2, 0.0)
    assert sorted(map(len, by_tokens[0])) == [1, 10]
    [[first, second]] = balance([1000, *[100] * 60], 7000, 2, 1.0)
    assert first == [0]
    assert len(second) == 60


def test_padding_of_rounds_is_rare_for_lengths_as_they_come():
    sizes = [100 + (i * 7919) % 1900 for i in range(1000)]
    rounds = balance(sizes, 8192, 8, 1e-4)
    tokens = sum(len(packs) for packs in rounds) * 8192
    assert sum(sizes) / tokens > 0.85
