"""Seconds that a weight version takes to storage and to a rollout, beside a plain copy of the same bytes.

    OMP_NUM_THREADS=1 python bench/weights.py [--models 0.5B 1.5B 7B] [--rounds 3] [--bucket-mb 128] [--folder PATH]

Full versions in the shapes of Qwen2.5 (bfloat16, random; one layer's tensors stand for every layer, so that 7B needs no
15 GB of memory, and no layer fits into a cache):

=========  ==========================================================  ===============================================
what       from, to                                                    against
=========  ==========================================================  ===============================================
publish    tensors in memory; manifest written, all files synced       the same bytes written to as many files, synced
load       files on disk; every tensor compared with its checksum      the same files read, into memory of their own
gloo       tensors in memory; verified in another process (loopback)   the same bytes through one TCP connection
shared     tensors in memory; verified in another process              the same bytes copied once, in one process
=========  ==========================================================  ===============================================

Both take turns, so that other load on the machine hits both; the best round counts. Before each read the files leave
the page cache. Both processes of a broadcast have their group and their memory from the version before (the first round
does not, and is not counted). What needs more than half of the free memory or disk is left out, and said so.
Ends with 1 when the slowest model misses a bar of ``bars.toml``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bars import hold
from torch import Tensor

from rz_api.run import ResolvedRun
from rz_workers.protocol.messages import Assignment, Backend, TransferOrder
from rz_workers.seals import Seal
from rz_workers.storage.checksums import Description, describe_all
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.weights import MAX_FILE_BYTES, publish, stream
from rz_workers.transfer.buffers import allocate
from rz_workers.transfer.control import TRANSFER
from rz_workers.transfer.receiver import Receiver
from rz_workers.transfer.sender import Sender
from rz_workers.transfer.wire import TensorMeta, bucket_nbytes, cut, pack

BARS = {
    "publish": "weights-publish",
    "load": "weights-load",
    "gloo": "weights-gloo",
    "shared": "weights-shared",
}
SECONDS = 120.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """Of one Qwen2.5 model, from its config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool


SHAPES = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 151_936, tied=True),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 151_936, tied=True),
    "7B": Shape(3584, 18_944, 28, 28, 4, 152_064, tied=False),
}


def make_tensors(shape: Shape) -> dict[str, Tensor]:
    """The published tensors, under their Hugging Face names."""
    kv = shape.hidden // shape.heads * shape.kv_heads
    layer = {
        "self_attn.q_proj.weight": (shape.hidden, shape.hidden),
        "self_attn.q_proj.bias": (shape.hidden,),
        "self_attn.k_proj.weight": (kv, shape.hidden),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.weight": (kv, shape.hidden),
        "self_attn.v_proj.bias": (kv,),
        "self_attn.o_proj.weight": (shape.hidden, shape.hidden),
        "mlp.gate_proj.weight": (shape.intermediate, shape.hidden),
        "mlp.up_proj.weight": (shape.intermediate, shape.hidden),
        "mlp.down_proj.weight": (shape.hidden, shape.intermediate),
        "input_layernorm.weight": (shape.hidden,),
        "post_attention_layernorm.weight": (shape.hidden,),
    }
    one_layer = {name: _random(sizes) for name, sizes in layer.items()}
    tensors = {"model.embed_tokens.weight": _random((shape.vocabulary, shape.hidden))}
    for index in range(shape.layers):
        tensors |= {f"model.layers.{index}.{name}": tensor for name, tensor in one_layer.items()}
    tensors["model.norm.weight"] = _random((shape.hidden,))
    if not shape.tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    return tensors


def _random(sizes: tuple[int, ...]) -> Tensor:
    return torch.empty(sizes, dtype=torch.bfloat16).view(torch.int16).random_().view(torch.bfloat16)


# ------------------------------------------------------------------------------------------------------------ storage


def _flat(tensor: Tensor) -> memoryview:
    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view


def write_plainly(folder: Path, tensors: dict[str, Tensor]) -> None:
    """The same bytes to as many files, each synced."""
    folder.mkdir()
    files: list[list[Tensor]] = [[]]
    for tensor in tensors.values():
        if files[-1] and sum(one.nbytes for one in files[-1]) + tensor.nbytes > MAX_FILE_BYTES:
            files.append([])
        files[-1].append(tensor)
    for number, parts in enumerate(files):
        with open(folder / f"{number}.bin", "xb") as file:
            for tensor in parts:
                file.write(_flat(tensor))
            file.flush()
            os.fsync(file.fileno())


def read_plainly(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        file.read_bytes()


def leave_page_cache(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_storage(tensors: dict[str, Tensor], place: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """What -> seconds of ours, seconds of the plain copy."""
    spec = {"model": {"name": "bench"}, "data": {"train": [{"uri": "none"}]}, "storage": {"uri": str(place / "run")}}
    run = ResolvedRun.model_validate({"name": "bench", "uid": "bench", "spec": spec})
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        plain = timed(lambda: write_plainly(place / "plain", tensors))
        shutil.rmtree(place / "plain")
        folder = RunFolder.claim(ObjectStore(str(place / "run")), run)
        published = []
        ours = timed(lambda folder=folder, published=published: published.append(publish(folder, 0, 1, tensors)))
        keep_best(best, "publish", ours, plain)
        files = place / "run" / published[0].prefix

        def consume(folder: RunFolder = folder, info: Any = published[0]) -> None:
            for _ in stream(folder, info):
                pass

        leave_page_cache(files)
        plain = timed(lambda files=files: read_plainly(files))
        leave_page_cache(files)
        keep_best(best, "load", timed(consume), plain)
        shutil.rmtree(place / "run")
    return best


# ---------------------------------------------------------------------------------------------------------- broadcast


class OtherProcess:
    """This program once more, as the rollout: one task a line, one answer a line."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--receiver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hear()

    def tell(self, **task: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the receiving process has ended; its words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def receive() -> None:
    """The rollout's side."""
    receiver = Receiver(CPU, token=str)
    print(json.dumps({"started": True}), flush=True)

    def load(tensors: Iterator[tuple[str, Tensor]]) -> None:
        for _ in tensors:
            pass

    for line in sys.stdin:
        task = json.loads(line)
        if "order" in task:
            answer: dict[str, Any] = {"digest": receiver.receive(TransferOrder.model_validate(task["order"]), load)}
        else:
            into = _flat(allocate(task["bucket"], CPU).zero_())
            with socket.create_connection(("127.0.0.1", task["port"])) as connection:
                connection.sendall(b"1")
                left = task["nbytes"]
                while left:
                    left -= connection.recv_into(into[: min(left, len(into))])
                connection.sendall(b"1")
            answer = {"received": task["nbytes"]}
        print(json.dumps(answer), flush=True)


def measure_broadcast(
    backend: Backend, tensors: dict[str, Tensor], bucket_bytes: int, rounds: int
) -> dict[str, tuple[float, float]]:
    metas = [TensorMeta.of(name, tensor) for name, tensor in tensors.items()]
    largest = max(bucket_nbytes(bucket) for bucket in cut(metas, bucket_bytes))
    other = OtherProcess()
    sender = Sender("127.0.0.1", 0, backend, CPU, SECONDS, lambda: Seal.of("", TRANSFER, 1))
    best: dict[str, tuple[float, float]] = {}
    try:
        for version in range(rounds + 1):
            nbytes = sum(tensor.nbytes for tensor in tensors.values())
            plain = copy_once(tensors, largest) if backend == "shared" else through_socket(other, nbytes, largest)
            order = TransferOrder(
                version=version,
                incarnation=1,
                group="bench",
                host=sender.endpoint.host,
                port=sender.endpoint.port,
                backend=backend,
                workers=1,
                seconds=SECONDS,
            )
            other.tell(order=order.model_dump())
            assignment = Assignment(rollout_id="other", sender=0, workers=1, group="bench", is_new=version == 0)
            ours = timed(partial(send, sender, version, assignment, tensors, metas, bucket_bytes))
            other.hear()
            if version > 0:
                keep_best(best, backend, ours, plain)
    finally:
        sender.shutdown()
        other.end()
    return best


def send(
    sender: Sender,
    version: int,
    assignment: Assignment,
    tensors: dict[str, Tensor],
    metas: list[TensorMeta],
    bucket_bytes: int,
) -> None:
    """As the trainer does: gathered (here: there already), packed, sent, and meanwhile its checksums."""
    sender.open(version, [assignment], metas, bucket_bytes)
    described: list[Future[dict[str, Description]]] = []
    with ThreadPoolExecutor(1) as background:
        for bucket in cut(metas, bucket_bytes):
            gathered = {meta.name: tensors[meta.name] for meta in bucket}
            described.append(background.submit(describe_all, gathered))
            sender.send(pack(list(gathered.values()), sender.buffer()))
        checksums = {name: one for part in described for name, one in part.result().items()}
    if not sender.close(checksums):
        raise SystemExit("the broadcast did not arrive")


def copy_once(tensors: dict[str, Tensor], largest: int) -> float:
    into = allocate(largest, CPU).zero_()

    def copy() -> None:
        for tensor in tensors.values():
            into[: tensor.nbytes].copy_(tensor.reshape(-1).view(torch.uint8))

    return timed(copy)


def through_socket(other: OtherProcess, nbytes: int, bucket: int) -> float:
    data = _flat(allocate(bucket, CPU).zero_())
    with socket.create_server(("127.0.0.1", 0)) as server:
        other.tell(port=server.getsockname()[1], nbytes=nbytes, bucket=bucket)
        connection, _ = server.accept()
        with connection:
            connection.recv(1)

            def go() -> None:
                left = nbytes
                while left:
                    connection.sendall(data[: min(left, bucket)])
                    left -= min(left, bucket)
                connection.recv(1)

            seconds = timed(go)
    other.hear()
    return seconds


# -------------------------------------------------------------------------------------------------------------- table


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def keep_best(best: dict[str, tuple[float, float]], what: str, ours: float, plain: float) -> None:
    before = best.get(what, (float("inf"), float("inf")))
    best[what] = (min(before[0], ours), min(before[1], plain))


def lacking(tensors_bytes: int, total: int, largest: int, place: Path, what: str) -> str | None:
    """Why a measurement is left out; None when there is room for it."""
    memory = tensors_bytes + 5 * max(largest, MAX_FILE_BYTES)
    free = next(
        int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line
    )
    if memory > free / 2:
        return f"does not fit: needs {memory / 1e9:.1f} GB of memory, found {free / 1e9:.1f} GB free (half may be used)"
    disk = shutil.disk_usage(place).free
    if what == "storage" and total > disk / 2:
        return f"does not fit: needs {total / 1e9:.1f} GB of disk, found {disk / 1e9:.1f} GB free (half may be used)"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bucket-mb", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    parser.add_argument(
        "--only", nargs="+", choices=("storage", "gloo", "shared"), default=("storage", "gloo", "shared")
    )
    parser.add_argument("--receiver", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.receiver:
        receive()
        return 0
    bucket_bytes = arguments.bucket_mb * 1_000_000
    print(
        f"{'model':<6}{'GB':>6}  {'what':<9}{'seconds':>9}{'GB/s':>7}{'plain s':>9}{'GB/s':>7}{'ratio':>7}", flush=True
    )
    slowest: dict[str, float] = {}
    for model in arguments.models:
        shape = SHAPES[model]
        largest = 2 * shape.vocabulary * shape.hidden
        with tempfile.TemporaryDirectory(prefix="rz-bench-", dir=arguments.folder) as place:
            for what in arguments.only:
                tensors = make_tensors(shape)
                total = sum(tensor.nbytes for tensor in tensors.values())
                held = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors.values()}.values())
                complaint = lacking(held, total, largest, Path(place), what)
                if complaint is not None:
                    print(f"{model:<6}{total / 1e9:>6.2f}  {what:<9}{complaint}", flush=True)
                    continue
                measured = (
                    measure_storage(tensors, Path(place), arguments.rounds)
                    if what == "storage"
                    else measure_broadcast(what, tensors, bucket_bytes, arguments.rounds)
                )
                for name, (ours, plain) in measured.items():
                    ratio = ours / plain
                    slowest[name] = max(ratio, slowest.get(name, 0.0))
                    print(
                        f"{model:<6}{total / 1e9:>6.2f}  {name:<9}{ours:>9.2f}{total / ours / 1e9:>7.2f}"
                        f"{plain:>9.2f}{total / plain / 1e9:>7.2f}{ratio:>7.2f}",
                        flush=True,
                    )
    held = [hold(BARS[name], ratio) for name, ratio in slowest.items()]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
