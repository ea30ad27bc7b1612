"""Everything that the operator knows is in the API server: it may be killed at any moment and run again, also twice.

Its process connects, fills the cache, and runs the watches, the work queue and the probes until SIGTERM:

1. Answer probes at once (not ready yet), and wait for the API server.
2. List everything once; from then on the watches keep the cache (``watches``), and a full list now and then repairs it:
   every few seconds while a watch is down.
3. Reconcile every run that something happened to, or whose time has come (``work_queue``, ``reconcile``).

Everything that it knows is in the API server: it may be killed at any moment and started again, also twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from rz_api import exit_codes, names
from rz_operator.apiserver.cluster import ApiError, Cluster, Page
from rz_operator.apiserver.rate import Bucket
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.cache import REDUCE, Cache, WatchedKind
from rz_operator.controller.reconcile import Reconciler
from rz_operator.controller.seen import RunKey
from rz_operator.decisions.members import Event
from rz_operator.errors import UserError
from rz_operator.service import logs
from rz_operator.service.events import EventWriter
from rz_operator.service.handlers import OURS, WATCHED, Tell
from rz_operator.service.kopf_thread import lives
from rz_operator.service.ledgers import Ledgers
from rz_operator.service.metrics import OperatorMetrics
from rz_operator.service.probes import Probes
from rz_operator.service.pulse import Limits, Pulse
from rz_operator.service.settings import Settings
from rz_operator.service.watches import Watches
from rz_operator.service.work_queue import WorkQueue

log = logging.getLogger(__name__)

API_RETRY_SECONDS = 2.0
FLUSH_SECONDS = 2.0
WATCH_STOP_SECONDS = 1.0
"""For kopf to close its watches."""


class Watcher:
    """Tells metrics and Kubernetes events what the reconciler did (``reconcile.Watcher``)."""

    def __init__(self, metrics: OperatorMetrics, events: EventWriter) -> None:
        self._metrics = metrics
        self._events = events

    def tell(self, body: Mapping[str, Any], event: Event) -> None:
        self._events.put(body, event)
        if event.ended is not None:
            self._metrics.restart(event.ended, event.reason)

    def refused(self, kind: str) -> None:
        self._metrics.refused(kind)


async def serve(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Run until ``stop`` is set (SIGTERM sets it)."""
    stop = stop or asyncio.Event()
    metrics = OperatorMetrics()
    async with (
        Cluster.connect(
            request_seconds=settings.request_seconds, observer=metrics.api_request, bucket=_bucket(settings)
        ) as cluster,
        Ledgers(settings, metrics) as ledgers,
    ):
        cache = Cache()
        queue: WorkQueue[RunKey]
        reconciler: Reconciler | None = None

        async def work(key: RunKey) -> float | None:
            assert reconciler is not None
            return await reconciler.reconcile(key)

        queue = WorkQueue(work, settings.concurrency, on_result=metrics.reconciled)
        metrics.watch(queue, lambda: (body for _, body in cache.runs()))
        limits = Limits(settings.watch_seconds)
        pulse = Pulse(WATCHED, limits)
        watches = Watches(
            lives(settings, cluster.credentials, pulse, _teller(cache, queue)), pulse, limits, metrics.watches_restarted
        )
        metrics.listen(pulse)
        probes = Probes(settings, metrics, queue, watches)
        await probes.start()
        capabilities = await _probe(cluster, stop)
        if capabilities is None:
            return
        events = EventWriter(
            lambda namespace, body: _write_event(cluster, namespace, body),
            socket.gethostname(),
            on_result=metrics.event,
        )
        reconciler = Reconciler(
            cluster, cache, settings.options, capabilities, ledgers, Watcher(metrics, events), wake=queue.add
        )
        await _fill(cluster, cache, queue, settings, stop)
        probes.ready = True
        log.info("serving %s", ", ".join(settings.watch_namespaces) or "all namespaces")
        tasks = [
            asyncio.create_task(queue.run(), name="queue"),
            asyncio.create_task(events.run(), name="events"),
            asyncio.create_task(
                keep_listing(
                    lambda: resync(cluster, cache, queue, settings.watch_namespaces),
                    watches,
                    settings.resync_seconds,
                    limits.retry_seconds,
                ),
                name="resync",
            ),
            asyncio.create_task(watches.run(stop), name="watch"),
            asyncio.create_task(stop.wait(), name="stop"),
        ]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        probes.ready = False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(events.flush(), FLUSH_SECONDS)
        # kopf closes its watches itself once ``stop`` is set; it is cancelled only where that takes too long.
        for task in pending - {tasks[3]}:
            task.cancel()
        _, late = await asyncio.wait(pending, timeout=WATCH_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await probes.stop()
        for task in done:
            task.result()  # a task that ended by itself has failed: say why, and let the process be started anew


def _teller(cache: Cache, queue: WorkQueue[RunKey]) -> Tell:
    def tell(kind: str, body: dict[str, Any], deleted: bool) -> None:
        is_run = kind == names.KIND
        key = cache.see_run(body, deleted) if is_run else cache.see_child(cast(WatchedKind, kind), body, deleted)
        if key is not None:
            queue.add(key)

    return tell


def _bucket(settings: Settings) -> Bucket | None:
    return Bucket(settings.client_qps, settings.client_burst) if settings.client_qps else None


async def _probe(cluster: Cluster, stop: asyncio.Event) -> Capabilities | None:
    while not stop.is_set():
        try:
            return await cluster.probe()
        except ApiError as error:
            log.warning("the API server does not answer, again in %g s: %s", API_RETRY_SECONDS, error)
            await asyncio.sleep(API_RETRY_SECONDS)
    return None


async def _fill(
    cluster: Cluster, cache: Cache, queue: WorkQueue[RunKey], settings: Settings, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        try:
            await resync(cluster, cache, queue, settings.watch_namespaces)
            return
        except ApiError as error:
            hint = "; is the CRD installed (crds/reasonerzeroruns.yaml)?" if error.not_found else ""
            log.warning("cannot list, again in %g s: %s%s", API_RETRY_SECONDS, error, hint)
            await asyncio.sleep(API_RETRY_SECONDS)


async def keep_listing(
    full_list: Callable[[], Awaitable[None]], watches: Watches, resync_seconds: float, degraded_seconds: float
) -> None:
    """A full list every ``resync_seconds``; while the watches are degraded at once and every ``degraded_seconds``."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watches.degraded.wait(), resync_seconds)
        try:
            await full_list()
            watches.listed()
        except ApiError as error:
            log.warning("the full list failed, the watches go on: %s", error)
        if watches.degraded.is_set():
            await asyncio.sleep(degraded_seconds)


async def resync(cluster: Cluster, cache: Cache, queue: WorkQueue[RunKey], namespaces: Sequence[str]) -> None:
    """List everything, put the cache right, and have every run looked at. No namespaces: all of the cluster. What is
    known of one of several that can't be listed stays as it was."""
    # Runs first: a status that is older than the pods is put right by them, the other way round pods seem to be gone.
    places = namespaces or ("",)
    unlisted: set[str] = set()
    runs: list[Page] = []
    for namespace in places:
        with _leave_out(namespace, unlisted, places):
            runs.append(await cluster.snapshot(names.KIND, namespace))
    # Of the first list: what changes while the others are read is younger than that, and kept.
    found = (body for page in runs for body in page.items)
    for gone in cache.replace_runs(found, runs[0].resource_version, unlisted):
        queue.add(gone)
    for kind in REDUCE:
        present: set[str] = set()
        version = ""
        for namespace in [each for each in places if each not in unlisted]:
            with _leave_out(namespace, unlisted, places):
                async for page in cluster.pages(kind, namespace, OURS):
                    version = version or page.resource_version  # of the first page, as above
                    for body in page.items:
                        cache.see_child(kind, body)
                        present.add(body["metadata"]["uid"])
        cache.keep_only(kind, present, version, unlisted)
    for key, _ in cache.runs():
        queue.add(key)


@contextlib.contextmanager
def _leave_out(namespace: str, unlisted: set[str], places: Sequence[str]) -> Iterator[None]:
    """One namespace that was deleted, and the rights in it with it, must not keep the others from being served."""
    try:
        yield
    except ApiError as error:
        if error.status not in (403, 404) or len(unlisted) + 1 == len(places):
            raise
        log.warning("namespace %s cannot be listed, and is served as it was known: %s", namespace, error)
        unlisted.add(namespace)


async def _write_event(cluster: Cluster, namespace: str, body: dict[str, Any]) -> None:
    """Create an Event; one that is there already (the same thing happened again) gets the new count and time."""
    try:
        await cluster.create("Event", namespace, body)
    except ApiError as error:
        if not error.conflict:
            raise
        found = await cluster.get("Event", namespace, body["metadata"]["name"])
        again = {"count": int(found.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"]}
        await cluster.patch("Event", namespace, body["metadata"]["name"], again)


def main() -> None:
    """``python -m rz_operator``: settings from the environment; ends with 0 after SIGTERM, 64 for a wrong setting."""
    try:
        settings = Settings.from_environment(os.environ)
        logs.set_up(settings.log_level, settings.log_format)
        asyncio.run(_serve_until_signal(settings))
    except (UserError, ApiError) as error:
        print(f"rz-operator: {error}", file=sys.stderr)
        raise SystemExit(exit_codes.USER_ERROR) from None


async def _serve_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    await serve(settings, stop)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Only the main thread gets signals; elsewhere ``stop`` is set by whoever called ``serve``."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
