"""Where engines on the same hardware disagree about the canary, those that are outvoted get no lease.

Pure functions; ``leasing`` asks before it gives a lease (decision 7). Engines on the same hardware score the canary of
the same weights with the same bits. Where they don't, the most frequent bits are taken as right; of equally frequent
ones those that are nearest to the trainer's scores, then those that were reported first. A rollout that has others gets
no leases: it loads its weights in full from storage, once for each version, and ends when that does not help.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

from rz_workers.ledger.state import RolloutSeen, State
from rz_workers.protocol.messages import LeaseReply, LeaseRequest, Proof, WeightsInfo

__all__ = ["judge", "reference_bits", "standing", "to_prove"]


def reference_bits(state: State, digest: str, hardware: str) -> str | None:
    """The bits that count for these weights on this hardware; None as long as nobody who is alive has reported any."""
    voters = [
        (seen.proof, seen.proven)
        for seen in state.live_rollouts().values()
        if seen.proof is not None and (seen.proof.digest, seen.proof.hardware) == (digest, hardware)
    ]
    frequency = Counter(proof.bits for proof, _ in voters)
    ranked = sorted(voters, key=lambda voter: (-frequency[voter[0].bits], voter[0].error, voter[1]))
    return ranked[0][0].bits if ranked else None


def judge(state: State, request: LeaseRequest) -> tuple[State, LeaseReply | None]:
    """What a rollout that disagrees with its peers is told; None when its proof stands, or there is none.

    While the weights are not in storage it is told nothing, and gets nothing. Who was told counts as no peer before it
    has reported again.
    """
    seen, proof = state.rollouts[request.rollout_id], request.proof
    if seen.is_replaced:
        # Again and again: the answer that said so first may have been lost.
        return state, LeaseReply(replace=True)
    # A step without an update gives two versions one digest: the newest in storage is the one that is still there.
    known = [info for info in state.weights.values() if proof and info.digest == proof.digest]
    held = max(known, key=lambda info: (info.stored, info.version), default=None)
    if proof is None or held is None or proof.digest != request.weights_digest or _agrees(state, proof):
        return state, None
    if seen.reloaded == proof.digest:
        state = state.with_rollout(request.rollout_id, replace(seen, proof=None, is_replaced=True))
        return state.counting(proofs_failed=1), LeaseReply(replace=True)
    # There is nothing to load in full from yet.
    if not held.stored:
        return state, LeaseReply()
    state = state.with_rollout(request.rollout_id, replace(seen, proof=None, reloaded=proof.digest, asleep=False))
    return state.counting(proofs_failed=1), LeaseReply(reload=held)


def to_prove(state: State, request: LeaseRequest, weights: WeightsInfo) -> bool:
    """Whether a rollout that would get leases for these weights has to prove them first.

    It is told once: if it could not, because the canary was not known when it looked, it samples all the same. And it
    is not told to load older weights than it holds, for an evaluation whose last unit may be gone by then.
    """
    if weights.version not in state.canaries or weights.version < (request.weight_version or 0):
        return False
    if request.proof is not None and request.proof.digest == weights.digest:
        return False
    return state.rollouts[request.rollout_id].proving != weights.digest


def standing(state: State, seen: RolloutSeen) -> Literal["none", "agrees", "disagrees"]:
    """For the status."""
    was_told = seen.proof is None and seen.reloaded is not None and seen.reloaded == seen.digest
    if seen.is_replaced or was_told or (seen.proof is not None and not _agrees(state, seen.proof)):
        return "disagrees"
    return "none" if seen.proof is None else "agrees"


def _agrees(state: State, proof: Proof) -> bool:
    return reference_bits(state, proof.digest, proof.hardware) in (None, proof.bits)
