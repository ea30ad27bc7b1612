"""A trainer's side of broadcasts to one engine, in threads of the test."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from rz_workers.protocol.messages import Assignment, TransferOrder
from rz_workers.seals import Seal
from rz_workers.storage.checksums import Description, describe_all
from rz_workers.transfer.control import TRANSFER
from rz_workers.transfer.sender import Sender
from rz_workers.transfer.wire import TensorMeta, cut, pack

SECONDS = 120.0
BUCKET_BYTES = 4096
"""So small that the layers of the tests' models lie in several buckets."""


class Trainer:
    """Sends versions over gloo, in one group until that breaks."""

    def __init__(self) -> None:
        self.sender = Sender("127.0.0.1", 0, "gloo", torch.device("cpu"), SECONDS, lambda: Seal.of("", TRANSFER, 1))
        self.group = ""
        self.arrived: tuple[str, ...] = ()

    @contextmanager
    def sends(
        self,
        version: int,
        tensors: Mapping[str, torch.Tensor],
        change: Callable[[dict[str, Description]], Any] = lambda described: None,
    ) -> Iterator[TransferOrder]:
        """The order to receive ``version``, which is under way meanwhile; ``change`` spoils what the trainer says of
        the tensors."""
        is_new = not self.sender.groups
        if is_new:
            self.group = uuid.uuid4().hex
        thread = threading.Thread(target=self._send, args=(version, is_new, tensors, change))
        thread.start()
        try:
            yield TransferOrder(
                version=version,
                incarnation=1,
                group=self.group,
                host=self.sender.endpoint.host,
                port=self.sender.endpoint.port,
                backend="gloo",
                workers=1,
                seconds=SECONDS,
            )
        finally:
            thread.join()

    def _send(
        self,
        version: int,
        is_new: bool,
        tensors: Mapping[str, torch.Tensor],
        change: Callable[[dict[str, Description]], Any],
    ) -> None:
        described = describe_all(tensors)
        change(described)
        metas = [TensorMeta.of(name, tensor) for name, tensor in tensors.items()]
        assignment = Assignment(rollout_id="rollout", sender=0, workers=1, group=self.group, is_new=is_new)
        self.sender.open(version, [assignment], metas, BUCKET_BYTES)
        for bucket in cut(metas, BUCKET_BYTES):
            self.sender.send(pack([tensors[meta.name] for meta in bucket], self.sender.buffer()))
        self.arrived = self.sender.close(described)
