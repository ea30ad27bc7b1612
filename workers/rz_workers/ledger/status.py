"""No decision depends on what is here: what people, the operator and Prometheus are shown.

Pure functions of the state. Called by ``service`` from the threads of the status port; a State is immutable, so no lock
is needed.
"""

from __future__ import annotations

import statistics
from typing import Literal

from rz_workers.ledger.proofs import standing
from rz_workers.ledger.state import State
from rz_workers.ledger.turns import is_shared, turn
from rz_workers.protocol.messages import LedgerStatus, RolloutStatus

Role = Literal["none", "rollout", "trainer", "reward", "storage"]

SILENT_LEASES = 3
"""A rollout that was not heard of for that many lease intervals is not listed any more."""
SILENT_SECONDS = 60.0
"""... and never less than this: an idle rollout is only heard of when its long-poll ends."""


def waiting_status(run_name: str, draining: bool, storage_trouble: str | None) -> LedgerStatus:
    """Before the first weights: there is no run to tell of yet."""
    return LedgerStatus(
        run=run_name,
        phase="draining" if draining else "waiting",
        step=0,
        total_steps=None,
        weight_version=None,
        incarnation=None,
        units_done=0,
        units_total=0,
        units_leased=0,
        blocking_role="storage" if storage_trouble else "trainer",
        storage_trouble=storage_trouble,
    )


def ledger_status(state: State, now: float) -> LedgerStatus:
    """``units_*`` are of the training step that is being generated (the trained one, when generation waits for it)."""
    batch = state.train[min(state.train)] if state.train else None
    trained = state.frozen.get(state.committed)
    total = len(batch.entries) if batch else len(trained.shards) if trained else 0
    seconds = seconds_per_step(state)
    return LedgerStatus(
        run=state.plan.run_name,
        phase=phase(state),
        step=state.committed,
        total_steps=state.plan.total_steps,
        weight_version=state.version,
        incarnation=state.incarnation or None,
        units_done=batch.done if batch else total,
        units_total=total,
        units_leased=sum(open_batch.leased for open_batch in state.open_batches()),
        eval_units_done=sum(evals.done for evals in state.evals.values()),
        eval_units_total=sum(len(evals.entries) for evals in state.evals.values()),
        rollouts=_rollouts(state, now),
        metrics=dict(state.metrics),
        evaluation={name: accuracy for name, (_, accuracy) in state.accuracy.items()},
        last_checkpoint_step=state.checkpoint_step,
        tokens_generated=sum(rollout.tokens_generated for rollout in state.rollouts.values()),
        expired_leases=state.counters.expired,
        last_progress_seconds_ago=max(0.0, now - state.progressed),
        blocking_role=blocking_role(state),
        storage_trouble=state.storage_trouble,
        reward_trouble=reward_trouble(state),
        fruitless_steps=state.fruitless.steps,
        fruitless_sign=state.fruitless.sign,
        seconds_per_step=seconds,
        eta_seconds=None if seconds is None else seconds * (state.plan.total_steps - state.committed),
    )


def phase(state: State) -> Literal["adopting", "running", "draining", "finished"]:
    if state.finished:
        return "finished"
    if state.draining:
        return "draining"
    return "running" if state.adopting_until is None else "adopting"


def blocking_role(state: State) -> Role:
    """Who has to act next for the run to move on. The first that applies:

    1. finished or draining: none,
    2. storage answers with errors: storage,
    3. devices are shared and it is the rollouts' turn: rollouts,
    4. the step after the last commit is complete: the trainer trains on it,
    5. its units may be leased: rollouts,
    6. an evaluation is not complete and nothing is left to train: rollouts,
    7. else the trainer, which has weights to publish or the last step to commit.

    Where it is rollouts, and one of them has been waiting for verdicts for long: reward.
    """
    if state.finished or state.draining:
        return "none"
    if state.storage_trouble is not None:
        return "storage"
    if not _is_rollouts_turn(state):
        return "trainer"
    return "rollout" if reward_trouble(state) is None else "reward"


def _is_rollouts_turn(state: State) -> bool:
    """Points 3 to 7 of ``blocking_role``."""
    if is_shared(state) and turn(state) == "rollout":
        return True
    if state.committed < state.next_frozen:
        return False
    if state.committed in state.train:
        return True
    return state.committed == state.plan.total_steps and any(not each.is_complete for each in state.evals.values())


def reward_trouble(state: State) -> str | None:
    """``rollout-0-5f2c (and 3 more) waits for verdicts: …``, of live rollouts; None where none has waited for long."""
    waiting = [(name, seen.reward_trouble) for name, seen in state.live_rollouts().items() if seen.reward_trouble]
    if not waiting:
        return None
    name, why = waiting[0]
    more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
    return f"{name}{more} waits for verdicts: {why}"


def seconds_per_step(state: State) -> float | None:
    return statistics.median(state.step_seconds) if state.step_seconds else None


def _rollouts(state: State, now: float) -> tuple[RolloutStatus, ...]:
    leases: dict[str, int] = {}
    for batch in state.open_batches():
        for entry in batch.entries.values():
            if entry.held is not None:
                leases[entry.held.rollout_id] = leases.get(entry.held.rollout_id, 0) + 1
    silent = max(SILENT_SECONDS, SILENT_LEASES * state.plan.lease_seconds)
    return tuple(
        RolloutStatus(
            rollout_id=rollout_id,
            weight_version=rollout.weight_version,
            leases=leases.get(rollout_id, 0),
            tokens_generated=rollout.tokens_generated,
            last_heartbeat_seconds_ago=max(0.0, now - rollout.seen),
            asleep=rollout.asleep,
            proof=standing(state, rollout),
        )
        for rollout_id, rollout in sorted(state.rollouts.items())
        if now - rollout.seen <= silent
    )
