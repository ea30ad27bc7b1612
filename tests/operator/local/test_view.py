from __future__ import annotations

import io
from typing import Any

import pytest
from operator_builders import member
from rich.console import Console

from rz_api.status import RunStatus
from rz_operator.decisions.members import Event, Observation, Reached
from rz_operator.decisions.reached import reached_of
from rz_operator.local.view import LiveView, PlainView, duration, member_text, render, step_line

LEDGER: dict[str, Any] = {
    "phase": "running",
    "step": 12,
    "total_steps": 60,
    "units_done": 3,
    "units_total": 4,
    "units_leased": 1,
    "eval_units_done": 1,
    "eval_units_total": 8,
    "incarnation": 2,
    "metrics": {
        "reward_mean": 0.4123,
        "response_length_mean": 24.06,
        "truncated_fraction": 0.01,
        "tokens_per_second_generated": 9800.4,
        "seconds_values": 0.1,
        "seconds_critic_update": 0.45,
    },
    "evaluation": {"heldout": 0.54},
    "seconds_per_step": 1.2,
    "eta_seconds": 58.0,
}


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0:00"), (75.4, "1:15"), (3700, "1:01:40"), (59.9, "1:00")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_line_of_a_step() -> None:
    assert step_line(LEDGER) == (
        "step 12/60  reward 0.412  length 24.1  heldout 54.0%  truncated 1.0%  tok/s 9,800  s/step 1.20  ETA 0:58"
    )


def test_what_is_not_known_yet_is_left_out() -> None:
    assert step_line({"step": 0, "total_steps": None, "metrics": {}}) == "step 0/?  ETA -"


def test_the_plain_view_prints_each_completed_step_once_and_every_event() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    for step in (0, 1, 1, 2):
        view.show(RunStatus(), Observation(), {"step": step})
    view.show(RunStatus(), Observation(), None)
    view.tell(Event("Warning", "Killed", "rollout-0 ended"))
    view.close()
    assert stream.getvalue().splitlines() == ["step 1/?  ETA -", "step 2/?  ETA -", "warning: rollout-0 ended"]


def test_the_table_shows_figures_phases_failures_and_members() -> None:
    console = Console(file=io.StringIO(), width=110, record=True)
    status = RunStatus(phase="Running", restarts={"rollout": 1})
    members = (member("trainer-0", 3), member("rollout-0", 2, deleting=True), member("ledger-0"))
    console.print(render("tiny", status, [member_text(each) for each in members], LEDGER))
    text = console.export_text()
    for words in (
        "tiny: Running",
        "12/60   units 3/4 (1 leased), evaluation 1/8",
        "heldout 54.0%",
        "values 0.10  critic_update 0.45",
        "rollout 1",
        "trainer-0 (i3) running  rollout-0 (i2) stopping  ledger-0 running",
    ):
        assert words in text


FULL = "the storage s3://runs/tiny is full (OSError: [Errno 28] No space left on device): free space in it"


def test_the_plain_view_says_that_storage_is_full_once_and_when_it_is_not_any_more() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    for ledger in ({"step": 1}, *[{"step": 1, "storage_trouble": FULL}] * 3, None, {"step": 1}, {"step": 1}):
        view.show(RunStatus(), Observation(), ledger)
    assert stream.getvalue().splitlines() == [
        "step 1/?  ETA -",
        f"warning: {FULL}",
        "the storage does what it should again",
    ]


NOTHING = {"fruitless_steps": 9, "fruitless_sign": "no_answer"}
WAITS = "rollout-0 waits for verdicts: the reward service at http://127.0.0.1:1 fails (503 no child)"


def test_the_plain_view_says_once_that_a_run_learns_nothing_and_that_verdicts_do_not_come() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    for step, fields in ((9, NOTHING), (10, {**NOTHING, "fruitless_steps": 10}), (11, {"fruitless_steps": 0})):
        view.show(RunStatus(), Observation(), {"step": step, **fields})
    for trouble in (WAITS, WAITS, None):
        view.show(RunStatus(), Observation(), {"step": 11, "reward_trouble": trouble})
    first, *others = stream.getvalue().splitlines()
    assert first.startswith(
        "warning: nothing could be learned from any step since step 0: responses end without an ans"
    )
    assert "Likely cause: data.promptTemplate does not ask for <answer> tags" in first
    assert others == [
        "step 9/?  ETA -",
        "step 10/?  ETA -",
        "there is something to learn again",
        "step 11/?  ETA -",
        f"warning: {WAITS}",
        "verdicts come again",
    ]


def test_the_table_says_what_is_in_the_way_and_how_many_are_masked() -> None:
    console = Console(file=io.StringIO(), width=260, record=True)
    metrics = {"metrics": {"reward_mean": 0.0, "reward_status_crashed_fraction": 0.125}}
    console.print(render("tiny", RunStatus(), [], {"step": 9, **NOTHING, **metrics, "reward_trouble": WAITS}))
    text = console.export_text()
    assert f"reward    {WAITS}" in text
    assert "learning  nothing could be learned" in text
    assert "masked 12.5%" in text


def test_the_table_says_that_storage_is_full_brackets_and_all() -> None:
    console = Console(file=io.StringIO(), width=150, record=True)
    console.print(render("tiny", RunStatus(phase="Running"), [], LEDGER | {"storage_trouble": FULL}))
    assert f"storage  {FULL}" in console.export_text()


def test_the_live_view_draws_with_and_without_figures_and_takes_events_literally() -> None:
    console = Console(file=io.StringIO(), width=110, force_terminal=True)
    view = LiveView(console, "tiny")
    view.show(RunStatus(), Observation(), LEDGER)
    view.show(RunStatus(phase="Running"), Observation(), None)
    view.tell(Event("Normal", "Resumed", "going on [with] trainer incarnation 2"))
    view.close()
    assert isinstance(console.file, io.StringIO)
    assert "going on [with] trainer" in console.file.getvalue()


@pytest.mark.parametrize(
    ("status", "reached"),
    [
        (LEDGER, Reached(12, 3, 1, 2)),
        ({"phase": "waiting", "step": 0}, Reached(0, 0)),
        ({"phase": "adopting", "step": 12}, None),
        (None, None),
    ],
    ids=["running", "before version 0", "restarted and still adopting", "no answer"],
)
def test_what_decide_may_know_of_the_ledger(status: dict[str, Any] | None, reached: Reached | None) -> None:
    assert reached_of(status) == reached
