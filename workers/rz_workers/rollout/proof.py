"""An engine that skipped an update does not pass, however small the update is.

What an engine's scores of the canary prove (DESIGN.md 5). Pure; ``weights`` judges after every update. A canary is a
token sequence of fixed tokens that the trainer scored with the weights that it published. An engine that computes with
those weights scores it almost the same, rounding apart. Almost the same is not enough: a policy update of 1e-6 moves
the scores by less than rounding does, and an engine that skipped it would pass. But it would score exactly as before,
bit for bit, and any update that took place changes some of the bits.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from rz_workers.protocol.messages import Canary, Proof
from rz_workers.rollout.engines.interface import StaleWeightsError

__all__ = ["TOLERANCE", "bits_of", "judge"]

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
"""Largest mean distance of the scores from the trainer's, in nats. Rounding alone gives about 1e-6 in float32 and some
0.01 in bfloat16; a tied head that stayed behind gave 0.67."""


def judge(
    canary: Canary,
    scores: Sequence[float],
    dtype: str,
    before: tuple[str, str] | None,
    digest: str,
    *,
    hardware: str = "",
) -> Proof:
    """The proof that an engine computes with the weights of ``digest``.

    Args:
        canary: of these weights, by the trainer.
        scores: the engine's, ``[T - 1]`` log-probs of tokens 1..
        dtype: the spec's ``trainer.dtype``.
        before: (digest, bits) of the engine's proof before the update; None when there was none.
        digest: of the weights that the engine was given.
        hardware: ``Engine.hardware``, for the ledger to compare peers.

    Raises StaleWeightsError when the scores are not those of these weights.
    """
    if len(scores) != len(canary.logprobs):
        raise StaleWeightsError(
            f"the engine scored {len(scores)} tokens of the canary, the trainer {len(canary.logprobs)}: they do not "
            "speak of the same sequence"
        )
    distances = [abs(score - logprob) for score, logprob in zip(scores, canary.logprobs, strict=True)]
    error, allowed = sum(distances) / max(len(distances), 1), TOLERANCE[dtype]
    if not error <= allowed:  # so that NaN fails too
        raise StaleWeightsError(
            f"the engine scores the canary {error:.2g} nats beside the trainer, {allowed:g} are allowed in {dtype}: it "
            f"computes with other weights than those of digest {digest[:12]}"
        )
    bits = bits_of(scores)
    # The same digest has the same bits: weights that are loaded once more are no update.
    if before is not None and before[0] != digest and before[1] == bits:
        raise StaleWeightsError(
            f"the engine scores the canary with the same bits as before, although the weights changed from digest "
            f"{before[0][:12]} to {digest[:12]}: it skipped the update"
        )
    return Proof(digest=digest, bits=bits, hardware=hardware, error=error)


def bits_of(scores: Sequence[float]) -> str:
    """sha256 (hex) of the scores as little-endian float32."""
    return hashlib.sha256(struct.pack(f"<{len(scores)}f", *scores)).hexdigest()
