"""The ledger's main path.

1. Read the settings; take the port, so that one in use is told before anything is started.
2. Open the status port.
3. Serve the routes, and at the same time
4. wait until the run's folder has weights, rebuild the state from it, adopt live leases if this may be a restart, and
   then let time pass (leases expire, units are searched for in storage, complete steps are frozen).
5. On SIGTERM answer the held requests and end: exit 0 when the run is finished, 75 when it is not.

| waits for                    | released by               | if it never comes                                   |
|------------------------------|---------------------------|-----------------------------------------------------|
| weights in the run's folder  | the first trainer gang    | no lease is handed out; its status says "waiting"   |
| a leased unit                | the rollout that holds it | no heartbeat for ``leaseSeconds``: handed out again |
| storage of a step's manifest | the bucket                | repeated without end; its status says so            |
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from prometheus_client import REGISTRY

from rz_workers.ledger.app import create_app
from rz_workers.ledger.metrics import LedgerCollector
from rz_workers.ledger.service import Ledger
from rz_workers.runtime import DrainedError, Settings, WorkerError, on_terminate
from rz_workers.status_server import start_status_server
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.retry import RetryPolicy
from rz_workers.web import Server, take_port, web_config

log = logging.getLogger(__name__)

GRACE_SECONDS = 3
"""How long requests in progress may take after SIGTERM; their callers repeat them."""
IDLE_SECONDS = 75
"""Idle connections are closed after that: later than callers close theirs, so that no request meets a closing one."""
STORAGE_RETRY = RetryPolicy(attempts=4)
"""``service`` repeats without end; giving up early here makes an outage show in the status."""
ANSWER_SECONDS = 5.0
"""An event loop that does not answer for that long is not healthy."""


def main(settings: Settings | None = None) -> None:
    """Run the ledger. Raises DrainedError on SIGTERM before the run is finished, UserError for a port in use or a
    folder that belongs to another run."""
    settings = settings or Settings.from_environment()
    storage = settings.run.spec.storage
    store = ObjectStore(storage.uri, storage.secret_name, retry=STORAGE_RETRY)
    with take_port(settings.bind_host, settings.port) as listener:
        asyncio.run(serve(settings, store, listener))


async def serve(settings: Settings, store: ObjectStore, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    on_terminate(end)
    ledger = Ledger(settings.run, store)
    REGISTRY.register(LedgerCollector(ledger))
    start_status_server(settings, ledger.status, healthy=lambda: _answers(loop))
    server = Server(web_config(create_app(ledger, settings.token_file), GRACE_SECONDS, IDLE_SECONDS))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    working = asyncio.create_task(ledger.run())
    stopping = asyncio.create_task(stop.wait())
    log.info("serving on port %d", listener.getsockname()[1])
    ends: set[asyncio.Future[Any]] = {serving, working, stopping}
    done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    # First: the server's end waits for held requests, and these are answered now.
    ledger.stop()
    server.should_exit = True
    stopping.cancel()
    await serving
    if working in done:
        working.result()  # raises what ended it
    working.cancel()
    if stopping not in done:
        raise WorkerError("the web server ended by itself; its own messages are above in the log")
    if ledger.state is None or not ledger.state.finished:
        raise DrainedError("stopped on request")


def _answers(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the event loop is alive; asked from the status port's threads."""
    try:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(ANSWER_SECONDS)
    except TimeoutError:
        return False
    return True
