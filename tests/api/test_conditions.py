"""Setting conditions, purely."""

from __future__ import annotations

import datetime

import pytest
from pydantic import ValidationError

from rz_api.conditions import Condition, Reason, find, set_condition

T0, T1 = 1_763_845_000.75, 1_763_845_060.0
AT_T0 = datetime.datetime(2025, 11, 22, 20, 56, 40, tzinfo=datetime.UTC)
AT_T1 = datetime.datetime(2025, 11, 22, 20, 57, 40, tzinfo=datetime.UTC)


def accepted(now: float = T0) -> tuple[Condition, ...]:
    return set_condition((), "Accepted", True, reason=Reason.SPEC_VALID, now=now, generation=1)


def test_a_new_condition_is_appended_with_the_time_in_whole_seconds() -> None:
    (condition,) = accepted()
    assert (condition.type, condition.status, condition.reason) == ("Accepted", "True", "SpecValid")
    assert condition.last_transition_time == AT_T0
    assert condition.observed_generation == 1


def test_setting_the_same_again_later_changes_nothing() -> None:
    assert set_condition(accepted(), "Accepted", True, reason="SpecValid", now=T1, generation=1) == accepted()


def test_another_message_reason_or_generation_keeps_the_transition_time() -> None:
    (condition,) = set_condition(accepted(), "Accepted", True, reason="Other", message="x", now=T1, generation=2)
    assert (condition.reason, condition.message, condition.observed_generation) == ("Other", "x", 2)
    assert condition.last_transition_time == AT_T0


@pytest.mark.parametrize("status", [False, "False", "Unknown"])
def test_another_status_moves_the_transition_time(status: bool | str) -> None:
    (condition,) = set_condition(accepted(), "Accepted", status, reason="SpecInvalid", now=T1)  # type: ignore[arg-type]
    assert condition.last_transition_time == AT_T1


def test_the_others_and_the_order_stay() -> None:
    both = set_condition(accepted(), "Stalled", False, reason="StepsCommitted", now=T0)
    again = set_condition(both, "Accepted", False, reason="SpecInvalid", now=T1)
    assert [condition.type for condition in again] == ["Accepted", "Stalled"]
    assert again[1] is both[1]


def test_conditions_are_found_by_type() -> None:
    conditions = accepted()
    assert find(conditions, "Accepted") is conditions[0]
    assert find(conditions, "Failed") is None


def test_a_message_too_long_for_the_api_is_cut() -> None:
    (condition,) = set_condition((), "Failed", True, reason="UserError", message="x" * 40_000, now=T0)
    assert len(condition.message) == 32_768
    assert condition.message.endswith("x...")


def test_times_are_written_as_kubernetes_writes_them() -> None:
    assert accepted()[0].model_dump(mode="json", by_alias=True)["lastTransitionTime"] == "2025-11-22T20:56:40Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="add Z for UTC"):
        Condition(
            type="Failed", status="True", reason="X", last_transition_time=datetime.datetime(2025, 11, 22, 20, 56, 40)
        )


def test_every_reason_has_the_form_that_the_api_wants() -> None:
    reasons = [value for name, value in vars(Reason).items() if name.isupper()]
    assert len(set(reasons)) == len(reasons)
    for reason in reasons:
        set_condition((), "Failed", True, reason=reason, now=T0)
