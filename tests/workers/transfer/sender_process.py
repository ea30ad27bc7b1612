"""A trainer's rank that goes no further than its first bucket (``transfer_builders.Process``); arguments: BACKEND.

Says where it listens, reads the assignments, opens version 1, sends one bucket of ``some_tensors``, says so, and then
does nothing until it is ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from transfer_builders import BUCKET_BYTES, SEAL, some_tensors

from rz_workers.protocol.messages import Assignment
from rz_workers.transfer.sender import Sender
from rz_workers.transfer.wire import TensorMeta, cut, pack


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    tensors = some_tensors()
    metas = [TensorMeta.of(name, tensor) for name, tensor in tensors.items()]
    sender = Sender("127.0.0.1", 0, cast(Any, arguments[0]), torch.device("cpu"), 30, lambda: SEAL)
    print(json.dumps({"port": sender.endpoint.port}), flush=True)
    assignments = [Assignment.model_validate(one) for one in json.loads(sys.stdin.readline())]
    sender.open(1, assignments, metas, BUCKET_BYTES)
    sender.send(pack([tensors[meta.name] for meta in cut(metas, BUCKET_BYTES)[0]]))
    print(json.dumps({"sent": sender.groups}), flush=True)
    sys.stdin.readline()
