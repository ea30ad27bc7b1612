"""A rollout's worker as a process of its own (``transfer_builders.Process``); arguments: WORKER WORKERS
[flip] [foreign].

Standard input has one task (JSON) a line; for each, one line on standard output says what came of it. ``flip`` lets a
byte change on the way, by a channel that damages what the real one carried; ``foreign`` has another token.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transfer_builders import TOKEN

from rz_workers.protocol.messages import TransferOrder
from rz_workers.storage.checksums import describe_all
from rz_workers.transfer.channels import Channel, Transfer, connect
from rz_workers.transfer.receiver import Receiver


class FlippingTransfer:
    def __init__(self, inner: Transfer, flat: Tensor, byte: int) -> None:
        self.inner, self.flat, self.byte = inner, flat, byte

    def is_done(self) -> bool:
        if not self.inner.is_done():
            return False
        self.flat[self.byte] ^= 1
        return True


class FlippingChannel:
    """Changes one bit of the third bucket."""

    def __init__(self, inner: Channel) -> None:
        self.inner, self.bucket = inner, 0

    def begin(self, control: Any, shared: Any) -> None:
        self.inner.begin(control, shared)

    def start(self, flat: Tensor, seconds: float) -> Transfer:
        self.bucket += 1
        transfer = self.inner.start(flat, seconds)
        return FlippingTransfer(transfer, flat, 5) if self.bucket == 3 else transfer

    def end(self) -> None:
        self.inner.end()

    def close(self) -> None:
        self.inner.close()


def say(**content: object) -> None:
    print(json.dumps(content), flush=True)


def run(receiver: Receiver, task: dict[str, Any]) -> None:
    kept: dict[str, Tensor] = {}

    def load(tensors: Iterator[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            kept[name] = tensor
            if name == task.get("pause_at"):
                say(at=name)
                sys.stdin.readline()
            if name == task.get("fail_at"):
                raise ValueError(f"the engine does not know {name}")
            if name == task.get("stop_asking_at"):
                return

    try:
        digest = receiver.receive(TransferOrder.model_validate(task["order"]), load)
    except Exception as error:
        say(error=type(error).__name__, words=str(error), group=receiver.group)
        return
    say(digest=digest, group=receiver.group, kept=describe_all(kept))


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    worker, workers = int(arguments[0]), int(arguments[1])

    def damaged(*args: Any, **kwargs: Any) -> Channel:
        return FlippingChannel(connect(*args, **kwargs))

    token = "another token" if "foreign" in arguments else TOKEN
    connects = damaged if "flip" in arguments else connect
    receiver = Receiver(torch.device("cpu"), lambda: token, worker, workers, connect=connects)
    say(started=worker)
    for line in sys.stdin:
        run(receiver, json.loads(line))
