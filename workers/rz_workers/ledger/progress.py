"""The newest version, the frozen steps and the committed steps never move back, whoever replays what.

How the run moves on: weights, steps, evaluations, drain, as pure functions of (state, event, now). Called by
``service``, and by ``recovery`` with what storage holds. A step goes *open* (its weights are published) -> *complete*
(every unit done) -> *frozen* (its manifest is in storage; nothing can change it any more) -> *committed* (the trainer
has trained on it). Steps are frozen in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rz_api.learning import follow
from rz_workers.ledger.state import Batch, RefusedError, State, UnknownError, wanted_steps
from rz_workers.ledger.turns import trainer_may_run
from rz_workers.protocol.messages import Canary, EvalReply, StepReport, TakeReply, TakeRequest, WeightsInfo
from rz_workers.protocol.schedule import EVAL, TRAIN
from rz_workers.runtime import SupersededError
from rz_workers.storage.records import StepManifest

FROZEN_KEPT = 2
"""Frozen steps kept in memory below the newest commit; a trainer that replays older ones is served from storage."""
FINISHED_EVALS_KEPT = 4
SECONDS_KEPT = 20
"""Commits over which ``seconds_per_step`` is a median."""


# -------------------------------------------------------------------------------------------------------- weights


def weights_published(state: State, info: WeightsInfo, now: float, canary: Canary | None = None) -> State:
    """Note a publication and open what it allows.

    The newest version is what counts: announcing an older one again (a trainer that replays) moves nothing back. The
    same version under a newer incarnation replaces where the version is read from; so does the word that it is stored
    by now.

    Raises RefusedError for a version that the run does not have.
    """
    if not 0 <= info.version <= state.plan.total_steps:
        raise RefusedError(
            f"weight version {info.version} was announced; this run has versions 0 to {state.plan.total_steps}, "
            "one per policy update"
        )
    newest, known = state.version, state.weights.get(info.version)
    if known is None or is_news(info, known):
        state = replace(state, weights={**state.weights, info.version: info}, progressed=now)
        if known is not None and known.digest != info.digest:
            # The scores of other tensors would fail the proof of every engine that holds the right ones.
            state = replace(state, canaries={v: one for v, one in state.canaries.items() if v != info.version})
    if canary is not None and state.weights[info.version].digest == info.digest:
        state = replace(state, canaries={**state.canaries, info.version: canary})
    state = newest_gang(state, info.incarnation)
    if state.transfer is not None and info.version >= state.transfer.version:
        state = replace(state, transfer=None)
    # Every version in between: an announcement may have been lost, and each has its evaluation.
    reached = range(0 if newest is None else newest + 1, info.version + 1)
    return _without_old_canaries(open_steps(open_evaluations(state, reached)))


def is_news(info: WeightsInfo, known: WeightsInfo) -> bool:
    """Whether a publication replaces what is known of its version."""
    if info.digest == known.digest and known.stored:
        # The same tensors are never again said not to be stored, whichever gang speaks.
        return info.stored and info.incarnation > known.incarnation
    return (info.incarnation, info.stored) > (known.incarnation, known.stored)


def _without_old_canaries(state: State) -> State:
    """Canaries of what may still be sampled: a run has thousands of versions."""
    oldest = min(state.next_frozen, state.version or 0) - state.plan.max_staleness
    evaluated = {version for version, batch in state.evals.items() if not batch.is_complete}
    kept = {v: canary for v, canary in state.canaries.items() if v >= oldest or v in evaluated}
    return replace(state, canaries=kept)


def newest_gang(state: State, incarnation: int) -> State:
    """A newer gang ends what an older one was sending."""
    if incarnation <= state.incarnation:
        return state
    return replace(state, incarnation=incarnation, transfer=None, groups={})


def open_steps(state: State) -> State:
    for step in wanted_steps(state):
        if step not in state.train:
            state = state.with_batch(Batch.of(state.plan, TRAIN, step))
    return state


def open_evaluations(state: State, versions: Iterable[int]) -> State:
    for version in versions:
        if state.plan.is_evaluated(version) and version not in state.evals:
            state = state.with_batch(Batch.of(state.plan, EVAL, version))
    return state


# ---------------------------------------------------------------------------------------------------------- steps


def step_to_freeze(state: State, now: float) -> StepManifest | None:
    """The manifest of the next step, once all its units are done."""
    batch = state.train.get(state.next_frozen)
    if batch is None or not batch.is_complete:
        return None
    return StepManifest(
        step=batch.number,
        shards=batch.shards(),
        generation_started=now if batch.started is None else batch.started,
        generation_finished=now if batch.last_completion is None else batch.last_completion,
        units=tuple(entry.times for entry in batch.entries.values() if entry.times is not None),
    )


def frozen(state: State, manifest: StepManifest, now: float) -> State:
    """The step's manifest is in storage; it is what counts, also where it was written by someone else."""
    if manifest.step != state.next_frozen:
        return state
    train = {step: batch for step, batch in state.train.items() if step != manifest.step}
    manifests = {step: kept for step, kept in state.frozen.items() if step >= state.committed - FROZEN_KEPT} | {
        manifest.step: manifest
    }
    state = replace(state, train=train, frozen=manifests, next_frozen=manifest.step + 1, progressed=now)
    return open_steps(state)


def take(state: State, request: TakeRequest) -> tuple[State, TakeReply | None]:
    """The shards of a frozen step, or how far it is; None when the step's manifest has to be read from storage. Where
    devices are shared, no shards before it is the trainer's turn and every rollout sleeps.

    Raises SupersededError for a trainer that is not of the newest incarnation, UnknownError for a step beyond the run.
    """
    state = require_newest(state, request.incarnation)
    if not 0 <= request.step < state.plan.total_steps:
        raise UnknownError(f"step {request.step} was asked for; this run has steps 0 to {state.plan.total_steps - 1}")
    may_run, manifest = trainer_may_run(state), state.frozen.get(request.step)
    if manifest is not None:
        shards, total = manifest.shards if may_run else None, len(manifest.shards)
        return state, TakeReply(shards=shards, units_done=total, units_total=total, draining=state.draining)
    if request.step < state.next_frozen and may_run:
        return state, None
    batch = state.train.get(request.step)
    done, total = (batch.done, len(batch.entries)) if batch else (0, 0)
    return state, TakeReply(shards=None, units_done=done, units_total=total, draining=state.draining)


def committed(state: State, report: StepReport, now: float) -> State:
    """The trainer's report on a committed step. Reports of replayed steps move nothing back.

    Raises SupersededError as ``take`` does.
    """
    state = require_newest(state, report.incarnation)
    steps = min(max(state.committed, report.step + 1), state.plan.total_steps)
    if steps > state.committed or report.phase != "training":
        state = replace(state, progressed=now)
    state = replace(state, committed=steps, finished=state.finished or report.phase == "finished")
    if report.checkpoint_step is not None:
        state = replace(state, checkpoint_step=max(report.checkpoint_step, state.checkpoint_step or 0))
    if report.metrics and report.step > state.metrics_step:
        state = with_metrics(state, report.step, report.metrics)
    return state


def with_metrics(state: State, step: int, metrics: dict[str, float]) -> State:
    """``metrics`` are those of the newest committed step now."""
    seconds = (*state.step_seconds, metrics["seconds_step"]) if "seconds_step" in metrics else state.step_seconds
    fruitless = follow(state.fruitless, metrics)
    return replace(state, metrics=metrics, metrics_step=step, fruitless=fruitless, step_seconds=seconds[-SECONDS_KEPT:])


def drain(state: State, draining: bool) -> State:
    return replace(state, draining=draining)


def require_newest(state: State, incarnation: int) -> State:
    """Raises SupersededError for a trainer that is not of the newest incarnation."""
    if incarnation < state.incarnation:
        raise SupersededError(
            f"this trainer is incarnation {incarnation}, but incarnation {state.incarnation} of the gang is at work; "
            "it must end and write nothing more"
        )
    return newest_gang(state, incarnation)


# ----------------------------------------------------------------------------------------------------- evaluation


def evaluation(state: State, version: int) -> EvalReply | None:
    """The shards of a finished evaluation, or how far it is; None when it is so old that storage has to be read.

    Raises UnknownError for a version that is not evaluated.
    """
    if version < 0 or not state.plan.is_evaluated(version):
        raise UnknownError(f"weight version {version} is not one that this run evaluates")
    if batch := state.evals.get(version):
        complete = batch.is_complete
        return EvalReply(
            shards=batch.shards() if complete else None,
            units_done=batch.done,
            units_total=len(batch.entries),
            started=batch.started,
            finished=batch.last_completion if complete else None,
        )
    if state.is_closed(EVAL, version):
        return None
    return EvalReply(shards=None, units_done=0, units_total=0)


def settle_evaluation(state: State, version: int) -> State:
    """When the last unit of an evaluation is done: its accuracies, and room for newer ones."""
    batch = state.evals[version]
    if not batch.is_complete:
        return state
    rewards: dict[str, list[float]] = {}
    for shard in batch.shards():
        total = rewards.setdefault(shard.unit.eval_set or "", [0.0, 0])
        total[0] += shard.stats.reward_sum
        total[1] += shard.rows - shard.stats.masked
    for name, (reward, rows) in rewards.items():
        if rows:
            state = with_accuracy(state, version, name, reward / rows)
    finished = sorted(number for number, other in state.evals.items() if other.is_complete)
    closed = set(finished[:-FINISHED_EVALS_KEPT])
    return replace(state, evals={number: other for number, other in state.evals.items() if number not in closed})


def with_accuracy(state: State, version: int, eval_set: str, accuracy: float) -> State:
    before = state.accuracy.get(eval_set)
    if before is not None and before[0] > version:
        return state
    return replace(state, accuracy={**state.accuracy, eval_set: (version, accuracy)})
