"""The ledger as a service: a real server on a free loopback port, spoken to by the real client."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from ledger_builders import (
    CANARY,
    claim,
    name_of,
    plan_of,
    run_of,
    store_shard,
    store_weights,
    transfer_request,
    weights_of,
)
from prometheus_client import CollectorRegistry, generate_latest

from rz_api.run import ResolvedRun
from rz_workers.ledger.app import create_app
from rz_workers.ledger.metrics import LedgerCollector
from rz_workers.ledger.service import REPORT_SECONDS, Ledger
from rz_workers.ledger.state import State
from rz_workers.protocol.client import LedgerClient, ProtocolError
from rz_workers.protocol.messages import (
    Completion,
    Heartbeat,
    Lease,
    LeaseReply,
    LeaseRequest,
    Publication,
    ReceiverState,
    StepReport,
    StorageReport,
    TakeReply,
    WeightsReply,
)
from rz_workers.reward.code import fetch_code
from rz_workers.runtime import DrainedError, SupersededError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore, StorageError
from rz_workers.storage.records import DataManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.verifier_code import digest, store_code
from rz_workers.web import Server, take_port

PLAN = plan_of()


class FlakyStore(ObjectStore):
    """A bucket that answers with errors while ``down`` is set."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.down = threading.Event()

    def put_new(self, key: str, data: bytes) -> None:
        if self.down.is_set():
            raise StorageError("503 slow down")
        super().put_new(key, data)


class LookingLedger(Ledger):
    """Says when it has looked at storage: what it finds then is from before its time, and makes it adopt."""

    def __init__(self, run: ResolvedRun, store: ObjectStore) -> None:
        super().__init__(run, store)
        self.looked = threading.Event()

    def _recover(self) -> State | None:
        try:
            return super()._recover()
        finally:
            self.looked.set()


class Service:
    """A ledger process, as far as a test needs one: an event loop in a thread."""

    def __init__(
        self,
        store: ObjectStore,
        token_file: Path | None = None,
        lease_seconds: float = 30.0,
        placement: str = "separate",
    ) -> None:
        self.listener = take_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.started: Future[LookingLedger] = Future()

        async def serve() -> None:
            ledger = LookingLedger(run_of(lease_seconds=lease_seconds, placement=placement), store)
            config = uvicorn.Config(
                create_app(ledger, token_file), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1
            )
            self.server = Server(config)
            self.started.set_result(ledger)
            working = asyncio.create_task(ledger.run())
            await self.server.serve(sockets=[self.listener])
            working.cancel()

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        self.ledger = self.started.result(10)
        assert self.ledger.looked.wait(30)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@contextmanager
def service(store: ObjectStore, **options: object) -> Iterator[tuple[LedgerClient, Ledger]]:
    running = Service(store, **options)  # type: ignore[arg-type]
    client = LedgerClient(running.url)
    try:
        yield client, running.ledger
    finally:
        client.close()
        running.stop()


@pytest.fixture
def store(tmp_path: Path) -> FlakyStore:
    return FlakyStore(str(tmp_path / "run"))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for another thread's work; fails when it takes longer than it ever should."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def request(rollout: str = "r0", units: int = 9, wait: float = 20.0, holds: int | None = None) -> LeaseRequest:
    return LeaseRequest(rollout_id=rollout, weight_version=holds, max_units=units, wait_seconds=wait)


def finish(client: LedgerClient, store: ObjectStore, lease: Lease) -> bool:
    shard = store_shard(store, lease.unit, lease.attempt, lease.weights.version)
    return client.complete(Completion(rollout_id="r0", lease_id=lease.lease_id, shard=shard)).accepted


def test_a_whole_run_over_http(store: FlakyStore, pool: ThreadPoolExecutor) -> None:
    with service(store) as (client, ledger):
        waiting: Future[LeaseReply] = pool.submit(client.lease, request())
        assert ledger.status().phase == "waiting"
        folder = claim(store, run_of())
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        leases = list(waiting.result(10).leases)
        assert [name_of(lease.unit) for lease in leases] == ["t0.0", "t0.1"]
        for step in range(3):
            taking: Future[TakeReply] = pool.submit(client.take_step, step, 1)
            for lease in leases:
                assert finish(client, store, lease)
            taken = taking.result(10)
            manifest = RunFolder(store, folder.run).step_manifest(step)
            assert manifest is not None
            assert taken.shards == manifest.shards
            client.announce_weights(Publication(weights=store_weights(store, step + 1)))
            client.commit_step(StepReport(step=step, incarnation=1, weight_version=step + 1, metrics={}))
            while leases := client.lease(request(holds=step, wait=0.0)).leases:
                if leases[0].unit.kind == "train":
                    break
                for lease in leases:
                    assert finish(client, store, lease)
        for version in (0, 2, 3):
            shards = client.eval_shards(version).shards
            assert shards is not None
            assert [shard.unit for shard in shards] == PLAN.units("eval", version)
        assert client.weights(3).weights == weights_of(3)
        last = StepReport(step=2, incarnation=1, weight_version=3, metrics={}, phase="finished")
        client.commit_step(last)
        assert client.lease(request()).finished
        assert client.heartbeat(Heartbeat(rollout_id="r0", weight_version=3)).finished
        assert ledger.status().phase == "finished"


def test_without_the_token_nothing_is_answered(store: FlakyStore, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with service(store, token_file=token) as (anyone, _):
        url = anyone.url
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
            assert httpx.get(f"{url}/weights/0", headers=headers, trust_env=False).status_code == 401
            assert httpx.post(f"{url}/lease", content=b"not json", headers=headers, trust_env=False).status_code == 401
        client = LedgerClient(url, token)
        assert client.weights(0).weights is None
        client.close()


def test_a_trainer_of_an_older_incarnation_is_superseded(store: FlakyStore) -> None:
    claim(store, run_of()).claim_incarnation(2)
    store_weights(store, 0)
    with service(store) as (client, ledger):
        until(lambda: ledger.state is not None)
        with pytest.raises(SupersededError, match="incarnation 1, but incarnation 2"):
            client.take_step(0, 1, wait_seconds=0.0)
        assert client.take_step(0, 2, wait_seconds=0.0).units_total == 2


def test_refusals_carry_the_reason(store: FlakyStore) -> None:
    claim(store, run_of())
    store_weights(store, 0)
    with service(store) as (client, ledger):
        until(lambda: ledger.state is not None)
        with pytest.raises(ProtocolError, match="not one that this run evaluates") as unknown:
            client.eval_shards(1)
        assert unknown.value.status_code == 404
        with pytest.raises(ProtocolError, match="versions 0 to 3") as refused:
            client.announce_weights(Publication(weights=weights_of(9)))
        assert refused.value.status_code == 422


def test_a_held_request_ends_when_its_time_is_over(store: FlakyStore) -> None:
    claim(store, run_of())
    with service(store) as (client, _):
        started = time.monotonic()
        assert client.lease(request(wait=0.3)) == LeaseReply()
        assert client.take_step(0, 1, wait_seconds=0.3) == TakeReply(shards=None, units_done=0, units_total=0)
        assert time.monotonic() - started < 5


def test_drain_wakes_held_requests(store: FlakyStore, pool: ThreadPoolExecutor) -> None:
    claim(store, run_of())
    with service(store) as (client, _):
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        leases = client.lease(request()).leases
        client.lease(request(holds=0))
        waiting = pool.submit(client.lease, request("r1"))
        taking = pool.submit(client.take_step, 0, 1)
        client.drain()
        assert waiting.result(5).draining
        assert taking.result(5).draining
        assert finish(client, store, leases[0]), "what was finished is still taken"
        client.drain(False)
        assert not client.lease(request(wait=0.0)).draining


def test_a_restarted_ledger_adopts_before_it_issues(store: FlakyStore) -> None:
    claim(store, run_of())
    with service(store) as (client, _):
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        first, second = client.lease(request()).leases
        finish(client, store, first)
    store_shard(store, second.unit, 7, version=2)
    with service(store, lease_seconds=1.0) as (client, ledger):
        beat = Heartbeat(rollout_id="r0", weight_version=0, leases=(second,))
        until(lambda: ledger.status().phase == "adopting")
        assert client.heartbeat(beat).lost == ()
        assert client.lease(request("r1", wait=0.0)).leases == ()
        issued: list[Lease] = []
        while not issued:
            assert client.heartbeat(beat).lost == ()
            issued += client.lease(request("r1", units=1, wait=0.1)).leases
        assert [name_of(lease.unit) for lease in issued] == ["e0.0"], "the step is done or held"
        assert client.complete(
            Completion(rollout_id="r0", lease_id=second.lease_id, shard=store_shard(store, second.unit))
        ).accepted
        assert client.take_step(0, 1).shards is not None


def test_an_expired_unit_is_found_in_storage_or_handed_out_again(store: FlakyStore) -> None:
    claim(store, run_of())
    with service(store, lease_seconds=1.0) as (client, ledger):
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        written, lost = client.lease(request()).leases
        shard = store_shard(store, written.unit, written.attempt)
        reply = client.lease(request("r1", units=1, wait=0.0, holds=None))
        assert [name_of(lease.unit) for lease in reply.leases] == ["e0.0"]
        until(lambda: ledger.state is not None and ledger.state.recorded(written.unit) == shard)
        (again,) = client.lease(request("r2", units=1)).leases
        assert (again.unit, again.attempt) == (lost.unit, 2)
        assert ledger.status().expired_leases >= 2


def test_a_storage_outage_shows_and_loses_nothing(store: FlakyStore) -> None:
    claim(store, run_of())
    with service(store) as (client, ledger):
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        shards = [store_shard(store, lease.unit) for lease in client.lease(request()).leases]
        store.down.set()
        for shard in shards:
            assert client.complete(Completion(rollout_id="r0", lease_id="x", shard=shard)).accepted
        until(lambda: ledger.status().blocking_role == "storage")
        assert "does not do what it should (StorageError: 503 slow down)" in str(ledger.status().storage_trouble)
        assert client.take_step(0, 1, wait_seconds=0.0).shards is None
        store.down.clear()
        assert client.take_step(0, 1, wait_seconds=20.0).shards == tuple(shards)
        assert ledger.status().blocking_role == "trainer"


def test_what_others_see_of_storage_shows_until_it_is_over(store: FlakyStore) -> None:
    claim(store, run_of())
    with service(store) as (client, ledger):
        client.report_storage(StorageReport(who="trainer-0", trouble="the storage s3://runs/x is full"))
        status = ledger.status()
        assert (status.phase, status.blocking_role) == ("waiting", "storage")
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        until(lambda: ledger.status().phase != "waiting")
        assert ledger.status().storage_trouble == "the storage s3://runs/x is full"
        client.report_storage(StorageReport(who="rollout-1", trouble="another"))
        client.report_storage(StorageReport(who="rollout-1", trouble=None))
        assert ledger.status().storage_trouble == "the storage s3://runs/x is full"
        client.report_storage(StorageReport(who="trainer-0", trouble=None))
        status = ledger.status()
        assert (status.storage_trouble, status.blocking_role) == (None, "rollout")


def test_what_a_process_that_is_gone_said_of_storage_is_forgotten(store: FlakyStore) -> None:
    times = iter((0.0, REPORT_SECONDS, REPORT_SECONDS + 1))
    ledger = Ledger(run_of(), store, clock=lambda: next(times))
    ledger.storage_reported(StorageReport(who="trainer-0", trouble="full"))
    for trouble in ("full", None):
        ledger._forget_old_reports()
        assert ledger.status().storage_trouble == trouble


def test_it_is_forgotten_also_while_the_run_has_not_begun(store: FlakyStore) -> None:
    now = [0.0]
    ledger = Ledger(run_of(), store, clock=lambda: now[0])
    ledger.storage_reported(StorageReport(who="trainer-0", trouble="full"))
    now[0] = REPORT_SECONDS + 1

    async def main() -> None:
        running = asyncio.create_task(ledger.run())
        async with asyncio.timeout(30):
            while ledger.status().storage_trouble is not None:
                await asyncio.sleep(0.01)
        running.cancel()

    assert ledger.status().storage_trouble == "full"
    asyncio.run(main())
    assert ledger.status().phase == "waiting"


def test_a_ledger_that_is_down_is_waited_for(store: FlakyStore) -> None:
    listener = take_port("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    stop = threading.Event()
    client = LedgerClient(f"http://127.0.0.1:{port}", stop=stop)
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(DrainedError, match="told to stop while waiting for the ledger"):
        client.weights(0)
    client.close()


def test_metrics_tell_of_leases_and_progress(store: FlakyStore) -> None:
    claim(store, run_of())
    registry = CollectorRegistry()
    with service(store) as (client, ledger):
        registry.register(LedgerCollector(ledger))
        assert b"rz_ledger_leases_issued_total 0.0" in generate_latest(registry)
        assert b"rz_ledger_proofs_failed_total 0.0" in generate_latest(registry)
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        client.lease(request())
        metrics = {"reward_mean": 0.5, "response_length_mean": 31.0}
        client.commit_step(StepReport(step=0, incarnation=1, weight_version=1, metrics=metrics))
        text = generate_latest(registry).decode()
    for line in (
        "rz_ledger_leases_issued_total 2.0",
        "rz_ledger_units_leased 2.0",
        "rz_ledger_step 1.0",
        "rz_ledger_weight_version 0.0",
        "rz_ledger_rollouts 1.0",
        "rz_ledger_reward_mean 0.5",
        "rz_ledger_response_length_mean 31.0",
    ):
        assert line in text


def test_a_broadcast_reaches_rollouts_that_wait_for_leases(store: FlakyStore, pool: ThreadPoolExecutor) -> None:
    claim(store, run_of())
    with service(store) as (client, ledger):
        client.announce_weights(Publication(weights=store_weights(store, 0), canary=CANARY))
        until(lambda: ledger.state is not None)
        assert client.weights(0) == WeightsReply(weights=weights_of(0), canary=CANARY)
        assert client.weights(1) == WeightsReply(weights=None)
        assert client.lease(request()).prove == weights_of(0)
        leases = client.lease(request(holds=0)).leases
        client.lease(request(holds=0))
        able = request("r1").model_copy(update={"weight_version": 0, "receiver": ReceiverState(workers=2)})
        waiting = pool.submit(client.lease, able)
        until(lambda: ledger.state is not None and "r1" in ledger.state.rollouts)
        (receiver,) = client.open_transfer(transfer_request(1)).receivers
        assert (receiver.rollout_id, receiver.is_new) == ("r1", True)
        order = waiting.result(5).receive
        assert order is not None
        assert (order.host, order.port, order.workers) == ("trainer-0", 29600, 2)
        for lease in leases:
            finish(client, store, lease)
        holds = request("r1").model_copy(update={"weight_version": 1, "weights_digest": "digest-1"})
        waiting = pool.submit(client.lease, holds)
        client.announce_weights(Publication(weights=weights_of(1, stored=False)))
        assert {lease.unit.step for lease in waiting.result(5).leases} == {1}


def test_a_superseded_trainer_opens_no_broadcast(store: FlakyStore) -> None:
    claim(store, run_of()).claim_incarnation(2)
    store_weights(store, 0)
    with service(store) as (client, ledger):
        until(lambda: ledger.state is not None)
        with pytest.raises(SupersededError, match="incarnation 1, but incarnation 2"):
            client.open_transfer(transfer_request(1))


def test_a_restarted_ledger_learns_from_the_trainer_what_storage_does_not_have(store: FlakyStore) -> None:
    claim(store, run_of())
    with service(store, lease_seconds=1.0) as (client, _):
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        for lease in client.lease(request()).leases:
            finish(client, store, lease)
        assert client.take_step(0, 1).shards is not None
        newest = Publication(weights=weights_of(1, stored=False), canary=CANARY)
        client.announce_weights(newest)
    with service(store, lease_seconds=1.0) as (client, ledger):
        until(lambda: ledger.status().phase == "adopting")
        assert client.weights(1).weights is None
        assert client.take_step(1, 1, wait_seconds=0.0, weights=newest).units_total == 2
        assert client.weights(1) == WeightsReply(weights=newest.weights, canary=CANARY)
        client.announce_weights(Publication(weights=weights_of(1), canary=CANARY))
        client.take_step(1, 1, wait_seconds=0.0, weights=newest)
        assert client.weights(1).weights == weights_of(1)


def test_trainer_and_rollouts_take_turns(store: FlakyStore, pool: ThreadPoolExecutor) -> None:
    claim(store, run_of())
    with service(store, placement="colocated") as (client, ledger):
        assert not client.turn("r0").may_start, "the trainer has published nothing yet"
        client.announce_weights(Publication(weights=store_weights(store, 0)))
        until(lambda: client.turn("r0").may_start)
        while leases := client.lease(request(holds=0)).leases:
            for lease in leases:
                finish(client, store, lease)
        assert ledger.state is not None
        taking = pool.submit(client.take_step, 0, 1)
        assert not client.turn("r1").may_start
        asleep = request(holds=0).model_copy(update={"asleep": True})
        waiting = pool.submit(client.lease, asleep)
        assert taking.result(10).shards is not None
        client.announce_weights(Publication(weights=store_weights(store, 1)))
        assert {lease.unit.step for lease in waiting.result(5).leases} == {1}
        assert client.take_step(1, 1, wait_seconds=0.0).shards is None


# ------------------------------------------------------------------------------------------------------- verifiers


OWN = "s3://bucket/rewards.py:grade"


def publish_code(store: ObjectStore, code: bytes) -> None:
    """What the trainer stores at its start, as far as it matters here."""
    folder = RunFolder.claim(store, run_of())
    name, entry = store_code(folder, code)
    manifest = DataManifest(
        fingerprint="", num_prompts=1, eval_sets={}, total_steps=1, files={name: entry}, verifiers={OWN: digest(code)}
    )
    store.put_new(layout.DATA_MANIFEST, manifest.model_dump_json().encode())


def test_the_file_of_a_verifier_is_handed_out_as_soon_as_the_trainer_has_stored_it(
    store: FlakyStore, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    code = "def grade(example):\n    return 1.0  # é\n".encode()
    with service(store) as (client, _):
        asked = pool.submit(fetch_code, client, (OWN,), tmp_path / "code")
        publish_code(store, code)
        assert Path(asked.result(60)[OWN]).read_bytes() == code


def test_a_verifier_that_the_run_did_not_start_with_is_refused(store: FlakyStore) -> None:
    with service(store) as (client, _):
        publish_code(store, b"")
        with pytest.raises(ProtocolError, match="started without the file of the verifier other"):
            client.verifier_code("other.py:grade")
