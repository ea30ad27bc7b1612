"""Only bytes that were written are loaded, each compared with a checksum, and nothing is pickled:
``torch.distributed.checkpoint`` over an ``ObjectStore``.

``rz_workers.trainer.durable.checkpoint`` calls it. A tensor's shard is cut into pieces of whole rows, each with a
checksum of its own. A rank writes its pieces into files of its own, straight from memory, and reads the ranges of the
pieces that it needs, whichever number of ranks wrote them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from rz_workers.storage.objects import CorruptObjectError, ObjectStore
from rz_workers.storage.records import CheckpointIndex, Piece, StoredTensor
from rz_workers.trainer.ranks import local

__all__ = ["FILE_BYTES", "PIECE_BYTES", "ObjectReader", "ObjectWriter", "PiecePlanner", "load_planner"]

PIECE_BYTES = 32_000_000
"""Most bytes with one checksum, unless one row has more: what a reader needs one byte of, it reads whole."""
FILE_BYTES = 1_000_000_000
"""Most bytes of one file, unless one piece has more. An upload that fails begins again from its file's first byte."""
REQUEST_BYTES = 64_000_000
"""Most bytes that are asked for at once, unless one piece has more."""
FILES_AT_A_TIME = 4
"""Per rank: a bucket takes and gives more over several connections than over one."""


# ------------------------------------------------------------------------------------------------------------- writing


class PiecePlanner(DefaultSavePlanner):
    """Plans what each rank writes: every shard once (of replicas one), cut into pieces."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._origins: dict[str, Sequence[int]] = {}

    def create_local_plan(self) -> SavePlan:
        # torch drops duplicates by (name, offsets): replicas are cut alike, so that one of each piece stays.
        plan = super().create_local_plan()
        self._origins = {item.index.fqn: _chunk(item).offsets for item in plan.items}
        self.plan = dataclasses.replace(plan, items=[piece for item in plan.items for piece in _cut(item)])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The piece's rows, where they lie in this rank's shard."""
        name, chunk = write_item.index.fqn, _chunk(write_item)
        shard: Tensor = local(self.state_dict[name]).detach()
        if shard.dim() == 0:
            return shard
        # A plan's offsets count from the whole tensor's first row, a shard's rows from its own.
        return shard.narrow(0, chunk.offsets[0] - self._origins[name][0], chunk.sizes[0])


def _cut(item: WriteItem) -> list[WriteItem]:
    """A shard's pieces; none of a shard without elements, which more ranks than rows leave to some."""
    chunk, data = _chunk(item), item.tensor_data
    assert data is not None
    # A tensor without dimensions has no rows to cut: Adam's step counts.
    if not chunk.sizes:
        return [item]
    row_bytes = math.prod(chunk.sizes[1:]) * data.properties.dtype.itemsize
    if chunk.sizes[0] * row_bytes == 0:
        return []
    rows = max(1, PIECE_BYTES // row_bytes)
    pieces = []
    for first in range(0, chunk.sizes[0], rows):
        offsets = torch.Size((chunk.offsets[0] + first, *chunk.offsets[1:]))
        sizes = torch.Size((min(rows, chunk.sizes[0] - first), *chunk.sizes[1:]))
        piece = dataclasses.replace(data, chunk=ChunkStorageMetadata(offsets, sizes))
        pieces.append(WriteItem(MetadataIndex(item.index.fqn, offsets), WriteItemType.SHARD, tensor_data=piece))
    return pieces


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None, "a checkpoint holds tensors only"
    return item.tensor_data.chunk


class ObjectWriter(StorageWriter):
    """Writes one rank's pieces below ``prefix``; the first rank then calls ``finish`` with the index and the sizes of
    all files.

    Files are ``<part>/rank-00003-0.bin``, where ``<part>`` is what a tensor's name begins with, up to the first "/".
    """

    def __init__(
        self, store: ObjectStore, prefix: str, rank: int, finish: Callable[[CheckpointIndex, dict[str, int]], None]
    ) -> None:
        self._store, self._prefix, self._rank, self._finish = store, prefix, rank, finish

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        files = _files(plan.items, self._rank)
        with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="store-checkpoint") as pool:
            written = pool.map(lambda file: self._write_file(file, files[file], planner), files)
            results = [result for of_file in written for result in of_file]
        return _done(results)

    def _write_file(self, file: str, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        # By number: an upload that fails asks for all parts again.
        checksums: dict[int, str] = {}

        def parts() -> Iterator[memoryview]:
            for number, item in enumerate(items):
                data = _bytes(planner.resolve_data(item))
                checksums[number] = xxhash.xxh3_128_hexdigest(data)
                yield data

        self._store.put_parts(f"{self._prefix}/{file}", parts)
        results, start = [], 0
        for number, item in enumerate(items):
            chunk, size = _chunk(item), _size(item)
            piece = Piece(tuple(chunk.offsets), tuple(chunk.sizes), file, start, checksums[number])
            results.append(WriteResult(item.index, size, piece))
            start += size
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        pieces: dict[str, list[Piece]] = defaultdict(list)
        sizes: dict[str, int] = defaultdict(int)
        for result in (result for of_rank in results for result in of_rank):
            # Whichever rank wrote it: a reader finds a piece by its offsets.
            pieces[result.index.fqn].append(result.storage_data)
            sizes[result.storage_data.file] += result.size_in_bytes
        tensors = {}
        for name, stored in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(stored, TensorStorageMetadata)
            dtype = str(stored.properties.dtype).removeprefix("torch.")
            tensors[name] = StoredTensor(dtype=dtype, shape=tuple(stored.size), pieces=tuple(pieces[name]))
        self._finish(CheckpointIndex(tensors=tensors), dict(sorted(sizes.items())))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def _files(items: Iterable[WriteItem], rank: int) -> dict[str, list[WriteItem]]:
    """Names of the files that a rank writes -> what goes into each, in the plan's order."""
    files: dict[str, list[WriteItem]] = {}
    number: dict[str, int] = defaultdict(int)
    filled: dict[str, int] = defaultdict(int)
    for item in items:
        part, size = item.index.fqn.split("/", 1)[0], _size(item)
        if filled[part] and filled[part] + size > FILE_BYTES:
            number[part] += 1
            filled[part] = 0
        filled[part] += size
        files.setdefault(f"{part}/rank-{rank:05d}-{number[part]}.bin", []).append(item)
    return files


def _size(item: WriteItem) -> int:
    """Bytes of a piece."""
    assert item.tensor_data is not None
    return math.prod(_chunk(item).sizes) * item.tensor_data.properties.dtype.itemsize


def _bytes(tensor: Any) -> memoryview:
    # As bytes: numpy has no bfloat16.
    data: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data


# ------------------------------------------------------------------------------------------------------------- reading


def load_planner() -> DefaultLoadPlanner:
    """Plans what each rank reads into a flat dictionary of tensors."""
    return DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)


class ObjectReader(StorageReader):
    """Reads the pieces that a rank needs of the checkpoint at ``prefix``; several ranges at a time.

    ``read_data`` raises CorruptObjectError, naming file and tensor, when the bytes are not those that were written.
    """

    def __init__(self, store: ObjectStore, prefix: str, index: CheckpointIndex) -> None:
        self._store, self._prefix, self._tensors = store, prefix, index.tensors

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        described: dict[str, Any] = {}
        for name, stored in self._tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(p.offsets), torch.Size(p.sizes)) for p in stored.pieces]
            properties = TensorProperties(dtype=getattr(torch, stored.dtype))
            described[name] = TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
        return Metadata(described)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        # Several items may want parts of one piece: it is asked for once.
        wanted: dict[tuple[str, Piece], list[ReadItem]] = defaultdict(list)
        by_place = _by_place(self._tensors, {item.storage_index.fqn for item in plan.items})
        for item in plan.items:
            name = item.storage_index.fqn
            assert item.storage_index.offset is not None
            wanted[name, by_place[name, tuple(item.storage_index.offset)]].append(item)

        def read(pieces: Sequence[tuple[str, Piece]]) -> None:
            for (name, piece), data in zip(pieces, self._fetch(pieces), strict=True):
                # No copy: the range is a bytearray of its own.
                values = torch.frombuffer(data, dtype=getattr(torch, self._tensors[name].dtype)).view(piece.sizes)
                for item in wanted[name, piece]:
                    _copy(values, item, planner)

        with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="load-checkpoint") as pool:
            list(pool.map(read, _requests(wanted, self._piece_bytes)))
        return _done(None)

    def _fetch(self, pieces: Sequence[tuple[str, Piece]]) -> Iterator[memoryview]:
        """The bytes of neighbouring pieces by one request, each compared with its checksum."""
        first, last = pieces[0][1], pieces[-1]
        size = last[1].start + self._piece_bytes(*last) - first.start
        data = memoryview(self._store.get_range(f"{self._prefix}/{first.file}", first.start, size))
        for name, piece in pieces:
            start, expected = piece.start - first.start, self._piece_bytes(name, piece)
            found = data[start : start + expected]
            # A file that was cut short gives fewer bytes, no error.
            if len(found) != expected or xxhash.xxh3_128_hexdigest(found) != piece.checksum:
                raise CorruptObjectError(
                    f"{self._store.uri}: {self._prefix}/{piece.file}: the bytes of {name!r} at {list(piece.offsets)} "
                    f"({expected} from byte {piece.start}) are not those that were written"
                )
            yield found

    def _piece_bytes(self, name: str, piece: Piece) -> int:
        dtype: torch.dtype = getattr(torch, self._tensors[name].dtype)
        return math.prod(piece.sizes) * dtype.itemsize

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def _by_place(tensors: Mapping[str, StoredTensor], names: Iterable[str]) -> dict[tuple[str, tuple[int, ...]], Piece]:
    return {(name, piece.offsets): piece for name in names for piece in tensors[name].pieces}


def _requests(
    wanted: Iterable[tuple[str, Piece]], size_of: Callable[[str, Piece], int]
) -> list[list[tuple[str, Piece]]]:
    """Pieces that are asked for together: those that follow each other in a file, up to ``REQUEST_BYTES``."""
    requests: list[list[tuple[str, Piece]]] = []
    end: tuple[str, int] | None = None
    filled = 0
    for name, piece in sorted(wanted, key=lambda entry: (entry[1].file, entry[1].start)):
        size = size_of(name, piece)
        if end != (piece.file, piece.start) or filled + size > REQUEST_BYTES:
            requests.append([])
            filled = 0
        requests[-1].append((name, piece))
        filled += size
        end = (piece.file, piece.start + size)
    return requests


def _copy(values: Tensor, item: ReadItem, planner: LoadPlanner) -> None:
    """What ``item`` wants of a piece, into the tensor that it is for."""
    target = planner.resolve_tensor(item).detach()
    for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        values = values.narrow(dimension, offset, length)
    target.copy_(values)
    planner.commit_tensor(item, target)


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
