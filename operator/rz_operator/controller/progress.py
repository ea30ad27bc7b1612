"""Progress in the status changes with each step, and within a step at most once a minute. Pure.

It is what the ledger last said, as far as that can be a number. ``status_report`` calls ``progress``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from rz_api.conditions import Reason
from rz_api.status import Progress, RunStatus
from rz_operator.controller.facts import Facts
from rz_operator.controller.observe import api_time
from rz_operator.controller.words import cut
from rz_operator.decisions.reached import LedgerStatus

PROGRESS_SECONDS = 60.0
"""Age of a step from which its progress is taken over without a commit."""

BLOCKED = {
    "rollout": Reason.BLOCKED_BY_ROLLOUT,
    "trainer": Reason.BLOCKED_BY_TRAINER,
    "reward": Reason.BLOCKED_BY_REWARD,
    "storage": Reason.BLOCKED_BY_STORAGE,
}
"""What the ledger may say that the run waits for, and the reason of a run that stalls over it."""


def progress(status: RunStatus, facts: Facts, now: float) -> Progress:
    """What the ledger says: at once on a new step, otherwise at most once a minute. ``now`` is in Unix seconds."""
    old, running = status.progress, status.phase in ("Running", "Suspending")
    if status.completion_time is not None:
        return old
    found = _as_progress(old, facts.ledger) if facts.ledger is not None else old
    if found.step != old.step:
        found = found.model_copy(update={"last_step_time": api_time(now)})
    elif running and old.update_time is not None and now - old.update_time.timestamp() < PROGRESS_SECONDS:
        found = old
    if not running:
        found = found.model_copy(update={"eta_seconds": None, "blocking_role": None})
    if status.phase == "Succeeded" and found.total_steps is not None:
        found = found.model_copy(update={"step": found.total_steps})  # that is what the trainer's success means
    return old if found == old else found.model_copy(update={"update_time": api_time(now)})


def blocking_role(ledger: LedgerStatus) -> str | None:
    """Whom the step under way waits for, one of ``BLOCKED``; None where the ledger does not say."""
    role = ledger.get("blocking_role")
    return role if isinstance(role, str) and role in BLOCKED else None


def trouble(ledger: LedgerStatus | None, kind: Literal["storage", "reward"]) -> str:
    """What is wrong with the run's storage or its verdicts, as the ledger says it; empty where nothing is."""
    found = ledger.get(f"{kind}_trouble") if ledger is not None else None
    if not isinstance(found, str):
        return ""
    # Half of a surrogate pair, which JSON can write, would be another text whenever it is read back.
    return cut(found.encode(errors="replace").decode())


def _as_progress(old: Progress, ledger: LedgerStatus) -> Progress:
    """The ledger's answer, of which nothing is believed to have the right type. One that has just started and not read
    storage yet (``waiting``) knows less than we do."""
    if ledger.get("phase") == "waiting" and old.weight_version is not None:
        return old
    metrics, evaluation = ledger.get("metrics"), ledger.get("evaluation")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    evaluation = evaluation if isinstance(evaluation, Mapping) else {}
    eta = _number(ledger.get("eta_seconds"))
    accuracies = ((name[:63], _number(value)) for name, value in list(evaluation.items())[:64] if isinstance(name, str))
    return Progress(
        step=_whole(ledger.get("step")) or 0,
        total_steps=_whole(ledger.get("total_steps")) or None,
        weight_version=_whole(ledger.get("weight_version")),
        reward_mean=_number(metrics.get("reward_mean")),
        response_length_mean=_number(metrics.get("response_length_mean")),
        truncated_fraction=_number(metrics.get("truncated_fraction")),
        evaluation={name: float(f"{value:.4g}") for name, value in accuracies if value is not None},
        tokens_per_second=_number(metrics.get("tokens_per_second_generated")),
        eta_seconds=None if eta is None else round(eta),
        last_checkpoint=_whole(ledger.get("last_checkpoint_step")),
        last_step_time=old.last_step_time,
        update_time=old.update_time,
        blocking_role=blocking_role(ledger),
    )


def _number(value: Any) -> float | None:
    """A number that is not negative and that an API server can hold; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # From 2**53 on a double, which is what most readers of JSON have, leaves whole numbers out.
    return value if 0 <= value < 2**53 and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
