"""A unit has at most one live lease, and the first completion of it that is recorded is the one that counts.

Leases, heartbeats, completions and expiry, as pure functions of (state, event, now). Called by ``service`` alone. The
order in which units are handed out is in ``candidates``; the rules that lose no finished work are in ``complete`` and
``found``.

Example: a step of one unit, and a rollout that falls silent for longer than its lease.

>>> from rz_api.spec import ReasonerZeroRunSpec
>>> from rz_workers.ledger.state import Plan
>>> sizes = {"totalSteps": 1, "promptsPerStep": 1, "samplesPerPrompt": 4}
>>> fields = {"model": {"name": "m"}, "data": {"train": [{"uri": "d.jsonl"}]}, "storage": {"uri": "runs/x"}}
>>> spec = ReasonerZeroRunSpec.model_validate(fields | {"algorithm": sizes, "rollout": {"leaseSeconds": 30}})
>>> version_0 = WeightsInfo(version=0, digest="d", incarnation=1, prefix="weights/v000000-i1")
>>> state = weights_published(State(Plan("tiny", spec, 1, {}, total_steps=1), ticked=0.0), version_0, now=0.0)
>>> state, reply = lease(state, LeaseRequest(rollout_id="r0", weight_version=0), now=0.0)
>>> first = reply.leases[0]
>>> first.unit.shard_key(first.attempt)
'trajectories/step-000000/group-000000-u0-a1.parquet'

30 seconds without a heartbeat. Its shard may be stored all the same, so that storage is searched before anybody else
gets the unit; nothing is there, and ``r1`` gets it as attempt 2:

>>> for seconds in range(1, 31):
...     state = tick(state, float(seconds))
>>> assert suspects(state) == [first.unit]
>>> assert lease(state, LeaseRequest(rollout_id="r1", weight_version=0), now=30.0)[1].leases == ()
>>> state = found(state, first.unit, (), now=30.0)
>>> state, reply = lease(state, LeaseRequest(rollout_id="r1", weight_version=0), now=30.0)
>>> second = reply.leases[0]
>>> second.attempt
2

But ``r0`` was only frozen, and its shard arrives. Finished work is never thrown away: it counts, and ``r1`` is told:

>>> def completion(rollout_id, of):
...     key = of.unit.shard_key(of.attempt)
...     shard = ShardRef(unit=of.unit, attempt=of.attempt, key=key, sha256=key, size_bytes=9, rows=4, weight_version=0)
...     return Completion(rollout_id=rollout_id, lease_id=of.lease_id, shard=shard)
>>> state, reply = complete(state, completion("r0", first), now=31.0)
>>> assert reply.accepted
>>> state, told = heartbeat(state, Heartbeat(rollout_id="r1", weight_version=0, leases=(second,)), now=32.0)
>>> assert told.lost == (second.lease_id,)
>>> state, reply = complete(state, completion("r1", second), now=33.0)
>>> reply.accepted, state.counters.expired, state.counters.duplicates
(False, 1, 1)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rz_workers.ledger import proofs, transfers, turns
from rz_workers.ledger.progress import settle_evaluation, weights_published
from rz_workers.ledger.state import Batch, EarlyError, Entry, Held, RefusedError, RolloutSeen, State
from rz_workers.protocol.messages import (
    Completion,
    CompletionReply,
    Heartbeat,
    HeartbeatReply,
    Lease,
    LeaseReply,
    LeaseRequest,
    ShardRef,
    WeightsInfo,
)
from rz_workers.protocol.schedule import EVAL, TRAIN, Unit
from rz_workers.storage.records import UnitTimes

PAUSE_SHARE = 1 / 3
"""Ticks further apart than this share of a lease mean that the ledger itself was stopped: expiry waits for as long."""


# --------------------------------------------------------------------------------------------------------- leases


def candidates(state: State, holds: int | None, digest: str | None = None) -> Iterator[tuple[Entry, WeightsInfo]]:
    """Free units in the order in which a rollout whose engine holds version ``holds`` should get them. Weights that
    are not in storage are only for those that hold them: this version, with this ``digest`` (a step without an update
    gives two versions one digest).

    1. training units of steps up to ``holds``,
    2. evaluation of ``holds``, before the rollout moves on to newer weights,
    3. training units of later steps,
    4. evaluation of newer versions, oldest first (the rollout would load newer weights anyway),
    5. evaluation of older versions, oldest first: only where nothing else is left.

    Within training, a step's units come before the next step's. The evaluation of version v waits until all of step v
    is handed out, so that it fills the tail of the step and never delays it.
    """
    held = -1 if holds is None else holds
    steps = sorted(state.train)
    evals = [v for v in sorted(state.evals) if v not in state.train or state.train[v].is_handed_out]
    order: list[Batch] = [state.train[step] for step in steps if step <= held]
    order += [state.evals[v] for v in evals if v == held]
    order += [state.train[step] for step in steps if step > held]
    order += [state.evals[v] for v in evals if v > held]
    order += [state.evals[v] for v in evals if v < held]
    for batch in order:
        weights = state.weights_for(batch.kind, batch.number)
        if weights is not None and (weights.stored or (weights.version, weights.digest) == (holds, digest)):
            yield from ((entry, weights) for entry in batch.entries.values() if entry.is_free)


def lease(state: State, request: LeaseRequest, now: float, received: float | None = None) -> tuple[State, LeaseReply]:
    """Hand out up to ``max_units`` units, all for the same weight version (an engine holds one at a time); none while
    leases of a former ledger are being adopted, while draining, and once finished.

    Before that comes what the rollout has to do about its weights: receive a broadcast that is under way, load them in
    full because its peers disagree, prove them. And where it shares its device, it sleeps when it is the trainer's
    turn.

    ``received`` is when the request came, if it was held since: a rollout that is frozen meanwhile shows no life.
    """
    state = asked(state, request, now if received is None else received)
    # Before all else, also while draining: the sender waits for everyone whom it was promised.
    state, order = transfers.take_order(state, request.rollout_id)
    if order is not None:
        return state, LeaseReply(receive=order)
    if state.finished or state.draining:
        return state, LeaseReply(finished=state.finished, draining=state.draining)
    if state.adopting_until is not None:
        return state, LeaseReply()
    if transfers.holds_what_is_sent(state, request):
        return state, LeaseReply()
    if turns.is_shared(state) and turns.turn(state) == "trainer":
        return state, LeaseReply(sleep=not request.asleep)
    state, verdict = proofs.judge(state, request)
    if verdict is not None:
        return state, verdict
    chosen: list[tuple[Entry, WeightsInfo]] = []
    for entry, weights in candidates(state, request.weight_version, request.weights_digest):
        if len(chosen) >= request.max_units or (chosen and weights.version != chosen[0][1].version):
            break
        chosen.append((entry, weights))
    if chosen:
        state = state.with_rollout(request.rollout_id, replace(state.rollouts[request.rollout_id], asleep=False))
    if chosen and proofs.to_prove(state, request, chosen[0][1]):
        told = replace(state.rollouts[request.rollout_id], proving=chosen[0][1].digest)
        return state.with_rollout(request.rollout_id, told), LeaseReply(prove=chosen[0][1])
    leases = tuple(_lease_of(state, entry, weights, request.rollout_id) for entry, weights in chosen)
    for issued in leases:
        state = _hold(state, issued, request.rollout_id, now)
    return state.counting(issued=len(leases)), LeaseReply(leases=leases)


def _lease_of(state: State, entry: Entry, weights: WeightsInfo, rollout_id: str) -> Lease:
    attempt = entry.attempts + 1
    return Lease(
        lease_id=f"{entry.unit.unit_id}-a{attempt}-{rollout_id}",
        unit=entry.unit,
        attempt=attempt,
        weights=weights,
        seconds=state.plan.lease_seconds,
    )


def heartbeat(state: State, beat: Heartbeat, now: float) -> tuple[State, HeartbeatReply]:
    """Renew what the rollout holds.

    A lease that this process did not issue, or that expired, is adopted if its unit is open, nobody else holds it and
    its weights are right: the work is under way, and no copy is. Lost are leases of units that another rollout holds or
    that another shard has completed. After a restart two rollouts may claim one unit, because the older lease had
    expired before: the higher attempt is the one that was valid.

    A lease also tells a restarted ledger of weights that are not in storage yet.
    """
    state = heard(state, beat, now)
    lost = []
    for claimed in beat.leases:
        # The bound: `weights_published` refuses a version beyond the run, and a heartbeat is never refused.
        if state.adopting_until is not None and claimed.weights.version <= state.plan.total_steps:
            state = weights_published(state, claimed.weights, now)
        entry = state.entry(claimed.unit)
        if entry is None or entry.shard is not None:
            # The rollout's own completion may have overtaken this beat: that lease is done, not lost.
            winner = state.recorded(claimed.unit)
            if winner is None or winner.attempt != claimed.attempt:
                lost.append(claimed.lease_id)
        elif entry.held is not None and entry.held.lease.lease_id == claimed.lease_id:
            held = replace(entry.held, expires=now + state.plan.lease_seconds)
            state = state.with_entry(replace(entry, held=held))
        elif _may_adopt(state, entry, claimed) and state.allows_version(claimed.unit, claimed.weights.version):
            state = _hold(state, claimed, beat.rollout_id, now).counting(adopted=1)
        else:
            lost.append(claimed.lease_id)
    return state, HeartbeatReply(lost=tuple(lost), finished=state.finished, draining=state.draining)


def _may_adopt(state: State, entry: Entry, claimed: Lease) -> bool:
    """Only while adopting does a lease give way to another: then both were issued by the former ledger."""
    if entry.held is None:
        return True
    return state.adopting_until is not None and claimed.attempt > entry.held.lease.attempt


def asked(state: State, request: LeaseRequest, now: float) -> State:
    """Note what a rollout says of itself when it asks for leases."""
    before = state.rollouts.get(request.rollout_id) or RolloutSeen(None, 0, now)
    rollout = replace(
        before,
        weight_version=request.weight_version,
        # `now` may be the moment at which a held request came, and a heartbeat was heard since.
        seen=max(before.seen, now),
        digest=request.weights_digest,
        receiver=request.receiver,
        proof=request.proof,
        proven=before.proven if before.proof == request.proof else now,
        asleep=request.asleep,
    )
    return state.with_rollout(request.rollout_id, rollout)


def heard(state: State, beat: Heartbeat, now: float) -> State:
    """Note a rollout's sign of life.

    A heartbeat may be older than the rollout's last request, or than what that was answered, so it does not say that
    a rollout sleeps which is known to be awake, nor the reverse: only a restarted ledger has nothing better.
    """
    before = state.rollouts.get(beat.rollout_id)
    asleep = beat.asleep
    if before is not None:
        asleep = before.asleep and (beat.asleep or state.adopting_until is None)
    rollout = replace(
        before or RolloutSeen(None, 0, now),
        weight_version=beat.weight_version,
        tokens_generated=beat.tokens_generated,
        asleep=asleep,
        seen=now,
        reward_trouble=beat.reward_trouble,
    )
    return state.with_rollout(beat.rollout_id, rollout)


def _hold(state: State, lease: Lease, rollout_id: str, now: float) -> State:
    entry = state.entry(lease.unit)
    assert entry is not None
    held = Held(lease, rollout_id, now, now + state.plan.lease_seconds)
    state = state.with_entry(replace(entry, held=held, suspect=False, attempts=max(entry.attempts, lease.attempt)))
    batch = state.batch(lease.unit.kind, lease.unit.step)
    assert batch is not None
    return state if batch.started is not None else state.with_batch(replace(batch, started=now))


# ----------------------------------------------------------------------------------------------------- completions


def complete(state: State, completion: Completion, now: float) -> tuple[State, CompletionReply]:
    """Record a stored shard; the first of its unit wins.

    Whether the lease is still valid does not matter: finished work is never thrown away. The same shard again is
    accepted again (the reply may have been lost).

    Raises RefusedError when the unit is not of this run or not open yet, the weights were wrong, or the shard is not
    what the unit's attempt would be; EarlyError when it is not open as far as a restarted ledger knows.
    """
    shard, unit = completion.shard, completion.shard.unit
    entry = state.entry(unit)
    if entry is None:
        batch = state.batch(unit.kind, unit.step)
        is_closed = state.is_closed(unit.kind, unit.step)
        if batch is None and not is_closed and state.adopting_until is not None:
            raise EarlyError(f"unit {unit.unit_id} is not open as far as this ledger knows, which has just started")
        if batch is not None or not is_closed:
            raise RefusedError(
                f"unit {unit.unit_id} of rollout {completion.rollout_id} is not one of this run that may be sampled; "
                f"open are steps {sorted(state.train)} and evaluations {sorted(state.evals)}"
            )
        winner = state.recorded(unit)
        return state.counting(duplicates=1), CompletionReply(accepted=_same(winner, shard))
    _check(state, shard)
    if entry.shard is not None:
        accepted = _same(entry.shard, shard)
        return state.counting(duplicates=0 if accepted else 1), CompletionReply(accepted=accepted)
    # Times only where the lease lasted to the end: a late shard was sampled in a lease that is forgotten.
    held = entry.held
    if held is not None and held.rollout_id == completion.rollout_id:
        times = UnitTimes(unit_id=unit.unit_id, rollout_id=held.rollout_id, leased=held.since, completed=now)
        entry = replace(entry, times=times)
    return _record(state, entry, shard, now).counting(completed=1), CompletionReply(accepted=True)


def found(state: State, unit: Unit, shards: tuple[ShardRef, ...], now: float) -> State:
    """What storage holds of a suspect unit: its lowest usable attempt completes the unit, and attempt numbers go on
    above all of them; without one the unit is free again."""
    entry = state.entry(unit)
    if entry is None or entry.shard is not None:
        return state
    entry = replace(entry, attempts=max([entry.attempts, *(shard.attempt for shard in shards)]))
    for shard in sorted(shards, key=lambda shard: shard.attempt):
        if state.allows_version(unit, shard.weight_version) and shard.rows == unit.num_rows:
            return _record(state, entry, shard, now).counting(found=1)
    return state.with_entry(replace(entry, suspect=False))


def _record(state: State, entry: Entry, shard: ShardRef, now: float) -> State:
    attempts = max(entry.attempts, shard.attempt)
    state = state.with_entry(replace(entry, shard=shard, held=None, suspect=False, attempts=attempts))
    batch = state.batch(entry.unit.kind, entry.unit.step)
    assert batch is not None
    started = now if batch.started is None else batch.started
    state = replace(state.with_batch(replace(batch, started=started, last_completion=now)), progressed=now)
    return settle_evaluation(state, batch.number) if batch.kind == EVAL else state


def _check(state: State, shard: ShardRef) -> None:
    unit = shard.unit
    if not state.allows_version(unit, shard.weight_version):
        staleness = f" (or at most {state.plan.max_staleness} below)" if unit.kind == TRAIN else ""
        raise RefusedError(
            f"shard {shard.key} was sampled with weight version {shard.weight_version}; "
            f"unit {unit.unit_id} requires version {unit.step}{staleness}"
        )
    if shard.rows != unit.num_rows or shard.key != unit.shard_key(shard.attempt):
        raise RefusedError(
            f"shard {shard.key} has {shard.rows} rows; attempt {shard.attempt} of unit {unit.unit_id} is "
            f"{unit.shard_key(shard.attempt)} with {unit.num_rows} rows"
        )


def _same(winner: ShardRef | None, shard: ShardRef) -> bool:
    return winner is not None and (winner.key, winner.sha256) == (shard.key, shard.sha256)


# ----------------------------------------------------------------------------------------------------------- time


def tick(state: State, now: float) -> State:
    """Let time pass: expire leases, end the adoption.

    Expiry happens here and nowhere else. If this process was itself stopped (frozen, starved), heartbeats could not be
    heard, so every deadline moves by as long.
    """
    pause = now - state.ticked
    state = replace(state, ticked=now)
    if pause > state.plan.lease_seconds * PAUSE_SHARE:
        # Before any deadline is looked at: heartbeats that came meanwhile are still in the socket.
        state = _postpone(state, pause)
    for batch in list(state.open_batches()):
        for entry in batch.entries.values():
            if entry.held is not None and entry.held.expires <= now:
                state = state.with_entry(replace(entry, held=None, suspect=True)).counting(expired=1)
    if state.adopting_until is not None and now >= state.adopting_until:
        state = _suspect_what_nobody_claimed(replace(state, adopting_until=None))
    return state


def _suspect_what_nobody_claimed(state: State) -> State:
    """After the adoption: a rollout may have stored its shard after storage was listed, and died before it told."""
    for batch in list(state.open_batches()):
        for entry in batch.entries.values():
            if entry.is_free:
                state = state.with_entry(replace(entry, suspect=True))
    return state


def suspects(state: State) -> list[Unit]:
    """Units that storage must be searched for."""
    return [entry.unit for batch in state.open_batches() for entry in batch.entries.values() if entry.suspect]


def _postpone(state: State, seconds: float) -> State:
    for batch in list(state.open_batches()):
        for entry in batch.entries.values():
            if entry.held is not None:
                held = replace(entry.held, expires=entry.held.expires + seconds)
                state = state.with_entry(replace(entry, held=held))
    if state.adopting_until is not None:
        state = replace(state, adopting_until=state.adopting_until + seconds)
    rollouts = {name: replace(rollout, seen=rollout.seen + seconds) for name, rollout in state.rollouts.items()}
    return replace(state, rollouts=rollouts)
