"""Whoever misses a broadcast finds the version in storage: how a weight version leaves the trainer (DESIGN.md 3 and 5).

Every rank of the gang calls ``Publisher.publish`` at the same place; gathering a sharded tensor needs all of them.
The tensors are cut into buckets. Each bucket is gathered once, in the dtype of the forward pass, and then:

- where the run broadcasts, packed and sent by every rank to the rollouts that it serves (``rz_workers.transfer``);
- on the first rank, copied to the host, where checksums are computed while the next bucket is on its way.

The broadcast is an optimisation, storage the truth. Without a broadcast the version is announced once it is stored.
With one it is announced at once, and stored behind the next steps by ``StorageWriter``: one version at a time, and of
those that come while one is being written only the newest, and what somebody will need (an evaluation, the run's end, a
rollout that missed the broadcast).
A replayed step is never broadcast: rollouts hold that version or a newer one already.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import Tensor

from rz_api.spec import ReasonerZeroRunSpec, broadcasts
from rz_workers.protocol.messages import (
    Backend,
    Canary,
    Endpoint,
    Publication,
    TransferReply,
    TransferRequest,
    WeightsInfo,
)
from rz_workers.runtime import Settings, read_token
from rz_workers.seals import Seal
from rz_workers.storage import layout, weights
from rz_workers.storage.checksums import Description, describe_all, digest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.metrics import TrainerMetrics, Way
from rz_workers.trainer.models.actor_critic import Policy, published_tensors
from rz_workers.trainer.ranks import Ranks, whole
from rz_workers.transfer.control import TRANSFER
from rz_workers.transfer.sender import Sender
from rz_workers.transfer.wire import TensorMeta, cut, pack

__all__ = ["BUCKET_BYTES", "Publisher", "StorageWriter", "backend_of"]

log = logging.getLogger(__name__)

BUCKET_BYTES = 1_000_000_000
"""Most bytes that are gathered and sent at once, unless one tensor alone has more. DESIGN.md 5 allows 2 GB; two such
buffers exist on a rank, one whole tensor list and one packed."""

NOBODY = TransferReply(receivers=())

# What ranks tell each other.
_CHECKSUMS = TypeAdapter(dict[str, Description])
_COUNT = TypeAdapter(int)
_NAMES = TypeAdapter(tuple[str, ...])
_CALLED = TypeAdapter(TransferReply)
_ENDPOINT = TypeAdapter(Endpoint)


def backend_of(spec: ReasonerZeroRunSpec) -> Backend:
    """What carries the bytes: memory that both processes see where they share a device, else NCCL or gloo."""
    if spec.rollout.placement == "colocated":
        return "shared"
    return "nccl" if spec.trainer.gpus_per_node > 0 else "gloo"


class Publisher:
    """Sends and stores versions; one on every rank. ``announce`` and ``open_transfer`` are the ledger's, on the first
    rank alone."""

    def __init__(
        self,
        settings: Settings,
        ranks: Ranks,
        folder: RunFolder,
        announce: Callable[[Publication], None] | None,
        open_transfer: Callable[[TransferRequest], TransferReply] | None,
        on_progress: Callable[[], None] = lambda: None,
        metrics: TrainerMetrics | None = None,
    ) -> None:
        self._settings, self._ranks, self._folder, self._metrics = settings, ranks, folder, metrics
        self._announce, self._open_transfer, self._on_progress = announce, open_transfer, on_progress
        spec = settings.run.spec
        self._spec, self._dtype = spec, getattr(torch, spec.trainer.dtype)
        self._sender, self._endpoints = _start_sender(settings, ranks)
        self._checksums = ThreadPoolExecutor(1, thread_name_prefix="checksums")
        skipped = metrics.skipped if metrics is not None else lambda: None
        self._writer = StorageWriter(self._store, announce, skipped) if announce is not None else None
        self.newest: Publication | None = None
        """What was announced last; on the first rank."""

    def publish(
        self, policy: Policy, version: int, canary: Canary, *, is_new: bool, must_be_stored: bool
    ) -> WeightsInfo | None:
        """Make ``version`` what rollouts sample with; None but on the first rank.

        Args:
            canary: scored with these weights.
            is_new: whether no gang has published the version before: only then it is broadcast.
            must_be_stored: whether somebody will look for it in storage.

        Raises SupersededError when a newer gang is at work.
        """
        started = time.monotonic()
        if self._ranks.is_first:
            # Before the first byte leaves: a gang that was overtaken hands out nothing.
            self._folder.check_newest(self._settings.incarnation)
        tensors = published_tensors(policy)
        dtype = str(self._dtype).removeprefix("torch.")
        metas = [TensorMeta(name, dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
        called = self._open(version, metas) if is_new and self._sender is not None else NOBODY
        sent = bool(called.receivers)
        kept: dict[str, Tensor] = {}
        described: list[Future[dict[str, Description]]] = []
        # All ranks cut alike: ``whole`` is a collective, and each tensor's turn must be the same everywhere.
        for bucket in cut(metas, BUCKET_BYTES):
            gathered = {meta.name: whole(tensors[meta.name]).to(self._dtype).contiguous() for meta in bucket}
            # No collective in here: a rank whose rollouts have all failed goes on gathering.
            if sent and self._sender is not None and self._sender.groups:
                self._sender.send(pack(list(gathered.values()), self._sender.buffer()))
            if self._announce is not None:
                # A copy, where the next policy update may come while this is still being stored.
                on_host = {name: tensor.to("cpu", copy=sent) for name, tensor in gathered.items()}
                kept |= on_host
                described.append(self._checksums.submit(describe_all, on_host))
            self._on_progress()
        checksums = {name: one for part in described for name, one in part.result().items()}
        if sent and self._sender is not None:
            # Only the first rank has copies on the host, and so checksums; each rank's trailer needs them.
            checksums = self._ranks.from_first(checksums, _CHECKSUMS)
            arrived = self._ranks.gather(len(self._sender.close(checksums)), _COUNT)
            # Whoever missed it looks for it in storage.
            must_be_stored |= called.left_out > 0 or sum(arrived) < len(called.receivers)
        if self._announce is None or self._writer is None:
            return None
        info = self._hand_out(version, kept, checksums, canary, stored=not sent, must_be_stored=must_be_stored)
        if sent:
            self._count("broadcast", started, kept)
        return info

    def _hand_out(
        self,
        version: int,
        tensors: dict[str, Tensor],
        checksums: dict[str, Description],
        canary: Canary,
        *,
        stored: bool,
        must_be_stored: bool,
    ) -> WeightsInfo:
        """Announce a version that was broadcast and store it behind what follows, or store it and announce it then."""
        assert self._announce is not None
        assert self._writer is not None
        incarnation = self._settings.incarnation
        # Versions are announced in order: one that was broadcast before may still be on its way to storage.
        if stored:
            self._writer.wait()
            info = self._store(version, tensors, checksums, canary)
        else:
            prefix = layout.weights_prefix(version, incarnation)
            whole_digest = digest(checksums)
            info = WeightsInfo(
                version=version, digest=whole_digest, incarnation=incarnation, prefix=prefix, stored=False
            )
        self.newest = Publication(weights=info, canary=canary)
        # Before it is stored: rollouts have it, and generation need not wait for a bucket.
        self._announce(self.newest)
        if not stored:
            self._writer.offer(version, tensors, checksums, canary, must_be_stored=must_be_stored)
        return info

    def _store(
        self, version: int, tensors: dict[str, Tensor], checksums: dict[str, Description], canary: Canary
    ) -> WeightsInfo:
        incarnation, started = self._settings.incarnation, time.monotonic()
        info = weights.publish(self._folder, version, incarnation, tensors, canary=canary, described=checksums)
        self._count("storage", started, tensors)
        return info

    def _count(self, way: Way, started: float, tensors: Mapping[str, Tensor]) -> None:
        if self._metrics is not None:
            size = sum(tensor.nbytes for tensor in tensors.values())
            self._metrics.published(way, time.monotonic() - started, size)

    def finish(self) -> None:
        """Wait until everything that was to be stored is. Raises what went wrong with it."""
        if self._writer is not None:
            self._writer.wait()

    # -------------------------------------------------------------------------------------------------- broadcast

    def _open(self, version: int, metas: Sequence[TensorMeta]) -> TransferReply:
        """Agree with the ledger on who takes part, and wait for those."""
        assert self._sender is not None
        # The ledger knows who is alive, each rank which groups it still has.
        live = tuple(group for groups in self._ranks.gather(self._sender.groups, _NAMES) for group in groups)
        called = NOBODY
        if self._open_transfer is not None:
            called = self._open_transfer(
                TransferRequest(
                    incarnation=self._settings.incarnation,
                    version=version,
                    backend=backend_of(self._spec),
                    senders=self._endpoints,
                    groups=live,
                    seconds=self._spec.rollout.transfer_seconds,
                )
            )
        called = self._ranks.from_first(called, _CALLED)
        if called.receivers:
            mine = [assignment for assignment in called.receivers if assignment.sender == self._ranks.rank]
            self._sender.open(version, mine, metas, BUCKET_BYTES)
            self._on_progress()
        return called


def _start_sender(settings: Settings, ranks: Ranks) -> tuple[Sender | None, tuple[Endpoint, ...]]:
    """This rank's sender, and where those of all ranks listen."""
    spec = settings.run.spec
    if not broadcasts(spec):
        return None, ()
    assert settings.transfer_host is not None, "rz_operator.plan sets RZ_TRANSFER_HOST where a run broadcasts"
    assert settings.transfer_port is not None
    sender = Sender(
        settings.transfer_host,
        settings.transfer_port,
        backend_of(spec),
        ranks.device,
        spec.rollout.transfer_seconds,
        lambda: Seal.of(read_token(settings.token_file), TRANSFER, settings.incarnation),
        bind_host=settings.bind_host,
    )
    return sender, tuple(ranks.gather(sender.endpoint, _ENDPOINT))


@dataclass(frozen=True)
class _Version:
    """What ``StorageWriter`` has to store."""

    number: int
    tensors: dict[str, Tensor]
    checksums: dict[str, Description]
    canary: Canary
    must_be_stored: bool


class StorageWriter:
    """Stores versions that were broadcast, one at a time, in a thread of its own; ``announce`` tells where they are
    then. Of those that come meanwhile the newest waits; an older one that nobody needs gives way to it."""

    def __init__(
        self,
        store: Callable[[int, dict[str, Tensor], dict[str, Description], Canary], WeightsInfo],
        announce: Callable[[Publication], None],
        skipped: Callable[[], None] = lambda: None,
    ) -> None:
        """``skipped`` is called for each version that is not stored."""
        self._store, self._announce, self._skipped = store, announce, skipped
        self._changed = threading.Condition()
        self._waiting: _Version | None = None
        self._is_busy = False
        self._error: BaseException | None = None

    def offer(
        self,
        version: int,
        tensors: dict[str, Tensor],
        checksums: dict[str, Description],
        canary: Canary,
        *,
        must_be_stored: bool,
    ) -> None:
        """Store a version as soon as the one before is stored. Blocks while one that must be stored is still waiting.
        Raises what an earlier write raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None or not self._waiting.must_be_stored)
            self._raise_error()
            if self._waiting is not None:
                log.info("version %d is not stored: storage was busy, and %d came", self._waiting.number, version)
                self._skipped()
            self._waiting = _Version(version, tensors, checksums, canary, must_be_stored)
            if not self._is_busy:
                self._is_busy = True
                threading.Thread(target=self._work, name="store-weights", daemon=True).start()

    def wait(self) -> None:
        """Until nothing is left to be stored. Raises what the last write raised."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_busy)
            self._raise_error()

    def _work(self) -> None:
        while True:
            with self._changed:
                version, self._waiting = self._waiting, None
                # Under the same lock as the taking: ``wait`` must not return between two versions.
                self._is_busy = version is not None
                self._changed.notify_all()
            if version is None:
                return
            try:
                info = self._store(version.number, version.tensors, version.checksums, version.canary)
                self._announce(Publication(weights=info, canary=version.canary))
            except BaseException as error:
                with self._changed:
                    # Kept for whoever offers or waits next: nobody hears what a thread raises.
                    self._error, self._waiting = error, None

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
