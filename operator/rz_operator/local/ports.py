"""A port on 127.0.0.1 is picked once for a process and is its for a life.

Ports come from outside the kernel's range for outgoing connections: inside it, a client that retries while its server
restarts can be given the server's port as its own, connect to itself, and keep the server from coming back.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from rz_api.names import Role
from rz_operator.errors import UserError
from rz_operator.plan import PortName

HOST = "127.0.0.1"
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


class Ports:
    """Hands out ports by (role, index, port name, life); a life is an incarnation, or 0 for what outlives restarts."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: dict[tuple[Role, int, PortName, int], int] = {}

    def fix(self, role: Role, index: int, name: PortName, port: int) -> None:
        """Use ``port`` for life 0. Raises UserError when another process has it."""
        if not _is_free(port):
            raise UserError(
                f"port {port} on {HOST} is in use; a free one is required for {role}-{index}: stop the process that "
                f"listens there (perhaps an earlier run), or choose another port"
            )
        self._given[role, index, name, 0] = port

    def port(self, role: Role, index: int, name: PortName, life: int) -> int:
        """The port of that name; the same for the same life."""
        key = (role, index, name, life)
        if key not in self._given:
            self._given[key] = self._pick()
        return self._given[key]

    def _pick(self) -> int:
        lowest, highest = _server_range()
        taken = set(self._given.values())
        for _ in range(1000):
            port = self._rng.randint(lowest, highest)
            if port not in taken and _is_free(port):
                return port
        raise UserError(f"found no free port on {HOST} between {lowest} and {highest}: stop what listens there")


def _server_range() -> tuple[int, int]:
    """Ports that no outgoing connection is given, from 10000 on where there are enough of them."""
    try:
        first, last = (int(word) for word in _RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        # IANA's range for outgoing connections, which macOS uses.
        first, last = 49_152, 65_535
    if first - _LOWEST >= 1000:
        return _LOWEST, first - 1
    return (last + 1, 65_535) if 65_535 - last >= 1000 else (_LOWEST, 65_535)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: connections in TIME_WAIT do not keep a port from them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
