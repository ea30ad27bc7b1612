"""A channel that failed is closed, never used again, and closing never blocks: what carries the bytes of one group,
gloo between CPUs, NCCL between GPUs, shared memory on one machine.

A group is the sender (rank 0) and the workers of one rollout (ranks 1, 2, ...). ``connect`` makes one side of it;
``start`` begins to send a bucket from there, or to receive one here; ``Transfer.is_done`` is asked until it says so,
and whoever asks decides when to give up.

The process groups are built on a store of their own: no ``init_process_group``, of which a trainer has one for itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import Store, Work

from rz_workers.protocol.messages import Backend
from rz_workers.transfer.buffers import Handle, SharedSlots, open_slots
from rz_workers.transfer.control import Control, Deadline, bounded
from rz_workers.transfer.documents import Done, Notice
from rz_workers.transfer.errors import TransferError

__all__ = ["Channel", "Connect", "Transfer", "buffer_device", "connect"]

log = logging.getLogger(__name__)


class Transfer(Protocol):
    """One bucket on its way."""

    def is_done(self) -> bool:
        """Raises TransferError when it will not arrive."""


class Channel(Protocol):
    """One side of a group."""

    def begin(self, control: Control, shared: SharedSlots | Handle | None) -> None:
        """Before the first bucket of a version. ``shared``: the sender's slots, or the handle to open them with."""

    def start(self, flat: Tensor, seconds: float) -> Transfer:
        """Begin to send ``flat`` (uint8) from rank 0, or to receive one of its size into it. It must not be touched
        before the transfer is done."""

    def end(self) -> None:
        """After the last bucket of a version."""

    def close(self) -> None:
        """Give up what is going on and let go of the group. Never blocks."""


class Connect(Protocol):
    def __call__(
        self,
        backend: Backend,
        store: Store,
        *,
        rank: int,
        size: int,
        device: torch.device,
        host: str,
        deadline: Deadline,
    ) -> Channel: ...


def connect(
    backend: Backend,
    store: Store,
    *,
    rank: int,
    size: int,
    device: torch.device,
    host: str,
    deadline: Deadline,
) -> Channel:
    """Join a group, as all of its ``size`` ranks do at the same time. ``host`` is the sender's. Raises TransferError
    when the others do not come before the deadline."""
    if backend == "shared":
        return SharedChannel(rank, size, device)
    limit = timedelta(seconds=max(deadline.remaining, 0.001))
    if backend == "gloo":
        return bounded(lambda: GlooChannel(store, rank, size, host, limit), deadline.remaining, "connecting by gloo")
    return NcclChannel(store, rank, size, device, deadline)


def buffer_device(backend: Backend, device: torch.device) -> torch.device:
    """Where a backend's buckets lie."""
    return torch.device("cpu") if backend == "gloo" else device


# --------------------------------------------------------------------------------------------------- process groups


class GlooChannel:
    """TCP between CPUs. An operation ends by itself after its time limit, so that nothing has to be aborted."""

    def __init__(self, store: Store, rank: int, size: int, host: str, limit: timedelta) -> None:
        gloo: Any = distributed.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = limit
        options._threads = 1
        # By itself gloo listens where this host's own name leads to, which /etc/hosts may make the loopback.
        options._devices = [gloo.create_device(hostname=_own_address(host))]
        self._group = gloo(store, rank, size, options)
        self._last: Work | None = None

    def begin(self, control: Control, shared: SharedSlots | Handle | None) -> None:
        pass

    def start(self, flat: Tensor, seconds: float) -> Transfer:
        self._last = self._group.broadcast(flat, 0, timedelta(seconds=seconds))
        return _WorkTransfer(self._last)

    def end(self) -> None:
        pass

    def close(self) -> None:
        """The last references go away in a thread: letting go of a group waits for what it still does."""
        group, last = self._group, self._last
        del self._group
        self._last = None

        def let_go(group: Any, last: Any) -> None:
            if last is not None:
                with contextlib.suppress(RuntimeError):
                    last.wait()

        threading.Thread(target=let_go, args=(group, last), name="transfer: leave gloo group", daemon=True).start()


class _WorkTransfer:
    def __init__(self, work: Work) -> None:
        self._work = work

    def is_done(self) -> bool:
        try:
            if not self._work.is_completed():
                return False
            # Done, so it does not block: for gloo it raises what went wrong, for NCCL it orders the current stream.
            self._work.wait(timedelta(seconds=1))
        except RuntimeError as error:
            raise TransferError(f"the bucket was not carried over: {str(error).partition(chr(10))[0]}") from error
        return True


class NcclChannel:
    """NCCL between GPUs: pod network, InfiniBand, or whatever else its environment (``NCCL_*``) names."""

    def __init__(self, store: Store, rank: int, size: int, device: torch.device, deadline: Deadline) -> None:
        if not distributed.is_nccl_available():
            raise TransferError("the broadcast is by NCCL, and this torch has none; set rollout.weightSync: storage")
        self._device = device
        self._group: Any = None
        torch.cuda.set_device(device)

        # In a thread that can be left behind: making a communicator blocks until every peer is there.
        def join() -> None:
            # Here again: the current device is a thread's own.
            torch.cuda.set_device(device)
            with _no_tearing_down():
                options = distributed.ProcessGroupNCCL.Options()
                options._timeout = timedelta(days=1)  # the limits here are shorter, and end the group, not the process
                self._group = distributed.ProcessGroupNCCL(store, rank, size, options)
            # The communicator comes into being with the first operation.
            self._group.broadcast(torch.zeros(1, dtype=torch.uint8, device=device), 0)
            # Until then it is queued, not done: the deadline must cover the connection itself.
            torch.cuda.synchronize(device)

        try:
            bounded(join, deadline.remaining, "connecting by NCCL")
        except BaseException:
            self.close()
            raise

    def begin(self, control: Control, shared: SharedSlots | Handle | None) -> None:
        pass

    def start(self, flat: Tensor, seconds: float) -> Transfer:
        with torch.cuda.device(self._device):
            return _WorkTransfer(self._group.broadcast(flat, 0))

    def end(self) -> None:
        pass

    def close(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            # In a thread: abort may take long where a peer is dead, and closing must not block.
            threading.Thread(target=group.abort, name="transfer: abort NCCL group", daemon=True).start()


# The environment is the process's: two groups that are made at once would restore each other's values.
_environment = threading.Lock()


@contextlib.contextmanager
def _no_tearing_down() -> Iterator[None]:
    """Process groups made in here leave the process alone when a peer dies or hangs. torch reads these variables when a
    group is made; groups made before and after (the trainer's own) keep what they have."""
    wanted = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
    with _environment:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _own_address(peer: str) -> str:
    """The address of this machine from which ``peer`` is reached. Nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


# ---------------------------------------------------------------------------------------------------- shared memory


class SharedChannel:
    """The sender's slots, mapped by the workers, who copy each bucket out: the copy is theirs for as long as they like,
    and the slot is free for the next but one."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self._rank, self._size, self._device = rank, size, device
        self._control: Control | None = None
        self._slots: SharedSlots | None = None
        self._handle: Handle | None = None
        self._opened: list[Tensor] = []
        self._next = 0

    def begin(self, control: Control, shared: SharedSlots | Handle | None) -> None:
        self._control, self._next = control, 0
        if isinstance(shared, SharedSlots):
            self._slots = shared
        # The same slots as for the version before are open already.
        elif shared != self._handle:
            if shared is None:
                raise TransferError("found no handle in the trainer's header; where memory is shared one is required")
            self._opened, self._handle = open_slots(shared, self._device), shared

    def start(self, flat: Tensor, seconds: float) -> Transfer:
        assert self._control is not None
        bucket, self._next = self._next, self._next + 1
        if self._rank > 0:
            return _Copy(self, self._control, bucket, flat, seconds)
        assert self._slots is not None
        slot = self._slots.index(flat)
        assert slot is not None, "the sender copies other memory to a slot first"
        # Two processes' streams know nothing of each other: what is announced must be in memory.
        _finish_writes(flat)
        self._control.put(f"bucket/{bucket}", Notice(slot=slot, nbytes=flat.numel()))
        return _Taken(self._control, bucket, self._size - 1)

    def copy_out(self, notice: Notice, out: Tensor) -> None:
        if notice.nbytes != out.numel():
            raise TransferError(f"found a bucket of {notice.nbytes} bytes, the header says {out.numel()}")
        if notice.slot >= len(self._opened):
            raise TransferError(f"found a bucket in slot {notice.slot}, the trainer shares {len(self._opened)}")
        out.copy_(self._opened[notice.slot][: out.numel()])
        # Copied before it says so: the sender fills the slot again.
        _finish_writes(out)

    def end(self) -> None:
        """A GPU's memory is the sender's again; a mapped file stays mapped, which costs nothing more."""
        if self._device.type != "cpu":
            self._opened, self._handle = [], None

    def close(self) -> None:
        self._control, self._slots, self._opened, self._handle = None, None, [], None


class _Taken:
    """The sender's side of a bucket: done when every worker has copied it."""

    def __init__(self, control: Control, bucket: int, workers: int) -> None:
        self._control, self._bucket = control, bucket
        self._names = [f"taken/{bucket}/{worker}" for worker in range(workers)]

    def is_done(self) -> bool:
        if not self._control.has(*self._names):
            return False
        self._control.delete(f"bucket/{self._bucket}", *self._names)
        return True


class _Copy:
    """A worker's side: waits for the bucket and copies it, in a thread."""

    def __init__(self, channel: SharedChannel, control: Control, bucket: int, out: Tensor, seconds: float) -> None:
        self._error: BaseException | None = None
        worker = channel._rank - 1

        def copy() -> None:
            try:
                deadline = Deadline(seconds)
                channel.copy_out(control.wait(f"bucket/{bucket}", Notice, deadline), out)
                # A second at least: the copy is made, and for want of this word the sender would drop the rollout.
                control.tell(f"taken/{bucket}/{worker}", Done(), max(deadline.remaining, 1.0))
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=copy, name="transfer: copy bucket", daemon=True)
        self._thread.start()

    def is_done(self) -> bool:
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True


def _finish_writes(flat: Tensor) -> None:
    if flat.device.type == "cuda":
        torch.cuda.synchronize(flat.device)
