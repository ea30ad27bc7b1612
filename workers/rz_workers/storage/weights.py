"""Weight versions as safetensors, every tensor with a checksum. The only module of storage that imports torch.

The trainer publishes, rollouts and the export load. A version is its number and the digest of its tensors: the same
digest is published once, whichever incarnation asks. Tied tensors are passed once, under the name that the loader
expects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, uint8

from rz_workers.protocol.messages import WeightsInfo
from rz_workers.storage import layout
from rz_workers.storage.objects import CorruptObjectError, ObjectExistsError, ObjectMissingError, data_entry
from rz_workers.storage.records import FileEntry, TensorEntry, WeightsManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.versions import published, weights_info

__all__ = ["MAX_FILE_BYTES", "digest", "load", "publish", "published", "tensor_sha256"]

MAX_FILE_BYTES = 2_000_000_000
"""Largest safetensors file, unless one tensor alone is larger: each is held in memory once on either side, and stays
below the 5 GB that one S3 put may have."""


def publish(
    folder: RunFolder,
    version: int,
    incarnation: int,
    tensors: Mapping[str, Tensor],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> WeightsInfo:
    """Store ``tensors`` (any device and dtype) as weight version ``version``, manifest last.

    If what readers take for this version (the newest incarnation's) has the same digest, that one is returned and
    nothing is written.
    """
    described = {name: _describe(tensor) for name, tensor in tensors.items()}
    whole = _digest(described)
    standing = [info for info in published(folder) if info.version == version]
    if standing and standing[-1].digest == whole:
        return standing[-1]
    prefix = layout.weights_prefix(version, incarnation)
    files: dict[str, FileEntry] = {}
    entries: dict[str, TensorEntry] = {}
    for number, names in enumerate(_split(tensors, max_file_bytes), start=1):
        file = f"model-{number:05d}.safetensors"
        data = safetensors.torch.save({name: tensors[name].detach().cpu().contiguous() for name in names})
        # Not put_new: only this incarnation writes here, and a publication that was cut off may be repeated.
        folder.store.put(f"{prefix}/{file}", data)
        files[file] = data_entry(data)
        for name in names:
            dtype, shape, sha256 = described[name]
            entries[name] = TensorEntry(file=file, dtype=dtype, shape=shape, sha256=sha256)
    manifest = WeightsManifest(version=version, incarnation=incarnation, digest=whole, files=files, tensors=entries)
    try:
        folder.store.put_new(layout.manifest_key(prefix), manifest.model_dump_json(indent=2).encode())
    except ObjectExistsError as error:
        raise CorruptObjectError(
            f"{folder.store.uri}: {prefix!r} is published already with another digest; an incarnation publishes a "
            "version once"
        ) from error
    return weights_info(manifest)


def load(folder: RunFolder, info: WeightsInfo) -> dict[str, Tensor]:
    """The tensors of a published version, on the CPU, in the dtype in which they were published.

    Raises ObjectMissingError when the version is not (or no longer) there, CorruptObjectError naming the tensor or file
    whose bytes are not those that were published.
    """
    key = layout.manifest_key(info.prefix)
    manifest = folder.document(key, WeightsManifest)
    if manifest is None:
        raise ObjectMissingError(f"{folder.store.uri}: there is no {key!r}")
    if manifest.digest != info.digest:
        raise CorruptObjectError(
            f"{folder.store.uri}: {info.prefix} has digest {manifest.digest}, version {info.version} requires "
            f"{info.digest}"
        )
    tensors: dict[str, Tensor] = {}
    for file in manifest.files:
        tensors |= _load_file(folder, info.prefix, file, manifest)
    named = {name: (entry.dtype, entry.shape, entry.sha256) for name, entry in manifest.tensors.items()}
    if _digest(named) != info.digest:
        raise CorruptObjectError(f"{folder.store.uri}: the tensors of {info.prefix} do not have digest {info.digest}")
    return {name: tensors[name] for name in manifest.tensors}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over (name, dtype, shape, sha256 of the bytes) of all tensors, sorted by name. The same weights have
    the same digest wherever they lie and however they are cut into files."""
    return _digest({name: _describe(tensor) for name, tensor in tensors.items()})


def tensor_sha256(tensor: Tensor) -> str:
    """sha256 (hex) of a tensor's bytes: row-major, on any device, any dtype (also bfloat16, which numpy lacks)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


_Description = tuple[str, tuple[int, ...], str]
"""dtype, shape, sha256 of a tensor."""


def _describe(tensor: Tensor) -> _Description:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor_sha256(tensor)


def _digest(described: Mapping[str, _Description]) -> str:
    lines = [[name, dtype, list(shape), sha256] for name, (dtype, shape, sha256) in sorted(described.items())]
    return hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()


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


def _load_file(folder: RunFolder, prefix: str, file: str, manifest: WeightsManifest) -> dict[str, Tensor]:
    """The tensors of one file, each compared with the manifest, so that the error names it."""
    where = f"{folder.store.uri}: {prefix}/{file}"
    try:
        tensors = safetensors.torch.load(folder.store.get(f"{prefix}/{file}"))
    except SafetensorError as error:
        raise CorruptObjectError(f"{where} is not a safetensors file any more: {error}") from error
    expected = {name: entry for name, entry in manifest.tensors.items() if entry.file == file}
    if set(tensors) != set(expected):
        raise CorruptObjectError(f"{where}: found tensors {sorted(tensors)}, its manifest requires {sorted(expected)}")
    for name, entry in expected.items():
        dtype, shape, sha256 = _describe(tensors[name])
        if (dtype, shape, sha256) != (entry.dtype, entry.shape, entry.sha256):
            raise CorruptObjectError(
                f"{where}: tensor {name!r} was published as {entry.dtype} {list(entry.shape)} with sha256 "
                f"{entry.sha256}, found {dtype} {list(shape)} with sha256 {sha256}"
            )
    return tensors
