"""The status: what is written, and that it reads back."""

from __future__ import annotations

import pytest

from rz_api.conditions import set_condition
from rz_api.status import GangState, MemberState, Progress, RetryState, RolloutStatus, RunStatus

FULL = RunStatus(
    observed_generation=2,
    phase="Running",
    conditions=set_condition((), "Accepted", True, reason="SpecValid", now=1_763_845_000.0),
    frozen=True,
    progress=Progress(step=12, total_steps=60, reward_mean=0.25, evaluation={"math500": 0.5}),
    rollout=RolloutStatus(replicas=24, selector="reasonerzero.dev/run=orz-7b"),
    gang=GangState(incarnation=3, restarts=2, not_before=1_763_845_010.5),
    members={"rollout-3": MemberState(failures=1)},
    restarts={"trainer": 2},
    progress_mark=(12, 40, 0),
    retries={"orz-7b-trainer-i3-0": RetryState(failures=1, message="exceeded quota")},
)


@pytest.mark.parametrize("status", [RunStatus(), FULL], ids=["new", "full"])
def test_it_reads_back_as_it_was_written(status: RunStatus) -> None:
    assert RunStatus.model_validate(status.to_dict()) == status


def test_what_is_absent_is_not_written_as_null() -> None:
    assert "observedGeneration" not in RunStatus().to_dict()
    assert "totalSteps" not in RunStatus().to_dict()["progress"]


def test_the_columns_of_kubectl_are_where_the_crd_looks() -> None:
    written = FULL.to_dict()
    assert (written["phase"], written["progress"]["step"], written["rollout"]["replicas"]) == ("Running", 12, 24)


@pytest.mark.parametrize(
    ("figure", "written"),
    [(0.123456, 0.1235), (1234.567, 1235.0), (0.0, 0.0), (float("nan"), None), (float("inf"), None), (None, None)],
)
def test_figures_for_people_have_four_digits_and_are_absent_when_not_finite(
    figure: float | None, written: float | None
) -> None:
    assert Progress(reward_mean=figure).reward_mean == written


def test_fields_of_a_newer_operator_are_ignored() -> None:
    assert RunStatus.model_validate({"phase": "Failed", "news": {"a": 1}}) == RunStatus(phase="Failed")
