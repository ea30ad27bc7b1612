"""A document is written once (exclusive create) and never changed.

The JSON documents of a run's folder, one model each. Keys are in ``rz_workers.storage.layout``'s functions; see
DESIGN.md 4 and ``rz_workers.storage.run_folder``.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from rz_workers.protocol.messages import Canary, RewardStatus, ShardRef, WeightsInfo


class Record(BaseModel):
    """Base of all records: unknown fields refused, values frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Record):
    """One file that a manifest names."""

    size_bytes: int
    sha256: str


class Manifest(Record):
    """``…/manifest.json`` of a folder of files: written last, so that a folder without one does not count."""

    files: dict[str, FileEntry]
    """Path below the folder -> size and checksum."""
    info: dict[str, str | int | float | bool | None] = {}
    """What the folder is, e.g. ``{"step": 55, "incarnation": 1}``."""


class DroppedPrompt(Record):
    prompt_id: str
    tokens: int


class DataManifest(Record):
    """``data/manifest.json``: the prompts of the run, fixed when it starts. A resume refuses data with another
    fingerprint."""

    fingerprint: str
    """sha256 over prompt ids, token ids and reference answers of the training prompts, in order."""
    num_prompts: int
    """Rows of ``data/train.parquet``."""
    eval_sets: dict[str, int]
    """Set -> rows of ``data/eval-<set>.parquet``."""
    total_steps: int
    dropped: tuple[DroppedPrompt, ...] = ()
    """Prompts longer than ``data.maxPromptTokens``."""
    files: dict[str, FileEntry]
    eval_fingerprints: dict[str, str] = {}
    """Set -> the same checksum as ``fingerprint``, over the set's prompts."""
    verifiers: dict[str, str] = {}
    """Verifier of the user's own -> sha256 of its file, which is ``data/verifiers/<sha256>.py``."""


class UnitTimes(Record):
    """When a unit was sampled, by the ledger's clock."""

    unit_id: str
    rollout_id: str
    leased: float
    """Unix seconds; of a lease that a restarted ledger took over, when it did."""
    completed: float


class StepManifest(Record):
    """``trajectories/step-…/manifest.json``: the completions that won, frozen by the ledger when the step was complete.
    A replay trains on exactly these."""

    step: int
    shards: tuple[ShardRef, ...]
    """In canonical order (``train_units``)."""
    generation_started: float
    """Unix seconds of the first lease."""
    generation_finished: float
    """Unix seconds of the last completion."""
    units: tuple[UnitTimes, ...] = ()
    """Of the shards above, as far as the ledger saw both ends: not of a unit that it found in storage, or whose lease
    had expired."""


class IncarnationClaim(Record):
    """``incarnations/…``: a trainer gang's claim to be the one that may write."""

    incarnation: int
    claimant: str
    """Host, process and a random part, so that no two claims have the same bytes."""


class TensorEntry(Record):
    """One tensor of a weight version."""

    file: str
    """Name of the safetensors file, below the version's folder."""
    dtype: str
    """torch's name without the module, e.g. ``bfloat16``."""
    shape: tuple[int, ...]
    checksum: str
    """xxh3_128 (hex) of the tensor's bytes: row-major, little-endian."""


class WeightsManifest(Record):
    """``weights/v…-i…/manifest.json``: the version counts from the moment that this is there."""

    version: int
    incarnation: int
    digest: str
    """See ``rz_workers.storage.checksums.digest``."""
    files: dict[str, int]
    """Name of each safetensors file, below the version's folder -> size in bytes. Its content is what ``tensors`` has
    checksums of."""
    tensors: dict[str, TensorEntry]
    canary: Canary | None = None
    """What an engine that holds these weights makes of a fixed token sequence."""


class Piece(NamedTuple):
    """Consecutive rows of one tensor of a checkpoint, as they lie in one of its files (little-endian, row-major)."""

    offsets: tuple[int, ...]
    """Where it begins in the tensor, by dimension."""
    sizes: tuple[int, ...]
    file: str
    """Below the checkpoint's folder."""
    start: int
    """First byte in the file."""
    checksum: str
    """xxh3_128 (hex) of its bytes."""


class StoredTensor(Record):
    """One tensor of a checkpoint; its pieces cover it without overlap, in no particular order."""

    dtype: str
    """torch's name without the module, e.g. ``float32``."""
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


class CheckpointIndex(Record):
    """``checkpoints/step-…-i…/index.json``: where each tensor is, by the names of
    ``rz_workers.trainer.durable.checkpoint``."""

    tensors: dict[str, StoredTensor]


class CheckpointManifest(Record):
    """``checkpoints/step-…-i…/manifest.json``, written last: a checkpoint without it does not count."""

    step: int
    """Policy updates that are in it, and the step that training goes on with."""
    incarnation: int
    world_size: int
    """Trainer ranks that wrote it; any number reads it."""
    policy_steps: int
    critic_steps: int
    """Optimizer steps of each model."""
    files: dict[str, int]
    """Path below the folder -> bytes. The index has the checksums of what is in them."""
    index: FileEntry


class Recovery(Record):
    """``recoveries/000003.json``: what a trainer gang that took over from another one found and made of it. Written
    when the gang commits its first new step, or ends before that.

    Reused are the trajectories of every step from ``resumed_step`` that was complete when the gang began: of the
    steps that it replayed, and of the one that was being trained on when the gang before it ended.
    """

    incarnation: int
    resumed_step: int
    """Step whose state was loaded; 0 means the start."""
    replayed_steps: int
    """Steps that were committed before and were computed again."""
    trajectories_reused: int
    tokens_reused: int
    """Response tokens of these trajectories."""
    generation_seconds_saved: float
    """Sum of the durations for which these trajectories were sampled the first time."""
    replay_seconds: float
    """From the gang's first step until it had computed every step again that was committed before."""
    world_size: int
    weights_equal: bool
    """Whether every version that was computed again had the bits of the committed one."""
    canary_difference_max: float | None
    """Largest absolute difference of a canary log-prob between a version that was computed again and the committed one;
    None where nothing was replayed or the earlier commits have no canary."""


class FailedStep(Record):
    """``failed-steps/step-…-i….json``: a loss or gradient norm was not finite, and the gang ended. Deleted when a later
    gang commits the step."""

    step: int
    incarnation: int
    model: str
    """Whose update it was: ``policy`` or ``critic``."""
    data: str
    """sha256 over the checksums of the step's shards, in their order."""
    complaint: str
    """For people, with the prompt groups that are to blame."""


class Phase(Record):
    """One bar of the timeline."""

    name: str
    """``generate``, ``wait``, ``values``, ``policy_update``, ``publish``, ``critic_update``, ``checkpoint``,
    ``evaluate``."""
    role: str
    started: float
    """Unix seconds."""
    seconds: float


class VerdictCount(Record):
    """Trajectories of a step that have source, reward status and rule in common."""

    source: str
    status: RewardStatus
    rule: str
    """``other`` stands for all but the most frequent ones."""
    trajectories: int
    reward_sum: float
    """0 of masked ones."""


class StepCommit(Record):
    """``steps/step-….json``: the step happened. Replays that end in other weights write
    ``steps/step-…-i<incarnation>.json`` beside it; readers take the newest incarnation's."""

    step: int
    incarnation: int
    shards: tuple[ShardRef, ...]
    """The trajectories that were consumed."""
    weights: WeightsInfo
    """What the step produced: version ``step + 1``."""
    metrics: dict[str, float]
    verdicts: tuple[VerdictCount, ...] = ()
    """Of all its trajectories; empty where an earlier release wrote it."""
    phases: tuple[Phase, ...] = ()
    canary_logprobs: tuple[float, ...] = ()
    """Scores of the canary's tokens by the version that the step produced; empty where an earlier release wrote it."""

    def outcome(self) -> tuple[str, ...]:
        """What two commits of a step must agree on to be the same commit: consumed shards and resulting weights."""
        return (self.weights.digest, *(shard.sha256 for shard in self.shards))


class EvalSummary(Record):
    """``eval/step-…/summary.json``: written last, after the sets' Parquet files."""

    version: int
    accuracy: dict[str, float]
    """Set -> mean reward over problems and samples; without a set of which every trajectory is masked."""
    response_length_mean: dict[str, float]
    truncated_fraction: dict[str, float]
    num_trajectories: dict[str, int]
    """Set -> trajectories that the means are over: those that are not masked."""
    num_masked: dict[str, int] = {}
    """Set -> trajectories without a reward, in no mean."""
    files: dict[str, FileEntry]
    phase: Phase | None = None
    """When it was sampled; None where a restart of the ledger forgot it."""
