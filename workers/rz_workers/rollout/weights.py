"""Nothing is sampled with a version before its checksums were compared and, if there is a canary, its proof has passed.

Which weights the engine holds, and the proof that it computes with them. ``main`` asks, before it samples anything.
Weights come in two ways: by broadcast, when the ledger orders to receive one (``receive``), and from storage, when a
lease wants a version that the engine does not hold (``ensure``). Either way the checksums of all tensors are compared
on the way, and before the first unit is sampled the engine scores the run's canary (``proof``):

=========================  =====================================================================================
what goes wrong            what follows
=========================  =====================================================================================
a broadcast fails          the engine holds nothing; the version is loaded from storage with the next lease
a read is corrupt          it is repeated once; a second one ends the process
the proof fails            the version is loaded in full from storage once, and proven again; a second time ends
                           the process, and the operator replaces it
peers score other bits     the same, by order of the ledger (``reload``, then ``replace``)
=========================  =====================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from rz_workers.protocol.messages import Proof, TransferOrder, WeightsInfo, WeightsReply
from rz_workers.rollout.engines.interface import Engine, StaleWeightsError
from rz_workers.rollout.metrics import Update
from rz_workers.rollout.proof import judge
from rz_workers.storage.objects import CorruptObjectError
from rz_workers.storage.run_folder import RunFolder
from rz_workers.transfer.errors import TransferError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeldWeights", "load_published"]

log = logging.getLogger(__name__)


def load_published(folder: RunFolder, info: WeightsInfo) -> Mapping[str, Tensor]:
    """``storage.weights.load``, which needs torch, when the first weights are needed."""
    from rz_workers.storage.weights import load

    return load(folder, info)


class CanarySource(Protocol):
    """What is used of ``LedgerClient``."""

    def weights(self, version: int) -> WeightsReply: ...


class HeldWeights:
    """The weights of one engine. Called from one thread, while nothing is being sampled."""

    def __init__(
        self,
        engine: Engine,
        folder: RunFolder,
        ledger: CanarySource,
        load: Callable[[RunFolder, WeightsInfo], Mapping[str, Tensor]],
        count: Callable[[Update], None],
    ) -> None:
        """``count`` is told of each update: ``storage``, ``broadcast``, ``broadcast failed``, ``stale``."""
        self._engine, self._folder, self._ledger, self._load, self._count = engine, folder, ledger, load, count
        self._dtype = folder.run.spec.trainer.dtype
        self.digest: str | None = None
        """Of what the engine holds; None when that is nothing or unknown."""
        self.proof: Proof | None = None
        """Of what the engine holds; None as long as it is not proven, and where there is no canary."""
        self._is_proven = False
        self._before: tuple[str, str] | None = None
        """Digest and canary bits of the version before."""

    @property
    def version(self) -> int | None:
        return self._engine.weight_version

    def holds(self, info: WeightsInfo) -> bool:
        return (self.version, self.digest) == (info.version, info.digest)

    def is_ready(self, info: WeightsInfo) -> bool:
        """Whether the engine holds exactly this version and has proven it."""
        return self.holds(info) and self._is_proven

    def ensure(self, info: WeightsInfo) -> None:
        """Have the engine hold exactly this version, proven. Raises StaleWeightsError when it cannot be made to."""
        if self.holds(info):
            try:
                self._prove(info)
                return
            except StaleWeightsError as error:
                self._count("stale")
                log.warning("%s; loading version %d in full", error, info.version)
        self.reload(info)

    def reload(self, info: WeightsInfo) -> None:
        """Load a version in full from storage and prove it, twice at most."""
        try:
            self._load_and_prove(info)
        except StaleWeightsError as error:
            self._count("stale")
            log.warning("%s; loading version %d in full once more", error, info.version)
            self._load_and_prove(info)

    def receive(self, order: TransferOrder) -> None:
        """Take part in a broadcast. If that fails the engine holds nothing."""
        self._forget()
        try:
            # Not proven here: the trainer announces the version, with its canary, only after the broadcast.
            digest = self._engine.receive_weights(order)
        except TransferError as error:
            self._count("broadcast failed")
            log.warning("version %d did not arrive by broadcast, storage will have it: %s", order.version, error)
            return
        except StaleWeightsError as error:
            self._count("stale")
            log.warning("%s; version %d will be loaded in full", error, order.version)
            return
        self._count("broadcast")
        log.info("received version %d by broadcast", order.version)
        self.digest = digest

    def _load_and_prove(self, info: WeightsInfo) -> None:
        self._forget()
        try:
            tensors = self._load(self._folder, info)
        except CorruptObjectError as error:
            log.warning("%s; reading it again", error)
            tensors = self._load(self._folder, info)
        self._engine.load_weights(info.version, tensors)
        self._count("storage")
        self.digest = info.digest
        self._prove(info)

    def _forget(self) -> None:
        if self.proof is not None:
            # Only a version that was proven: bits are compared with bits that were right.
            self._before = self.proof.digest, self.proof.bits
        self.digest = self.proof = None
        self._is_proven = False

    def _prove(self, info: WeightsInfo) -> None:
        if self._is_proven:
            return
        canary = self._ledger.weights(info.version)
        if canary.canary is not None and canary.weights is not None and canary.weights.digest == info.digest:
            scores = self._engine.score(canary.canary.token_ids)
            self.proof = judge(
                canary.canary, scores, self._dtype, self._before, info.digest, hardware=self._engine.hardware
            )
        self._is_proven = True  # else: published by an older release, or superseded a moment ago
