"""Random histories with broadcasts that fail, weights that are not stored yet, trainers that die and replay, engines
that compute wrongly, and devices that are shared: the run finishes, nobody is given what it cannot have, and no two
use a device at the same time."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from ledger_builders import CANARY, LEASE_SECONDS, plan_of, transfer_request, weights_of
from test_histories import ROLLOUTS, History, Rollout

from rz_workers.ledger import leasing, progress, transfers, turns
from rz_workers.ledger.state import State
from rz_workers.protocol.messages import (
    Heartbeat,
    LeaseReply,
    LeaseRequest,
    Proof,
    Publication,
    ReceiverState,
    StepReport,
    TakeRequest,
    TransferOrder,
    TurnRequest,
    WeightsInfo,
)
from rz_workers.protocol.schedule import EVAL


@dataclass
class Engine:
    """What the model knows of a rollout's process, by its name."""

    digest: str | None = None
    is_proven: bool = False
    is_broken: bool = False
    """Computes something of its own."""
    is_started: bool = False
    is_asleep: bool = False
    group: str | None = None
    heard: float = -1e9


class WeightHistory(History):
    """The same histories with another trainer: it broadcasts (or not), stores later, dies, and replays."""

    @initialize(colocated=st.booleans(), broadcasts=st.booleans(), max_staleness=st.integers(0, 1))
    def begin(self, colocated: bool, broadcasts: bool, max_staleness: int) -> None:  # type: ignore[override]
        super().begin(0 if colocated else max_staleness)
        self.colocated, self.broadcasts = colocated, broadcasts
        self.plan = plan_of(0 if colocated else max_staleness, "colocated" if colocated else "separate")
        self.engines: dict[str, Engine] = {}
        self.incarnation = 1
        self.next_step = 0
        """Of the trainer, which may be below what an earlier gang committed."""
        self.training: WeightsInfo | None = None
        """What the trainer is computing or sending."""
        self.groups: set[str] = set()
        self.stored: dict[int, WeightsInfo] = {}
        self.unstored: list[WeightsInfo] = []
        """Being written, in order."""
        self.orders: set[tuple[str, str, int]] = set()
        self.state = State(self.plan)
        self.newest = self.announce_as(weights_of(0))

    def announce_as(self, info: WeightsInfo) -> Publication:
        if info.stored:
            self.stored[info.version] = info
        self.state = progress.weights_published(self.state, info, self.now, CANARY)
        return Publication(weights=info, canary=CANARY)

    def engine(self, who: int) -> Engine:
        return self.engines.setdefault(self.rollouts[who].name, Engine())

    # ------------------------------------------------------------------------------------------ rollouts

    @rule(who=ROLLOUTS, units=st.integers(1, 3))
    def ask(self, who: int, units: int) -> None:
        engine = self.engine(who)
        if self.colocated and not engine.is_started:
            self.state, reply = turns.start(self.state, TurnRequest(rollout_id=self.rollouts[who].name), self.now)
            if not reply.may_start:
                return
            self.uses_the_device(engine)
            engine.heard = self.now
        engine.is_started = True
        super().ask(who, units)
        self.engine(who).heard = self.now

    def request_of(self, rollout: Rollout, units: int) -> LeaseRequest:
        engine = self.engines[rollout.name]
        proof = None
        if engine.is_proven and engine.digest is not None:
            bits, error = (rollout.name, 1.0) if engine.is_broken else ("right", 0.01)
            proof = Proof(digest=engine.digest, bits=bits, hardware="cpu", error=error)
        return LeaseRequest(
            rollout_id=rollout.name,
            weight_version=rollout.holds,
            weights_digest=engine.digest,
            proof=proof,
            receiver=ReceiverState(workers=1, group=engine.group) if self.broadcasts else None,
            asleep=engine.is_asleep,
            max_units=units,
        )

    def obey(self, who: int, reply: LeaseReply) -> None:
        rollout, engine = self.rollouts[who], self.engine(who)
        if reply.receive is not None:
            self.receive(rollout, engine, reply.receive)
        if reply.prove is not None:
            self.load(rollout, reply.prove)
        if reply.reload is not None:
            assert engine.is_broken, "a good engine was told to reload"
            assert reply.reload.stored
            self.load(rollout, reply.reload)
        if reply.replace:
            assert engine.is_broken, "a good engine was replaced"
            self.die(who)
        if reply.sleep:
            assert self.colocated
            assert not any(
                unit == lease.unit.unit_id and until > self.now
                for lease in rollout.leases.values()
                for unit, until in [self.valid_until.get(lease.lease_id, ("", 0.0))]
                if self.state.recorded(lease.unit) is None
            ), "told to sleep while it samples"
            rollout.leases.clear()
            engine.is_asleep = True

    def receive(self, rollout: Rollout, engine: Engine, order: TransferOrder) -> None:
        seen = (rollout.name, order.group, order.version)
        assert seen not in self.orders, "told twice"
        self.orders.add(seen)
        engine.is_asleep, engine.is_proven = False, False
        rollout.holds, engine.digest, engine.group = None, None, None
        sending = self.training
        is_sent = sending is not None and (sending.version, sending.incarnation) == (order.version, order.incarnation)
        if is_sent and sending is not None and not self.broadcast_fails:
            rollout.holds, engine.digest, engine.group = sending.version, sending.digest, order.group
            self.groups.add(order.group)

    def load(self, rollout: Rollout, weights: WeightsInfo) -> None:
        engine = self.engines[rollout.name]
        if engine.digest != weights.digest or rollout.holds != weights.version:
            assert weights.stored, "these weights are out of its reach"
            assert weights.version in self.stored
        self.uses_the_device(engine)
        rollout.holds, engine.digest, engine.is_proven = weights.version, weights.digest, True

    def uses_the_device(self, engine: Engine) -> None:
        assert not (self.colocated and self.training), "the trainer is using the device"
        engine.is_asleep = False

    broadcast_fails = False

    @rule(fails=st.booleans())
    def network(self, fails: bool) -> None:
        self.broadcast_fails = fails

    @rule(who=ROLLOUTS)
    def beat(self, who: int) -> None:
        engine = self.engine(who)
        if not engine.is_started:
            return
        if engine.is_asleep:
            beat = Heartbeat(rollout_id=self.rollouts[who].name, weight_version=self.rollouts[who].holds, asleep=True)
            self.state, _ = leasing.heartbeat(self.state, beat, self.now)
        else:
            super().beat(who)
        engine.heard = self.now

    @rule(who=ROLLOUTS)
    def break_engine(self, who: int) -> None:
        """Only where others can tell, and the right ones are as many: the majority of the broken would be believed."""
        self.engine(who).is_broken = True

    @rule(who=ROLLOUTS)
    def write(self, who: int) -> None:
        super().write(who)

    @rule(who=ROLLOUTS)
    def die(self, who: int) -> None:
        super().die(who)

    # --------------------------------------------------------------------------------- ledger and trainer

    @rule()
    def train(self) -> None:
        """The trainer asks for its step, gets it, and begins to send what it made of it."""
        if self.training is not None or self.next_step >= self.plan.total_steps:
            return
        if progress.is_news(self.newest.weights, self.state.weights.get(self.newest.weights.version, OLDEST)):
            self.announce_as(self.newest.weights)
        request = TakeRequest(step=self.next_step, incarnation=self.incarnation)
        self.state, reply = progress.take(self.state, request)
        if reply is not None and reply.shards is None:
            return
        assert self.next_step in self.manifests
        for rollout in self.rollouts:
            engine = self.engines.get(rollout.name, Engine())
            is_heard = self.now - engine.heard <= LEASE_SECONDS
            assert not (self.colocated and is_heard and not engine.is_asleep), f"{rollout.name} is awake"
        version, replays = self.next_step + 1, self.next_step < self.commits
        digest = f"digest-{version}-i{self.incarnation}"
        self.training = weights_of(version, self.incarnation, digest, stored=replays or not self.broadcasts)
        if not self.training.stored:
            request_to_send = transfer_request(version, self.incarnation, groups=sorted(self.groups))
            self.state, opened = transfers.open_transfer(self.state, request_to_send, self.now)
            assert all(one.is_new == (one.group not in self.groups) for one in opened.receivers)

    @rule()
    def announce(self) -> None:
        if self.training is None:
            return
        info, self.training = self.training, None
        self.unstored = [one for one in self.unstored if self.plan.is_evaluated(one.version)]
        if not info.stored:
            self.unstored.append(info)
        self.newest = self.announce_as(info)
        self.next_step = info.version
        self.commits, self.published = max(self.commits, info.version), max(self.published, info.version)
        report = StepReport(
            step=info.version - 1, incarnation=self.incarnation, weight_version=info.version, metrics={}
        )
        self.state = progress.committed(self.state, report, self.now)

    @rule(sampling=st.sets(ROLLOUTS, min_size=1), updates=st.booleans(), announces=st.booleans())
    def go_on(self, sampling: set[int], updates: bool, announces: bool) -> None:
        """Some rollouts do whatever there is to do, and the trainer makes a step of it: what mostly happens."""
        for _ in range(4):
            for who in sorted(sampling):
                self.ask(who, units=2)
                while self.rollouts[who].leases and self.state.adopting_until is None:
                    self.write(who)
                    self.tell(who, again=False)
        self.search()
        self.freeze()
        for who in sorted(sampling):
            self.ask(who, units=1)
        if updates:
            self.train()
            for who in sorted(sampling):
                self.ask(who, units=1)
        if announces:
            self.announce()

    and_on = and_on_again = go_on
    """Rules are drawn evenly: so that histories come to later versions in spite of all the accidents."""

    @rule()
    def store(self) -> None:
        if self.unstored:
            self.announce_as(self.unstored.pop(0).model_copy(update={"stored": True}))

    @rule(back=st.integers(0, 3))
    def trainer_dies(self, back: int) -> None:
        """Another gang resumes from a checkpoint. There is none above a version that has to be stored and is not."""
        self.incarnation += 1
        self.training, self.groups = None, set()
        self.next_step = max(0, min([self.commits - back, *(one.version for one in self.unstored)]))
        self.unstored = []
        digest = f"digest-{self.next_step}-i{self.incarnation}"
        self.newest = self.announce_as(weights_of(self.next_step, self.incarnation, digest))

    @rule()
    def restart(self) -> None:
        state = State(
            self.plan,
            weights=dict(self.stored),
            committed=self.commits,
            next_frozen=len(self.manifests),
            frozen=dict(self.manifests),
            incarnation=self.incarnation,
            ticked=self.now,
            adopting_until=self.now + LEASE_SECONDS,
        )
        newest = max(self.stored)
        state = progress.open_steps(progress.open_evaluations(state, range(newest + 1)))
        for batch in list(state.open_batches()):
            for entry in batch.entries.values():
                if found := self.shards.get(entry.unit.unit_id):
                    state = leasing.found(state, entry.unit, tuple(found), self.now)
        self.state = state
        self.orders.clear()
        self.groups.clear()
        self.unsearched.clear()
        self.won = {
            unit_id: shard
            for unit_id, shard in self.won.items()
            if shard.unit.kind == "train" and shard.unit.step in self.manifests
        }

    def teardown(self) -> None:
        if not hasattr(self, "plan"):
            return
        for who in range(4):
            self.die(who)
        for _ in range(200):
            self.ask(0, units=2)
            self.beat(0)
            for _ in range(2):
                self.write(0)
                self.tell(0, again=False)
            self.search()
            self.freeze()
            self.train()
            self.ask(0, units=1)
            self.announce()
            self.store()
            self.a_completion_never_changes_and_is_in_storage()
            if self.next_step == self.plan.total_steps and all(b.is_complete for b in self.state.evals.values()):
                break
            self.wait(7.0, ledger_stopped=False)
        assert self.next_step == self.commits == self.plan.total_steps
        for version in (0, 2, 3):
            for unit in self.plan.units(EVAL, version):
                assert unit.unit_id in self.won, "an evaluation was lost"


OLDEST = weights_of(0, incarnation=-1, digest="none", stored=False)

TestWeightHistories = WeightHistory.TestCase
TestWeightHistories.settings = settings(max_examples=80, stateful_step_count=50)
