"""Buckets: how they are cut, how tensors lie in them, when their memory is used again."""

from __future__ import annotations

import pytest
import torch

from rz_workers.transfer.buffers import PrivateBuffers, SharedSlots, open_slots
from rz_workers.transfer.errors import TransferError
from rz_workers.transfer.wire import TensorMeta, bucket_nbytes, cut, pack, unpack

TENSORS = {
    "odd": torch.arange(5, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "integers": torch.arange(6, dtype=torch.int64).reshape(2, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "flags": torch.tensor([True, False, True]),
    "complex": torch.tensor([1 + 2j], dtype=torch.complex128),
}
CPU = torch.device("cpu")


def metas(*sizes: int) -> list[TensorMeta]:
    return [TensorMeta(f"t{index}", "uint8", (size,)) for index, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "want"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([16, 16, 16], [[16, 16], [16]], id="as many as fit, in order"),
        pytest.param([1, 1, 1], [[1, 1], [1]], id="each takes a multiple of 16 bytes"),
        pytest.param([16, 100, 16], [[16], [100], [16]], id="a larger one alone"),
        pytest.param([0, 32, 0], [[0, 32, 0]], id="empty ones need no room"),
    ],
)
def test_buckets_are_cut_at_the_limit(sizes: list[int], want: list[list[int]]) -> None:
    assert [[meta.nbytes for meta in bucket] for bucket in cut(metas(*sizes), 32)] == want


def test_what_is_packed_is_unpacked_to_the_bit() -> None:
    described = [TensorMeta.of(name, tensor) for name, tensor in TENSORS.items()]
    out = torch.full((1000,), 255, dtype=torch.uint8)
    for flat in (pack(list(TENSORS.values()), out), pack(list(TENSORS.values()))):
        assert flat.numel() == bucket_nbytes(described)
        unpacked = dict(unpack(described, flat))
        assert {name: (t.dtype, t.shape) for name, t in unpacked.items()} == {
            name: (t.dtype, t.shape) for name, t in TENSORS.items()
        }
        assert all(torch.equal(unpacked[name], tensor) for name, tensor in TENSORS.items())


def test_a_buffer_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="found room for 10 bytes, the tensors of this bucket require 16"):
        pack([torch.zeros(1)], torch.zeros(10, dtype=torch.uint8))


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(TransferError, match="'w' has the dtype 'nn', which this torch does not know"):
        _ = TensorMeta("w", "nn", (1,)).nbytes


def test_memory_is_used_again_only_when_no_view_of_it_is_left() -> None:
    buffers = PrivateBuffers(64, CPU)
    first = buffers.take(64)
    place, view = first.data_ptr(), first[8:16].view(torch.float32).fill_(7)
    del first
    second = buffers.take(64)
    assert second.data_ptr() != place
    second.fill_(1)
    assert view.tolist() == [7, 7]
    del view
    assert buffers.take(32).data_ptr() == place


def test_shared_slots_are_seen_by_whoever_opens_them_and_leave_no_file() -> None:
    slots = SharedSlots(64, CPU)
    handle = slots.handle
    opened = open_slots(handle, CPU)
    slots.tensors[1].fill_(3)
    assert [slot.sum().item() for slot in opened] == [0, 3 * 64]
    assert [slots.index(slots.tensors[1][:10]), slots.index(torch.zeros(3, dtype=torch.uint8))] == [1, None]
    slots.close()
    with pytest.raises(TransferError, match="cannot be opened here"):
        open_slots(handle, CPU)
