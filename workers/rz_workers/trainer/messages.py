"""Nothing that another rank sends is executed: what ranks tell each other besides tensors is sealed JSON, by gloo.

torch's own calls for objects (``broadcast_object_list`` and the like) exchange pickles, and a pickle runs what its
sender likes. gloo and NCCL do not ask who connects, so that a pod that reaches a rank could be such a sender. Here a
message is bytes of which the seal is compared first (``rz_workers.seals``), and then the JSON, with the type that the
caller expects; anything else ends the rank with ``MessageError``.

``refuse_pickles`` takes the other way from this process, for libraries too. Called by ``ranks`` and, on a process group
of its own, by ``durable.checkpoint``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.distributed import distributed_c10d

from rz_workers.runtime import WorkerError
from rz_workers.seals import ForgedError, Seal

__all__ = ["MAX_BYTES", "MessageError", "Messages", "refuse_pickles"]

T = TypeVar("T")

MAX_BYTES = 1 << 30
"""Of one rank's message. The largest are the plans of a checkpoint, some 200 bytes for each of its pieces."""


class MessageError(WorkerError):
    """Another rank sent what no rank of this gang sends at this place. The gang starts again."""


class Messages:
    """Of one process group that has gloo. Every rank of it calls the same methods in the same order, from one thread
    at a time: a message is sealed for its number, so that none can be left out or played again."""

    def __init__(self, name: str, rank: int, world_size: int, seal: Seal, group: Any = None) -> None:
        """``name`` tells groups of one gang apart. ``group``: None for all ranks."""
        self.rank = rank
        self._name, self._world_size, self._seal, self._group = name, world_size, seal, group
        self._number = 0

    def from_first(self, value: T, kind: TypeAdapter[T]) -> T:
        """The first rank's value, on every rank."""
        self._number += 1
        sealed = self._close(kind.dump_json(value)) if self.rank == 0 else b""
        size = torch.tensor([len(sealed)])
        dist.broadcast(size, src=0, group=self._group)
        data = _bytes(sealed, self._checked(size, 0))
        dist.broadcast(data, src=0, group=self._group)
        return value if self.rank == 0 else self._read(data, 0, kind)

    def gather(self, value: T, kind: TypeAdapter[T]) -> list[T]:
        """Every rank's value, in order of rank, on every rank."""
        sealed, numbers = self._announce(kind.dump_json(value))
        parts = self._room(numbers)
        dist.all_gather(parts, _bytes(sealed, max(numbers)), group=self._group)
        return self._read_all(value, parts, numbers, kind)

    def to_first(self, value: T, kind: TypeAdapter[T]) -> list[T] | None:
        """Every rank's value, in order of rank, on the first rank; None on the others."""
        sealed, numbers = self._announce(kind.dump_json(value))
        parts = self._room(numbers) if self.rank == 0 else None
        dist.gather(_bytes(sealed, max(numbers)), parts, dst=0, group=self._group)
        return None if parts is None else self._read_all(value, parts, numbers, kind)

    def _announce(self, content: bytes) -> tuple[bytes, list[int]]:
        """This rank's next message, and the size of every rank's."""
        self._number += 1
        sealed = self._close(content)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        dist.all_gather(sizes, torch.tensor([len(sealed)]), group=self._group)
        return sealed, [self._checked(size, rank) for rank, size in enumerate(sizes)]

    def _room(self, numbers: Sequence[int]) -> list[Tensor]:
        return [torch.empty(max(numbers), dtype=torch.uint8) for _ in numbers]

    def _read_all(self, own: T, parts: Sequence[Tensor], numbers: Sequence[int], kind: TypeAdapter[T]) -> list[T]:
        return [
            own if rank == self.rank else self._read(part[:number], rank, kind)
            for rank, (part, number) in enumerate(zip(parts, numbers, strict=True))
        ]

    def _place(self, rank: int) -> str:
        return f"{self._name}/{self._number}/rank-{rank}"

    def _close(self, content: bytes) -> bytes:
        return self._seal.close(self._place(self.rank), content)

    def _checked(self, size: Tensor, rank: int) -> int:
        """The size that a rank names, which is not sealed: memory is set aside for no more than a message may have."""
        number = int(size)
        if not 0 < number <= MAX_BYTES:
            raise MessageError(
                f"rank {self.rank} found a message of {number} bytes at {self._place(rank)!r}; 1 to {MAX_BYTES} are "
                "required. Something else writes to the ports of this gang, or its ranks run different versions"
            )
        return number

    def _read(self, data: Tensor, rank: int, kind: TypeAdapter[T]) -> T:
        try:
            return kind.validate_json(self._seal.open(self._place(rank), data.numpy().tobytes()), strict=True)
        except ForgedError as error:
            raise MessageError(f"rank {self.rank} was told something that rank {rank} never said: {error}") from None
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}" for one in error.errors()[:3])
            raise MessageError(
                f"rank {self.rank} cannot read what rank {rank} sent as {self._place(rank)!r}: {found}. All ranks must "
                "run one version of the image"
            ) from None


def _bytes(content: bytes, size: int) -> Tensor:
    """``size`` bytes that begin with ``content``."""
    data = torch.zeros(size, dtype=torch.uint8)
    if content:
        data[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return data


def refuse_pickles() -> None:
    """From here on nothing that another process sent is unpickled in this one: every call of torch that would do it
    (``all_gather_object``, ``torch.distributed.checkpoint.save``, …) raises MessageError.

    Nothing of the trainer makes such a call; this is for what a library may begin to do.
    """
    torch_calls: Any = distributed_c10d
    for name in ("_tensor_to_object", "_object_to_tensor"):
        if not hasattr(torch_calls, name):
            raise RuntimeError(
                f"torch {torch.__version__} has no distributed_c10d.{name}, by which it exchanges pickles: tell "
                f"{__name__}.refuse_pickles what it does instead"
            )
        setattr(torch_calls, name, _refuse)


def _refuse(*_args: Sequence[object], **_kwargs: object) -> NoReturn:
    raise MessageError(
        f"a library wanted to exchange pickles with other ranks (process {os.getpid()}): a pickle runs what its sender "
        "likes, and ranks cannot tell who sends. Use rz_workers.trainer.messages"
    )
