"""The JSON documents of a run's folder, one model each. Keys are in ``rz_workers.storage.layout``'s functions.

Documents are written once (exclusive create) and never changed; see DESIGN.md 4 and ``rz_workers.storage.run_folder``.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from rz_workers.protocol.messages import Canary, ShardRef, WeightsInfo


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


class Phase(Record):
    """One bar of the timeline."""

    name: str
    """``generate``, ``wait``, ``values``, ``policy_update``, ``publish``, ``critic_update``, ``checkpoint``,
    ``evaluate``."""
    role: str
    started: float
    """Unix seconds."""
    seconds: float


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
    phases: tuple[Phase, ...] = ()

    def outcome(self) -> tuple[str, ...]:
        """What two commits of a step must agree on to be the same commit: consumed shards and resulting weights."""
        return (self.weights.digest, *(shard.sha256 for shard in self.shards))


class EvalSummary(Record):
    """``eval/step-…/summary.json``: written last, after the sets' Parquet files."""

    version: int
    accuracy: dict[str, float]
    """Set -> mean reward over problems and samples."""
    response_length_mean: dict[str, float]
    truncated_fraction: dict[str, float]
    num_trajectories: dict[str, int]
    files: dict[str, FileEntry]
    phase: Phase | None = None
    """When it was sampled; None where a restart of the ledger forgot it."""
