"""The rollout worker's main path.

1. Import the engine, wait for the run's folder, build the engine from the model files that the trainer stored there.
2. Ask the ledger for a lease, and wait for one. A finished run ends the process (exit 0). Before a lease the ledger may
order something else: to receive new weights, to prove or reload those that are held, to sleep while the trainer needs
the device.
3. Load the lease's weight version, unless the engine holds it, and prove that it computes with it (``weights``).
4. Sample the unit. Each finished response goes to the reward service while the others run.
5. Wait for the last verdicts.
6. Write the unit as one shard, in canonical order, if the lease is still held; else drop it.
7. Tell the ledger, and go on with 2.

An engine with continuous batching is kept full: while it has room, steps 2 to 4 go on for further units, and each
unit's steps 4 to 7 run in a thread of its own (``admission``). New weights wait until nothing is being sampled.

Beside it runs the heartbeat thread (``leases``). Nothing here is worth saving: SIGTERM drops what is held (exit 75), as
kill -9 would, and the ledger hands the unit out again when its lease expires.

| waits for                  | released by                | if it never comes                                        |
|----------------------------|----------------------------|----------------------------------------------------------|
| a lease                    | a free unit                | it asks again; a finished or draining ledger ends it     |
| weights v (not the critic) | the trainer's announcement | no lease is handed out until then                        |
| verdicts                   | the reward service         | asked for ever; after 5 s the ledger names ``reward``    |
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rz_api.spec import ReasonerZeroRunSpec, broadcasts
from rz_workers.data.prompt_table import PromptRow, eval_table, read_table
from rz_workers.protocol.client import LedgerClient, RewardClient
from rz_workers.protocol.messages import (
    Completion,
    CompletionReply,
    Heartbeat,
    HeartbeatReply,
    Lease,
    LeaseReply,
    LeaseRequest,
    ReceiverState,
    ShardRef,
    Verdict,
    VerifyItem,
    WeightsInfo,
    WeightsReply,
    is_masked,
)
from rz_workers.protocol.schedule import TRAIN, Unit, sample_seed
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.rollout.admission import Sampled, units_for
from rz_workers.rollout.engines.interface import ConcurrentEngine, Engine, Finished, SampleRequest, sampling_params
from rz_workers.rollout.leases import BEATS_PER_LEASE, Leases
from rz_workers.rollout.metrics import RolloutMetrics
from rz_workers.rollout.scoring import Scorer, wait_for
from rz_workers.rollout.startup import device_for_start, fetch_model, load_engine, wait_for_folder
from rz_workers.rollout.weights import HeldWeights, load_published
from rz_workers.runtime import DrainedError, Settings, WorkerError, on_terminate
from rz_workers.status_server import start_status_server
from rz_workers.storage.objects import ObjectExistsError, ObjectStore
from rz_workers.storage.retry import RetryPolicy
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import find_shards, write_shard
from rz_workers.storage_reports import start_reporting

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

LEASE_WAIT_SECONDS = 20.0
BUSY_LEASE_WAIT_SECONDS = 2.0
"""The same while units are under way: for so long at most, the failure of one of them goes unnoticed."""
DRAINING_POLL_SECONDS = 1.0
"""A draining ledger answers at once that it has no lease; this is the pause before it is asked again."""


def main() -> None:
    settings = Settings.from_environment()
    stop = threading.Event()

    def terminate() -> None:
        stop.set()
        # Raised in the main thread, out of whatever it waits for.
        raise DrainedError("told to stop; what was being sampled is dropped")

    on_terminate(terminate)
    metrics = RolloutMetrics()
    rollout_id = f"{settings.role or 'rollout'}-{settings.index}-{uuid.uuid4().hex[:4]}"
    status: dict[str, Any] = {"rollout_id": rollout_id, "unit": None, "weight_version": None}
    start_status_server(
        settings, lambda: {**status, "state": metrics.phase, "tokens_generated": metrics.tokens_generated}
    )

    spec = settings.run.spec
    make_engine = load_engine(spec, settings.token_file)
    store = ObjectStore(spec.storage.uri, spec.storage.secret_name, retry=OUTLAST)
    start_reporting(rollout_id, settings)
    folder = wait_for_folder(store, settings.run, stop)
    local = fetch_model(folder, settings.scratch / f"rollout-{settings.index}" / "model")
    lease_seconds = spec.rollout.lease_seconds
    ledger = LedgerClient(
        settings.ledger_url, settings.token_file, stop, max_backoff_seconds=lease_seconds / BEATS_PER_LEASE
    )
    shares_device = spec.rollout.placement == "colocated"
    with device_for_start(ledger, rollout_id, lease_seconds, stop) if shares_device else nullcontext():
        engine = make_engine(local)
    scorer = Scorer(RewardClient(settings.reward_url, settings.token_file, stop))
    near = settings.index * max(1, spec.rollout.tensor_parallel if spec.trainer.gpus_per_node else 1)
    rollout = Rollout(
        rollout_id, folder, engine, ledger, scorer, stop, metrics, status, near=near if shares_device else None
    )
    rollout.leases.start_thread(lease_seconds, stop)
    log.info("%s samples with %s", rollout_id, engine.name)
    try:
        rollout.run()
    finally:
        stop.set()
        if isinstance(engine, ConcurrentEngine):
            engine.close()


OUTLAST = RetryPolicy(attempts=sys.maxsize)
"""Finished responses are only here until their shard is stored: an outage of the storage is waited out, however
long."""


class Ledger(Protocol):
    """What is used of ``LedgerClient``."""

    def lease(self, request: LeaseRequest) -> LeaseReply: ...
    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply: ...
    def complete(self, completion: Completion) -> CompletionReply: ...
    def weights(self, version: int) -> WeightsReply: ...


class UnprovenError(WorkerError):
    """This engine goes on scoring the canary otherwise than its peers: a new process has to take over."""


class Rollout:
    """One rollout process: samples lease units with one engine until the run is finished.

    With an engine that samples several units at once, ``_work`` runs in one thread a unit, everything before it in the
    thread that calls ``run``.
    """

    def __init__(
        self,
        rollout_id: str,
        folder: RunFolder,
        engine: Engine,
        ledger: Ledger,
        scorer: Scorer,
        stop: threading.Event,
        metrics: RolloutMetrics,
        status: dict[str, Any],
        load: Callable[[RunFolder, WeightsInfo], Mapping[str, Tensor]] = load_published,
        clock: Callable[[], float] = time.monotonic,
        near: int | None = None,
    ) -> None:
        """``near``: the trainer rank whose device the engine shares."""
        self.leases = Leases(ledger, self._beat, clock)
        self._id, self._folder, self._engine, self._ledger, self._scorer = rollout_id, folder, engine, ledger, scorer
        self._stop, self._metrics, self._status, self._clock = stop, metrics, status, clock
        self._spec: ReasonerZeroRunSpec = folder.run.spec
        self._broadcasts, self._near = broadcasts(self._spec), near
        self._units = units_for(engine)
        self._counting = threading.Lock()
        self._weights = HeldWeights(engine, folder, ledger, load, metrics.count_update)
        self._asleep = False
        self._tables: dict[str, list[PromptRow]] = {}

    def run(self) -> None:
        """Work until the ledger says that the run is finished. Raises DrainedError when told to stop."""
        while True:
            self._check_stop()
            self._units.wait_for_room()
            reply, asked = self._ask()
            if reply.finished:
                self._units.join()
                log.info("the run is finished")
                return
            self._obey(reply)
            # All of them before the first is worked on: heartbeats renew those that wait.
            for lease in reply.leases:
                self.leases.hold(lease, asked)
            for lease in reply.leases:
                self._begin(lease)

    def _ask(self) -> tuple[LeaseReply, float]:
        """The ledger's next leases, and when they were asked for. Only a wait of an idle engine counts as such."""
        asked, busy = self._clock(), self._units.are_under_way
        with nullcontext() if busy else self._metrics.timed("lease"):
            reply = self._ledger.lease(
                LeaseRequest(
                    rollout_id=self._id,
                    weight_version=self._weights.version,
                    weights_digest=self._weights.digest,
                    proof=self._weights.proof,
                    receiver=self._receiver(),
                    asleep=self._asleep,
                    wait_seconds=BUSY_LEASE_WAIT_SECONDS if busy else LEASE_WAIT_SECONDS,
                )
            )
            if reply.draining:
                self._stop.wait(DRAINING_POLL_SECONDS)
        return reply, asked

    def _receiver(self) -> ReceiverState | None:
        """What this rollout receives broadcasts with; of one that shares the trainer's devices also from which rank."""
        return self._engine.receiver.model_copy(update={"near": self._near}) if self._broadcasts else None

    def _obey(self, reply: LeaseReply) -> None:
        """What the ledger orders before it gives leases. Nothing is being sampled while it is done."""
        if reply.replace:
            raise UnprovenError(
                "this engine scores the canary otherwise than its peers on the same hardware, also after its weights "
                "were loaded in full: it ends, so that another process takes its place"
            )
        if reply.sleep:
            self._units.join()
            self._engine.sleep()
            self._asleep = True
        if reply.reload is not None:
            self._update(partial(self._weights.reload, reply.reload))
        if reply.prove is not None:
            self._update(partial(self._weights.ensure, reply.prove))
        if reply.receive is not None:
            self._update(partial(self._weights.receive, reply.receive))

    def _begin(self, lease: Lease) -> None:
        """Step 3 for one lease, and its rows to the engine; then steps 4 to 7, here or in a thread."""
        if not self.leases.is_held(lease):
            self._metrics.count_unit("lost")
            self.leases.release(lease)
            return
        try:
            if self._asleep or not self._weights.is_ready(lease.weights):
                self._update(partial(self._weights.ensure, lease.weights))
            started = self._clock()
            rows = self._rows(lease.unit)
            responses = self._generate(lease, rows)
        # A lease that nobody works on must not be renewed, whatever ended the work.
        except BaseException:
            self.leases.release(lease)
            raise

        def unit(sampled: Sampled) -> None:
            self._status["unit"] = lease.unit.unit_id
            try:
                self._work(lease, rows, responses, started, sampled)
            finally:
                self.leases.release(lease)
                self._status["unit"] = None

        self._units.start(lease.unit.unit_id, unit)

    def _work(
        self,
        lease: Lease,
        rows: Sequence[tuple[int, int, PromptRow]],
        responses: Iterator[Finished],
        started: float,
        sampled: Sampled,
    ) -> None:
        """Steps 4 to 7 for one lease; ``sampled`` is called when the engine is done with it."""
        with self._metrics.timed("sample"):
            finished, pending = self._sample(lease, rows, responses, started)
        sampled()
        with self._metrics.timed("score"):
            verdicts = wait_for(pending, lambda: self._is_pointless(lease))
        with self._metrics.timed("write"):
            self._check_stop()
            if verdicts is None or not self.leases.is_held(lease):
                self._metrics.count_unit("lost")
                for future in pending:
                    future.cancel()
                return
            trajectories = [
                self._trajectory(lease, row, *response, verdict)
                for row, response, verdict in zip(rows, finished, verdicts, strict=True)
            ]
            shard = self._write(lease, trajectories)
            reply = self._ledger.complete(Completion(rollout_id=self._id, lease_id=lease.lease_id, shard=shard))
        self._metrics.count_unit("stored" if reply.accepted else "unused")
        if not reply.accepted:
            log.warning("%s was completed by another attempt before; ours is not used", lease.unit.unit_id)

    # --------------------------------------------------------------------------------------------------- weights

    def _update(self, update: Callable[[], None]) -> None:
        """Change or prove the engine's weights, awake and idle. When that fails the process ends."""
        self._units.wait_until_sampled()
        if self._asleep:
            self._engine.wake()
            self._asleep = False
        with self._metrics.timed("load"):
            self._status["weight_version"] = None
            update()
            self._status["weight_version"] = self._weights.version
        if self._weights.version is not None:
            self._metrics.hold(self._weights.version)

    # -------------------------------------------------------------------------------------------------- sampling

    def _rows(self, unit: Unit) -> list[tuple[int, int, PromptRow]]:
        """(group_id, sample_index, prompt) of the unit's rows, in canonical order."""
        name = "train" if unit.kind == TRAIN else eval_table(str(unit.eval_set))
        if name not in self._tables:
            self._tables[name] = read_table(self._folder, name)
        return [(group, sample, self._tables[name][prompt]) for group, prompt, sample in unit.rows()]

    def _generate(self, lease: Lease, rows: Sequence[tuple[int, int, PromptRow]]) -> Iterator[Finished]:
        seed, unit = self._spec.algorithm.seed, lease.unit
        requests = [
            SampleRequest(prompt.prompt_token_ids, sample_seed(seed, unit, group, sample))
            for group, sample, prompt in rows
        ]
        return self._engine.generate(requests, sampling_params(self._spec, unit), lambda: self._is_pointless(lease))

    def _sample(
        self,
        lease: Lease,
        rows: Sequence[tuple[int, int, PromptRow]],
        responses: Iterator[Finished],
        started: float,
    ) -> tuple[list[tuple[Finished, float]], list[Future[Verdict]]]:
        """Every row's response with its seconds, and the verdict to come; fewer when the lease was lost on the way."""
        done: dict[int, tuple[Finished, float]] = {}
        pending: dict[int, Future[Verdict]] = {}
        for response in responses:
            row = response.index
            done[row] = response, self._clock() - started
            pending[row] = self._scorer.submit(_verify_item(rows[row][2], response))
            # Units run in threads of their own, and `+=` on the count is not atomic.
            with self._counting:
                self._metrics.count_tokens(len(response.token_ids))
        assert len(done) == len(rows) or self._is_pointless(lease), "the engine left rows out"
        order = sorted(done)
        return [done[row] for row in order], [pending[row] for row in order]

    def _is_pointless(self, lease: Lease) -> bool:
        return self._stop.is_set() or self.leases.is_lost(lease)

    # --------------------------------------------------------------------------------------------------- writing

    def _trajectory(
        self, lease: Lease, row: tuple[int, int, PromptRow], response: Finished, seconds: float, verdict: Verdict
    ) -> Trajectory:
        group_id, sample_index, prompt = row
        return Trajectory(
            run=self._folder.run.name,
            step=lease.unit.step,
            group_id=group_id,
            sample_index=sample_index,
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            response=response.text,
            prompt_token_ids=prompt.prompt_token_ids,
            response_token_ids=response.token_ids,
            rollout_logprobs=response.logprobs,
            finish_reason=response.finish_reason,
            stop_reason=response.stop_reason,
            extracted_answer=verdict.extracted_answer,
            reference_answer=prompt.reference_answer,
            reward=0.0 if is_masked(verdict.status) else verdict.reward,
            reward_status=verdict.status,
            weight_version=lease.weights.version,
            engine=self._engine.name,
            seconds=seconds,
            source=prompt.source,
            rule=verdict.rule,
        )

    def _write(self, lease: Lease, trajectories: Sequence[Trajectory]) -> ShardRef:
        """Store the shard. Where this attempt is stored already (a restarted ledger gave its number twice), that one is
        handed in: it has the same tokens."""
        store, version = self._folder.store, lease.weights.version
        try:
            return write_shard(store, lease.unit, lease.attempt, trajectories, version)
        except ObjectExistsError:
            for shard in find_shards(store, lease.unit):
                if shard.attempt == lease.attempt and shard.weight_version == version:
                    return shard
            raise

    # ---------------------------------------------------------------------------------------------------- shared

    def _beat(self, leases: tuple[Lease, ...]) -> Heartbeat:
        return Heartbeat(
            rollout_id=self._id,
            weight_version=self._engine.weight_version,
            leases=leases,
            asleep=self._asleep,
            tokens_generated=self._metrics.tokens_generated,
            reward_trouble=self._scorer.trouble(),
        )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise DrainedError("told to stop; what was being sampled is dropped")


def _verify_item(prompt: PromptRow, response: Finished) -> VerifyItem:
    return VerifyItem(
        response=response.text,
        reference_answer=prompt.reference_answer,
        stopped=response.finish_reason == "stop",
        verifier=prompt.verifier,
        question=prompt.question,
        fields=json.loads(prompt.fields),
    )
