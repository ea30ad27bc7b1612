"""Memory is filled again only when nobody reads it any more: buckets, private to a process, or seen by two of them.

A bucket has up to 2 GB, and its memory is written once and read once, so that what the system does to provide it
counts: page faults alone take longer than the transfer. So it is asked for in large pages, and kept.
"""

from __future__ import annotations

import base64
import mmap
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rz_workers.storage.memory import map_memory
from rz_workers.transfer.documents import FileHandle, IpcBytes, IpcHandle
from rz_workers.transfer.errors import TransferError

__all__ = ["NUM_SLOTS", "Handle", "PrivateBuffers", "SharedSlots", "Slots", "allocate", "open_slots"]

Handle = FileHandle | IpcHandle

NUM_SLOTS = 2
"""One is filled while the other one is on its way."""
# The first is memory; a file in the second may be written to a disk while it is used.
_FOLDERS = ("/dev/shm", tempfile.gettempdir())


def allocate(nbytes: int, device: torch.device) -> Tensor:
    """A flat uint8 tensor, its content undefined."""
    if device.type != "cpu":
        return torch.empty(nbytes, dtype=torch.uint8, device=device)
    # Not torch.empty: large pages are asked for, and mmap gives one byte at least.
    return torch.frombuffer(map_memory(nbytes), dtype=torch.uint8)[:nbytes]


class Slots:
    """The sender's own buckets, of one size, used in turn."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.nbytes = nbytes
        self.tensors = [allocate(nbytes, device) for _ in range(NUM_SLOTS)]

    def index(self, flat: Tensor) -> int | None:
        """Which slot ``flat`` begins; None when it is other memory."""
        for index, slot in enumerate(self.tensors):
            if flat.data_ptr() == slot.data_ptr() and flat.device == slot.device and flat.numel() <= slot.numel():
                return index
        return None

    def close(self) -> None:
        self.tensors = []


class PrivateBuffers:
    """The receiver's buckets, kept from version to version. A consumer may keep the views it is given for as long as it
    likes: memory is used again only when nothing refers to it any more."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.nbytes, self._device = nbytes, device
        self._maps: list[mmap.mmap] = []

    def take(self, nbytes: int) -> Tensor:
        """A flat uint8 tensor of ``nbytes``, at most those that this was made for."""
        if self._device.type != "cpu":
            return allocate(nbytes, self._device)
        for index in range(len(self._maps)):
            # A tensor from frombuffer holds its mmap: as long as any view lives, the count is higher.
            if sys.getrefcount(self._maps[index]) == _ONLY_LISTED:
                break
        else:
            index = len(self._maps)
            self._maps.append(map_memory(self.nbytes))
        return torch.frombuffer(self._maps[index], dtype=torch.uint8)[:nbytes]


class SharedSlots(Slots):
    """Slots that another process of this machine reads: a mapped file, or memory of one GPU (CUDA IPC).

    Where ``/dev/shm`` is too small (64 MB in a container that asks for nothing), the file is in the temporary folder.
    """

    handle: Handle
    """What the other process needs to open them."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._file: Path | None = None
        self.nbytes = nbytes
        if device.type == "cpu":
            self._file = _make_file(nbytes * NUM_SLOTS)
            whole = _map_file(self._file, nbytes * NUM_SLOTS)
            self.tensors = [whole[i * nbytes : (i + 1) * nbytes] for i in range(NUM_SLOTS)]
            self.handle = FileHandle(file=str(self._file), nbytes=nbytes)
        else:
            super().__init__(nbytes, device)
            self.handle = IpcHandle(cuda=tuple(_ipc_handle(slot) for slot in self.tensors))

    def unlink(self) -> None:
        """Take the file's name away, when all who need it have it open: what dies now leaves nothing behind."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def close(self) -> None:
        self.unlink()
        super().close()
        if self._file is None:
            cuda: Any = torch.cuda
            # torch keeps memory that it shared until it sees that the other process let go of it.
            cuda.ipc_collect()


def open_slots(handle: Handle, device: torch.device) -> list[Tensor]:
    """The sender's slots, in its memory. Raises TransferError when this process cannot reach it."""
    try:
        if isinstance(handle, FileHandle):
            whole = _map_file(Path(handle.file), handle.nbytes * NUM_SLOTS)
            return [whole[i * handle.nbytes : (i + 1) * handle.nbytes] for i in range(NUM_SLOTS)]
        return [_open_ipc_handle(fields, device) for fields in handle.cuda]
    except (OSError, RuntimeError) as error:
        where = handle.file if isinstance(handle, FileHandle) else "CUDA IPC"
        raise TransferError(
            f"the memory that the trainer shares ({where}) cannot be opened here: {error}; "
            "colocated processes must see the same files, processes and device"
        ) from error


def _make_file(nbytes: int) -> Path:
    refusals = []
    for folder in _FOLDERS:
        path = Path(folder) / f"reasonerzero-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with open(path, "xb") as file:
                # Weights may be secret, and both folders are everybody's.
                os.chmod(path, 0o600)
                # All of it now: a full file system would end the process when a page is written (SIGBUS).
                os.posix_fallocate(file.fileno(), 0, max(nbytes, 1))
            return path
        except OSError as error:
            refusals.append(str(error))
            path.unlink(missing_ok=True)
    raise TransferError(
        f"found no room for {nbytes} bytes of shared memory ({'; '.join(refusals)}); enlarge /dev/shm or TMPDIR, or "
        "set rollout.weightSync: storage"
    )


def _map_file(path: Path, nbytes: int) -> Tensor:
    with open(path, "r+b") as file:
        # Never 0: mmap would take it for the whole file, and refuse an empty one.
        memory = mmap.mmap(file.fileno(), max(nbytes, 1))
    return torch.frombuffer(memory, dtype=torch.uint8)[:nbytes]


_IpcFields = tuple[IpcBytes | bool | int | None, ...]


def _ipc_handle(slot: Tensor) -> _IpcFields:
    """The fields of torch's CUDA IPC handle: numbers, booleans, and bytes as base64."""
    storage: Any = slot.untyped_storage()
    fields = storage._share_cuda_()
    return tuple(
        IpcBytes(base64=base64.b64encode(field).decode()) if isinstance(field, bytes) else field for field in fields
    )


def _open_ipc_handle(fields: _IpcFields, device: torch.device) -> Tensor:
    values: list[Any] = [base64.b64decode(one.base64) if isinstance(one, IpcBytes) else one for one in fields]
    # The first field is the sender's index of the GPU; here it may have another (CUDA_VISIBLE_DEVICES).
    values[0] = torch.device(device).index or 0
    storage = torch.UntypedStorage._new_shared_cuda(*values)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)


def _count_when_only_listed() -> int:
    # Measured, not assumed: how many references the call itself holds differs between Python versions.
    listed = [mmap.mmap(-1, 1)]
    return sys.getrefcount(listed[0])


_ONLY_LISTED = _count_when_only_listed()
