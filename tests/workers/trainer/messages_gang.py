"""One rank of two for ``test_messages``: joins as a trainer does (``ranks.join``), and then plays one scene after the
other. In some the first rank is somebody who does not know the token, or says something else than is expected."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.distributed.distributed_c10d import PrefixStore

from rz_workers.runtime import Settings, SupersededError
from rz_workers.seals import Seal
from rz_workers.storage.objects import CorruptObjectError
from rz_workers.trainer.durable.checkpoint_ranks import together
from rz_workers.trainer.messages import MAX_BYTES, Messages
from rz_workers.trainer.ranks import join

NUMBERS = TypeAdapter(dict[str, tuple[int, ...]])
WORDS = TypeAdapter(str)
TOLD = {"a": (1, 2), "b": ()}
SEAL = Seal.of("the token", "scenes", 1)


def honest(messages: Messages) -> Any:
    return messages.from_first(TOLD if messages.rank == 0 else {}, NUMBERS)


def gathered(messages: Messages) -> Any:
    return messages.gather({"rank": (messages.rank,) * (1 + 50 * messages.rank)}, NUMBERS)


def gathered_on_the_first(messages: Messages) -> Any:
    return messages.to_first({"rank": (messages.rank,)}, NUMBERS)


def another_kind(messages: Messages) -> Any:
    if messages.rank == 0:
        return messages.from_first("not numbers", WORDS)
    return messages.from_first({}, NUMBERS)


def played_again(messages: Messages) -> Any:
    """The first rank's second message is its first one."""
    if messages.rank == 0:
        again = Messages("scenes", 0, 2, SEAL)
        messages.from_first(TOLD, NUMBERS)
        return again.from_first(TOLD, NUMBERS)
    assert messages.from_first({}, NUMBERS) == TOLD
    return messages.from_first({}, NUMBERS)


def raw(content: bytes) -> Callable[[Messages], Any]:
    def scene(messages: Messages) -> Any:
        if messages.rank == 0:
            dist.broadcast(torch.tensor([len(content)]), src=0)
            dist.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8), src=0)
            return None
        return messages.from_first({}, NUMBERS)

    return scene


def sized(size: int) -> Callable[[Messages], Any]:
    def scene(messages: Messages) -> Any:
        if messages.rank == 0:
            dist.broadcast(torch.tensor([size]), src=0)
            return None
        return messages.from_first({}, NUMBERS)

    return scene


def pickled(messages: Messages) -> Any:
    """What a library might do."""
    boxes: list[Any] = [None, None]
    dist.all_gather_object(boxes, "text")
    return boxes


def failing(errors: dict[int, Exception]) -> Callable[[Messages], Any]:
    def scene(messages: Messages) -> Any:
        def work() -> str:
            if messages.rank in errors:
                raise errors[messages.rank]
            return "done"

        return together(messages, work)

    return scene


SCENES: dict[str, Callable[[Messages], Any]] = {
    "honest": honest,
    "gathered": gathered,
    "gathered on the first": gathered_on_the_first,
    "another token": honest,
    "another kind": another_kind,
    "played again": played_again,
    "raw JSON": raw(b'{"a": [1, 2], "b": []}'),
    "noise": raw(bytes(range(256))),
    "nothing": sized(0),
    "less than nothing": sized(-1),
    "too much": sized(MAX_BYTES + 1),
    "a library's pickle": pickled,
    "all well": failing({}),
    "superseded on the first": failing({0: SupersededError("gang 2 is at work")}),
    "corrupt on the second, a bug on the first": failing(
        {0: KeyError("a bug"), 1: CorruptObjectError("the bytes of 'w' are not those that were written")}
    ),
    "a bug on the second": failing({1: KeyError("a bug")}),
}


def be_rank(rank: int, environment: dict[str, str], pipe: Connection) -> None:
    """Sends the store's keys, and what came of each scene: ``(value, None)`` or ``(None, [error, words])``."""
    torch.set_num_threads(1)
    settings = Settings.from_environment(environment | {"RANK": str(rank)})
    ranks = join(settings)
    pipe.send((ranks.gather(rank, TypeAdapter(int)), _keys()))
    for name, scene in SCENES.items():
        seal = Seal.of(f"token of rank {rank}", "scenes", 1) if name == "another token" else SEAL
        pipe.send((name, *_played(scene, Messages("scenes", rank, 2, seal))))
        dist.barrier()
    dist.destroy_process_group()


def _played(scene: Callable[[Messages], Any], messages: Messages) -> tuple[Any, list[str] | None]:
    try:
        return scene(messages), None
    except Exception as error:
        return None, [type(error).__name__, str(error)]


def _keys() -> list[str]:
    """Of the rendezvous store, as anybody sees them who connects."""
    store: Any = dist.distributed_c10d._get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return list(store.list_keys())
