"""The alerts: they ask for metrics that somebody serves, and say what a person needs who is woken by them."""

from __future__ import annotations

import re
from typing import Any

import generate
import pytest
import yaml
from helm import CHART, ROOT, Helm, one

from rz_api.learning import SIGNS, STEPS
from rz_api.metrics import FAMILIES

ALERTS = generate.alerts()
RUNBOOK = ROOT / "docs" / "runbook.md"


def each_alert() -> Any:
    return pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])


@each_alert()
def test_every_metric_of_an_alert_is_one_of_the_registry(rule: dict[str, Any]) -> None:
    asked = set(re.findall(r"\brz_[a-z_]+", rule["expr"]))
    assert asked
    assert asked <= FAMILIES.keys()


@each_alert()
def test_an_alert_says_how_bad_it_is_and_where_to_look(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("ReasonerZero")
    assert rule["labels"] in ({"severity": "warning"}, {"severity": "critical"})
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


@each_alert()
def test_a_label_that_an_alert_names_is_one_that_its_series_have(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    groups = re.findall(r"by \(([^)]*)\)", rule["expr"])
    kept = {label.strip() for group in groups for label in group.split(",")} if groups else {"namespace", "run"}
    assert named <= kept


def test_the_alert_of_a_run_that_learns_nothing_says_what_the_condition_says() -> None:
    [rule] = [rule for rule in ALERTS if rule["alert"] == "ReasonerZeroLearnsNothing"]
    assert rule["expr"].endswith(f">= {STEPS}")
    section = RUNBOOK.read_text().partition("## ReasonerZeroLearnsNothing")[2].partition("\n## ")[0]
    for sign, what in SIGNS.items():
        start = rule["annotations"]["description"].partition(f'eq $labels.sign "{sign}" }}}}')[2]
        said = f"{what.seen[0].upper()}{what.seen[1:]}. Likely cause: {what.cause}."
        assert start.startswith(said), sign
        assert f"| `{sign}` |" in section


@each_alert()
def test_the_runbook_has_a_section_of_every_alert(rule: dict[str, Any]) -> None:
    assert re.search(rf"(?m)^#+ {rule['alert']}$", RUNBOOK.read_text()), "no section of its name"


def test_the_prometheus_rule_has_all_of_them(helm: Helm) -> None:
    rule = one(helm.template({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def test_alerts_can_be_left_out_labelled_and_pointed_elsewhere(helm: Helm) -> None:
    progress = [rule["alert"] for rule in ALERTS if "Restarts" in rule["alert"]]
    values = {"disabled": progress, "alertLabels": {"team": "a"}, "runbookUrl": "https://wiki.example.com/x"}
    rule = one(helm.template({"metrics": {"prometheusRule": {"enabled": True} | values}}), "PrometheusRule")
    found = [each for group in rule["spec"]["groups"] for each in group["rules"]]
    assert [each["alert"] for each in found] == [each["alert"] for each in ALERTS if each["alert"] not in progress]
    for each in found:
        assert each["labels"]["team"] == "a"
        assert each["annotations"]["runbook_url"] == f"https://wiki.example.com/x#{each['alert'].lower()}"


def test_a_group_without_alerts_is_left_out(helm: Helm) -> None:
    names = [rule["alert"] for rule in ALERTS]
    kept = "ReasonerZeroRunStalled"
    names.remove(kept)
    values = {"metrics": {"prometheusRule": {"enabled": True, "disabled": names}}}
    rule = one(helm.template(values), "PrometheusRule")
    assert [[each["alert"] for each in group["rules"]] for group in rule["spec"]["groups"]] == [[kept]]
