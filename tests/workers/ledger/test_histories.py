"""Random histories: whatever happens in whatever order, no unit is lost, none is completed twice, no live lease is
handed out a second time, and the run finishes. ``test_weight_histories`` has the same with broadcasts and turns."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger_builders import LEASE_SECONDS, plan_of, shard_of, weights_of

from rz_workers.ledger import leasing, progress
from rz_workers.ledger.state import State
from rz_workers.protocol.messages import (
    Completion,
    Heartbeat,
    Lease,
    LeaseReply,
    LeaseRequest,
    ShardRef,
    StepReport,
    WeightsInfo,
)
from rz_workers.protocol.schedule import EVAL, Unit
from rz_workers.storage.records import StepManifest

ROLLOUTS = st.integers(0, 3)


@dataclass
class Rollout:
    """A rollout process: what it holds, and shards that it wrote and has not told of."""

    name: str
    holds: int | None = None
    leases: dict[str, Lease] = field(default_factory=dict)
    untold: list[tuple[Lease, ShardRef]] = field(default_factory=list)


class History(RuleBasedStateMachine):
    """The ledger's pure functions against a model of storage, rollouts and a trainer."""

    @initialize(max_staleness=st.integers(0, 1))
    def begin(self, max_staleness: int) -> None:
        self.plan = plan_of(max_staleness)
        self.now, self.births = 0.0, 4
        self.rollouts = [Rollout(f"r{i}") for i in range(4)]
        self.shards: dict[str, list[ShardRef]] = {}
        self.manifests: dict[int, StepManifest] = {}
        self.commits = 0
        self.published = 0
        self.valid_until: dict[str, tuple[str, float]] = {}
        self.won: dict[str, ShardRef] = {}
        self.unsearched: set[str] = set()
        self.state = progress.weights_published(State(self.plan), weights_of(0), self.now)

    # ------------------------------------------------------------------------------------------ rollouts

    @rule(who=ROLLOUTS, units=st.integers(1, 3))
    def ask(self, who: int, units: int) -> None:
        rollout = self.rollouts[who]
        self.state, reply = leasing.lease(self.state, self.request_of(rollout, units), self.now)
        self.obey(who, reply)
        assert len(reply.leases) <= units
        assert len({lease.weights.version for lease in reply.leases}) <= 1
        for lease in reply.leases:
            unit = lease.unit
            assert self.state.allows_version(unit, lease.weights.version)
            assert not self.held_by_others(lease), "a live lease was handed out"
            assert unit.unit_id not in self.won, "a unit that is done was handed out"
            assert unit.unit_id not in self.unsearched, "handed out again without a look into storage"
            self.unsearched.add(unit.unit_id)
            rollout.leases[lease.lease_id] = lease
            self.load(rollout, lease.weights)
            self.valid_until[lease.lease_id] = (unit.unit_id, self.now + LEASE_SECONDS)

    def request_of(self, rollout: Rollout, units: int) -> LeaseRequest:
        return LeaseRequest(rollout_id=rollout.name, weight_version=rollout.holds, max_units=units)

    def obey(self, who: int, reply: LeaseReply) -> None:
        assert reply == LeaseReply(leases=reply.leases), "there was nothing to order"

    def load(self, rollout: Rollout, weights: WeightsInfo) -> None:
        rollout.holds = weights.version

    def held_by_others(self, lease: Lease) -> bool:
        return any(
            unit_id == lease.unit.unit_id and until > self.now
            for lease_id, (unit_id, until) in self.valid_until.items()
            if lease_id != lease.lease_id
        )

    def give_way(self, lease: Lease) -> None:
        """While adopting, the ledger lets a higher attempt have the unit; who held it learns that later."""
        for rollout in self.rollouts:
            for other in rollout.leases.values():
                if other.unit == lease.unit and other.attempt < lease.attempt:
                    self.valid_until.pop(other.lease_id, None)

    @rule(who=ROLLOUTS)
    def beat(self, who: int) -> None:
        rollout = self.rollouts[who]
        beat = Heartbeat(rollout_id=rollout.name, weight_version=rollout.holds, leases=tuple(rollout.leases.values()))
        self.state, reply = leasing.heartbeat(self.state, beat, self.now)
        for lease_id, lease in list(rollout.leases.items()):
            if lease_id in reply.lost:
                del rollout.leases[lease_id]
                self.valid_until.pop(lease_id, None)
            else:
                if self.state.adopting_until is None:
                    assert not self.held_by_others(lease), "a heartbeat took a live lease away"
                self.give_way(lease)
                self.valid_until[lease_id] = (lease.unit.unit_id, self.now + LEASE_SECONDS)

    @rule(who=ROLLOUTS)
    def write(self, who: int) -> None:
        """Finish the oldest lease's unit: store the shard, tell nobody yet."""
        rollout = self.rollouts[who]
        if rollout.leases:
            lease = rollout.leases.pop(next(iter(rollout.leases)))
            stored = self.shards.setdefault(lease.unit.unit_id, [])
            if all(shard.attempt != lease.attempt for shard in stored):
                stored.append(shard_of(lease.unit, lease.attempt, lease.weights.version))
                rollout.untold.append((lease, stored[-1]))

    @rule(who=ROLLOUTS, again=st.booleans())
    def tell(self, who: int, again: bool) -> None:
        rollout = self.rollouts[who]
        if rollout.untold:
            lease, shard = rollout.untold.pop(0)
            completion = Completion(rollout_id=rollout.name, lease_id=lease.lease_id, shard=shard)
            before = self.state.recorded(lease.unit)
            self.state, reply = leasing.complete(self.state, completion, self.now)
            if before is not None:
                assert reply.accepted == (before == shard), "the first completion wins"
            self.valid_until.pop(lease.lease_id, None)
            if again:  # the reply was lost
                self.state, repeated = leasing.complete(self.state, completion, self.now)
                assert repeated == reply

    @rule(who=ROLLOUTS)
    def die(self, who: int) -> None:
        """kill -9; another process takes its place."""
        self.rollouts[who] = Rollout(f"r{self.births}")
        self.births += 1

    @rule(frozen=ROLLOUTS, other=ROLLOUTS, first=st.booleans())
    def freeze_past_the_lease(self, frozen: int, other: int, first: bool) -> None:
        """SIGSTOP until the unit is handed out again; both rollouts finish it, and one of them tells first."""
        self.ask(frozen, units=1)
        self.wait(45.0, ledger_stopped=False)
        self.search()
        self.ask(other, units=1)
        for who in (frozen, other) if first else (other, frozen):
            self.write(who)
            self.tell(who, again=False)

    # --------------------------------------------------------------------------------- ledger and trainer

    @rule(seconds=st.sampled_from([1.0, 7.0, 12.0, 45.0]), ledger_stopped=st.booleans())
    def wait(self, seconds: float, ledger_stopped: bool) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = until if ledger_stopped else min(self.now + 1.0, until)
            self.state = leasing.tick(self.state, self.now)

    @rule()
    def search(self) -> None:
        for unit in leasing.suspects(self.state):
            self.unsearched.discard(unit.unit_id)
            self.state = leasing.found(self.state, unit, tuple(self.shards.get(unit.unit_id, ())), self.now)

    @rule()
    def freeze(self) -> None:
        manifest = progress.step_to_freeze(self.state, self.now)
        if manifest is not None:
            assert [shard.unit for shard in manifest.shards] == self.plan.units("train", manifest.step)
            stored = self.manifests.setdefault(manifest.step, manifest)
            self.state = progress.frozen(self.state, stored, self.now)

    @rule()
    def train(self) -> None:
        if self.commits < self.plan.total_steps and self.commits in self.manifests:
            step = self.commits
            report = StepReport(step=step, incarnation=1, weight_version=step + 1, metrics={})
            self.published = self.commits = step + 1
            self.state = progress.weights_published(self.state, weights_of(step + 1), self.now)
            self.state = progress.committed(self.state, report, self.now)

    @rule()
    def restart(self) -> None:
        """A new ledger process: what ``recovery`` does, from the model's storage."""
        state = State(
            self.plan,
            weights={version: weights_of(version) for version in range(self.published + 1)},
            committed=self.commits,
            next_frozen=len(self.manifests),
            frozen=dict(self.manifests),
            ticked=self.now,
            adopting_until=self.now + LEASE_SECONDS,
        )
        state = progress.open_steps(progress.open_evaluations(state, range(self.published + 1)))
        for batch in list(state.open_batches()):
            for entry in batch.entries.values():
                if stored := self.shards.get(entry.unit.unit_id):
                    state = leasing.found(state, entry.unit, tuple(stored), self.now)
        self.state = state
        self.unsearched.clear()
        self.won = {
            unit_id: shard
            for unit_id, shard in self.won.items()
            if shard.unit.kind == "train" and shard.unit.step in self.manifests
        }  # what was not frozen may be chosen anew, among stored shards

    # ----------------------------------------------------------------------------------------- what holds

    @invariant()
    def a_completion_never_changes_and_is_in_storage(self) -> None:
        if not hasattr(self, "plan"):
            return
        for unit in self._units():
            shard = self.state.recorded(unit)
            if shard is not None:
                assert shard in self.shards[unit.unit_id]
                assert self.won.setdefault(unit.unit_id, shard) == shard
            elif unit.unit_id in self.won:
                assert self.state.is_closed(unit.kind, unit.step), "a completed unit was lost"

    def _units(self) -> list[Unit]:
        trained = [u for step in range(self.plan.total_steps) for u in self.plan.units("train", step)]
        evaluated = [
            u for v in range(self.published + 1) if self.plan.is_evaluated(v) for u in self.plan.units("eval", v)
        ]
        return trained + evaluated

    def teardown(self) -> None:
        """From wherever the history ended, one healthy rollout finishes the run."""
        if not hasattr(self, "plan"):
            return
        self.die(0)
        for _ in range(200):
            self.ask(0, units=2)
            self.beat(0)
            for _ in range(2):
                self.write(0)
                self.tell(0, again=False)
            self.search()
            self.freeze()
            self.train()
            self.a_completion_never_changes_and_is_in_storage()
            if self.commits == self.plan.total_steps and all(b.is_complete for b in self.state.evals.values()):
                break
            self.wait(7.0, ledger_stopped=False)
        assert self.commits == self.plan.total_steps
        assert set(self.manifests) == set(range(self.plan.total_steps))
        for version in (0, 2, 3):
            for unit in self.plan.units(EVAL, version):
                assert unit.unit_id in self.won, "an evaluation was lost"


TestHistories = History.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=50)
