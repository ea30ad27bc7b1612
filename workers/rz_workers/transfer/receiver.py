"""What was loaded counts for nothing until its checksums have been compared with the trainer's.

A rollout's side of a broadcast: one in every worker process of its engine.
``receive`` joins the group that the order names, unless it is in it already, says that it is ready, and gives the
tensors to the engine as they come: while a bucket is checked and loaded, the next one is on its way. The checksums that
the trainer computed come last.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from rz_workers.protocol.messages import TransferOrder
from rz_workers.seals import Seal
from rz_workers.storage.checksums import Description, describe_all, digest
from rz_workers.transfer.buffers import PrivateBuffers
from rz_workers.transfer.channels import Channel, Connect, Transfer, buffer_device, connect
from rz_workers.transfer.control import TRANSFER, Control, Deadline, another_connection, bounded
from rz_workers.transfer.documents import Done, Header, Result, TensorFields, Trailer
from rz_workers.transfer.errors import TransferError
from rz_workers.transfer.wire import TensorMeta, bucket_nbytes, unpack

__all__ = ["Receiver", "TransferError"]

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.001
_TELL_SECONDS = 5.0
"""What it may take to tell the trainer something, beyond which the trainer counts as hanging."""


class Receiver:
    """Keeps its group, and the memory of two buckets, from version to version. Called from one thread."""

    def __init__(
        self,
        device: torch.device,
        token: Callable[[], str],
        worker: int = 0,
        workers: int = 1,
        *,
        connect: Connect = connect,
    ) -> None:
        """``worker`` (from 0) of the ``workers`` of one engine; ``device`` is where buckets are received, except that
        gloo receives on the CPU. ``token``: asked for the run's, by which sender and receiver know each other, for
        each new group, because it may be made anew."""
        self._device, self._worker, self._workers, self._connect = torch.device(device), worker, workers, connect
        self._token = token
        self._seal: Seal | None = None
        """Of the group, and of one that is being joined."""
        self._group: str | None = None
        self._store: TCPStore | None = None
        self._channel: Channel | None = None
        self._buffers: PrivateBuffers | None = None

    @property
    def group(self) -> str | None:
        """The group that this worker is in; None when in none, as after any failure."""
        return self._group

    def receive(self, order: TransferOrder, load: Callable[[Iterator[tuple[str, Tensor]]], None]) -> str:
        """Receive one version and return its digest.

        Args:
            order: the ledger's; each wait is limited to its ``seconds``.
            load: called once with an iterator over all tensors (name, tensor on the device of the buckets), which
                waits for them as they come. It may keep the tensors.

        Raises TransferError, naming the tensor where one differs from what the trainer sent, and what ``load`` raises.
        After either the group is gone, and what was loaded must not be used.
        """
        try:
            return self._receive(order, load)
        except BaseException as error:
            self._complain(order, error)
            self.shutdown()
            raise

    def shutdown(self) -> None:
        """Leave the group. What the trainer still sends to it fails there."""
        if self._channel is not None:
            self._channel.close()
        self._group = self._seal = self._store = self._channel = self._buffers = None

    # ----------------------------------------------------------------------------------------------------- joining

    def _receive(self, order: TransferOrder, load: Callable[[Iterator[tuple[str, Tensor]]], None]) -> str:
        if order.workers != self._workers:
            raise TransferError(f"found an order for {order.workers} workers, this engine has {self._workers}")
        if order.group != self._group:
            self.shutdown()
            self._join(order)
        assert self._store is not None
        assert self._channel is not None
        store, channel = self._store, self._channel
        control = self._control(order, store)
        # Ready means that nothing is sampled: from the header on the engine's weights change.
        control.tell(f"ready/{self._worker}", Done(), _TELL_SECONDS)
        header = control.wait("header", Header, Deadline(order.seconds))
        buckets = [tuple(_meta(fields) for fields in bucket) for bucket in header.buckets]
        # The channel waits for buckets while this thread may have something to tell: each has its own connection.
        own = bounded(lambda: another_connection(store), order.seconds, "connecting to the trainer")
        channel.begin(self._control(order, own), header.shared)
        found: dict[str, Description] = {}
        tensors = self._tensors(order, buckets, found)
        load(tensors)
        for _ in tensors:  # what the engine did not ask for is received and verified all the same
            pass
        channel.end()
        trailer = control.wait("trailer", Trailer, Deadline(order.seconds))
        # The trailer comes last: the trainer computes checksums while it sends.
        whole = _verified(found, trailer)
        control.tell(f"result/{self._worker}", Result(digest=whole), _TELL_SECONDS)
        return whole

    def _join(self, order: TransferOrder) -> None:
        deadline = Deadline(order.seconds)
        where = f"{order.host}:{order.port}"
        limit = timedelta(seconds=order.seconds)

        def reach() -> TCPStore:
            return TCPStore(order.host, order.port, is_master=False, timeout=limit, wait_for_workers=False)

        self._seal = seal = Seal.of(self._token(), TRANSFER, order.incarnation)
        # Set before anything can fail: ``_complain`` tells the trainer over it.
        self._store = bounded(reach, deadline.remaining, f"connecting to the trainer at {where}")
        control = Control(self._store, seal, order.group)
        control.tell(f"hello/{self._worker}", Done(), _TELL_SECONDS)
        control.wait("join", Done, deadline)
        store = self._store
        # A connection for the channel: process groups block theirs while they wait for ranks.
        connection = bounded(lambda: another_connection(store), deadline.remaining, "connecting to the trainer")
        self._channel = self._connect(
            order.backend,
            PrefixStore(f"{seal.prefix}/{order.group}/{order.backend}", connection),
            rank=self._worker + 1,
            size=self._workers + 1,
            device=self._device,
            host=order.host,
            deadline=deadline,
        )
        self._group = order.group

    def _control(self, order: TransferOrder, store: Store) -> Control:
        """Of the version that is being received."""
        assert self._seal is not None
        return Control(store, self._seal, order.group).below(f"v{order.version}")

    # --------------------------------------------------------------------------------------------------- receiving

    def _tensors(
        self, order: TransferOrder, buckets: list[tuple[TensorMeta, ...]], found: dict[str, Description]
    ) -> Iterator[tuple[str, Tensor]]:
        """All tensors in order; ``found`` gets the description of each before it is handed out."""
        assert self._channel is not None
        sizes = [bucket_nbytes(bucket) for bucket in buckets]
        if self._buffers is None or self._buffers.nbytes < max(sizes, default=0):
            self._buffers = PrivateBuffers(max(sizes, default=0), buffer_device(order.backend, self._device))
        buffers = self._buffers
        coming = self._start(buffers, sizes, 0, order.seconds)
        for index, bucket in enumerate(buckets):
            assert coming is not None
            flat = _arrived(*coming, Deadline(order.seconds), index, len(buckets))
            # Before this bucket is checked and loaded: the wire is never idle.
            coming = self._start(buffers, sizes, index + 1, order.seconds)
            # Described before it is handed out: an engine may change tensors in place.
            found.update(describe_all(dict(unpack(bucket, flat.cpu()))))
            yield from unpack(bucket, flat)
            # Else this generator would hold the bucket, and ``PrivateBuffers`` could not use its memory again.
            del flat

    def _start(
        self, buffers: PrivateBuffers, sizes: list[int], index: int, seconds: float
    ) -> tuple[Tensor, Transfer] | None:
        if index == len(sizes):
            return None
        assert self._channel is not None
        flat = buffers.take(sizes[index])
        return flat, self._channel.start(flat, seconds)

    def _complain(self, order: TransferOrder, error: BaseException) -> None:
        """Tell the trainer, if it still listens, so that it does not wait for this rollout."""
        store = self._store
        if store is None:
            return

        def tell() -> None:
            # The first connection may be what is stuck.
            own = another_connection(store)
            words = f"{type(error).__name__}: {error}"[:500]
            self._control(order, own).put(f"result/{self._worker}", Result(error=words))

        with contextlib.suppress(TransferError):
            bounded(tell, _TELL_SECONDS, "telling the trainer what went wrong")


def _arrived(flat: Tensor, transfer: Transfer, deadline: Deadline, index: int, total: int) -> Tensor:
    """The bucket, when it is there."""
    while not transfer.is_done():
        if deadline.has_passed:
            raise TransferError(f"bucket {index + 1} of {total} had not come after {deadline.seconds:.0f} s")
        time.sleep(_POLL_SECONDS)
    return flat


def _meta(fields: TensorFields) -> TensorMeta:
    return TensorMeta(fields.name, fields.dtype, fields.shape)


def _verified(found: dict[str, Description], trailer: Trailer) -> str:
    """The digest of what arrived. Raises TransferError naming the first tensor that differs."""
    expected = trailer.tensors
    if set(found) != set(expected):
        raise TransferError(
            f"found the tensors {sorted(set(found) - set(expected))} beyond those that the trainer describes, and not "
            f"{sorted(set(expected) - set(found))}"
        )
    for name, (dtype, shape, checksum) in found.items():
        if checksum != expected[name]:
            raise TransferError(
                f"tensor {name!r} ({dtype} {list(shape)}) did not arrive as it was sent: found checksum {checksum}, "
                f"the trainer's is {expected[name]}"
            )
    whole = digest(found)
    if whole != trailer.digest:
        raise TransferError(f"found digest {whole}, the trainer's is {trailer.digest}: shapes or dtypes differ")
    return whole
