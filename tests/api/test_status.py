"""The status: what is written, and that it reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.dictionaries(st.integers(0, 9_999), st.integers(1, 4), min_size=65, max_size=400))
def test_many_members_are_written_by_what_is_known_of_them_and_read_back(incarnations: dict[int, int]) -> None:
    members = {f"rollout-{index}": MemberState(incarnation=each) for index, each in incarnations.items()}
    written = RunStatus(members=members).to_dict()
    assert len(written["members"]) == len(set(incarnations.values()))
    assert RunStatus.model_validate(written, by_alias=True, by_name=False).members == members


def test_the_same_is_known_of_ranges_and_single_members() -> None:
    members = {f"rollout-{index}": MemberState(failures=1) for index in (*range(70), 80, 90, 91)}
    assert RunStatus(members=members).to_dict()["members"] == {"rollout-0-69,80,90-91": {"failures": 1}}


@pytest.mark.parametrize(
    "key", ["rollout", "rollout-", "rollout-1-", "rollout-3-1", "rollout-10000-99999", "-1", "x y"]
)
def test_a_member_that_no_run_has_is_passed_over(key: str) -> None:
    read = RunStatus.model_validate({"members": {key: {"failures": 1}, "rollout-4": {"failures": 2}}})
    assert read.members == {"rollout-4": MemberState(failures=2)}


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
