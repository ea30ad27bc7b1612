"""The ledgers of all runs, as the operator sees them: one HTTP server that says what a test tells it to say.

Used by the ``ledgers`` fixture of ``conftest.py`` and by ``bench/``.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kube_api import Object


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: an operator that is killed leaves its connections open."""


class FakeLedgers:
    """One HTTP server for the read-only status of every run's ledger: ``/NAMESPACE/NAME/status``.

    The operator is pointed at it by ``url_template`` (its ``RZ_LEDGER_STATUS_URL``). A run that was not ``set`` has no
    ledger: 503, or ``default`` where one is given. The bodies are ``rz_workers.protocol.messages.LedgerStatus``.
    """

    def __init__(self, default: Object | None = None) -> None:
        self.default = default
        self.requests: Counter[tuple[str, str]] = Counter()
        self._bodies: dict[tuple[str, str], Object] = {}
        ledgers = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = self.path.strip("/").split("/")
                body = ledgers._answer((parts[0], parts[1])) if len(parts) == 3 and parts[2] == "status" else None
                content = json.dumps(body or {"detail": "no ledger"}).encode()
                self.send_response(200 if body else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.url_template = self.url + "/{namespace}/{name}/status"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="ledgers", daemon=True)
        self._thread.start()

    def set(self, namespace: str, name: str, **fields: Any) -> None:
        """``set("ns", "run", step=3, weight_version=3)``: what that ledger says from now on."""
        self._bodies[namespace, name] = ledger_status(name, **fields)

    def remove(self, namespace: str, name: str) -> None:
        self._bodies.pop((namespace, name), None)

    def clear(self) -> None:
        self._bodies.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, run: tuple[str, str]) -> Object | None:
        self.requests[run] += 1
        if run in self._bodies:
            return self._bodies[run]
        return ledger_status(run[1], **self.default) if self.default is not None else None


def ledger_status(run: str, **fields: Any) -> Object:
    """A running ledger's status with ``fields`` changed; test_harness.py holds it to the real message."""
    body: Object = {
        "run": run,
        "phase": "running",
        "step": 0,
        "total_steps": 100,
        "weight_version": 0,
        "incarnation": 1,
        "units_done": 0,
        "units_total": 8,
        "units_leased": 0,
        "eval_units_done": 0,
        "eval_units_total": 0,
        "rollouts": [],
        "metrics": {},
        "evaluation": {},
        "last_checkpoint_step": None,
        "tokens_generated": 0,
        "expired_leases": 0,
        "last_progress_seconds_ago": 0.0,
        "blocking_role": "none",
        "seconds_per_step": None,
        "eta_seconds": None,
        "storage_trouble": None,
        "reward_trouble": None,
        "fruitless_steps": 0,
        "fruitless_sign": None,
    }
    unknown = fields.keys() - body.keys()
    assert not unknown, f"a ledger's status has no {sorted(unknown)}"
    return body | fields
