"""What a rollout does when weights do not arrive, or are not what the engine computes with."""

from collections.abc import Mapping
from typing import Any

import pytest
from worker_builders import info_of, run_of

from rz_workers.protocol.messages import Canary, TransferOrder, WeightsInfo, WeightsReply
from rz_workers.rollout.engines.interface import StaleWeightsError
from rz_workers.rollout.weights import HeldWeights
from rz_workers.storage.objects import CorruptObjectError, ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.transfer.errors import TransferError

TOKENS = (1, 2, 3)
ORDER = TransferOrder(
    version=1, incarnation=1, group="g", host="127.0.0.1", port=1, backend="gloo", workers=1, seconds=1.0
)


class Engine:
    """Scores follow from the version that it computes with; ``skips`` updates and ``breaks`` transfers on request."""

    hardware = "cpu"

    def __init__(self) -> None:
        self.weight_version: int | None = None
        self.computes_with: int | None = None
        self.skips = 0
        self.breaks = False
        self.updates: list[str] = []

    def load_weights(self, version: int, tensors: Mapping[str, Any]) -> None:
        self._take(version, f"load {version}")

    def receive_weights(self, order: TransferOrder) -> str:
        if self.breaks:
            self.weight_version = None
            raise TransferError("the sender went away")
        self._take(order.version, f"receive {order.version}")
        return f"digest-{order.version}"

    def _take(self, version: int, what: str) -> None:
        self.updates.append(what)
        self.weight_version = version
        if self.skips:
            self.skips -= 1
        else:
            self.computes_with = version

    def score(self, token_ids: Any) -> tuple[float, ...]:
        assert self.computes_with is not None
        return scores_of(self.computes_with)


def scores_of(version: int) -> tuple[float, ...]:
    return (-1.0 - 1e-5 * version, -2.0)


class Ledger:
    """Canaries of every version; ``off`` nats beside what an engine scores."""

    def __init__(self) -> None:
        self.off = 0.0
        self.asked = 0

    def weights(self, version: int) -> WeightsReply:
        self.asked += 1
        canary = Canary(token_ids=TOKENS, logprobs=tuple(score + self.off for score in scores_of(version)))
        return WeightsReply(weights=info_of(version), canary=canary)


class Held:
    def __init__(self) -> None:
        self.engine, self.ledger = Engine(), Ledger()
        self.reads: list[int] = []
        self.corrupt_reads = 0
        self.counts: list[str] = []
        folder = RunFolder(ObjectStore("memory://held"), run_of("memory://held"))
        self.weights = HeldWeights(self.engine, folder, self.ledger, self.load, self.counts.append)

    def load(self, folder: RunFolder, info: WeightsInfo) -> Mapping[str, Any]:
        self.reads.append(info.version)
        if self.corrupt_reads:
            self.corrupt_reads -= 1
            raise CorruptObjectError("bits fell over")
        return {}


@pytest.fixture
def held() -> Held:
    return Held()


def test_a_version_is_loaded_and_proven_once(held: Held) -> None:
    for _ in range(3):
        held.weights.ensure(info_of(0))
    assert (held.reads, held.ledger.asked, held.counts) == ([0], 1, ["storage"])
    assert held.weights.is_ready(info_of(0))
    assert held.weights.proof is not None
    assert held.weights.proof.digest == "digest-0"


def test_the_same_number_with_another_digest_is_another_version(held: Held) -> None:
    held.weights.ensure(info_of(0))
    assert not held.weights.is_ready(info_of(0, "republished"))
    held.weights.ensure(info_of(0, "republished"))
    assert held.reads == [0, 0]


def test_a_received_version_is_proven_before_it_is_ready_and_not_loaded_again(held: Held) -> None:
    held.weights.ensure(info_of(0))
    held.weights.receive(ORDER)
    assert (held.weights.version, held.weights.digest, held.weights.proof) == (1, "digest-1", None)
    assert not held.weights.is_ready(info_of(1))
    held.weights.ensure(info_of(1))
    assert held.weights.is_ready(info_of(1))
    assert (held.reads, held.counts) == ([0], ["storage", "broadcast"])


def test_a_broken_broadcast_leaves_nothing_and_storage_helps(held: Held) -> None:
    held.weights.ensure(info_of(0))
    held.engine.breaks = True
    held.weights.receive(ORDER)
    assert (held.weights.version, held.weights.digest) == (None, None)
    held.weights.ensure(info_of(1))
    assert (held.reads, held.counts) == ([0, 1], ["storage", "broadcast failed", "storage"])


def test_a_skipped_broadcast_is_loaded_in_full_once(held: Held) -> None:
    held.weights.ensure(info_of(0))
    held.engine.skips = 1
    held.weights.receive(ORDER)
    held.weights.ensure(info_of(1))
    assert held.engine.updates == ["load 0", "receive 1", "load 1"]
    assert held.engine.computes_with == 1
    assert held.counts == ["storage", "broadcast", "stale", "storage"]


def test_an_engine_that_skips_the_full_load_too_is_given_up(held: Held) -> None:
    held.weights.ensure(info_of(0))
    held.engine.skips = 5
    with pytest.raises(StaleWeightsError, match="same bits"):
        held.weights.ensure(info_of(1))
    assert held.engine.updates == ["load 0", "load 1", "load 1"]
    assert not held.weights.is_ready(info_of(1))


def test_scores_that_are_not_the_trainers_are_given_up_too(held: Held) -> None:
    held.ledger.off = 0.67
    with pytest.raises(StaleWeightsError, match=r"0\.67"):
        held.weights.ensure(info_of(0))
    assert held.reads == [0, 0]


def test_a_corrupt_read_is_repeated_once(held: Held) -> None:
    held.corrupt_reads = 1
    held.weights.ensure(info_of(0))
    assert held.reads == [0, 0]
    held.corrupt_reads = 2
    with pytest.raises(CorruptObjectError):
        held.weights.ensure(info_of(1))
    assert held.weights.version == 0
    assert not held.weights.is_ready(info_of(1))


def test_without_a_canary_the_checksums_have_to_do(held: Held) -> None:
    held.ledger.weights = lambda version: WeightsReply(weights=info_of(version))  # type: ignore[method-assign]
    held.weights.ensure(info_of(0))
    assert held.weights.is_ready(info_of(0))
    assert held.weights.proof is None
