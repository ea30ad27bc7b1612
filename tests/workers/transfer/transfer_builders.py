"""Tensors, and both sides of a broadcast as processes, for the transfer tests."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from rz_workers.protocol.messages import Assignment, TransferOrder
from rz_workers.seals import Seal
from rz_workers.storage.checksums import describe_all
from rz_workers.transfer.control import TRANSFER
from rz_workers.transfer.sender import Sender
from rz_workers.transfer.wire import TensorMeta, cut, pack

BUCKET_BYTES = 8_000_000
"""Larger than what a socket's buffers hold, so that a receiver that does not read holds up its sender."""
TOKEN = "the run's token"
SEAL = Seal.of(TOKEN, TRANSFER, incarnation=1)
PATIENCE = 120.0
"""Seconds until a process that says nothing fails the test."""


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    """About 35 MB in several dtypes and shapes, some of them empty, scalar or odd; the embedding fills a bucket."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {
        "norm.weight": torch.randn(13, generator=generator).bfloat16(),
        "scale": torch.randn((), generator=generator),
        "empty": torch.zeros(0, 4),
        "embed.weight": torch.randn(2000, 3000, generator=generator).bfloat16(),
    }
    for layer in range(5):
        dtype = torch.float32 if layer % 2 else torch.bfloat16
        tensors[f"layers.{layer}.weight"] = torch.randn(1501, 999, generator=generator).to(dtype)
        tensors[f"layers.{layer}.bias"] = torch.randn(1501, generator=generator).to(dtype)
    return tensors


def digests(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """As JSON has them."""
    return {name: [dtype, list(shape), sum_] for name, (dtype, shape, sum_) in describe_all(tensors).items()}


class Process:
    """A module beside this file whose ``main(arguments)`` is spoken to in lines of JSON, by its standard input and
    output. Forked from a server that has imported torch once for all."""

    def __init__(self, module: str, *arguments: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["receiver_process", "sender_process"])
        from_us, to_it = context.Pipe(duplex=False)
        to_us, from_it = context.Pipe(duplex=False)
        self._process = context.Process(target=_speak, args=(module, arguments, from_us, from_it), daemon=True)
        self._process.start()
        from_us.close()
        from_it.close()
        self._tell, self._hear = (os.fdopen(os.dup(to_it.fileno()), "w"), os.fdopen(os.dup(to_us.fileno())))
        to_it.close()
        to_us.close()
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._hear:
            for line in self._hear:
                self._lines.put(line)
        self._lines.put('{"ended": true}')

    def tell(self, content: object) -> None:
        self._tell.write(json.dumps(content) + "\n")
        self._tell.flush()

    def hear(self) -> dict[str, Any]:
        """The next line that it says."""
        heard: dict[str, Any] = json.loads(self._lines.get(timeout=PATIENCE))
        return heard

    def signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._reader.join()
        with contextlib.suppress(BrokenPipeError):
            self._tell.close()


def _speak(module: str, arguments: Sequence[str], told: Connection, said: Connection) -> None:
    os.dup2(told.fileno(), 0)
    os.dup2(said.fileno(), 1)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    importlib.import_module(module).main(arguments)


class Rollout:
    """One rollout: its worker processes, which all get the same order."""

    def __init__(self, name: str, workers: int = 1, *arguments: str) -> None:
        self.name, self.workers = name, workers
        self.new_group()
        self.processes = [Process("receiver_process", str(i), str(workers), *arguments) for i in range(workers)]

    def new_group(self) -> None:
        """As the ledger names one when there is none that stands on both sides."""
        self.group = f"{self.name}-{uuid.uuid4().hex[:8]}"

    def wait_until_started(self) -> None:
        for worker, process in enumerate(self.processes):
            assert process.hear() == {"started": worker}

    def order(self, sender: Any, version: int, backend: str, seconds: float = 60, **task: object) -> None:
        order = TransferOrder(
            version=version,
            incarnation=1,
            group=self.group,
            host=sender.host,
            port=sender.port,
            backend=backend,
            workers=self.workers,
            seconds=seconds,
        )
        for process in self.processes:
            process.tell({"order": order.model_dump(), **task})

    def assignment(self, is_new: bool = True) -> Assignment:
        return Assignment(rollout_id=self.name, sender=0, workers=self.workers, group=self.group, is_new=is_new)

    def hear(self) -> dict[str, Any]:
        """What all workers say, which has to be the same."""
        first, *others = [process.hear() for process in self.processes]
        assert others == [first] * len(others)
        return first

    def end(self) -> None:
        for process in self.processes:
            process.end()


def send_buckets(sender: Sender, tensors: Mapping[str, Tensor], own_buffers: bool = True) -> None:
    """As the trainer does, into the sender's buffers or its own."""
    metas = [TensorMeta.of(name, tensor) for name, tensor in tensors.items()]
    for bucket in cut(metas, BUCKET_BYTES):
        packed = [tensors[meta.name] for meta in bucket]
        sender.send(pack(packed, sender.buffer()) if own_buffers else pack(packed))


def broadcast(
    sender: Sender,
    version: int,
    assignments: Sequence[Assignment],
    tensors: Mapping[str, Tensor],
    own_buffers: bool = True,
) -> tuple[str, ...]:
    """One version from its opening to its end; returns who got it."""
    metas = [TensorMeta.of(name, tensor) for name, tensor in tensors.items()]
    sender.open(version, assignments, metas, BUCKET_BYTES)
    send_buckets(sender, tensors, own_buffers)
    return sender.close(describe_all(tensors))
