"""Which rank writes which piece of a checkpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_workers.storage.records import Piece
from rz_workers.trainer.durable.checkpoint_files import Planned
from rz_workers.trainer.durable.checkpoint_ranks import _index, share_out


def rows(name: str, first: int, count: int) -> Planned:
    """``count`` rows of a tensor of 8 rows of 2 fp32 numbers."""
    return Planned(name, (first, 0), (count, 2), "float32", (8, 2))


@pytest.mark.parametrize(
    ("plans", "want"),
    [
        pytest.param([[rows("w", 0, 4)], [rows("w", 4, 4)]], [[0], [0]], id="shards: each rank its own"),
        pytest.param([[rows("w", 0, 8)], [rows("w", 0, 8)]], [[0], []], id="replicas: the first rank"),
        pytest.param(
            [[rows("a", 0, 8), rows("b", 0, 8)], [rows("a", 0, 8), rows("b", 0, 8)]],
            [[0], [1]],
            id="several replicas: the rank that has less to write",
        ),
        pytest.param(
            [[rows("a", 0, 2), rows("b", 0, 8), rows("c", 0, 8)], [rows("c", 0, 8), rows("b", 0, 8)]],
            [[0, 2], [1]],
            id="numbers are those of each rank's own plan",
        ),
        pytest.param([[], []], [[], []], id="nothing to write"),
    ],
)
def test_who_writes_what(plans: list[list[Planned]], want: list[list[int]]) -> None:
    assert share_out(plans) == want


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7)), unique=True, max_size=12), min_size=1, max_size=4
    )
)
def test_every_piece_is_written_once_by_a_rank_that_has_it(places: list[list[tuple[str, int]]]) -> None:
    plans = [[rows(name, first, 1) for name, first in of_rank] for of_rank in places]
    written = [plans[rank][number] for rank, share in enumerate(share_out(plans)) for number in share]
    assert len(written) == len(set(written))
    assert set(written) == {piece for plan in plans for piece in plan}


def test_a_tensor_of_which_a_part_was_not_written_is_no_checkpoint() -> None:
    plans = [[rows("w", 0, 4)], [rows("w", 4, 4)]]
    half = [[("w", Piece((0, 0), (4, 2), "w/rank-00000-0.bin", 0, "00"))], []]
    with pytest.raises(ValueError, match="the ranks wrote 8 numbers of 'w', which has 16"):
        _index(plans, half)


def test_files_have_the_sizes_of_their_pieces() -> None:
    plans = [[rows("w", 0, 4)], [rows("w", 4, 4)]]
    written = [[("w", Piece((4 * rank, 0), (4, 2), f"w/rank-0000{rank}-0.bin", 0, "00"))] for rank in range(2)]
    index, files = _index(plans, written)
    assert files == {"w/rank-00000-0.bin": 32, "w/rank-00001-0.bin": 32}
    assert index.tensors["w"].shape == (8, 2)
    assert len(index.tensors["w"].pieces) == 2
