"""No tensor is handed out whose bytes are not those that were published.

Weight versions as safetensors, every tensor with a checksum. Together with ``checksums`` what imports torch here. The
trainer publishes, rollouts and the export load. A version is its number and the digest of its tensors: the same digest
is published once, whichever incarnation asks. Tied tensors are passed once, under the name that the loader expects.

Both directions go file by file, a few at a time: never is there a second copy of all tensors in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor

from rz_api.storage_uri import is_local
from rz_workers.protocol.messages import Canary, WeightsInfo
from rz_workers.storage import checksums, layout
from rz_workers.storage.checksums import Description, describe_all
from rz_workers.storage.memory import map_memory
from rz_workers.storage.objects import CorruptObjectError, ObjectExistsError, ObjectMissingError
from rz_workers.storage.records import TensorEntry, WeightsManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.versions import published, weights_info

__all__ = ["MAX_FILE_BYTES", "digest", "load", "publish", "published", "stream"]

MAX_FILE_BYTES = 200_000_000
"""Largest safetensors file, unless one tensor alone is larger."""
FILES_AT_A_TIME = 2
"""While one file waits for storage, another one's bytes are put together and its checksums computed."""

_SPARE_BYTES = 16_000_000
"""By which a buffer is larger than the file that it is made for, so that the next one fits too."""
_HEADER_ALIGNMENT = 64
"""Bytes. With it, and the largest elements first, every tensor of a file can be used where it lies."""
_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "int64": "I64",
    "uint64": "U64",
    "float64": "F64",
    "complex64": "C64",
}
"""torch's name of a dtype -> safetensors' (its ``Dtype`` enumeration)."""


def publish(
    folder: RunFolder,
    version: int,
    incarnation: int,
    tensors: Mapping[str, Tensor],
    max_file_bytes: int = MAX_FILE_BYTES,
    *,
    canary: Canary | None = None,
    described: Mapping[str, Description] | None = None,
) -> WeightsInfo:
    """Store ``tensors`` (any device and dtype) as weight version ``version``, manifest last.

    If what readers take for this version (the newest incarnation's) has the same digest, that one is returned and
    nothing is written. ``described`` saves computing the checksums where the caller has them already.
    """
    standing = [info for info in published(folder) if info.version == version]
    if standing:
        described = described or describe_all(tensors)
        if standing[-1].digest == checksums.digest(described):
            return standing[-1]
    prefix = layout.weights_prefix(version, incarnation)
    parts = _split(tensors, max_file_bytes)
    files: dict[str, int] = {}
    entries: dict[str, TensorEntry] = {}

    def store(number: int, names: list[str]) -> tuple[str, int, Mapping[str, Description]]:
        file = f"model-{number:05d}.safetensors"
        on_host = {name: tensors[name].detach().cpu().contiguous() for name in names}
        of_file = describe_all(on_host) if described is None else described
        ordered = sorted(on_host.items(), key=lambda item: -item[1].dtype.itemsize)
        header = _header(ordered)
        nbytes = len(header) + sum(tensor.nbytes for _, tensor in ordered)
        with _buffers.borrow(nbytes) as buffer:
            data = _encode(header, ordered, buffer)
            # Not put_new: only this incarnation writes here, and a publication that was cut off may be repeated.
            # Files of this machine are written from any buffer; clients of object storage ask for bytes.
            folder.store.put(f"{prefix}/{file}", cast(bytes, data) if is_local(folder.store.uri) else bytes(data))
        return file, nbytes, of_file

    with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="store-weights") as pool:
        for names, (file, nbytes, of_file) in zip(parts, pool.map(store, itertools.count(1), parts), strict=True):
            files[file] = nbytes
            for name in names:
                dtype, shape, checksum = of_file[name]
                entries[name] = TensorEntry(file=file, dtype=dtype, shape=shape, checksum=checksum)
    whole = checksums.digest(_described(entries))
    manifest = WeightsManifest(
        version=version, incarnation=incarnation, digest=whole, files=files, tensors=entries, canary=canary
    )
    try:
        folder.store.put_new(layout.manifest_key(prefix), manifest.model_dump_json(indent=2).encode())
    except ObjectExistsError as error:
        raise CorruptObjectError(
            f"{folder.store.uri}: {prefix!r} is published already with another digest; an incarnation publishes a "
            "version once"
        ) from error
    return weights_info(manifest)


def load(folder: RunFolder, info: WeightsInfo) -> dict[str, Tensor]:
    """All tensors of a published version, on the CPU, in the dtype in which they were published. Raises as ``stream``
    does."""
    return dict(stream(folder, info))


def stream(folder: RunFolder, info: WeightsInfo) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a published version one by one, each compared with its checksum before it is handed out. The
    memory of a file is free again as soon as nobody holds a tensor of it.

    Raises ObjectMissingError when the version is not (or no longer) there, CorruptObjectError naming the tensor or file
    whose bytes are not those that were published.
    """
    key = layout.manifest_key(info.prefix)
    manifest = folder.document(key, WeightsManifest)
    if manifest is None:
        raise ObjectMissingError(f"{folder.store.uri}: there is no {key!r}")
    found = checksums.digest(_described(manifest.tensors))
    if not manifest.digest == found == info.digest:
        raise CorruptObjectError(
            f"{folder.store.uri}: {info.prefix} has digest {manifest.digest} (its tensors' is {found}), version "
            f"{info.version} requires {info.digest}"
        )
    waiting = list(manifest.files)
    with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="load-weights") as pool:
        coming = [pool.submit(_load_file, folder, info.prefix, file, manifest) for file in waiting[:FILES_AT_A_TIME]]
        for file in [*waiting[FILES_AT_A_TIME:], *[None] * len(coming)]:
            tensors = coming.pop(0).result()
            if file is not None:
                coming.append(pool.submit(_load_file, folder, info.prefix, file, manifest))
            yield from tensors.items()
            # Before the next file is waited for: else this one would stay in memory as long.
            del tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The digest that these tensors are published under (``checksums.digest``)."""
    return checksums.digest(describe_all(tensors))


def _described(entries: Mapping[str, TensorEntry]) -> dict[str, Description]:
    return {name: (entry.dtype, entry.shape, entry.checksum) for name, entry in entries.items()}


def _split(tensors: Mapping[str, Tensor], max_file_bytes: int) -> list[list[str]]:
    """Names in the given order, cut so that no file exceeds the limit unless one tensor does."""
    files: list[list[str]] = []
    size = 0
    for name, tensor in tensors.items():
        if not files or size + tensor.nbytes > max_file_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += tensor.nbytes
    return files


# ---------------------------------------------------------------------------------------------------- one file's bytes


class _Buffers:
    """Memory for the files that are put together. It is kept from version to version (two of the largest file): to get
    it anew takes longer than to fill it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Tensor] = []

    @contextlib.contextmanager
    def borrow(self, nbytes: int) -> Iterator[Tensor]:
        """A buffer of at least ``nbytes``."""
        with self._lock:
            # The largest: what is too small for this file is let go, and not kept beside it.
            buffer = self._free.pop() if self._free else torch.empty(0)
        if buffer.numel() < nbytes:
            buffer = torch.frombuffer(map_memory(nbytes + _SPARE_BYTES), dtype=torch.uint8)
        try:
            yield buffer
        finally:
            with self._lock:
                self._free = sorted([*self._free, buffer], key=Tensor.numel)[-FILES_AT_A_TIME:]


_buffers = _Buffers()


def _header(ordered: Sequence[tuple[str, Tensor]]) -> bytes:
    """How a safetensors file begins: the header's length (8 bytes), the header (JSON, padded). The tensors follow, the
    largest elements first."""
    ends = list(itertools.accumulate(tensor.nbytes for _, tensor in ordered))
    fields = {
        name: {
            "dtype": _safetensors_dtype(name, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [end - tensor.nbytes, end],
        }
        for (name, tensor), end in zip(ordered, ends, strict=True)
    }
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _HEADER_ALIGNMENT)
    return len(header).to_bytes(8, "little") + header


def _encode(header: bytes, ordered: Sequence[tuple[str, Tensor]], buffer: Tensor) -> memoryview:
    """A safetensors file, at the start of ``buffer``: by one copy that holds no lock of the interpreter
    (``safetensors.torch.save`` makes two that do)."""
    file: memoryview = buffer.numpy().data
    file[: len(header)] = header
    start = len(header)
    for _, tensor in ordered:
        buffer[start : start + tensor.nbytes].copy_(tensor.reshape(-1).view(torch.uint8))
        start += tensor.nbytes
    return file[:start]


def _safetensors_dtype(name: str, tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _NAMES:
        raise ValueError(f"tensor {name!r} is {dtype}; safetensors knows {', '.join(_NAMES)}")
    return _NAMES[dtype]


def _load_file(folder: RunFolder, prefix: str, file: str, manifest: WeightsManifest) -> dict[str, Tensor]:
    """The tensors of one file in the manifest's order, each compared with it, so that the error names it."""
    where = f"{folder.store.uri}: {prefix}/{file}"
    data = folder.store.get(f"{prefix}/{file}")
    if len(data) != manifest.files[file]:
        raise CorruptObjectError(f"{where}: found {len(data)} bytes, its manifest requires {manifest.files[file]}")
    expected = {name: entry for name, entry in manifest.tensors.items() if entry.file == file}
    try:
        tensors = _decode(data)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise CorruptObjectError(f"{where} is not a safetensors file any more: {error}") from error
    if set(tensors) != set(expected):
        raise CorruptObjectError(f"{where}: found tensors {sorted(tensors)}, its manifest requires {sorted(expected)}")
    for name, (dtype, shape, checksum) in describe_all(tensors).items():
        entry = expected[name]
        if (dtype, shape, checksum) != (entry.dtype, entry.shape, entry.checksum):
            raise CorruptObjectError(
                f"{where}: tensor {name!r} was published as {entry.dtype} {list(entry.shape)} with checksum "
                f"{entry.checksum}, found {dtype} {list(shape)} with checksum {checksum}"
            )
    return {name: tensors[name] for name in expected}


def _decode(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, where they lie in ``data``. Raises what comes of damaged bytes: one of the
    errors that ``_load_file`` translates."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise ValueError(f"its header should end at byte {start}")
    fields: dict[str, dict[str, Any]] = json.loads(data[8:start])
    dtypes = {short: getattr(torch, name) for name, short in _NAMES.items()}
    whole = _as_tensor(data)
    tensors = {}
    for name, field in fields.items():
        dtype, shape = dtypes[field["dtype"]], _sizes(field["shape"])
        begin, end = _sizes(field["data_offsets"])
        if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(data):
            raise ValueError(f"tensor {name!r} of {list(shape)} should lie in bytes {begin} to {end}")
        tensors[name] = whole[start + begin : start + end].view(dtype).reshape(shape)
    return tensors


def _sizes(values: Sequence[Any]) -> tuple[int, ...]:
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError(f"found {values!r} where sizes should be")
    return tuple(values)


def _as_tensor(data: bytes) -> Tensor:
    """The same memory. It is nobody else's, so that torch's warning of memory that must not be written is idle."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(data, dtype=torch.uint8)
