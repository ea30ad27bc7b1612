"""Where a store listens, and what a prefix is good for: real TCPStores on loopback."""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from rz_workers import stores
from rz_workers.seals import Seal

LIMIT = timedelta(seconds=30)


@pytest.fixture
def served() -> TCPStore:
    return stores.serve("127.0.0.1", 0, "127.0.0.1", LIMIT)


def connected(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=False, timeout=LIMIT, wait_for_workers=False)


def test_others_reach_the_store_at_the_address_it_is_bound_to(served: TCPStore) -> None:
    connected(served.port).set("key", "value")
    assert served.get("key") == b"value"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_nobody_reaches_the_store_at_another_address_of_the_machine(served: TCPStore) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port), timeout=10)


@pytest.mark.parametrize("bind_host", ["0.0.0.0", "::"])
def test_a_pod_listens_on_all_of_its_addresses(bind_host: str) -> None:
    store = stores.serve("127.0.0.1", 0, bind_host, LIMIT)
    with socket.create_connection(("127.0.0.1", store.port), timeout=10):
        pass


def test_a_port_that_is_taken_is_an_error(served: TCPStore) -> None:
    with pytest.raises(OSError, match="in use"):
        stores.serve("127.0.0.1", served.port, "127.0.0.1", LIMIT)


def test_two_runs_at_one_store_find_nothing_of_each_other(served: TCPStore) -> None:
    ours = PrefixStore(Seal.of("our token", "rendezvous", 1).prefix, served)
    theirs = PrefixStore(Seal.of("their token", "rendezvous", 1).prefix, connected(served.port))
    plain = connected(served.port)
    ours.set("address", "10.0.0.1")
    assert ours.check(["address"])
    assert not theirs.check(["address"])
    assert not plain.check(["address"])
    assert ours.get("address") == b"10.0.0.1"


def test_the_token_never_goes_over_the_wire(served: TCPStore) -> None:
    PrefixStore(Seal.of("our token", "rendezvous", 1).prefix, served).set("address", "10.0.0.1")
    assert not any("our token" in key for key in served.list_keys())


def test_a_prefix_keeps_strangers_from_guessing_and_not_from_looking(served: TCPStore) -> None:
    """Why ``seals`` are there, and security.md says what it says: torch's store tells its keys to anybody."""
    PrefixStore(Seal.of("our token", "rendezvous", 1).prefix, served).set("address", "10.0.0.1")
    [key] = connected(served.port).list_keys()
    assert connected(served.port).get(key) == b"10.0.0.1"


@pytest.mark.parametrize(
    ("bind_host", "before", "after"),
    [
        pytest.param("127.0.0.1", None, "lo", id="rz run: gloo stays on the loopback interface"),
        pytest.param("127.0.0.1", "eth7", "eth7", id="what somebody has set is right"),
        pytest.param("0.0.0.0", None, None, id="a pod: gloo takes the pod's address"),
        pytest.param("::", None, None, id="a pod, IPv6"),
    ],
)
def test_where_gloo_listens(
    bind_host: str, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {} if before is None else {"GLOO_SOCKET_IFNAME": before}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    stores.stay_on_this_machine(bind_host)
    assert environment.get("GLOO_SOCKET_IFNAME") == after
