"""Nothing can be changed through this port, and it answers while the role computes.

The read-only port that every role has: ``/healthz``, ``/status`` (JSON) and ``/metrics`` (Prometheus), no token. Each
role's ``main`` calls ``start_status_server`` once; kubelet probes, the operator, Prometheus and people read it. It runs
in threads of its own. ``status`` and ``healthy`` are called in those threads and must be quick and thread-safe;
whatever they return is shown.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from rz_workers.runtime import Settings, UserError

log = logging.getLogger(__name__)

Status = Callable[[], Mapping[str, Any] | BaseModel]
Answer = tuple[int, str, bytes]
"""HTTP status, content type, body."""


def start_status_server(
    settings: Settings,
    status: Status,
    healthy: Callable[[], bool] = lambda: True,
    registry: CollectorRegistry = REGISTRY,
) -> StatusServer | None:
    """Serve the port that the plan gave this role; None when it gave none (``RZ_STATUS_PORT`` 0).

    Raises UserError when the port is taken.
    """
    if not settings.status_port:
        return None
    return StatusServer(settings.bind_host, settings.status_port, status, healthy, registry)


def port_in_use(host: str, port: int, error: OSError) -> UserError:
    """The same words for every role that cannot have its port."""
    return UserError(
        f"cannot listen on port {port} of {host}: {error.strerror or error}. "
        "Another process has it, perhaps an earlier run; stop that one or choose another port"
    )


class StatusServer:
    """A running server; ``port`` is the real one (also when 0 was asked for)."""

    def __init__(
        self,
        host: str,
        port: int,
        status: Status,
        healthy: Callable[[], bool] = lambda: True,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        def handler(*args: Any) -> _Handler:
            return _Handler(lambda path: answer(path, status, healthy, registry), *args)

        try:
            self._server = _server_class(host)((host, port), handler)
        except OSError as error:
            raise port_in_use(host, port, error) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="status-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answer(path: str, status: Status, healthy: Callable[[], bool], registry: CollectorRegistry = REGISTRY) -> Answer:
    """What the port says to ``GET path``. A role that fails to tell its status says so with a 500."""
    try:
        match path.split("?", 1)[0]:
            case "/healthz":
                return (200, "text/plain", b"ok\n") if healthy() else (503, "text/plain", b"not healthy\n")
            case "/status":
                value = status()
                text = value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(dict(value))
                return 200, "application/json", text.encode()
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
    except Exception as error:
        log.exception("the status port failed on %s", path)
        return 500, "text/plain", f"{type(error).__name__}: {error}\n".encode()
    return 404, "text/plain", b"known paths: /healthz /status /metrics\n"


def _server_class(host: str) -> type[ThreadingHTTPServer]:
    """A server for IPv4 or IPv6 that neither looks its own name up (slow without DNS) nor outlives its process."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = host, self.server_address[1]

    return Server


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, reply: Callable[[str], Answer], *args: Any) -> None:
        # Before the base class's constructor, which handles the request.
        self._reply = reply
        super().__init__(*args)

    def do_GET(self) -> None:
        code, content_type, body = self._reply(self.path)
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
