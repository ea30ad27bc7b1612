"""A state is never changed, only replaced: whoever holds one may read it, in any thread, for as long as they like.

What the ledger knows, as one value, and the questions that can be asked of it. ``State`` is changed only by the pure
functions of this package, each ``(state, event, now) -> state'`` or ``-> (state', reply)``; ``service`` holds the
current one, ``recovery`` builds the first one. ``now`` is Unix seconds from a clock that never jumps
(``service.steady_clock``). Mappings inside are never modified in place.

The life of a unit::

    free ──lease──> held ──complete──> done
      ^              │  ^                ^
      │           expired └─heartbeat─┐  │ a shard of it is found
      └──nothing found── suspect ─────┴──┘

A *suspect* unit's lease has expired, but it is not handed out before storage was searched: a rollout that died between
writing its shard and telling the ledger has lost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rz_api.learning import Streak
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.messages import (
    Canary,
    Lease,
    Proof,
    ReceiverState,
    ShardRef,
    TransferOrder,
    TransferReply,
    TransferRequest,
    WeightsInfo,
)
from rz_workers.protocol.schedule import EVAL, TRAIN, Unit, eval_units, is_eval_version, train_units
from rz_workers.storage.records import StepManifest, UnitTimes

Kind = Literal["train", "eval"]


class RefusedError(ValueError):
    """The request contradicts the run; the caller is told why (HTTP 422) and must not repeat it."""


class UnknownError(LookupError):
    """The run has no such thing (HTTP 404)."""


class EarlyError(Exception):
    """A restarted ledger has not heard enough yet to answer (HTTP 503): the caller repeats the request."""


@dataclass(frozen=True)
class Plan:
    """What is fixed for the run: the spec and what the prepared data says."""

    run_name: str
    spec: ReasonerZeroRunSpec
    num_prompts: int
    """Rows of the training prompt table."""
    eval_sets: Mapping[str, int]
    """Evaluation set -> problems, in the order of ``spec.data.eval``."""
    total_steps: int

    @property
    def lease_seconds(self) -> float:
        return self.spec.rollout.lease_seconds

    @property
    def max_staleness(self) -> int:
        return self.spec.algorithm.max_staleness

    def is_evaluated(self, version: int) -> bool:
        return is_eval_version(self.spec, version, self.total_steps) and version <= self.total_steps

    def units(self, kind: Kind, number: int) -> list[Unit]:
        """The units of training step ``number``, or of the evaluation of weight version ``number``, in canonical
        order."""
        if kind == TRAIN:
            return train_units(self.spec, self.num_prompts, number)
        return [unit for name, rows in self.eval_sets.items() for unit in eval_units(self.spec, number, name, rows)]


@dataclass(frozen=True)
class Held:
    """A live lease."""

    lease: Lease
    rollout_id: str
    since: float
    expires: float


@dataclass(frozen=True)
class Entry:
    """One unit and what became of it so far; at most one of ``held``, ``suspect``, ``shard`` is set."""

    unit: Unit
    attempts: int = 0
    """Highest attempt number ever issued, adopted or seen in storage."""
    held: Held | None = None
    suspect: bool = False
    shard: ShardRef | None = None
    times: UnitTimes | None = None
    """When the shard's rollout had the unit, if it held the lease to the end."""

    @property
    def is_free(self) -> bool:
        return self.shard is None and self.held is None and not self.suspect


@dataclass(frozen=True)
class Batch:
    """All units of a training step or of the evaluation of a weight version."""

    kind: Kind
    number: int
    """Step, or weight version."""
    entries: Mapping[str, Entry]
    """unit_id -> entry, in canonical order."""
    started: float | None = None
    """First lease; of a batch that a restarted ledger found begun, when it found it."""
    last_completion: float | None = None

    @staticmethod
    def of(plan: Plan, kind: Kind, number: int) -> Batch:
        return Batch(kind, number, {unit.unit_id: Entry(unit) for unit in plan.units(kind, number)})

    def with_entry(self, entry: Entry) -> Batch:
        return replace(self, entries={**self.entries, entry.unit.unit_id: entry})

    @property
    def done(self) -> int:
        return sum(entry.shard is not None for entry in self.entries.values())

    @property
    def leased(self) -> int:
        return sum(entry.held is not None for entry in self.entries.values())

    @property
    def is_complete(self) -> bool:
        return all(entry.shard is not None for entry in self.entries.values())

    @property
    def is_handed_out(self) -> bool:
        """Whether every unit is leased or done."""
        return all(entry.shard is not None or entry.held is not None for entry in self.entries.values())

    def shards(self) -> tuple[ShardRef, ...]:
        """Of a complete batch, in canonical order."""
        shards = tuple(entry.shard for entry in self.entries.values() if entry.shard is not None)
        assert len(shards) == len(self.entries), f"{self.kind} {self.number} is not complete"
        return shards


@dataclass(frozen=True)
class RolloutSeen:
    """The last word of a rollout process, and what it was told."""

    weight_version: int | None
    tokens_generated: int
    seen: float
    digest: str | None = None
    """Of the weights that its engine holds, as it said with its last request for leases."""
    receiver: ReceiverState | None = None
    proof: Proof | None = None
    """None also when it was found to disagree, until it is reported again."""
    proven: float = 0.0
    """When ``proof`` was first reported."""
    asleep: bool = False
    """Awake from the moment at which it is given something to do."""
    proving: str | None = None
    """Digest of the weights that it was last told to prove."""
    reloaded: str | None = None
    """Digest of the weights that it was last told to load in full."""
    is_replaced: bool = False
    """Whether it was told to end."""
    reward_trouble: str | None = None
    """Why it has been waiting for verdicts for long."""


@dataclass(frozen=True)
class Transfer:
    """A broadcast that is open."""

    request: TransferRequest
    reply: TransferReply
    orders: Mapping[str, TransferOrder]
    """Rollout -> order, for those that did not get theirs yet."""

    @property
    def version(self) -> int:
        return self.request.version


@dataclass(frozen=True)
class Counters:
    """Since this ledger process started."""

    issued: int = 0
    adopted: int = 0
    expired: int = 0
    completed: int = 0
    duplicates: int = 0
    """Completions that came second."""
    found: int = 0
    """Shards found in storage that no completion had told of."""
    proofs_failed: int = 0
    """Proofs that were not those of the rollout's peers, each of which the rollout was told of."""


@dataclass(frozen=True)
class State:
    """Everything the ledger knows about a run that has begun (weights of some version are published)."""

    plan: Plan
    weights: Mapping[int, WeightsInfo] = field(default_factory=dict)
    """Version -> newest incarnation's publication."""
    canaries: Mapping[int, Canary] = field(default_factory=dict)
    """Version -> its canary, for the versions that may still be sampled with."""
    transfer: Transfer | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    """Groups of the last broadcast -> index of the rank that sends to it."""
    train: Mapping[int, Batch] = field(default_factory=dict)
    """Open steps: not frozen yet, and within the staleness that the newest weights allow."""
    evals: Mapping[int, Batch] = field(default_factory=dict)
    """Open evaluations by version, and the newest few finished ones."""
    frozen: Mapping[int, StepManifest] = field(default_factory=dict)
    """Manifests of frozen steps that the trainer may still want soon; older ones are in storage."""
    next_frozen: int = 0
    """All steps below are frozen."""
    committed: int = 0
    """Steps that the trainer has committed: all below."""
    incarnation: int = 0
    """Newest trainer gang seen."""
    adopting_until: float | None = None
    """While set, leases of a former ledger process are adopted from heartbeats and none is issued."""
    draining: bool = False
    finished: bool = False
    ticked: float = 0.0
    """Last tick: when it is long ago, this process itself was stopped and no lease is to blame."""
    rollouts: Mapping[str, RolloutSeen] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the newest committed step."""
    metrics_step: int = -1
    fruitless: Streak = field(default_factory=Streak)
    """Of the committed steps up to the newest one."""
    step_seconds: tuple[float, ...] = ()
    """``seconds_step`` of the last commits."""
    accuracy: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Evaluation set -> (version, mean reward) of its newest complete evaluation."""
    checkpoint_step: int | None = None
    progressed: float = 0.0
    """Last completion, publication, freeze or commit."""
    storage_trouble: str | None = None
    """The error that storage answers with just now."""
    counters: Counters = Counters()

    # ------------------------------------------------------------------------------------------- questions

    @property
    def version(self) -> int | None:
        """Newest published version."""
        return max(self.weights, default=None)

    def batch(self, kind: Kind, number: int) -> Batch | None:
        return (self.train if kind == TRAIN else self.evals).get(number)

    def entry(self, unit: Unit) -> Entry | None:
        """The open entry of exactly this unit; None when it is closed, not open yet, or not of this run."""
        batch = self.batch(unit.kind, unit.step)
        entry = None if batch is None else batch.entries.get(unit.unit_id)
        # An id says neither which prompts nor how many samples: a unit of other data or sizes may have the same.
        return entry if entry is not None and entry.unit == unit else None

    def recorded(self, unit: Unit) -> ShardRef | None:
        """The completion that won, as far as it is remembered here."""
        if entry := self.entry(unit):
            return entry.shard
        manifest = self.frozen.get(unit.step) if unit.kind == TRAIN else None
        return next((shard for shard in manifest.shards if shard.unit == unit), None) if manifest else None

    def is_closed(self, kind: Kind, number: int) -> bool:
        """Whether the batch was complete before: nothing of it is wanted any more."""
        if kind == TRAIN:
            return number < self.next_frozen
        version = self.version
        return version is not None and 0 <= number <= version and self.plan.is_evaluated(number)

    def weights_for(self, kind: Kind, number: int) -> WeightsInfo | None:
        """What a unit is sampled with now: for evaluation its version, for step s the newest published version that is
        not above s and at most ``maxStaleness`` below; None when that is not published."""
        if kind == EVAL:
            return self.weights.get(number)
        version = self.version
        if version is None or version < number - self.plan.max_staleness:
            return None
        return self.weights.get(min(version, number))

    def allows_version(self, unit: Unit, weight_version: int) -> bool:
        """Whether a shard of ``unit`` may have been sampled with that version."""
        oldest = unit.step if unit.kind == EVAL else unit.step - self.plan.max_staleness
        return max(oldest, 0) <= weight_version <= unit.step

    def live_rollouts(self) -> dict[str, RolloutSeen]:
        """Those that were heard of within one lease interval, by id. Time passes with ticks alone: while this process
        is stopped nobody falls silent."""
        oldest = self.ticked - self.plan.lease_seconds
        return {rollout_id: seen for rollout_id, seen in sorted(self.rollouts.items()) if seen.seen >= oldest}

    def open_batches(self) -> Iterator[Batch]:
        yield from self.train.values()
        yield from self.evals.values()

    # --------------------------------------------------------------------------------------------- changes

    def with_batch(self, batch: Batch) -> State:
        if batch.kind == TRAIN:
            return replace(self, train={**self.train, batch.number: batch})
        return replace(self, evals={**self.evals, batch.number: batch})

    def with_entry(self, entry: Entry) -> State:
        batch = self.batch(entry.unit.kind, entry.unit.step)
        assert batch is not None
        return self.with_batch(batch.with_entry(entry))

    def with_rollout(self, rollout_id: str, seen: RolloutSeen) -> State:
        return replace(self, rollouts={**self.rollouts, rollout_id: seen})

    def counting(self, **increments: int) -> State:
        counters = {name: getattr(self.counters, name) + by for name, by in increments.items()}
        return replace(self, counters=replace(self.counters, **counters))


def wanted_steps(state: State) -> Iterable[int]:
    """Training steps that should be open: from the first that is not frozen to what the newest weights allow."""
    version = state.version
    if version is None:
        return ()
    return range(state.next_frozen, min(version + state.plan.max_staleness + 1, state.plan.total_steps))
