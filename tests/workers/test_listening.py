"""Sockets that servers listen on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from rz_api.listening import listener
from rz_workers.status_server import StatusServer
from rz_workers.web import take_port

NO_DUAL_STACK = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@NO_DUAL_STACK
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_address_is_reached_by_both_families(address: str) -> None:
    with listener("::", 0) as server, socket.create_connection((address, server.getsockname()[1]), 5):
        server.accept()[0].close()


@NO_DUAL_STACK
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_status_port_and_the_api_are(address: str) -> None:
    server = StatusServer("::", 0, dict)
    with take_port("::", 0) as api:
        for port in (server.port, api.getsockname()[1]):
            socket.create_connection((address, port), 5).close()
    server.close()


class Kernel:
    """``socket.create_server`` of a machine that refuses IPv6 in some way."""

    def __init__(self, refusal: Exception) -> None:
        self.refusal, self.asked = refusal, list[tuple[Any, Mapping[str, Any]]]()

    def __call__(self, address: Any, **options: Any) -> socket.socket:
        self.asked.append((address, options))
        if options["family"] == socket.AF_INET6:
            raise self.refusal
        return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "refusal",
    [
        OSError(errno.EAFNOSUPPORT, "a kernel without IPv6"),
        OSError(errno.EADDRNOTAVAIL, "IPv6 disabled on every interface"),
        ValueError("dualstack_ipv6 not supported on this platform"),
    ],
    ids=["a kernel without IPv6", "interfaces without IPv6", "a platform without dual stack"],
)
def test_without_ipv6_it_is_ipv4_alone(refusal: Exception) -> None:
    kernel = Kernel(refusal)
    listener("::", 9400, create=kernel).close()
    assert [address for address, _ in kernel.asked] == [("::", 9400), ("0.0.0.0", 9400)]


def test_a_port_that_is_taken_is_not_tried_on_ipv4() -> None:
    kernel = Kernel(OSError(errno.EADDRINUSE, "taken"))
    with pytest.raises(OSError, match="taken"):
        listener("::", 9400, create=kernel)
    assert len(kernel.asked) == 1
