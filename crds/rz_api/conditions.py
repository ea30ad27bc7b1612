"""A reason never changes its meaning, for programs read it: types and reasons of a run's conditions, and the one
function that sets one.

The operator's status computation calls ``set_condition``; tools read ``find``. A message is for people.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer

from rz_api.redact import redact
from rz_api.spec import SpecModel


def _whole_utc_seconds(time: datetime.datetime) -> datetime.datetime:
    if time.tzinfo is None:
        raise ValueError("found a time without a time zone, RFC 3339 with one is required: add Z for UTC")
    # The API server keeps whole seconds: a finer time would differ from what is read back, and be written again.
    return time.astimezone(datetime.UTC).replace(microsecond=0)


Time = Annotated[
    datetime.datetime,
    AfterValidator(_whole_utc_seconds),
    PlainSerializer(lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str, when_used="json"),
]
"""Kubernetes' ``metav1.Time``: UTC, whole seconds, ``2025-11-22T20:54:00Z``. Unix seconds are taken too."""

ACCEPTED = "Accepted"
STALLED = "Stalled"

ConditionType = Literal[
    "Accepted",
    "LedgerReady",
    "TrainerReady",
    "RolloutsReady",
    "RewardReady",
    "Progressing",
    "Stalled",
    "Learning",
    "Succeeded",
    "Failed",
    "Suspended",
]
ConditionStatus = Literal["True", "False", "Unknown"]


class Reason:
    """Every reason that the operator writes. Some come from elsewhere (a pod's OOMKilled, Unschedulable): they are
    passed through."""

    # Accepted
    SPEC_VALID = "SpecValid"
    SPEC_INVALID = "SpecInvalid"
    SPEC_CHANGED = "ImmutableFieldChanged"
    STORAGE_REFUSED = "StorageRefused"
    FROZEN_RUN_LOST = "FrozenRunLost"
    # LedgerReady, TrainerReady, RolloutsReady, RewardReady
    READY = "Ready"
    STARTING = "Starting"
    RESTARTING = "Restarting"
    BACKING_OFF = "BackingOff"
    PARTLY_READY = "PartlyReady"
    SCALED_TO_ZERO = "ScaledToZero"
    WAITING_FOR_GANG = "WaitingForGang"
    WAITING_FOR_QUEUE = "WaitingForQueue"
    CREATE_REFUSED = "CreateRefused"
    NOT_NEEDED = "NotNeeded"
    # Progressing, Stalled
    STEPS_COMMITTED = "StepsCommitted"
    WAITING_FOR_MODEL = "WaitingForModel"
    NO_PROGRESS = "NoProgress"
    BLOCKED_BY_ROLLOUT = "BlockedByRollout"
    BLOCKED_BY_TRAINER = "BlockedByTrainer"
    BLOCKED_BY_REWARD = "BlockedByReward"
    BLOCKED_BY_STORAGE = "BlockedByStorage"
    LEDGER_UNREACHABLE = "LedgerUnreachable"
    # Learning; where it is False, those of ``rz_api.learning``
    REWARDS_DIFFER = "RewardsDiffer"
    # Succeeded, Failed, Suspended
    TRAINER_SUCCEEDED = "TrainerSucceeded"
    USER_ERROR = "UserError"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DISRUPTION_LIMIT_EXCEEDED = "DisruptionLimitExceeded"
    ROLLOUTS_FAILING = "RolloutsFailing"
    INCARNATIONS_USED_UP = "IncarnationsUsedUp"
    SUSPEND_REQUESTED = "SuspendRequested"
    SUSPENDING = "Suspending"
    RESUMED = "Resumed"
    RUN_FINISHED = "RunFinished"
    # Of events alone: a gang gave its nodes back
    GANG_TIMEOUT = "GangTimeout"
    GAVE_WAY = "GaveWay"


class Condition(SpecModel, extra="ignore"):
    """One observation about the run, in the form of Kubernetes' ``metav1.Condition``."""

    type: ConditionType
    """What the condition is about."""
    status: ConditionStatus
    """Whether it holds."""
    # Pattern and lengths of reason and message are those of metav1.Condition.
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """CamelCase word for programs: why the status is what it is."""
    message: Annotated[str, Field(max_length=32_768)] = ""
    """Sentence for people; of a refused spec: what was found, what was required, what to change."""
    last_transition_time: Time
    """When `status` last changed; not when reason or message did."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """`metadata.generation` that the condition was set from."""


def find(conditions: Iterable[Condition], condition_type: ConditionType) -> Condition | None:
    """The condition of a type, or None if it was never set."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def set_condition(
    conditions: Iterable[Condition],
    condition_type: ConditionType,
    status: ConditionStatus | bool,
    *,
    reason: str,
    message: str = "",
    now: float,
    generation: int | None = None,
) -> tuple[Condition, ...]:
    """The conditions with this one set; all others, and the order, stay as they are.

    ``now`` is in Unix seconds. ``lastTransitionTime`` becomes ``now`` only where the status differs from the one
    before, so that setting the same condition again gives an equal value and no write. A message loses its
    credentials (``redact``); one that is too long for the API is cut.
    """
    before = tuple(conditions)
    # One condition a type: the list is a map by type to the API server (``rz_api.status``).
    old = find(before, condition_type)
    message = redact(message)
    word: ConditionStatus = status if isinstance(status, str) else "True" if status else "False"
    same_status = old is not None and old.status == word
    condition = Condition(
        type=condition_type,
        status=word,
        reason=reason,
        message=message if len(message) <= 32_768 else message[:32_765] + "...",
        last_transition_time=old.last_transition_time
        if old is not None and same_status
        else datetime.datetime.fromtimestamp(now, datetime.UTC),
        observed_generation=generation,
    )
    if old is None:
        return (*before, condition)
    return tuple(condition if each is old else each for each in before)
