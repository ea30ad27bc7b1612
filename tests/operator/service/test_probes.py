"""The probes over real HTTP."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from service_fakes import FakeQueue, FakeWatches, settings

from rz_operator.errors import UserError
from rz_operator.service.metrics import OperatorMetrics
from rz_operator.service.probes import Limits, Probes
from rz_operator.service.work_queue import WorkQueue


def get(path: str, queue: FakeQueue, ready: bool = True, watches: FakeWatches | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        probes = Probes(settings(stuck_seconds=180), OperatorMetrics(), queue, watches or FakeWatches())
        probes.ready = ready
        port = await probes.start()
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return await client.get(f"http://127.0.0.1:{port}{path}")
        finally:
            await probes.stop()
            await probes.stop()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "queue", "ready", "status", "text"),
    [
        ("/healthz", FakeQueue(), False, 200, "ok"),
        ("/healthz", FakeQueue(depth=9, waiting=9999, stalled=179, running=179), True, 200, "ok"),
        (
            "/healthz",
            FakeQueue(running=181),
            True,
            503,
            "stuck: a reconcile has run for 181 s, at most 180 s is expected",
        ),
        (
            "/healthz",
            FakeQueue(stalled=600),
            True,
            503,
            "stuck: a run is due and no reconcile has ended for 600 s, at most 180 s is expected",
        ),
        (
            "/readyz",
            FakeQueue(),
            False,
            503,
            "not ready: waiting for the first full list from the API server, or stopping",
        ),
        ("/readyz", FakeQueue(), True, 200, "ok"),
        ("/readyz", FakeQueue(running=181), True, 200, "ok"),
    ],
    ids=[
        "alive while the API server does not answer: a restart would not help",
        "alive while it is busy",
        "a reconcile hangs",
        "nobody takes what is due",
        "not ready before the cache is filled",
        "ready",
        "readiness is not about being stuck",
    ],
)
def test_probes(path: str, queue: FakeQueue, ready: bool, status: int, text: str) -> None:
    answer = get(path, queue, ready)
    assert (answer.status_code, answer.text.strip()) == (status, text)


@pytest.mark.parametrize(
    ("queue", "watches", "status", "text"),
    [
        (FakeQueue(), FakeWatches("", "pods are not watched"), 200, "ok: pods are not watched"),
        (FakeQueue(), FakeWatches("stuck: the watch of pods", "silent"), 503, "stuck: the watch of pods"),
        (
            FakeQueue(running=181),
            FakeWatches("", "pods are not watched"),
            503,
            "stuck: a reconcile has run for 181 s, at most 180 s is expected",
        ),
    ],
    ids=["trouble that is seen to is told by the living", "watches that do not come back", "a stuck loop goes first"],
)
def test_the_watches_are_told(queue: FakeQueue, watches: FakeWatches, status: int, text: str) -> None:
    answer = get("/healthz", queue, watches=watches)
    assert (answer.status_code, answer.text.strip()) == (status, text)
    assert get("/readyz", queue, watches=watches).status_code == 200


def test_metrics_are_text_for_prometheus() -> None:
    answer = get("/metrics", FakeQueue())
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "# HELP rz_operator_reconciles_total Reconciles" in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_a_hanging_reconcile_makes_the_real_queue_stuck() -> None:
    async def main() -> tuple[int, str]:
        async def hang(key: str) -> None:
            await asyncio.sleep(3600)

        queue = WorkQueue(hang, 2, settle_seconds=0.0)
        running = asyncio.create_task(queue.run())
        queue.add("a")
        probes = Probes(settings(stuck_seconds=0.1), OperatorMetrics(), queue, FakeWatches())
        port = await probes.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                answer = await client.get(f"http://127.0.0.1:{port}/healthz")
                if answer.status_code != 200:
                    break
                await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.wait([running])
            again = await client.get(f"http://127.0.0.1:{port}/healthz")
        await probes.stop()
        return again.status_code, answer.text

    status, text = asyncio.run(main())
    assert text.startswith("stuck: a reconcile has run for")
    assert status == 200


def test_a_taken_port_is_said_in_words() -> None:
    async def main(port: int) -> None:
        await Probes(settings(port=port), OperatorMetrics(), FakeQueue(), FakeWatches()).start()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port} .* change RZ_BIND_HOST or RZ_PORT"):
            asyncio.run(main(port))


# -------------------------------------------------------------------------------------------------------- strangers


def ask_beside(halves: int, limits: Limits, half: bytes = b"GET /healthz HTTP/1.1\r\n") -> tuple[str, list[bool]]:
    """What a probe is answered beside so many half-sent requests, and which of them were let go, oldest first."""

    async def main() -> tuple[str, list[bool]]:
        probes = Probes(settings(), OperatorMetrics(), FakeQueue(), FakeWatches(), limits)
        port = await probes.start()
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(halves)]
        for _, writer in opened:
            writer.write(half)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/healthz")
        ended = [reader.at_eof() for reader, _ in opened]
        if limits.read_seconds < 1:
            ended = [await reader.read() == b"" for reader, _ in opened]
        await probes.stop()
        for _, writer in opened:
            writer.close()
        return answer.text, ended

    return asyncio.run(main())


def test_half_sent_requests_make_room_for_a_probe_the_oldest_first() -> None:
    text, ended = ask_beside(300, Limits(connections=8, read_seconds=600))
    assert text == "ok\n"
    assert ended == sorted(ended, reverse=True)
    assert ended.count(False) <= 8


@pytest.mark.parametrize("half", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a request"])
def test_a_request_has_to_be_there_in_time(half: bytes) -> None:
    _, ended = ask_beside(3, Limits(read_seconds=0.05), half)
    assert ended == [True, True, True]


def test_a_connection_brings_one_request() -> None:
    async def main() -> bytes:
        probes = Probes(settings(), OperatorMetrics(), FakeQueue(), FakeWatches(), Limits(read_seconds=600))
        reader, writer = await asyncio.open_connection("127.0.0.1", await probes.start())
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await probes.stop()
        return answer

    assert asyncio.run(main()).endswith(b"\r\n\r\nok\n")


def test_figures_are_written_once_for_all_who_ask_within_a_second() -> None:
    class Counted(OperatorMetrics):
        written = 0

        def render(self) -> bytes:
            self.written += 1
            return super().render()

    async def main() -> list[int]:
        metrics, now, found = Counted(), [50.0], []
        probes = Probes(settings(), metrics, FakeQueue(), FakeWatches(), clock=lambda: now[0])
        port = await probes.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            for seconds in (0, 0, 0.9, 0.2, -20):
                now[0] += seconds
                await client.get(f"http://127.0.0.1:{port}/metrics")
                found.append(metrics.written)
        await probes.stop()
        return found

    assert asyncio.run(main()) == [1, 1, 1, 2, 3]
