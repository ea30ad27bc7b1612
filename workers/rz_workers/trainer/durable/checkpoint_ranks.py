"""Every piece is written by one rank, and what fails on one is raised on all: a checkpoint as the work of a gang.

``torch.distributed.checkpoint`` has calls for that (``save``, ``load``), in which ranks exchange pickles: plans,
results and exceptions. Here its planners are used, each on its own rank (``checkpoint_files``), and what ranks tell
each other is JSON (``trainer.messages``). ``checkpoint`` calls ``save`` and ``load``::

    every rank   plans its shards' pieces                   ──>  the first rank
    the first    shares them out: of replicas one writes    ──>  every rank
    every rank   writes its files                           ──>  the first rank
    the first    index, then manifest                       ──>  every rank: how it went
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor

from rz_workers.runtime import DrainedError, SupersededError, UserError, WorkerError
from rz_workers.storage.objects import CorruptObjectError, ObjectExistsError, ObjectMissingError, StorageError
from rz_workers.storage.records import CheckpointIndex, Piece, StoredTensor
from rz_workers.trainer.durable.checkpoint_files import ObjectReader, ObjectWriter, PiecePlanner, Planned
from rz_workers.trainer.messages import Messages

__all__ = ["load", "save", "share_out", "together"]

T = TypeVar("T")


class Failure(NamedTuple):
    """What went wrong on one rank, for the others."""

    kind: str | None
    """The error of ours that it is, which has an exit code of its own; None for any other."""
    words: str


_KINDS: dict[str, type[WorkerError]] = {
    kind.__name__: kind
    for kind in (
        UserError,
        SupersededError,
        DrainedError,
        StorageError,
        ObjectExistsError,
        ObjectMissingError,
        CorruptObjectError,
    )
}
_FAILURE: TypeAdapter[Failure | None] = TypeAdapter(Failure | None)
_PLAN = TypeAdapter(list[Planned])
_SHARES = TypeAdapter(list[list[int]])
_WRITTEN = TypeAdapter(list[tuple[str, Piece]])


def save(
    state: Mapping[str, Tensor],
    writer: ObjectWriter,
    messages: Messages | None,
    finish: Callable[[CheckpointIndex, dict[str, int]], None],
) -> None:
    """Write the shards of all ranks (None: of this one alone); then the first rank calls ``finish`` with the index and
    the sizes of all files. What goes wrong on one rank is raised on every one."""
    planner = PiecePlanner()
    planned = together(messages, lambda: planner.pieces(state))
    if messages is None:
        plans: list[list[Planned]] | None = [planned]
        share = list(range(len(planned)))
    else:
        plans = messages.to_first(planned, _PLAN)
        share = messages.from_first(share_out(plans) if plans is not None else [], _SHARES)[messages.rank]
    written = together(messages, lambda: writer.write([planner.items[number] for number in share], planner))
    everything = [written] if messages is None else messages.to_first(written, _WRITTEN)

    def conclude() -> None:
        if plans is not None and everything is not None:
            finish(*_index(plans, everything))

    together(messages, conclude)


def load(state: Mapping[str, Tensor], reader: ObjectReader, messages: Messages | None) -> None:
    """Fill the tensors of ``state``, each rank its shards (None: this one alone)."""
    together(messages, lambda: reader.fill(state))


def together(messages: Messages | None, work: Callable[[], T]) -> T:
    """``work()``, on every rank at the same time. Where it fails on some, every rank raises the same: the first of the
    errors that have a meaning of their own, or else the first."""
    if messages is None:
        return work()
    own: Exception | None = None
    try:
        result = work()
    except Exception as error:
        own = error
    failures = messages.gather(None if own is None else _describe(own), _FAILURE)
    if own is None and all(failure is None for failure in failures):
        return result
    ours = [rank for rank, failure in enumerate(failures) if failure is not None and failure.kind is not None]
    rank = ours[0] if ours else next(rank for rank, failure in enumerate(failures) if failure is not None)
    if own is not None and rank == messages.rank:
        raise own
    failed = failures[rank]
    assert failed is not None
    if failed.kind in _KINDS:
        raise _KINDS[failed.kind](failed.words)
    raise RuntimeError(f"rank {rank} failed: {failed.words}")


def _describe(error: Exception) -> Failure:
    kind = next((one.__name__ for one in type(error).__mro__ if _KINDS.get(one.__name__) is one), None)
    return Failure(kind, str(error) if kind is not None else f"{type(error).__name__}: {error}")


def share_out(plans: Sequence[Sequence[Planned]]) -> list[list[int]]:
    """Which of its pieces each rank writes: every piece once, and of several ranks that have it (replicas, and what is
    not sharded) the one that has the fewest bytes to write until then. Pure."""
    holders: dict[tuple[str, tuple[int, ...]], list[tuple[int, int]]] = defaultdict(list)
    for rank, plan in enumerate(plans):
        for number, piece in enumerate(plan):
            holders[piece.name, piece.offsets].append((rank, number))
    shares: list[list[int]] = [[] for _ in plans]
    filled = [0] * len(plans)
    for where in holders.values():
        rank, number = min(where, key=lambda one: (filled[one[0]], one[0]))
        shares[rank].append(number)
        filled[rank] += plans[rank][number].nbytes
    return [sorted(share) for share in shares]


def _index(
    plans: Sequence[Sequence[Planned]], written: Sequence[Sequence[tuple[str, Piece]]]
) -> tuple[CheckpointIndex, dict[str, int]]:
    """The index, and the size of each file in bytes. Raises ValueError when a tensor was not written as a whole."""
    planned = {piece.name: piece for plan in plans for piece in plan}
    pieces: dict[str, list[Piece]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for name, piece in (one for of_rank in written for one in of_rank):
        dtype: torch.dtype = getattr(torch, planned[name].dtype)
        pieces[name].append(piece)
        sizes[piece.file] += math.prod(piece.sizes) * dtype.itemsize
    for name, (_, _, _, _, shape) in planned.items():
        found = sum(math.prod(piece.sizes) for piece in pieces[name])
        if found != math.prod(shape):
            raise ValueError(f"the ranks wrote {found} numbers of {name!r}, which has {math.prod(shape)}")
    tensors = {
        name: StoredTensor(dtype=planned[name].dtype, shape=planned[name].shape, pieces=tuple(pieces[name]))
        for name in sorted(planned)
    }
    return CheckpointIndex(tensors=tensors), dict(sorted(sizes.items()))
