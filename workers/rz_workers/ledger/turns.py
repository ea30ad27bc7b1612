"""Where rollouts and trainer share devices, they never compute at the same time (placement ``colocated``).

Whose turn it is, as pure functions. It is the rollouts' turn while there is something that they could sample: units of
the open step, then evaluations of published versions. Then they are told to sleep, and the trainer's ``take`` is
answered when every live one does. Its next publication opens the next step, and with that the rollouts' next turn.

Nobody waits for the dead: a rollout that was not heard of for a lease interval does not count, and a ledger that was
restarted listens for as long before the trainer may work. A rollout process asks before it builds its engine, which
takes the engine's memory (``start``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from rz_workers.ledger.state import RolloutSeen, State
from rz_workers.protocol.messages import TurnReply, TurnRequest, WeightsInfo

__all__ = ["is_shared", "start", "trainer_may_run", "turn"]


def is_shared(state: State) -> bool:
    return state.plan.spec.rollout.placement == "colocated"


def turn(state: State) -> Literal["rollout", "trainer"]:
    """Who may use the devices. What nobody could sample (its weights are neither stored nor in a live engine) does not
    keep them from the trainer, who has to publish those weights again."""
    for batch in state.open_batches():
        weights = state.weights_for(batch.kind, batch.number)
        if not batch.is_complete and weights is not None and _is_within_reach(state, weights):
            return "rollout"
    return "trainer"


def trainer_may_run(state: State) -> bool:
    """Whether it is the trainer's turn and every rollout that may be alive has freed its device; always, where none is
    shared."""
    if not is_shared(state):
        return True
    # A ledger that has just started does not know yet which rollouts are awake.
    if state.adopting_until is not None or turn(state) == "rollout":
        return False
    return all(rollout.asleep for rollout in state.live_rollouts().values())


def start(state: State, request: TurnRequest, now: float) -> tuple[State, TurnReply]:
    """Whether a rollout may build its engine. From then on it is awake, and the trainer waits until it sleeps."""
    if state.finished:  # its first request for leases ends it
        return state, TurnReply(may_start=True)
    if state.draining or state.adopting_until is not None or turn(state) == "trainer":
        return state, TurnReply(may_start=False)
    before = state.rollouts.get(request.rollout_id, RolloutSeen(None, 0, now))
    return state.with_rollout(request.rollout_id, replace(before, seen=now, asleep=False)), TurnReply(may_start=True)


def _is_within_reach(state: State, weights: WeightsInfo) -> bool:
    return weights.stored or any(rollout.digest == weights.digest for rollout in state.live_rollouts().values())
