"""Only bytes that were written are loaded, each compared with a checksum, and nothing is pickled: one rank's part of a
checkpoint in an ``ObjectStore``.

``checkpoint_ranks`` calls it. Which shards there are, and which parts of what is stored a shard needs, is worked out by
the planners of ``torch.distributed.checkpoint``, each on its own rank. A tensor's shard is cut into pieces of whole
rows, each with a checksum of its own. A rank writes its pieces into files of its own, straight from memory, and reads
the ranges of the pieces that it needs, whichever number of ranks wrote them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

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
from torch.distributed.checkpoint.planner import LoadPlanner, ReadItem, WriteItem, WriteItemType

from rz_workers.storage.objects import CorruptObjectError, ObjectStore
from rz_workers.storage.records import CheckpointIndex, Piece, StoredTensor
from rz_workers.trainer.ranks import local

__all__ = ["FILE_BYTES", "PIECE_BYTES", "ObjectReader", "ObjectWriter", "PiecePlanner", "Planned"]

PIECE_BYTES = 32_000_000
"""Most bytes with one checksum, unless one row has more: what a reader needs one byte of, it reads whole."""
FILE_BYTES = 1_000_000_000
"""Most bytes of one file, unless one piece has more. An upload that fails begins again from its file's first byte."""
REQUEST_BYTES = 64_000_000
"""Most bytes that are asked for at once, unless one piece has more."""
FILES_AT_A_TIME = 4
"""Per rank: a bucket takes and gives more over several connections than over one."""


# ------------------------------------------------------------------------------------------------------------- writing


class Planned(NamedTuple):
    """A piece that a rank has: rows of its shard."""

    name: str
    offsets: tuple[int, ...]
    """Where it begins in the tensor, by dimension."""
    sizes: tuple[int, ...]
    dtype: str
    """torch's name without the module."""
    shape: tuple[int, ...]
    """Of the whole tensor."""

    @property
    def nbytes(self) -> int:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.sizes) * dtype.itemsize


class PiecePlanner(DefaultSavePlanner):
    """Plans what this rank could write: its shard of every tensor, cut into pieces."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._origins: dict[str, Sequence[int]] = {}
        self.items: list[WriteItem] = []
        """The pieces, in the order of ``pieces``."""

    def pieces(self, state: Mapping[str, Tensor]) -> list[Planned]:
        self.set_up_planner(dict(state))
        items = self.create_local_plan().items
        self._origins = {item.index.fqn: _chunk(item).offsets for item in items}
        self.items = [piece for item in items for piece in _cut(item)]
        return [_planned(item) for item in self.items]

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The piece's rows, where they lie in this rank's shard."""
        name, chunk = write_item.index.fqn, _chunk(write_item)
        shard: Tensor = local(self.state_dict[name]).detach()
        if shard.dim() == 0:
            return shard
        # A plan's offsets count from the whole tensor's first row, a shard's rows from its own.
        return shard.narrow(0, chunk.offsets[0] - self._origins[name][0], chunk.sizes[0])


def _planned(item: WriteItem) -> Planned:
    chunk, data = _chunk(item), item.tensor_data
    assert data is not None
    dtype = str(data.properties.dtype).removeprefix("torch.")
    return Planned(item.index.fqn, tuple(chunk.offsets), tuple(chunk.sizes), dtype, tuple(data.size))


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


class ObjectWriter:
    """Writes one rank's pieces below ``prefix``.

    Files are ``<part>/rank-00003-0.bin``, where ``<part>`` is what a tensor's name begins with, up to the first "/".
    """

    def __init__(self, store: ObjectStore, prefix: str, rank: int) -> None:
        self._store, self._prefix, self._rank = store, prefix, rank

    def write(self, items: Sequence[WriteItem], planner: PiecePlanner) -> list[tuple[str, Piece]]:
        """Returns tensor and piece of everything that was written."""
        files = _files(items, self._rank)
        with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="store-checkpoint") as pool:
            written = pool.map(lambda file: self._write_file(file, files[file], planner), files)
            return [piece for of_file in written for piece in of_file]

    def _write_file(self, file: str, items: Sequence[WriteItem], planner: PiecePlanner) -> list[tuple[str, Piece]]:
        # By number: an upload that fails asks for all parts again.
        checksums: dict[int, str] = {}

        def parts() -> Iterator[memoryview]:
            for number, item in enumerate(items):
                data = _bytes(planner.resolve_data(item))
                checksums[number] = xxhash.xxh3_128_hexdigest(data)
                yield data

        self._store.put_parts(f"{self._prefix}/{file}", parts)
        written, start = [], 0
        for number, item in enumerate(items):
            chunk = _chunk(item)
            piece = Piece(tuple(chunk.offsets), tuple(chunk.sizes), file, start, checksums[number])
            written.append((item.index.fqn, piece))
            start += _size(item)
        return written


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


class ObjectReader:
    """Reads the pieces that a rank needs of the checkpoint at ``prefix``; several ranges at a time."""

    def __init__(self, store: ObjectStore, prefix: str, index: CheckpointIndex) -> None:
        self._store, self._prefix, self._tensors = store, prefix, index.tensors

    def fill(self, state: Mapping[str, Tensor]) -> None:
        """Read into the tensors of ``state``, of a sharded one this rank's shard.

        Raises CorruptObjectError, naming file and tensor, when the bytes are not those that were written.
        """
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner({name: state[name] for name in sorted(state)}, self._metadata())
        items = planner.create_local_plan().items
        # Several items may want parts of one piece: it is asked for once.
        wanted: dict[tuple[str, Piece], list[ReadItem]] = defaultdict(list)
        by_place = _by_place(self._tensors, {item.storage_index.fqn for item in items})
        for item in items:
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

    def _metadata(self) -> Metadata:
        described: dict[str, Any] = {}
        for name, stored in self._tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(p.offsets), torch.Size(p.sizes)) for p in stored.pieces]
            properties = TensorProperties(dtype=getattr(torch, stored.dtype))
            described[name] = TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
        return Metadata(described)

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
