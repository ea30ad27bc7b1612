"""What the ledger orders before it gives leases: receive, prove, reload, end, sleep."""

from pathlib import Path

import pytest
from worker_builders import Worker, info_of, lease_of, make_folder, run_of, train_unit

from rz_workers.protocol.messages import Canary, LeaseReply, ReceiverState, TransferOrder
from rz_workers.rollout.main import UnprovenError
from rz_workers.storage.run_folder import RunFolder

ORDER = TransferOrder(
    version=1, incarnation=1, group="g", host="127.0.0.1", port=1, backend="gloo", workers=1, seconds=1.0
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path, run_of(str(tmp_path / "run")))


def leased(folder: RunFolder, version: int) -> LeaseReply:
    return LeaseReply(leases=(lease_of(train_unit(folder, version), info_of(version)),))


def with_canary(worker: Worker, version: int) -> Worker:
    """Its engine's own scores, so that the proof succeeds."""
    worker.ledger.canary = Canary(token_ids=(1, 2, 3), logprobs=(-1.0 - 1e-4 * version,) * 2)
    return worker


def test_a_received_version_is_sampled_with_and_never_loaded(folder: RunFolder) -> None:
    worker = Worker(folder, LeaseReply(receive=ORDER), leased(folder, 1))
    worker.run()
    assert (worker.engine.received, worker.engine.loads) == ([ORDER], [])
    [key] = worker.shards()
    assert {row.weight_version for row in worker.rows(key)} == {1}
    assert [(asked.weight_version, asked.weights_digest) for asked in worker.ledger.requests] == [
        (None, None),
        (1, "digest-1"),
        (1, "digest-1"),
    ]


def test_a_version_is_proven_by_order_and_the_proof_is_told(folder: RunFolder) -> None:
    worker = with_canary(Worker(folder, LeaseReply(prove=info_of(1)), leased(folder, 1)), 1)
    worker.run()
    first, second, _ = worker.ledger.requests
    assert first.proof is None
    assert second.proof is not None
    assert (second.proof.digest, second.proof.hardware, second.proof.error) == ("digest-1", "fake", 0.0)
    assert len(worker.engine.loads) == 1


def test_weights_are_loaded_in_full_by_order(folder: RunFolder) -> None:
    replies = [LeaseReply(prove=info_of(1)), LeaseReply(reload=info_of(1)), leased(folder, 1)]
    worker = with_canary(Worker(folder, *replies), 1)
    worker.run()
    assert [version for version, _ in worker.engine.loads] == [1, 1]
    assert len(worker.shards()) == 1


def test_a_rollout_that_goes_on_disagreeing_ends_with_a_retriable_code(folder: RunFolder) -> None:
    worker = Worker(folder, LeaseReply(replace=True))
    with pytest.raises(UnprovenError, match="otherwise than its peers") as ended:
        worker.run()
    assert ended.value.exit_code not in (0, 64)


def test_a_sleeping_rollout_says_so_and_wakes_for_work(folder: RunFolder) -> None:
    replies = [leased(folder, 0), LeaseReply(sleep=True), LeaseReply(), LeaseReply(receive=ORDER), leased(folder, 1)]
    worker = Worker(folder, *replies)
    worker.run()
    assert [asked.asleep for asked in worker.ledger.requests] == [False, False, True, True, False, False]
    assert len(worker.shards()) == 2  # the engine refuses to sample or receive in its sleep


def test_a_sleeping_rollout_wakes_for_a_lease_of_the_same_weights(folder: RunFolder) -> None:
    worker = Worker(folder, leased(folder, 0), LeaseReply(sleep=True), leased(folder, 0))
    worker.run()
    assert not worker.engine.is_asleep
    assert [version for version, _ in worker.engine.loads] == [0]


def test_only_a_run_that_broadcasts_offers_to_receive(folder: RunFolder, tmp_path: Path) -> None:
    worker = Worker(folder)
    worker.run()
    assert worker.ledger.requests[0].receiver is None
    run = run_of(str(tmp_path / "other"))
    rollout = run.spec.rollout.model_copy(update={"weight_sync": "broadcast"})
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"rollout": rollout})})
    worker = Worker(make_folder(tmp_path / "2", run))
    worker.run()
    assert worker.ledger.requests[0].receiver == ReceiverState(workers=1)
