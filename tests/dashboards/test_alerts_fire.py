"""Every alert of the chart, by promtool: on series for which it must fire, and on like ones for which it must not.

Series are given every five minutes, in promtool's notation: ``0.6x60`` is 61 samples of 0.6, ``0+10x30`` rises by 10.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus import NotHereError, program

RULES = Path(__file__).parent.parent.parent / "charts" / "reasonerzero" / "files" / "alerts.yaml"
OF_RUN = 'namespace="team",run="a",role="ledger",pod="a-0"'
OF_OPERATOR = 'namespace="system",pod="operator-0"'


@dataclass(frozen=True)
class Case:
    """``fires`` and ``rests``: series -> values; ``at``: when it is looked at."""

    fires: dict[str, str]
    rests: dict[str, str]
    at: str


def of_run(metric: str, *labels: str) -> str:
    return f"{metric}{{{','.join((OF_RUN, *labels))}}}"


def of_operator(metric: str, *labels: str) -> str:
    return f"{metric}{{{','.join((OF_OPERATOR, *labels))}}}"


def updates(outcome: str) -> str:
    return of_run("rz_rollout_weight_updates_total", f'outcome="{outcome}"')


ALL_DONE = {of_run("rz_ledger_units"): "8x40", of_run("rz_ledger_units_done"): "8x40"}

CASES = {
    "ReasonerZeroRewardCollapse": Case(
        {of_run("rz_ledger_reward_mean"): "0.6x60 0.1x60"}, {of_run("rz_ledger_reward_mean"): "0.6x60 0.5x60"}, "8h"
    ),
    "ReasonerZeroTruncationUp": Case(
        {of_run("rz_trainer_truncated_fraction"): "0.02x120 0.3x40"},
        {of_run("rz_trainer_truncated_fraction"): "0.3x160"},
        "11h30m",
    ),
    "ReasonerZeroMismatchHigh": Case(
        {of_run("rz_trainer_mismatch_abs_mean"): "0.08x30"},
        {of_run("rz_trainer_mismatch_abs_mean"): "0.08x3 0.01 0.08x3 0.01 0.08x3 0.01 0.08x3 0.01 0.08x3 0.01 0.08x3"},
        "1h30m",
    ),
    "ReasonerZeroLearnsNothing": Case(
        {of_run("rz_ledger_fruitless_steps", 'sign="zero"'): "0+1x20"},
        {of_run("rz_ledger_fruitless_steps", 'sign="zero"'): "4 0 1 2 3 4 0 1 2 3 4 0 1 2 3 4 0 1 2 3 4"},
        "1h",
    ),
    "ReasonerZeroSamplesMasked": Case(
        {of_run("rz_trainer_reward_status_crashed_fraction"): "0.02x30"},
        {of_run("rz_trainer_reward_status_crashed_fraction"): "0.05 0x11 0.05 0x11 0.05 0x6"},
        "2h",
    ),
    "ReasonerZeroRunStalled": Case(
        {of_run("rz_ledger_last_progress_seconds"): "0+300x30"},
        {of_run("rz_ledger_last_progress_seconds"): "900x30"},
        "1h",
    ),
    "ReasonerZeroTrainerStalled": Case(
        {**ALL_DONE, of_run("rz_ledger_step"): "5x40"}, {**ALL_DONE, of_run("rz_ledger_step"): "5+1x40"}, "2h"
    ),
    "ReasonerZeroWeightSyncFailing": Case(
        {updates("broadcast failed"): "0+10x30", updates("storage"): "0+1x30"},
        {updates("broadcast failed"): "0+1x30", updates("broadcast"): "0+10x30"},
        "2h",
    ),
    "ReasonerZeroRolloutsBelowMinimum": Case(
        {of_run("rz_ledger_rollouts"): "24x40 8x20"}, {of_run("rz_ledger_rollouts"): "24x40 20x20"}, "4h15m"
    ),
    "ReasonerZeroRestartsNearLimit": Case(
        {of_operator("rz_operator_runs_near_restart_limit"): "1x20"},
        {of_operator("rz_operator_runs_near_restart_limit"): "0x20"},
        "1h",
    ),
    "ReasonerZeroVerifierTimeouts": Case(
        {of_run("rz_reward_timeouts_total"): "0+10x30", of_run("rz_reward_comparisons_total"): "0+100x30"},
        {of_run("rz_reward_timeouts_total"): "0+1x30", of_run("rz_reward_comparisons_total"): "0+100x30"},
        "2h",
    ),
    "ReasonerZeroVerifierCrashes": Case(
        {of_run("rz_reward_crashes_total"): "0+5x30"}, {of_run("rz_reward_crashes_total"): "0+1x30"}, "2h"
    ),
    "ReasonerZeroVerdictsMissing": Case(
        {of_run("rz_ledger_blocking", 'blocker="reward"'): "1x20"},
        {of_run("rz_ledger_blocking", 'blocker="reward"'): "1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0"},
        "1h",
    ),
    "ReasonerZeroStorageErrors": Case(
        {of_run("rz_storage_errors_total", 'operation="put"'): "0+10x30"},
        {of_run("rz_storage_errors_total", 'operation="put"'): "0+1x30"},
        "2h",
    ),
    "ReasonerZeroOperatorBehind": Case(
        {of_operator("rz_operator_queue_age_seconds"): "400x20"},
        {of_operator("rz_operator_queue_age_seconds"): "10x20"},
        "1h",
    ),
    "ReasonerZeroOperatorNotWatching": Case(
        {of_operator("rz_operator_watch_silent_seconds", 'resource="Pod"'): "400x20"},
        {of_operator("rz_operator_watch_silent_seconds", 'resource="Pod"'): "60x20"},
        "1h",
    ),
    "ReasonerZeroOperatorFailing": Case(
        {of_operator("rz_operator_reconciles_total", 'result="failed"'): "0+5x30"},
        {
            of_operator("rz_operator_reconciles_total", 'result="failed"'): "0+1x30",
            of_operator("rz_operator_reconciles_total", 'result="done"'): "0+50x30",
        },
        "2h",
    ),
    "ReasonerZeroCreateRefused": Case(
        {of_operator("rz_operator_create_refusals_total", 'kind="Pod"'): "0+1x40"},
        {of_operator("rz_operator_create_refusals_total", 'kind="Pod"'): "7x40"},
        "3h",
    ),
}


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return program("promtool")
    except NotHereError as missing:
        if os.environ.get("RZ_REQUIRE_APISERVER"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def test_every_alert_has_a_case() -> None:
    rules = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert rules == list(CASES)


@pytest.mark.parametrize("fires", [True, False], ids=["fires", "rests"])
@pytest.mark.parametrize("alert", CASES)
def test_it(promtool: Path, tmp_path: Path, alert: str, fires: bool) -> None:
    case = CASES[alert]
    series = case.fires if fires else case.rests
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    wanted: list[dict[str, Any]] = [{"labels": "{}", "value": 1}] if fires else []
    test = {
        "interval": "5m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": case.at, "exp_samples": wanted}],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong(promtool: Path) -> None:
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
