"""A server that listens on ``::`` is reached by IPv6 and by IPv4, and on a node without IPv6 by IPv4 alone.

Every server of every role and of the operator takes its socket here: status ports, the API of ledger and reward,
torch's stores on an address of their own, probes.
asyncio and aiohttp would open ``::`` for IPv6 alone.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

EVERY_ADDRESS = "::"
_NO_IPV6 = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))
"""What a kernel says that was started without IPv6, and one whose interfaces have it disabled."""


def listener(
    host: str, port: int, backlog: int = 128, create: Callable[..., socket.socket] = socket.create_server
) -> socket.socket:
    """A bound, listening socket; port 0 takes any free one. Raises OSError where it cannot be had."""
    if host == EVERY_ADDRESS:
        try:
            return create((host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        except ValueError:  # the platform has no sockets of both families
            host = "0.0.0.0"
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
            host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return create((host, port), family=family, backlog=backlog)
