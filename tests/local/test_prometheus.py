"""A real Prometheus scrapes a small run: every panel of every dashboard has data, every alert's query is understood."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import yaml
from draw import filled
from panels import PAGES
from prometheus import NotHereError, Prometheus, program
from prometheus_client import start_http_server

from rz_operator.service.metrics import OperatorMetrics

pytestmark = [pytest.mark.local, pytest.mark.timeout(400)]

RULES = Path(__file__).parent.parent.parent / "charts" / "reasonerzero" / "files" / "alerts.yaml"
WITHOUT_DATA = {"Model FLOPs utilisation": "the peak of a CPU is not known"}
"""Panel -> why it is empty here."""


class Queue:
    """A work queue in which nothing waits."""

    depth = 0

    def oldest_due_seconds(self) -> float:
        return 0.0

    stalled_seconds = longest_running_seconds = oldest_due_seconds


def busy_operator() -> OperatorMetrics:
    """The operator's real figures, of an operator that has done a little of everything."""
    metrics = OperatorMetrics()
    metrics.watch(Queue(), lambda: [{"status": {"phase": "Running"}}])
    metrics.reconciled("done", 0.1)
    metrics.restart("rollout", "OOMKilled")
    metrics.api_request("GET", "Pod", 200, 0.01)
    metrics.refused("Pod")
    metrics.ledger_poll("answered")
    metrics.event("written")
    return metrics


@pytest.fixture(scope="module")
def scraped(make_run, tmp_path_factory):
    """(Prometheus with a whole run in it, when the run began, when it ended, the run)."""
    try:
        program("prometheus")
    except NotHereError as missing:
        if os.environ.get("RZ_REQUIRE_APISERVER"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("scraped")
    run, operator = make_run(folder / "run"), busy_operator()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=operator.registry)
    members = {"files": [str(run.workdir / "prometheus.json")], "refresh_interval": "1s"}
    jobs = [
        {"job_name": "run", "file_sd_configs": [members]},
        {"job_name": "operator", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]},
    ]
    began = time.time()
    with Prometheus(folder / "prometheus", jobs, RULES) as prometheus:
        process = run.start()
        run.wait_for(lambda: bool(run.commits()), process)
        operator.reconciled("done", 0.1)  # a rate takes a change between two scrapes
        code, output = run.finish(process)
        assert code == 0, f"{output}\n{run.logs()}"
        yield prometheus, began, time.time(), run
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", PAGES)
def test_every_panel_has_data(scraped, name):
    prometheus, began, ended, _ = scraped
    empty = set()
    for panel in PAGES[name].panels():
        found = [
            series
            for query in panel.expressions().values()
            for series in prometheus.query_range(filled(query, "local", "small", 30), began, ended)
        ]
        if not found:
            empty.add(panel.title)
    assert empty == WITHOUT_DATA.keys() & {panel.title for panel in PAGES[name].panels()}


def test_every_alerts_query_is_understood_and_none_fires(scraped):
    prometheus, began, ended, _ = scraped
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        prometheus.query_range(rule["expr"], began, ended)
    assert prometheus.query_range('ALERTS{alertstate="firing"}', began, ended) == []


def test_figures_of_steps_are_those_of_metrics_jsonl(scraped):
    prometheus, began, ended, run = scraped
    rewards = {commit["metrics"]["reward_mean"] for commit in run.commits().values()}
    [series] = prometheus.query_range("rz_trainer_reward_mean", began, ended)
    assert {float(value) for _, value in series["values"]} <= {float(repr(reward)) for reward in rewards}
    assert (series["metric"]["run"], series["metric"]["role"]) == ("small", "trainer")


def test_every_role_is_scraped_with_the_labels_that_the_chart_puts_on(scraped):
    prometheus, began, ended, _ = scraped
    series = prometheus.query_range("up", began, ended)
    roles = {each["metric"]["role"] for each in series if each["metric"]["job"] == "run"}
    assert roles == {"ledger", "reward", "rollout", "trainer"}
    assert all(re.fullmatch(r"[a-z]+-\d", each["metric"]["pod"]) for each in series if each["metric"]["job"] == "run")
