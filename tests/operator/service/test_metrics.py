"""The operator's figures as Prometheus gets them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from service_fakes import FakeQueue, figures

from rz_operator.decisions.failures import NOT_OUR_FAULT, judge
from rz_operator.decisions.members import Observed
from rz_operator.service.metrics import RESTART_REASONS, OperatorMetrics
from rz_operator.service.pulse import Limits, Pulse


@pytest.mark.parametrize(
    ("tell", "want"),
    [
        (
            lambda metrics: (metrics.reconciled("done", 0.5), metrics.reconciled("failed", 2.0)),
            {
                "rz_operator_reconciles_total{result=done}": 1,
                "rz_operator_reconciles_total{result=failed}": 1,
                "rz_operator_reconcile_seconds_sum": 2.5,
                "rz_operator_reconcile_seconds_bucket{le=1.0}": 1,
            },
        ),
        (
            lambda metrics: metrics.restart("trainer", "OOMKilled"),
            {"rz_operator_restarts_total{reason=OOMKilled,role=trainer}": 1},
        ),
        (
            lambda metrics: (metrics.restart("rollout", "Whim-4711"), metrics.restart("rollout", "Whim-4712")),
            {"rz_operator_restarts_total{reason=Other,role=rollout}": 2},
        ),
        (
            lambda metrics: metrics.api_request("CREATE", "Pod", 201, 0.02),
            {
                "rz_operator_api_requests_total{code=201,resource=Pod,verb=CREATE}": 1,
                "rz_operator_api_request_seconds_count{verb=CREATE}": 1,
            },
        ),
        (
            lambda metrics: metrics.api_request("GET", "Pod", 0, 30.0),
            {"rz_operator_api_requests_total{code=0,resource=Pod,verb=GET}": 1},
        ),
        (lambda metrics: metrics.refused("Pod"), {"rz_operator_create_refusals_total{kind=Pod}": 1}),
        (lambda metrics: metrics.ledger_poll("silent"), {"rz_operator_ledger_polls_total{result=silent}": 1}),
        (
            lambda metrics: metrics.watches_restarted("silent"),
            {"rz_operator_watch_restarts_total{reason=silent}": 1},
        ),
        (
            lambda metrics: metrics.listen(Pulse(["Pod"], Limits(60), itertools.count(100.0, 7.0).__next__)),
            {"rz_operator_watch_silent_seconds{resource=Pod}": 7},
        ),
        (lambda metrics: metrics.event("dropped"), {"rz_operator_events_total{result=dropped}": 1}),
    ],
    ids=[
        "reconciles and their seconds",
        "a restart",
        "reasons that nobody knows are one",
        "a request",
        "a request without an answer",
        "a refused creation",
        "a poll of a ledger",
        "a restart of the watches",
        "a watch that is silent",
        "a Kubernetes event",
    ],
)
def test_what_is_told_is_counted(tell: Callable[[OperatorMetrics], object], want: dict[str, float]) -> None:
    metrics = OperatorMetrics()
    tell(metrics)
    assert want.items() <= figures(metrics).items()


def test_queue_and_phases_are_read_when_asked_and_a_phase_without_runs_is_zero() -> None:
    metrics, queue = OperatorMetrics(), FakeQueue(depth=3, waiting=4.5, running=6.0)
    phases = ["Running", "Running", None, "Levitating"]
    metrics.watch(queue, lambda: [{"status": {"phase": phase}} if phase else {} for phase in phases])
    found = figures(metrics)
    assert found["rz_operator_queue_depth"] == 3
    assert found["rz_operator_queue_age_seconds"] == 4.5
    assert found["rz_operator_longest_reconcile_seconds"] == 6
    assert _runs(found) == {"Running": 2, "Pending": 1, "Other": 1}
    queue.depth, phases = 0, ["Succeeded"]
    found = figures(metrics)
    assert found["rz_operator_queue_depth"] == 0
    assert _runs(found) == {"Succeeded": 1}
    assert "rz_operator_runs{phase=Running}" in found
    assert "rz_operator_runs{phase=Other}" not in found


def test_two_operators_in_one_process_do_not_share_figures() -> None:
    first, second = OperatorMetrics(), OperatorMetrics()
    first.refused("Pod")
    assert "rz_operator_create_refusals_total{kind=Pod}" not in figures(second)


@pytest.mark.parametrize("code", [None, 0, 1, 64, 65, 70, 75, 78, 86, 137, *range(64, 100)])
@pytest.mark.parametrize("deleting", [False, True])
def test_every_word_of_the_failure_table_is_a_reason(code: int | None, deleting: bool) -> None:
    for signal in (None, 9):
        for reason in ("", "OOMKilled", *NOT_OUR_FAULT):
            end = Observed("trainer", 0, 1, "failed", code, signal, reason, deleting=deleting)
            assert judge(end).reason in RESTART_REASONS


def run_with(restarts: int, **more: Any) -> dict[str, Any]:
    """A run whose trainer may fail 10 times, as the API server has it."""
    return {"spec": {}, "status": {"gang": {"restarts": restarts}, **more}}


@pytest.mark.parametrize(
    ("run", "is_near"),
    [
        ({"spec": {}}, False),
        (run_with(7), False),
        (run_with(8), True),
        (run_with(11, completionTime="2026-11-23T12:00:00Z"), False),
        ({"spec": {"failurePolicy": {"maxRestarts": 3}}, "status": {"gang": {"restarts": 3}}}, True),
        ({"spec": {"failurePolicy": {"maxRestarts": 0}}, "status": {"gang": {"restarts": 0}}}, False),
    ],
    ids=["a new run", "below", "four fifths", "over", "a limit of its own", "no restarts allowed, none needed"],
)
def test_a_run_is_near_its_limit_from_four_fifths_of_it_on(run: dict[str, Any], is_near: bool) -> None:
    metrics = OperatorMetrics()
    metrics.watch(FakeQueue(), lambda: [run])
    assert figures(metrics)["rz_operator_runs_near_restart_limit"] == is_near


def test_stalled_runs_are_counted_by_their_condition() -> None:
    metrics = OperatorMetrics()
    states = ["True", "False", "Unknown"]
    runs = [{"status": {"conditions": [{"type": "Stalled", "status": state}]}} for state in states]
    metrics.watch(FakeQueue(), lambda: runs)
    assert figures(metrics)["rz_operator_runs_stalled"] == 1


def _runs(found: dict[str, float]) -> dict[str, float]:
    pattern = re.compile(r"rz_operator_runs\{phase=(\w+)\}")
    return {match[1]: value for name, value in found.items() if (match := pattern.fullmatch(name)) and value}
