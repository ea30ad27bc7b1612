"""A trajectory has as many log-probabilities as tokens, each of them finite, from the moment that it exists.

The finished record of one sampled attempt: what rollouts write, and ledger, trainer and report read.
``rz_workers.storage.trajectories`` stores it as Parquet; the method computes with it and needs no storage for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rz_workers.protocol.messages import RewardStatus, is_masked

__all__ = ["SCHEMA_VERSION", "Trajectory"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Trajectory:
    """The finished record of one sampled attempt; T is the number of response tokens."""

    run: str
    """Name of the run."""
    step: int
    """Training step, or for evaluation the weight version that was evaluated."""
    group_id: int
    sample_index: int
    prompt_id: str
    prompt: str
    response: str
    """Text of the response, the stop string included."""
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    """[T]: what was sampled, and so what is trained on."""
    rollout_logprobs: tuple[float, ...]
    """[T]: the sampler's log-probability of each token, nats; float32 values."""
    finish_reason: str
    """``stop`` (a stop string or EOS) or ``length`` (truncated)."""
    stop_reason: str | None
    """The stop string, `eos`, or None for truncation."""
    extracted_answer: str | None
    reference_answer: str
    reward: float
    reward_status: RewardStatus
    weight_version: int
    """Version that sampled it."""
    engine: str
    """Engine and its version, e.g. ``transformers 5.23.0``."""
    seconds: float
    """From the start of sampling to the end of this response."""
    loss_mask: tuple[int, ...] | None = None
    """[T]: 1 where the loss counts; None is all ones. For what is to come (tools)."""
    schema_version: int = SCHEMA_VERSION
    source: str = ""
    """Which entry of the run's data the prompt is from; empty where an older release wrote it."""
    rule: str = ""
    """By which rule of the verifier the reward was decided; empty where it has none, and as above."""

    @property
    def is_masked(self) -> bool:
        """Whether there is no reward: the sample counts in no advantage, loss or mean."""
        return is_masked(self.reward_status)

    def __post_init__(self) -> None:
        """Raises ValueError when per-token columns disagree in length or a log-probability is not finite."""
        tokens = len(self.response_token_ids)
        masks = tokens if self.loss_mask is None else len(self.loss_mask)
        if not tokens == len(self.rollout_logprobs) == masks:
            raise ValueError(
                f"group {self.group_id}, sample {self.sample_index}: found {tokens} response tokens, "
                f"{len(self.rollout_logprobs)} log-probabilities and {masks} mask values; they must be as many"
            )
        # Also for readers: DuckDB does not find NaN in pyarrow's Parquet (findings/duckdb_parquet_nan.sh).
        if not all(map(math.isfinite, self.rollout_logprobs)):
            raise ValueError(f"group {self.group_id}, sample {self.sample_index}: a log-probability is not finite")
