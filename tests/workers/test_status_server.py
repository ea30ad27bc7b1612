"""The read-only port."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from rz_api import exit_codes
from rz_workers.protocol.messages import Ack, DrainRequest
from rz_workers.runtime import UserError
from rz_workers.status_server import StatusServer, answer


def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("rz_test_step", "A step.", registry=registry).set(7)
    return registry


@pytest.fixture
def server() -> Iterator[StatusServer]:
    server = StatusServer("127.0.0.1", 0, lambda: {"step": 7}, registry=registry())
    yield server
    server.close()


def test_a_server_answers_over_http(server: StatusServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/status?pretty") as response:
        assert json.load(response) == {"step": 7}
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
        assert b"rz_test_step 7.0" in response.read()
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/lease")
    missing.value.close()


def test_nothing_can_be_changed_through_it(server: StatusServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="501") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/status", data=b"{}")
    refused.value.close()


def test_a_port_in_use_is_the_users_to_change(server: StatusServer) -> None:
    with pytest.raises(UserError, match=rf"port {server.port} of 127\.0\.0\.1.*choose another port") as error:
        StatusServer("127.0.0.1", server.port, dict)
    assert error.value.exit_code == exit_codes.USER_ERROR


def test_health_is_what_the_role_says() -> None:
    assert answer("/healthz", dict, lambda: True)[0] == 200
    assert answer("/healthz", dict, lambda: False)[0] == 503


def test_status_may_be_a_message() -> None:
    assert answer("/status", Ack, lambda: True)[2] == b"{}"
    assert answer("/status", DrainRequest, lambda: True)[2] == b'{"draining":true}'


def test_a_status_that_fails_is_a_500_and_says_why() -> None:
    def broken() -> Mapping[str, Any]:
        raise KeyError("step")

    assert answer("/status", broken, lambda: True) == (500, "text/plain", b"KeyError: 'step'\n")
