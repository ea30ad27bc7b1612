"""What a decision must remember is written before its action is carried out, so that a crash in between converges.

The status of a ``ReasonerZeroRun``: what the operator reports, and what its decisions have to remember. The operator
writes it once per reconcile (PUT with resourceVersion), ``kubectl`` and the CRD's printer columns show it. ``gang``,
``members``, ``restarts``, ``progressMark`` and ``retries`` are the memory of ``decide``. ``progress`` is for people and
no input to a decision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, JsonValue

from rz_api.conditions import Condition, Time
from rz_api.names import MAX_INCARNATION, MAX_ROLLOUT_INDEX
from rz_api.redact import redact
from rz_api.spec import SpecModel
from rz_api.stored import read_tolerantly, show_path

Phase = Literal["Pending", "Running", "Suspending", "Suspended", "Succeeded", "Failed"]
"""``Pending``: not accepted, or nothing started yet. ``Running``: pods are wanted (restarts included).
``Suspending``: told to stop, pods are still there."""

FINAL_PHASES: frozenset[Phase] = frozenset({"Succeeded", "Failed"})


# As metav1.Condition's lists are: one entry a type, merged by it.
_LIST_BY_TYPE: dict[str, JsonValue] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class StatusModel(SpecModel, extra="ignore"):
    """Base of the status. Fields of a newer operator are ignored, so that a rollback of the operator can read it."""


def _figure(value: Any) -> Any:
    """Rounded for people; what is not finite is absent, because JSON has no word for it."""
    if isinstance(value, float):
        # 4 digits: a figure that changes in its tenth digit alone causes no write.
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


Figure = Annotated[float | None, BeforeValidator(_figure)]


class Progress(StatusModel):
    """How far the run is, as the ledger says; polled, at most written once a minute or on a new step."""

    step: Annotated[int, Field(ge=0)] = 0
    """Committed steps."""
    total_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of the whole run; absent until the data is prepared."""
    weight_version: Annotated[int, Field(ge=0)] | None = None
    """Newest published weight version (completed policy updates)."""
    reward_mean: Figure = None
    """Mean reward of the newest committed step, 4 digits."""
    response_length_mean: Figure = None
    """Mean response length of the newest committed step, tokens, 4 digits."""
    truncated_fraction: Figure = None
    """Share of responses of that step that reached the length limit."""
    evaluation: dict[str, float] = Field(default_factory=dict)
    """Newest accuracy of each evaluation set."""
    tokens_per_second: Figure = None
    """Response tokens generated per second over the newest step."""
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    """Estimated time to the end of the run, seconds."""
    last_checkpoint: Annotated[int, Field(ge=0)] | None = None
    """Step of the newest resume checkpoint."""
    last_step_time: Time | None = None
    """When `step` last grew, as the operator saw it; stall detection counts from here."""
    update_time: Time | None = None
    """When this was last written: on a new step, and otherwise at most once a minute."""
    blocking_role: str | None = None
    """Role that the run waits for, where the ledger names one: rollout, trainer, reward or storage."""


class RolloutStatus(StatusModel):
    """What the scale subresource reads."""

    replicas: Annotated[int, Field(ge=0)] = 0
    """Rollout pods that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Rollout pods that are ready."""
    selector: str = ""
    """Label selector of the rollout pods, for `kubectl scale` and a HorizontalPodAutoscaler."""


class GangState(StatusModel):
    """The trainer gang, as `decide` remembers it."""

    incarnation: Annotated[int, Field(ge=0, le=MAX_INCARNATION)] = 0
    """Number of the gang that should exist; 0 before the first. A pod of another number counts for nothing."""
    complete: bool = False
    """Whether all its members were seen at once: one that is missing from then on has vanished."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """Counted failures, one per incarnation at most; compared with `failurePolicy.maxRestarts`."""
    failures_in_a_row: Annotated[int, Field(ge=0)] = 0
    """Failures, counted or not, since the last completed step: sets the back-off."""
    disruptions: Annotated[int, Field(ge=0)] = 0
    """Ends that were not counted, since the last completed step; compared with `failurePolicy.maxDisruptions`."""
    not_before: float = 0.0
    """Unix seconds before which the gang is not started."""
    placed: bool = False
    """Whether it has had all its nodes at once, those of the rollouts that it needs included: from then on it gives way
    to nobody."""
    short_since: float = 0.0
    """Unix seconds since when it has had pods, and not all its nodes; 0 while it has them all (gang `operator`)."""
    grouped_rollouts: Annotated[int, Field(ge=0)] = 0
    """Rollouts in its group, those with the lowest numbers (every gang but `operator`): they start and stop with it."""
    in_line_since: float = 0.0
    """Unix seconds from which it stands in line for nodes anew, after its time to get them all was up (gang
    `operator`); 0 while it has the place that the run's age gives it."""


class MemberState(StatusModel):
    """One pod of an individual role, as `decide` remembers it once it has failed."""

    incarnation: Annotated[int, Field(ge=1, le=MAX_INCARNATION)] = 1
    """Number of the pod that should exist."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Counted failures since the last completed unit."""
    ends_in_a_row: Annotated[int, Field(ge=0)] = 0
    """Ends of any kind since the last completed unit, restarts by the kubelet included: sets the back-off, and is
    compared with `failurePolicy.maxDisruptions`."""
    restarts_seen: Annotated[int, Field(ge=0)] = 0
    """Restarts by the kubelet that `failures` includes."""
    not_before: float = 0.0
    """Unix seconds before which it is not started."""


MAX_SINGLE_MEMBERS = 64
"""Entries of ``members`` up to which each is written by itself, as people read them best."""


def _packed(members: Mapping[str, MemberState]) -> dict[str, MemberState]:
    """Members of the same state under one key: ``rollout-0-4,7``. Ten thousand rollouts that were each replaced once
    are 30 bytes, not a megabyte, which no object of an API server may have."""
    groups: dict[tuple[str, tuple[Any, ...]], list[int]] = {}
    found: dict[str, MemberState] = {}
    for key, entry in members.items():
        role, _, index = key.rpartition("-")
        state = tuple(getattr(entry, name) for name in MemberState.model_fields)
        groups.setdefault((role, state), []).append(int(index))
    for (role, _), indices in groups.items():
        found[f"{role}-{_as_ranges(sorted(indices))}"] = members[f"{role}-{indices[0]}"]
    return found


def _as_ranges(indices: list[int]) -> str:
    """``[0, 1, 2, 7]`` is ``0-2,7``."""
    starts = [i for i, index in enumerate(indices) if i == 0 or index != indices[i - 1] + 1]
    ends = [start - 1 for start in starts[1:]] + [len(indices) - 1]
    pairs = ((indices[start], indices[end]) for start, end in zip(starts, ends, strict=True))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in pairs)


def _unpacked(members: Any) -> Any:
    """The inverse of ``_packed``; what is no member that a run can have is passed over, as an unknown field is."""
    if not isinstance(members, Mapping):
        return members
    found = {}
    for key, entry in members.items():
        match = _PACKED.fullmatch(str(key))
        for part in match[2].split(",") if match else ():
            first, _, last = part.partition("-")
            for index in range(int(first), min(int(last or first), MAX_ROLLOUT_INDEX) + 1):
                found[f"{match[1]}-{index}"] = entry  # type: ignore[index]
    return found


_PACKED = re.compile(r"([a-z]+)-([0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*)")


class RetryState(StatusModel):
    """Something that the API server refused (quota, a webhook, a 422) and that is tried again."""

    failures: Annotated[int, Field(ge=0)] = 0
    """Refusals in a row: sets the back-off."""
    not_before: float = 0.0
    """Unix seconds before which it is not tried."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What the API server said."""


class RunStatus(StatusModel):
    """Everything; a new run has ``RunStatus()``."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """`metadata.generation` that this status was computed from."""
    phase: Phase = "Pending"
    """`Pending` until the spec is accepted and something was started, then `Running` (restarts included),
    `Suspending` and `Suspended`, and at the end `Succeeded` or `Failed`."""
    reason: str = ""
    """CamelCase word: why the phase is what it is."""
    message: Annotated[str, Field(max_length=32_768)] = ""
    """Sentence that goes with the reason; of a failed run, the last words of what failed."""
    exit_code: int | None = None
    """Exit code of the member that ended the run, where one did."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=32, json_schema_extra=_LIST_BY_TYPE)] = ()
    """What is known about the run, one entry a type."""
    frozen: bool = False
    """Whether the resolved spec was written to the run's ConfigMap. From then on it is read from there: what a later
    operator would fill in differently does not touch this run."""
    start_time: Time | None = None
    """When the run was accepted."""
    completion_time: Time | None = None
    """When it succeeded or failed; `spec.ttlSecondsAfterFinished` counts from here."""
    progress: Progress = Progress()
    """How far the run is. For people; decides nothing."""
    rollout: RolloutStatus = RolloutStatus()
    """Rollout pods, for the scale subresource."""
    gang: GangState = GangState()
    """The trainer gang: incarnation, counted failures, next start."""
    members: Annotated[dict[str, MemberState], BeforeValidator(_unpacked)] = Field(default_factory=dict)
    """Pods of other roles that have failed, by name within the run (`rollout-3`); where there are many, those of which
    the same is known are one entry (`rollout-0-4,7`)."""
    restarts: dict[str, int] = Field(default_factory=dict)
    """Counted failures by role (trainer: of the gang)."""
    progress_mark: Annotated[tuple[int, ...], Field(max_length=3)] | None = None
    """Highest (step, units, evaluation units) that a ledger reported: failures before it are forgiven."""
    retries: dict[str, RetryState] = Field(default_factory=dict)
    """What the API server refused, by the name of the child or action."""

    def to_dict(self) -> dict[str, Any]:
        """As the API server takes it: camelCase, no nulls, no empty strings, which 1.20 takes for null, and no
        credentials in any text (``redact``), whoever can read it."""
        if len(self.members) <= MAX_SINGLE_MEMBERS:
            written: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        else:
            written = self.model_copy(update={"members": {}}).model_dump(mode="json", by_alias=True, exclude_none=True)
            written["members"] = {
                key: entry.model_dump(mode="json", by_alias=True, exclude_defaults=True)
                for key, entry in _packed(self.members).items()
            }
        return {key: _written(value) for key, value in written.items() if value != ""}


def read_status(document: Mapping[str, Any]) -> tuple[RunStatus, tuple[str, ...]]:
    """The status that an operator of any version wrote, and the paths of values that this one cannot read (a type of
    condition that is new, say): they alone have their defaults, for whoever began anew would count no failure and start
    a finished run again. Raises ValidationError for what is no mapping."""
    known = dict(document) if isinstance(document, Mapping) else document
    unread: tuple[str, ...] = ()
    if isinstance(known, dict) and known.get("phase", "Pending") not in get_args(Phase):
        # Never Pending, from which a run is started: one that has ended stays so, of any other the pods are looked at.
        known["phase"] = "Failed" if known.get("completionTime") else "Running"
        unread = ("phase",)
    status, _, dropped = read_tolerantly(RunStatus, known)
    return status, (*unread, *map(show_path, dropped))


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items() if item != ""}
    if isinstance(value, list):
        return [_written(item) for item in value]
    return redact(value) if isinstance(value, str) else value
