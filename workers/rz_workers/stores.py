"""A store listens where it has to, and nowhere else: torch's ``TCPStore``, where ranks and broadcasts meet.

Called by ``trainer.ranks`` and ``transfer.sender``. A TCPStore has no authentication: whoever connects may list, read,
overwrite and delete every key (torch 2.13). What is read from one is sealed where it is ours (``seals``), and the port
is for a NetworkPolicy to guard.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from rz_api.listening import listener

__all__ = ["serve", "stay_on_this_machine"]


def serve(host: str, port: int, bind_host: str, limit: timedelta) -> TCPStore:
    """A store's server on ``port`` (0: any that is free), which others reach as ``host``. ``bind_host``: the address
    to listen on; ``0.0.0.0`` and ``::`` mean all of IPv4 and IPv6.

    Raises OSError or RuntimeError when the port is taken.
    """
    address = _address(bind_host)
    if address is not None and address.is_unspecified:
        return TCPStore(host, port, is_master=True, timeout=limit, wait_for_workers=False)
    # By itself torch listens on all addresses, also for ``rz run`` on one machine, where nobody else has to come.
    taken = listener(bind_host, port, backlog=2048)
    port = taken.getsockname()[1]
    return TCPStore(host, port, is_master=True, timeout=limit, wait_for_workers=False, master_listen_fd=taken.detach())


def stay_on_this_machine(bind_host: str) -> None:
    """Have gloo listen on the loopback interface, where the plan binds this process to it (``rz run``). By itself it
    takes the address that the machine's name has. Whoever has set ``GLOO_SOCKET_IFNAME`` is right."""
    address = _address(bind_host)
    if address is None or not address.is_loopback:
        return
    names = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names.pop())


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:  # a name
        return None
