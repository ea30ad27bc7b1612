"""How a version leaves the trainer: to storage before it is announced, or by broadcast and to storage behind that."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rz_workers.protocol.messages import (
    Assignment,
    Canary,
    Publication,
    TransferOrder,
    TransferReply,
    TransferRequest,
    WeightsInfo,
)
from rz_workers.runtime import Settings, SupersededError, read_token
from rz_workers.storage.checksums import describe_all, digest
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.versions import published
from rz_workers.storage.weights import load
from rz_workers.trainer.durable import publication
from rz_workers.trainer.durable.publication import Publisher, StorageWriter
from rz_workers.trainer.models.actor_critic import Policy, published_tensors
from rz_workers.trainer.ranks import Ranks
from rz_workers.transfer.receiver import Receiver

CANARY = Canary(token_ids=(1, 2, 3), logprobs=(-1.0, -2.0))
SECONDS = 20.0


class Ledger:
    """Orders the one receiver to take part, if there is one, and notes what is announced."""

    def __init__(self, receiver: Receiver | None) -> None:
        self.receiver = receiver
        self.announced: list[Publication] = []
        self.asked: list[TransferRequest] = []
        self.arrived: list[Any] = []
        self._pool = ThreadPoolExecutor(1)

    def announce(self, publication: Publication) -> None:
        self.announced.append(publication)

    def open_transfer(self, request: TransferRequest) -> TransferReply:
        self.asked.append(request)
        if self.receiver is None:
            return TransferReply(receivers=())
        group = self.receiver.group
        is_new = group not in request.groups
        one = Assignment(
            rollout_id="r0", sender=0, workers=1, group=f"g{request.version}" if is_new else str(group), is_new=is_new
        )
        order = TransferOrder(
            version=request.version,
            incarnation=1,
            group=one.group,
            host=request.senders[0].host,
            port=request.senders[0].port,
            backend=request.backend,
            workers=1,
            seconds=request.seconds,
        )
        self.arrived.append(self._pool.submit(self._receive, order))
        return TransferReply(receivers=(one,))

    def _receive(self, order: TransferOrder) -> tuple[str, dict[str, torch.Tensor]]:
        assert self.receiver is not None
        found: dict[str, torch.Tensor] = {}
        whole = self.receiver.receive(order, lambda tensors: found.update({n: t.clone() for n, t in tensors}))
        return whole, found


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "token").touch()
    return tmp_path / "token"


@pytest.fixture
def make_publisher(
    make_run: Callable[..., Any], tmp_path: Path, token_file: Path
) -> Callable[..., tuple[Publisher, Ledger, RunFolder]]:
    def make(receiver: Receiver | None = None, **rollout: Any) -> tuple[Publisher, Ledger, RunFolder]:
        run = make_run(rollout=rollout, storage={"uri": str(tmp_path / "run")})
        folder = RunFolder.claim(ObjectStore(run.spec.storage.uri), run)
        folder.claim_incarnation(1)
        (tmp_path / "run.json").write_text(run.model_dump_json(by_alias=True))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = Settings.from_environment(
            {
                "RZ_RUN_FILE": str(tmp_path / "run.json"),
                "RZ_SCRATCH": str(tmp_path / "scratch"),
                "RZ_INCARNATION": "1",
                "RZ_TRANSFER_HOST": "127.0.0.1",
                "RZ_TRANSFER_PORT": str(port),
                "RZ_TOKEN_FILE": str(token_file),
            }
        )
        ledger = Ledger(receiver)
        ranks = Ranks(0, 1, torch.device("cpu"), None)
        return Publisher(settings, ranks, folder, ledger.announce, ledger.open_transfer), ledger, folder

    return make


def change(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1e-3)


def test_without_a_broadcast_a_version_is_stored_and_then_announced(make_publisher, make_models) -> None:
    publisher, ledger, folder = make_publisher()
    policy, _ = make_models()
    info = publisher.publish(policy, 1, CANARY, is_new=True, must_be_stored=False)
    assert ledger.asked == []
    assert ledger.announced == [Publication(weights=info, canary=CANARY)] == [publisher.newest]
    assert published(folder) == [info]
    assert info.stored
    tensors = load(folder, info)
    assert digest(describe_all(tensors)) == info.digest == digest(describe_all(published_tensors(policy)))


@pytest.mark.parametrize("bucket_bytes", [publication.BUCKET_BYTES, 1000], ids=["one bucket", "many buckets"])
@pytest.mark.parametrize("placement", ["separate", "colocated"])
def test_a_broadcast_version_is_announced_first_and_stored_behind(
    make_publisher, make_models, monkeypatch, bucket_bytes: int, placement: str
) -> None:
    monkeypatch.setattr(publication, "BUCKET_BYTES", bucket_bytes)
    publisher, ledger, folder = make_publisher(
        Receiver(torch.device("cpu"), token=str), weightSync="broadcast", transferSeconds=SECONDS, placement=placement
    )
    policy, _ = make_models()
    for version in (1, 2):
        before = {name: tensor.clone() for name, tensor in published_tensors(policy).items()}
        info = publisher.publish(policy, version, CANARY, is_new=True, must_be_stored=True)
        change(policy)  # the next policy update comes while the version is still being stored
        whole, tensors = ledger.arrived[-1].result(SECONDS)
        assert whole == info.digest
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensors[name], before[name]) for name in before)
        publisher.finish()
        first, second = ledger.announced[-2:]
        assert (first.weights, first.weights.stored, second.weights.stored) == (info, False, True)
        assert all(torch.equal(tensor, before[name]) for name, tensor in load(folder, second.weights).items())
    assert ledger.asked[1].groups == ("g1",)  # the group of the first version is used again


@pytest.mark.parametrize("is_restarted", [True, False], ids=["a rollout that is new", "one that was there before"])
def test_groups_are_made_with_the_token_that_the_run_has_then(
    make_publisher, make_models, token_file: Path, is_restarted: bool
) -> None:
    rollout = Receiver(torch.device("cpu"), partial(read_token, token_file))
    publisher, ledger, _ = make_publisher(rollout, weightSync="broadcast", transferSeconds=SECONDS)
    policy, _ = make_models()
    for version in (1, 2, 3):
        info = publisher.publish(policy, version, CANARY, is_new=True, must_be_stored=False)
        assert ledger.arrived[-1].result(2 * SECONDS)[0] == info.digest
        if version == 1:
            token_file.write_text("made anew")  # the group that stands goes on
        else:
            rollout.shutdown()
        if is_restarted and version == 2:
            ledger.receiver = Receiver(torch.device("cpu"), partial(read_token, token_file))
    assert [request.groups for request in ledger.asked] == [(), ("g1",), ("g1",)]
    assert publisher._sender.groups == ("g3",)


def test_a_version_that_rollouts_may_hold_already_is_not_broadcast(make_publisher, make_models) -> None:
    publisher, ledger, _ = make_publisher(Receiver(torch.device("cpu"), token=str), weightSync="broadcast")
    info = publisher.publish(make_models()[0], 1, CANARY, is_new=False, must_be_stored=False)
    assert (ledger.asked, info.stored) == ([], True)


def test_with_nobody_to_send_to_the_version_is_stored_first(make_publisher, make_models) -> None:
    publisher, ledger, _ = make_publisher(None, weightSync="broadcast")
    info = publisher.publish(make_models()[0], 1, CANARY, is_new=True, must_be_stored=False)
    assert [request.version for request in ledger.asked] == [1]
    assert info.stored


def test_a_superseded_gang_publishes_nothing(make_publisher, make_models) -> None:
    publisher, ledger, folder = make_publisher()
    folder.claim_incarnation(2)
    with pytest.raises(SupersededError):
        publisher.publish(make_models()[0], 1, CANARY, is_new=True, must_be_stored=False)
    assert (ledger.announced, published(folder)) == ([], [])


# ------------------------------------------------------------------------------------------------ behind the steps


class SlowStore:
    """Stores when it is let; notes what it stored."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None

    def __call__(self, version: int, tensors: object, checksums: object, canary: object) -> WeightsInfo:
        self.begun.set()
        assert self.go_on.wait(SECONDS)
        if self.error is not None:
            raise self.error
        self.stored.append(version)
        return WeightsInfo(version=version, digest=f"d{version}", incarnation=1, prefix="p")


def offer(writer: StorageWriter, version: int, *, must_be_stored: bool = False) -> None:
    writer.offer(version, {}, {}, CANARY, must_be_stored=must_be_stored)


def test_of_what_comes_while_a_version_is_being_stored_only_the_newest_is() -> None:
    store, announced = SlowStore(), []
    writer = StorageWriter(store, announced.append)
    offer(writer, 1)
    assert store.begun.wait(SECONDS)
    for version in (2, 3, 4):
        offer(writer, version)
    store.go_on.set()
    writer.wait()
    assert store.stored == [1, 4]
    assert [one.weights.version for one in announced] == [1, 4]
    offer(writer, 5)
    writer.wait()
    assert store.stored == [1, 4, 5]


def test_what_somebody_will_need_gives_way_to_nothing() -> None:
    store = SlowStore()
    writer = StorageWriter(store, lambda _: None)
    offer(writer, 1)
    assert store.begun.wait(SECONDS)
    offer(writer, 2, must_be_stored=True)
    threading.Timer(0.2, store.go_on.set).start()
    offer(writer, 3)  # waits until 2 is being stored
    writer.wait()
    assert store.stored == [1, 2, 3]


def test_a_write_that_failed_is_told_with_the_next_one() -> None:
    store = SlowStore()
    store.error = SupersededError("a newer gang is at work")
    store.go_on.set()
    writer = StorageWriter(store, lambda _: None)
    offer(writer, 1)
    with pytest.raises(SupersededError):
        writer.wait()
    store.error = None
    offer(writer, 2)
    writer.wait()
    assert store.stored == [2]
