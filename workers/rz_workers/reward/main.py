"""The reward service's main path.

1. Read the settings; take the port, so that one in use is told before anything is started.
2. Get the files of the run's own verifiers from the ledger, if it has any; the trainer stores them at its start.
3. Start the fork server, which imports the verifiers, and the verifier children. Open the status port.
4. Serve ``POST /verify`` until SIGTERM (exit 75) or until the verifiers can't be kept alive (exit 70).
5. Close the pool; the children end with it.

| waits for              | released by        | if it never comes                                           |
|------------------------|--------------------|-------------------------------------------------------------|
| files of own verifiers | the trainer's data | it asks the ledger again; nobody has an answer to grade yet |
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rz_api.verifiers import files_of, verifiers_of
from rz_workers.protocol.client import LedgerClient
from rz_workers.reward.app import create_app
from rz_workers.reward.code import fetch_code
from rz_workers.reward.fork_server import COMMAND
from rz_workers.reward.pool import VerifierPool
from rz_workers.runtime import DrainedError, Settings, WorkerError, on_terminate
from rz_workers.status_server import start_status_server
from rz_workers.web import Server, take_port, web_config

log = logging.getLogger(__name__)

DRAIN_SECONDS = 5
"""How long requests in progress may take after SIGTERM; callers ask again for the others."""
IDLE_SECONDS = 75
"""Idle connections are closed after that: later than callers close theirs, so that no request meets a closing one."""


def main(settings: Settings | None = None, fork_server: Sequence[str] = COMMAND) -> None:
    """Run the service; raises DrainedError on SIGTERM, UserError for a port in use or a limit too low.

    ``fork_server`` is the program that the pool starts (``child``); tests have one of their own.
    """
    settings = settings or Settings.from_environment()
    with take_port(settings.bind_host, settings.port) as listener:
        asyncio.run(serve(settings, listener, fork_server))


async def serve(settings: Settings, listener: socket.socket, fork_server: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    spec, verifiers = settings.run.spec.reward, verifiers_of(settings.run.spec)
    stop, told = asyncio.Event(), threading.Event()

    def wake() -> None:
        told.set()
        loop.call_soon_threadsafe(stop.set)

    on_terminate(wake)
    files = files_of(settings.run.spec)
    started: list[VerifierPool] = []

    def status() -> Mapping[str, object]:
        stats = asdict(started[0].stats) if started else {}
        return {"verifier": spec.verifier, "verifiers": verifiers, "workers": spec.workers, **stats}

    def open_status_port() -> None:
        start_status_server(settings, status, healthy=lambda: not (started and started[0].give_up_reason()))

    if files:
        # Before the wait for them, which the trainer's start may make long.
        open_status_port()
    code = await asyncio.to_thread(_code, settings, files, told) if files else {}
    async with VerifierPool(
        {name: code.get(name) for name in verifiers},
        workers=spec.workers,
        cpu_seconds=spec.timeout_seconds,
        memory_mib=spec.memory_limit_mib,
        command=fork_server,
    ) as pool:
        started.append(pool)
        if not files:
            open_status_port()
        server = Server(web_config(create_app(pool, spec.verifier, settings.token_file), DRAIN_SECONDS, IDLE_SECONDS))
        log.info("serving on port %d with %d verifier children", listener.getsockname()[1], spec.workers)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        ends: set[asyncio.Future[Any]] = {serving, stopping, pool.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        reason = pool.give_up_reason()
        server.should_exit = True
        stopping.cancel()
        await serving
    if reason is not None:
        raise WorkerError(reason)
    if stop.is_set():
        raise DrainedError("stopped on request")
    raise WorkerError("the web server ended by itself; its own messages are above in the log")


def _code(settings: Settings, files: tuple[str, ...], stop: threading.Event) -> dict[str, str]:
    client = LedgerClient(settings.ledger_url, settings.token_file, stop)
    try:
        return fetch_code(client, files, settings.scratch / f"verifiers-{settings.index}")
    finally:
        client.close()
