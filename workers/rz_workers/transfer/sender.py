"""A rollout that fails or hangs holds up no other beyond the time limit: the trainer's side of a broadcast, one on
every rank that serves rollouts.

::

    open ──> the ledger's assignments: new groups are joined, every worker says ready ──> header
    send ──> one bucket to all groups at once                                             (for each bucket)
    close ─> trailer with all checksums ──> every worker has verified them

A group has one rollout. What fails, or takes longer than ``seconds``, is dropped: its channel is closed, its receivers
are told why, and the others go on. The caller's loop, with gathering and sending at the same time::

    sender.open(version, assignments, metas, bucket_bytes)
    for bucket in cut(metas, bucket_bytes):
        sender.send(pack([gather(meta) for meta in bucket], sender.buffer()))
    sender.close(described)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from rz_workers import stores
from rz_workers.protocol.messages import Assignment, Backend, Endpoint
from rz_workers.seals import Seal
from rz_workers.storage.checksums import Description, digest
from rz_workers.transfer.buffers import SharedSlots, Slots
from rz_workers.transfer.channels import Channel, Connect, Transfer, buffer_device, connect
from rz_workers.transfer.control import Control, Deadline, another_connection
from rz_workers.transfer.documents import Done, Header, Result, TensorFields, Trailer
from rz_workers.transfer.errors import TransferError
from rz_workers.transfer.wire import TensorMeta, bucket_nbytes, cut

__all__ = ["Sender"]

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.001
_LOOK_SECONDS = 0.05
"""How often a worker's complaint is looked for while a bucket is on its way. A look costs more than a poll."""


@dataclass
class _Group:
    """One rollout: rank 0 is here, ranks 1 to ``workers`` are its engine's."""

    rollout_id: str
    name: str
    workers: int
    seal: Seal
    """Of the token that the run had when the group was made."""
    control: Control
    store: Store
    """A connection of its own: joining blocks it."""
    channel: Channel | None = None
    joining: threading.Thread | None = None
    failure: BaseException | None = None
    """Of the thread that joins."""
    round: Control | None = None
    """Documents of the version that is being sent."""
    slots: SharedSlots | None = None
    """Shared memory that the workers have open."""

    def named(self, what: str) -> list[str]:
        return [f"{what}/{worker}" for worker in range(self.workers)]

    def complaint(self) -> str | None:
        """What a worker says went wrong with the version that is being sent."""
        assert self.round is not None
        for name in self.named("result"):
            if not self.round.has(name):
                continue
            try:
                error = self.round.read(name, Result).error
            except TransferError as wrong:
                return str(wrong)
            if error is not None:
                return error
        return None


@dataclass
class _Sending:
    """A bucket on its way to several groups."""

    deadline: Deadline
    transfers: dict[str, Transfer] = field(default_factory=dict)
    """Group -> transfer."""


class Sender:
    """Groups, and the memory of two buckets, are kept from version to version. Called from one thread."""

    def __init__(
        self,
        host: str,
        port: int,
        backend: Backend,
        device: torch.device,
        seconds: float,
        seal: Callable[[], Seal],
        *,
        bind_host: str = "127.0.0.1",
        connect: Connect = connect,
    ) -> None:
        """Listen on ``port`` (0: any that is free) of ``bind_host``; receivers reach it as ``host``. ``device`` is
        where buckets are; ``seconds`` limits each wait for receivers: to come, to take one bucket, to verify. ``seal``
        is asked for each new group, because a run's token may be made anew: it is of that token, for
        ``control.TRANSFER`` and this gang's incarnation.

        Raises TransferError when the port is taken.
        """
        self._backend, self._device, self._seconds, self._connect = backend, torch.device(device), seconds, connect
        self._seal = seal
        try:
            self._store = stores.serve(host, port, bind_host, timedelta(seconds=seconds))
        except (OSError, RuntimeError) as error:
            raise TransferError(f"cannot listen on {host}:{port} for rollouts: {error}") from error
        self.endpoint = Endpoint(host=host, port=self._store.port)
        self._groups: dict[str, _Group] = {}
        self._version: int | None = None
        self._bucket_nbytes = 0
        self._num_buckets = 0
        self._slots: Slots | None = None
        self._next_slot = 0
        self._sending: dict[int, _Sending] = {}
        """Slot -> what is on its way from it."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Those that may be used for another version, by name."""
        return tuple(name for name, group in self._groups.items() if group.channel is not None)

    # -------------------------------------------------------------------------------------------------------- open

    def open(
        self, version: int, assignments: Sequence[Assignment], metas: Sequence[TensorMeta], bucket_bytes: int
    ) -> None:
        """Begin to send ``version``: join the groups that are new and wait until every assigned receiver is ready.
        Those that are not after ``seconds`` are dropped; groups without an assignment sit this version out."""
        if self._version is not None:
            self._abandon(f"version {self._version} was not sent to its end")
        deadline = Deadline(self._seconds)
        self._version = version
        buckets = cut(metas, bucket_bytes)
        self._num_buckets = len(buckets)
        self._bucket_nbytes = max((bucket_nbytes(bucket) for bucket in buckets), default=0)
        expected = [group for one in assignments if (group := self._group_of(one, version)) is not None]
        while waiting := [group for group in expected if group.name in self._groups and not self._is_ready(group)]:
            if deadline.has_passed:
                for group in waiting:
                    stage = "connected" if group.channel is not None else "come"
                    self.drop(group.name, f"not every worker had {stage} after {self._seconds:.0f} s")
                break
            time.sleep(_POLL_SECONDS)
        taking_part = [group for group in expected if group.name in self._groups]
        shared = self._share(taking_part) if self._backend == "shared" and taking_part else None
        header = Header(
            version=version,
            buckets=tuple(tuple(_fields(meta) for meta in bucket) for bucket in buckets),
            shared=None if shared is None else shared.handle,
        )
        for group in taking_part:
            assert group.channel is not None
            assert group.round is not None
            # Before the header, upon which workers start to ask for buckets.
            group.channel.begin(group.round, shared)
            group.round.put("header", header)

    def _share(self, groups: Sequence[_Group]) -> SharedSlots:
        """Slots that all of these groups can open: those of the last version, unless a group has come since, for whom
        the file has no name any more."""
        slots = self._slots
        if (
            not isinstance(slots, SharedSlots)
            or slots.nbytes < self._bucket_nbytes
            or any(group.slots is not slots for group in groups)
        ):
            self._free_slots()
            self._slots = slots = SharedSlots(self._bucket_nbytes, self._device)
        for group in groups:
            group.slots = slots
        return slots

    def _group_of(self, assignment: Assignment, version: int) -> _Group | None:
        """The group that an assignment names; a new one is made, and replaces what the rollout had before."""
        name, rollout = assignment.group, assignment.rollout_id
        for other in [group for group in self._groups.values() if group.rollout_id == rollout and group.name != name]:
            self.drop(other.name, f"the rollout has the group {name} now")
        group = self._groups.get(name)
        if group is None:
            seal = self._seal()
            if not assignment.is_new:
                self._refuse(name, seal, version, "this group is gone on the trainer's side")
                return None
            # Joining blocks a connection: this one is the group's alone.
            store = another_connection(self._store)
            group = _Group(rollout, name, assignment.workers, seal, Control(store, seal, name), store)
            self._groups[name] = group
        group.round = Control(self._store, group.seal, f"{name}/v{version}")
        return group

    def _is_ready(self, group: _Group) -> bool:
        """Take a group one step further, if it can be; whether all its workers wait for the header."""
        assert group.round is not None
        if group.failure is not None:
            self.drop(group.name, f"it could not be joined: {group.failure}")
            return False
        if group.channel is None:
            if group.joining is None and group.control.has(*group.named("hello")):
                # Both sides begin to connect now: one that came early would wait out its limit alone.
                group.control.put("join", Done())
                group.joining = threading.Thread(target=self._join, args=(group,), name="transfer: join", daemon=True)
                group.joining.start()
            return False
        if (complaint := group.complaint()) is not None:
            self.drop(group.name, complaint)
            return False
        return group.round.has(*group.named("ready"))

    def _join(self, group: _Group) -> None:
        try:
            group.channel = self._connect(
                self._backend,
                PrefixStore(f"{group.seal.prefix}/{group.name}/{self._backend}", group.store),
                rank=0,
                size=group.workers + 1,
                device=self._device,
                host=self.endpoint.host,
                deadline=Deadline(self._seconds),
            )
        except BaseException as error:
            group.failure = error

    # -------------------------------------------------------------------------------------------------------- send

    def buffer(self) -> Tensor:
        """A free bucket (flat uint8, the size of the largest) to pack the next one into. What is sent from here is on
        its way while the next one is packed; other memory is sent before ``send`` returns."""
        if self._slots is None or self._slots.nbytes < self._bucket_nbytes:
            self._slots = Slots(self._bucket_nbytes, buffer_device(self._backend, self._device))
        # What was sent from this slot may still be read.
        self._finish(self._next_slot)
        slot = self._slots.tensors[self._next_slot]
        self._next_slot = (self._next_slot + 1) % len(self._slots.tensors)
        return slot

    def send(self, flat: Tensor) -> None:
        """Send the next bucket (as ``pack`` made it) to all groups at once. A group that fails, or has not taken it
        after ``seconds``, is dropped; the others complete."""
        taking_part = self._taking_part()
        if not taking_part:
            return
        flat = flat.to(buffer_device(self._backend, self._device))
        slot = None if self._slots is None else self._slots.index(flat)
        # Receivers see the slots alone: other memory has to be copied into one.
        if slot is None and self._backend == "shared":
            flat = self.buffer()[: flat.numel()].copy_(flat)
            assert self._slots is not None
            slot = self._slots.index(flat)
        sending = _Sending(Deadline(self._seconds))
        for group in taking_part:
            assert group.channel is not None
            try:
                sending.transfers[group.name] = group.channel.start(flat, self._seconds)
            except (TransferError, RuntimeError) as error:
                self.drop(group.name, str(error))
        self._sending[-1 if slot is None else slot] = sending
        if slot is None:
            self._finish(-1)

    def _finish(self, slot: int) -> None:
        """Wait for what is on its way from a slot."""
        sending = self._sending.pop(slot, None)
        next_look = Deadline(_LOOK_SECONDS)
        while sending is not None and sending.transfers:
            for name, transfer in list(sending.transfers.items()):
                group = self._groups.get(name)
                if group is None:  # dropped since
                    del sending.transfers[name]
                    continue
                try:
                    if transfer.is_done():
                        del sending.transfers[name]
                        continue
                    complaint = group.complaint() if next_look.has_passed else None
                except (TransferError, RuntimeError) as error:
                    complaint = str(error)
                if complaint is None and sending.deadline.has_passed:
                    complaint = f"it had not taken a bucket after {self._seconds:.0f} s"
                if complaint is not None:
                    del sending.transfers[name]
                    self.drop(name, complaint)
            # After all groups were asked: one look for each of them.
            if next_look.has_passed:
                next_look = Deadline(_LOOK_SECONDS)
            if sending.transfers:
                time.sleep(_POLL_SECONDS)

    # ------------------------------------------------------------------------------------------------------- close

    def close(self, described: Mapping[str, Description]) -> tuple[str, ...]:
        """End the version: give the receivers the checksums of all tensors, wait until they have compared them.

        Returns the rollouts of which every worker has every byte; the others are dropped.
        """
        for slot in list(self._sending):
            self._finish(slot)
        trailer = Trailer(digest=digest(described), tensors={name: one[2] for name, one in described.items()})
        taking_part = self._taking_part()
        for group in taking_part:
            assert group.round is not None
            group.round.put("trailer", trailer)
        deadline = Deadline(self._seconds)
        arrived: list[_Group] = []
        while waiting := [group for group in taking_part if group not in arrived and group.name in self._groups]:
            for group in waiting:
                assert group.round is not None
                has_results = group.round.has(*group.named("result"))  # before a look at what they say
                if (complaint := group.complaint()) is not None:
                    self.drop(group.name, complaint)
                elif has_results:
                    arrived.append(group)
                elif deadline.has_passed:
                    self.drop(group.name, f"it had not verified the tensors after {self._seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
        for group in arrived:
            assert group.round is not None
            # The store lives as long as the trainer: a version's documents would add up.
            group.round.delete("header", "trailer", *group.named("ready"), *group.named("result"))
        if isinstance(self._slots, SharedSlots):
            # Whoever has verified has it open; what dies from here on leaves no file behind.
            self._slots.unlink()
        self._end()
        return tuple(group.rollout_id for group in arrived)

    def _taking_part(self) -> list[_Group]:
        return [group for group in self._groups.values() if group.round is not None and group.channel is not None]

    def drop(self, name: str, reason: str = "the trainer has given it up") -> None:
        """Close a group for good, and tell its receivers why. No other group is touched."""
        if name in self._groups:
            rollout = self._groups[name].rollout_id
            log.warning("rollout %s is dropped from the broadcast (%s): %s", rollout, name, reason)
            self._leave(name, reason)

    def _leave(self, name: str, reason: str) -> None:
        group = self._groups.pop(name)
        if group.channel is not None:
            group.channel.close()
        self._refuse(name, group.seal, self._version, reason)

    def shutdown(self) -> None:
        """Close all groups and free the buckets. The store goes with the object."""
        for name in list(self._groups):
            self._leave(name, "the trainer ends")
        self._end()
        self._free_slots()

    def _refuse(self, name: str, seal: Seal, version: int | None, reason: str) -> None:
        """Answer whatever a receiver of the group waits for, or will."""
        control = Control(self._store, seal, name)
        control.refuse("join", reason)
        if version is not None:
            control.refuse(f"v{version}/header", reason)
            control.refuse(f"v{version}/trailer", reason)
            # Over shared memory each bucket has a document that a worker may be waiting for.
            for bucket in range(self._num_buckets if self._backend == "shared" else 0):
                control.refuse(f"v{version}/bucket/{bucket}", reason)

    def _abandon(self, reason: str) -> None:
        for name in [name for name, group in self._groups.items() if group.round is not None]:
            self.drop(name, reason)
        self._end()

    def _end(self) -> None:
        for group in self._groups.values():
            group.round = None
        self._version = None
        self._sending.clear()
        if self._slots is not None and self._slots.tensors[0].device.type != "cpu":
            self._free_slots()  # a GPU hands out memory fast, and has none to spare

    def _free_slots(self) -> None:
        if self._slots is not None:
            self._slots.close()
        self._slots = None


def _fields(meta: TensorMeta) -> TensorFields:
    return TensorFields(name=meta.name, dtype=meta.dtype, shape=meta.shape)
