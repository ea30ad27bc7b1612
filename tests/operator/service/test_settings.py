"""The operator's settings: what a wrong one is answered with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rz_operator.errors import UserError
from rz_operator.service.settings import Settings


@pytest.mark.parametrize(
    ("level", "want"),
    [({}, "INFO"), ({"RZ_LOG_LEVEL": ""}, "INFO"), ({"RZ_LOG_LEVEL": "debug"}, "DEBUG")],
    ids=["without one: INFO", "an empty one is none", "small letters are fine"],
)
def test_the_level_of_messages(level: dict[str, str], want: str) -> None:
    assert Settings.from_environment(level).log_level == want


PEERS = '[{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]'


def test_without_scrapers_everybody_reaches_the_status_ports_of_runs() -> None:
    assert Settings.from_environment({"RZ_OPERATOR_PEER": '{"podSelector": {}}'}).options.status_peers == ()


def test_the_operator_is_one_of_those_who_reach_the_status_ports_of_runs() -> None:
    env = {"RZ_SCRAPE_FROM": PEERS, "RZ_OPERATOR_PEER": '{"podSelector": {"matchLabels": {"app": "operator"}}}'}
    assert Settings.from_environment(env).options.status_peers == (
        {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}},
        {"podSelector": {"matchLabels": {"app": "operator"}}},
    )


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (
            {"RZ_LOG_LEVEL": "chatty"},
            "RZ_LOG_LEVEL is 'chatty'; one of DEBUG, INFO, WARNING, ERROR, CRITICAL is required",
        ),
        ({"RZ_CONCURRENCY": "0"}, "RZ_CONCURRENCY is '0'; a number of at least 1 is required"),
        ({"RZ_WATCH_SECONDS": "0.5"}, "RZ_WATCH_SECONDS is '0.5'; a number of at least 1 is required"),
        ({"RZ_LOG_FORMAT": "xml"}, "RZ_LOG_FORMAT is 'xml'; text or json is required"),
        ({"RZ_CLIENT_QPS": "-1"}, "RZ_CLIENT_QPS is '-1'; a number of at least 0 is required"),
        ({"RZ_RUN_DEFAULTS": "{"}, "RZ_RUN_DEFAULTS: runDefaults: Invalid JSON"),
        ({"RZ_RUN_DEFAULTS": '{"lables": {}}'}, "RZ_RUN_DEFAULTS: runDefaults.lables: Extra inputs"),
        (
            {"RZ_RUN_DEFAULTS": '{"labels": {"reasonerzero.dev/role": "x"}}'},
            "runDefaults.labels: Value error, found reasonerzero.dev/role; the operator knows",
        ),
        ({"RZ_POLL_SECONDS": "soon"}, "RZ_POLL_SECONDS is 'soon'; a number of at least 0.1 is required"),
        (
            {"RZ_MAX_GANG_TIMEOUT_SECONDS": "1"},
            "RZ_MAX_GANG_TIMEOUT_SECONDS is '1'; a number of at least 10 is required",
        ),
        ({"RZ_SCRAPE_FROM": "monitoring"}, "RZ_SCRAPE_FROM is 'monitoring'; a list of NetworkPolicyPeers in JSON is"),
        ({"RZ_SCRAPE_FROM": "[{}]"}, "each with ipBlock or namespaceSelector or podSelector: change it"),
        ({"RZ_SCRAPE_FROM": PEERS}, "RZ_OPERATOR_PEER is not; the operator's own pods are required too"),
        ({"RZ_SCRAPE_FROM": PEERS, "RZ_OPERATOR_PEER": "me"}, "RZ_OPERATOR_PEER is 'me'; a NetworkPolicyPeer in JSON"),
    ],
    ids=[
        "no such level",
        "too few workers",
        "a watch of no whole second",
        "no such format",
        "a negative number",
        "defaults that are no JSON",
        "a default that nobody knows",
        "a label of the operator's",
        "no number",
        "no time for a gang",
        "peers that are no JSON",
        "a peer that selects nothing",
        "no way in for the operator",
        "an operator that is no peer",
    ],
)
def test_a_wrong_setting_is_named(variable: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Settings.from_environment(variable)


def test_the_server_takes_whole_seconds_of_a_watch() -> None:
    assert Settings.from_environment({"RZ_WATCH_SECONDS": "1.5"}).watch_seconds == 2


@pytest.mark.parametrize(
    ("variables", "served"),
    [
        ({}, ()),
        ({"RZ_WATCH_NAMESPACE": "team"}, ("team",)),
        ({"RZ_WATCH_NAMESPACES": "a, b,,a"}, ("a", "b")),
        ({"RZ_WATCH_NAMESPACES": "a", "RZ_WATCH_NAMESPACE": "b"}, ("a", "b")),
    ],
    ids=["all", "one, as ever", "several, each once", "both variables"],
)
def test_the_namespaces_that_are_served(variables: dict[str, str], served: tuple[str, ...]) -> None:
    assert Settings.from_environment(variables).watch_namespaces == served


def test_the_process_ends_with_64_and_says_what_to_change() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rz_operator"],
        env={**os.environ, "RZ_LOG_LEVEL": "chatty"},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 64
    assert done.stderr.startswith("rz-operator: RZ_LOG_LEVEL is 'chatty'")
    assert len(done.stderr.splitlines()) == 1
