"""What ``rz status`` shows of runs on a cluster, as lines of text. Pure; ``status`` fetches what goes in."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from rz_api import names
from rz_api.conditions import Condition, Reason
from rz_api.names import Role
from rz_api.status import FINAL_PHASES, Phase, Progress, RunStatus
from rz_operator.apiserver.bodies import at
from rz_operator.apiserver.cluster import Body
from rz_operator.commands.text_table import Rows, table, wrapped

EVENTS_SHOWN = 8
ROLES: tuple[Role, ...] = get_args(Role)
_BELOW = " " * 17
"""Where the text of an entry begins."""
_EXPECTED = frozenset({Reason.RUN_FINISHED, Reason.SUSPEND_REQUESTED, Reason.NOT_NEEDED, Reason.SCALED_TO_ZERO})
"""Reasons for which a role is not ready, and nothing is amiss."""


def status_of(run: Mapping[str, Any]) -> RunStatus:
    """The status, as far as it can be read: an operator of another version may have written it."""
    try:
        return RunStatus.model_validate(run.get("status") or {}, by_alias=True, by_name=False)
    except ValidationError:
        phase = at(run, "status", "phase")
        return RunStatus(phase=phase if phase in get_args(Phase) else "Pending")


def is_current(run: Mapping[str, Any]) -> bool:
    """Whether the operator has looked at the newest spec."""
    seen = at(run, "status", "observedGeneration")
    return isinstance(seen, int) and seen >= (at(run, "metadata", "generation") or 0)


# --------------------------------------------------------------------------------------------------- one run


def run_lines(
    run: Mapping[str, Any], pods: Sequence[Body], events: Sequence[Body], now: float, width: int | None = None
) -> list[str]:
    """Everything about one run. ``pods`` are its pods, ``events`` those about it; ``now`` in Unix seconds, ``width`` in
    columns (see ``text_table.wrapped``)."""
    head, lines = _head_lines(run, now), _body_lines(run, pods, events, now)
    return [
        *(part for line in head for part in wrapped(line, width, "  ")),
        *(part for line in lines for part in wrapped(line, width, _BELOW)),
    ]


def _head_lines(run: Mapping[str, Any], now: float) -> list[str]:
    status, metadata = status_of(run), run["metadata"]
    reason = f" ({status.reason})" if status.reason else ""
    lines = [f"{metadata['namespace']}/{metadata['name']}: {status.phase}{reason}, {_age(metadata, now)} old"]
    if status.message:
        lines.append(f"  {status.message.strip()}")
    if status.observed_generation is None:
        lines.append("  no operator has looked at it yet: is one installed, and does it serve this namespace?")
    elif not is_current(run):
        lines.append("  the operator has not looked at the newest change yet")
    return lines


def _body_lines(run: Mapping[str, Any], pods: Sequence[Body], events: Sequence[Body], now: float) -> list[str]:
    status = status_of(run)
    lines = list(_progress_lines(status))
    lines += _role_lines(run, status, pods)
    if status.restarts:
        lines += _entry("restarts", "  ".join(f"{role} {count}" for role, count in sorted(status.restarts.items())))
    for key, retry in sorted(status.retries.items()):
        lines += _entry("refused", f"{key}, again at {_clock(retry.not_before)}: {retry.message}")
    for condition in status.conditions:
        if _matters(condition, status):
            words = f": {condition.message}" if condition.message else ""
            lines += _entry(condition.type, f"{condition.status}, {condition.reason}{words}")
    return lines + _event_lines(events, now)


def _progress_lines(status: RunStatus) -> Iterator[str]:
    progress = status.progress
    if progress.total_steps is not None or progress.step or progress.weight_version is not None:
        yield from _entry("step", "   ".join([_steps(progress), *_figures(progress)]))
    if progress.evaluation:
        shown = (f"{name} {accuracy:.1%}" for name, accuracy in sorted(progress.evaluation.items()))
        yield from _entry("evaluation", "   ".join(shown))
    if progress.blocking_role is not None and status.phase == "Running":
        yield from _entry("waits for", progress.blocking_role)


def _figures(progress: Progress) -> Iterator[str]:
    for name, value, form in (
        ("reward", progress.reward_mean, "{:.3f}"),
        ("length", progress.response_length_mean, "{:.1f}"),
        ("truncated", progress.truncated_fraction, "{:.1%}"),
        ("tok/s", progress.tokens_per_second, "{:,.0f}"),
        ("checkpoint", progress.last_checkpoint, "{}"),
    ):
        if value is not None:
            yield f"{name} {form.format(value)}"
    if progress.eta_seconds is not None:
        yield f"ETA {duration(progress.eta_seconds)}"


def _role_lines(run: Mapping[str, Any], status: RunStatus, pods: Sequence[Body]) -> Iterator[str]:
    """Pods that are ready, of those there are: of rollouts of those that are wanted, of the trainer of its gang."""
    by_role: dict[str, list[Body]] = {role: [] for role in ROLES}
    for pod in pods:
        labels = at(pod, "metadata", "labels") or {}
        role = labels.get(names.LABEL_ROLE)
        old = role == "trainer" and labels.get(names.LABEL_INCARNATION) != str(status.gang.incarnation)
        if role in by_role and not old:
            by_role[role].append(pod)
    for role, found in by_role.items():
        if not found:
            continue
        ready, total = sum(map(_is_ready, found)), len(found)
        if role == "rollout":
            total = max(total, at(run, "spec", "rollout", "replicas") or 0)
        extra = f", incarnation {status.gang.incarnation}" if role == "trainer" else ""
        states = Counter(pod_state(pod) for pod in found if not _is_ready(pod))
        waiting = f" ({', '.join(f'{count} {state}' for state, count in sorted(states.items()))})" if states else ""
        yield from _entry(role, f"{ready}/{total} ready{extra}{waiting}")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = at(pod, "status", "conditions") or []
    ready = any(at(each, "type") == "Ready" and at(each, "status") == "True" for each in conditions)
    return ready and not at(pod, "metadata", "deletionTimestamp")


def pod_state(pod: Mapping[str, Any]) -> str:
    """``ImagePullBackOff``, ``Terminating``, ``Pending``: as ``kubectl get pods`` has it."""
    if at(pod, "metadata", "deletionTimestamp"):
        return "Terminating"
    for container in at(pod, "status", "containerStatuses") or []:
        for state in ("waiting", "terminated"):
            reason = at(container, "state", state, "reason")
            if reason:
                return str(reason)
    for condition in at(pod, "status", "conditions") or []:
        if at(condition, "type") == "PodScheduled" and at(condition, "status") == "False":
            return str(at(condition, "reason") or "Pending")
    phase = str(at(pod, "status", "phase") or "Pending")
    return "NotReady" if phase == "Running" and not _is_ready(pod) else phase


def _matters(condition: Condition, status: RunStatus) -> bool:
    """Whether a condition says what its reader would not assume."""
    match condition.type:
        case "Accepted":
            return condition.status != "True" or condition.message not in ("", "the spec is valid")
        case "Stalled":
            return condition.status == "True"
        case "Learning":
            return condition.status == "False"
        case "Succeeded" | "Failed" | "Suspended":
            return False  # the phase says it
    return condition.status != "True" and condition.reason not in _EXPECTED and status.phase not in FINAL_PHASES


def _event_lines(events: Iterable[Body], now: float) -> list[str]:
    newest = sorted(events, key=_event_time)[-EVENTS_SHOWN:]
    lines = ["events"] if newest else []
    for event in newest:
        count = event.get("count") or 1
        times = f" (x{count})" if count > 1 else ""
        ago = duration(max(0.0, now - _seconds(_event_time(event), now)))
        lines.append(
            f"  {ago:>9} ago  {event.get('type', 'Normal'):<8} {event.get('reason', '')}{times}: "
            f"{_indented(str(event.get('message', '')).strip())}"
        )
    return lines


def _event_time(event: Mapping[str, Any]) -> str:
    # Of the newer events API only eventTime is set.
    return str(event.get("lastTimestamp") or event.get("eventTime") or at(event, "metadata", "creationTimestamp") or "")


# -------------------------------------------------------------------------------------------------- many runs


def table_lines(runs: Sequence[Body], now: float, with_namespace: bool) -> list[str]:
    """A line a run, aligned, by namespace and name."""
    header = ("NAME", "PHASE", "STEP", "REWARD", "LENGTH", "ROLLOUTS", "ETA", "AGE")
    rows: Rows = [(("NAMESPACE",) if with_namespace else ()) + header]
    for run in sorted(runs, key=lambda run: (run["metadata"]["namespace"], run["metadata"]["name"])):
        status, metadata = status_of(run), run["metadata"]
        progress, rollout = status.progress, status.rollout
        cells = (
            metadata["name"],
            status.phase,
            _steps(progress),
            _cell(progress.reward_mean, "{:.3f}"),
            _cell(progress.response_length_mean, "{:.0f}"),
            f"{rollout.ready_replicas}/{rollout.replicas}",
            duration(progress.eta_seconds) if progress.eta_seconds is not None else "-",
            _age(metadata, now),
        )
        rows.append(((metadata["namespace"],) if with_namespace else ()) + cells)
    return table(rows, None)


# ------------------------------------------------------------------------------------------------------- words


def duration(seconds: float) -> str:
    """``45s``, ``12m30s``, ``3h05m``, ``4d02h``."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def _steps(progress: Progress) -> str:
    return f"{progress.step}/{progress.total_steps if progress.total_steps is not None else '?'}"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _age(metadata: Mapping[str, Any], now: float) -> str:
    return duration(max(0.0, now - _seconds(metadata.get("creationTimestamp"), now)))


def _seconds(time: Any, otherwise: float) -> float:
    try:
        return datetime.datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return otherwise


def _clock(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%H:%M:%S UTC")


def _entry(name: str, text: str) -> list[str]:
    return [f"  {name:<14} {_indented(text.strip())}"]


def _indented(text: str) -> str:
    """Further lines of a text, below its first one."""
    return text.replace("\n", f"\n{_BELOW}")
