"""What a function here writes as a key, the parser beside it reads back: names of everything in a run's folder.

Pure functions from numbers to keys, and their parsers (DESIGN.md 4). The keys of shards are in
``rz_workers.protocol.schedule.Unit``. Called by all of ``rz_workers.storage``, the trainer's retention and the report.
"""

from __future__ import annotations

import re
from typing import NamedTuple

RUN = "run.json"
DATA_MANIFEST = "data/manifest.json"
MODEL_PREFIX = "model"
"""Configuration, generation configuration and tokenizer of the base model, as one folder."""
METRICS = "metrics.jsonl"
TENSORBOARD_PREFIX = "tensorboard"
INCARNATIONS = "incarnations/"
STEPS = "steps/"
WEIGHTS = "weights/"
CHECKPOINTS = "checkpoints/"
RECOVERIES = "recoveries/"
FAILED_STEPS = "failed-steps/"
EVALUATIONS = "eval/"
TRAJECTORIES = "trajectories/"

# Six digits at least, so that keys sort as their numbers do; a longer number is still read, up to what no run reaches.
# Incarnations end at ``names.MAX_INCARNATION``, which has six: a larger one in a bucket is not an operator's, and would
# forbid every gang to write.
_INCARNATION = re.compile(r"incarnations/(\d{6})")
_STEP = re.compile(r"steps/step-(\d{6,15})(?:-i(\d{1,6}))?\.json")
_WEIGHTS = re.compile(r"weights/v(\d{6,15})-i(\d{1,6})(?:/.*)?")
_CHECKPOINT = re.compile(r"checkpoints/step-(\d{6,15})-i(\d{1,6})(?:/.*)?")
_RECOVERY = re.compile(r"recoveries/(\d{6})\.json")
_FAILED_STEP = re.compile(r"failed-steps/step-(\d{6,15})-i(\d{1,6})\.json")
_EVALUATION = re.compile(r"eval/step-(\d{6,15})/summary\.json")


class Numbered(NamedTuple):
    """A step or weight version, and the trainer incarnation that wrote it. Sorts in that order."""

    number: int
    incarnation: int


def manifest_key(prefix: str) -> str:
    """The document, written last, that makes the files below ``prefix`` count."""
    return f"{prefix}/manifest.json"


def incarnation_key(incarnation: int) -> str:
    return f"{INCARNATIONS}{incarnation:06d}"


def parse_incarnation(key: str) -> int | None:
    match = _INCARNATION.fullmatch(key)
    return int(match[1]) if match else None


def step_key(step: int, incarnation: int | None = None) -> str:
    """A step's commit: the first one, or the one of an incarnation whose replay ended in another outcome."""
    suffix = "" if incarnation is None else f"-i{incarnation}"
    return f"{STEPS}step-{step:06d}{suffix}.json"


def parse_step(key: str) -> int | None:
    """The step that a commit is about."""
    match = _STEP.fullmatch(key)
    return int(match[1]) if match else None


def trajectories_prefix(step: int) -> str:
    """Folder of a training step's shards; its manifest names those that won."""
    return f"{TRAJECTORIES}step-{step:06d}"


def weights_prefix(version: int, incarnation: int) -> str:
    return f"{WEIGHTS}v{version:06d}-i{incarnation}"


def parse_weights(key: str) -> Numbered | None:
    """Of a prefix, or of any key below it."""
    return _numbered(_WEIGHTS, key)


def checkpoint_prefix(step: int, incarnation: int) -> str:
    return f"{CHECKPOINTS}step-{step:06d}-i{incarnation}"


def parse_checkpoint(key: str) -> Numbered | None:
    """Of a prefix, or of any key below it."""
    return _numbered(_CHECKPOINT, key)


def checkpoint_index_key(prefix: str) -> str:
    """Which tensor of a checkpoint is where; its manifest names it."""
    return f"{prefix}/index.json"


def recovery_key(incarnation: int) -> str:
    """What a trainer gang made of the steps that were there when it began."""
    return f"{RECOVERIES}{incarnation:06d}.json"


def parse_recovery(key: str) -> int | None:
    match = _RECOVERY.fullmatch(key)
    return int(match[1]) if match else None


def failed_step_key(step: int, incarnation: int) -> str:
    """A step that a trainer gang could not take."""
    return f"{FAILED_STEPS}step-{step:06d}-i{incarnation}.json"


def parse_failed_step(key: str) -> Numbered | None:
    return _numbered(_FAILED_STEP, key)


def export_prefix(step: int, part: str) -> str:
    return f"export/step-{step:06d}/{part}"


def eval_prefix(version: int) -> str:
    """Folder of an evaluation; named by the weight version, which is the number of completed steps."""
    return f"{EVALUATIONS}step-{version:06d}"


def eval_table_key(version: int, eval_set: str) -> str:
    return f"{eval_prefix(version)}/{eval_set}.parquet"


def eval_summary_key(version: int) -> str:
    return f"{eval_prefix(version)}/summary.json"


def parse_eval_summary(key: str) -> int | None:
    match = _EVALUATION.fullmatch(key)
    return int(match[1]) if match else None


def data_key(table: str) -> str:
    """A prompt table: ``train``, or ``eval-<set>``."""
    return f"data/{table}.parquet"


def verifier_key(digest: str) -> str:
    """The code of a verifier of the user's own."""
    return f"data/verifiers/{digest}.py"


def items_key(digest: str) -> str:
    """The items of a procedural task; the digest is its URI's."""
    return f"data/items/{digest}.jsonl"


def _numbered(pattern: re.Pattern[str], key: str) -> Numbered | None:
    match = pattern.fullmatch(key)
    return Numbered(int(match[1]), int(match[2])) if match else None
