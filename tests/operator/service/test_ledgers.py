"""Polling ledgers: a real HTTP server plays them all, good ones and bad ones."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from service_fakes import figures, settings

from rz_operator.controller.options import Options
from rz_operator.controller.seen import RunKey
from rz_operator.service.ledgers import Ledgers
from rz_operator.service.metrics import OperatorMetrics

KEY = RunKey("team", "orz-7b")
STATUS = {"phase": "running", "step": 12, "units_done": 3}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def ledgers(
    answer: Answer, timeout_seconds: float = 2.0
) -> AsyncIterator[tuple[Ledgers, Clock, OperatorMetrics]]:
    """Ledgers, all of which answer like this under ``/NAMESPACE/NAME/SERVICE/status``; polled each 10 s at most."""
    app = web.Application()
    app.add_routes([web.get("/{namespace}/{name}/{service}/status", answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/{{namespace}}/{{name}}/{{service}}/status"
    metrics, clock = OperatorMetrics(), Clock()
    try:
        async with Ledgers(
            settings(ledger_status_url=url, options=Options({}, poll_seconds=20)), metrics, clock, timeout_seconds
        ) as found:
            yield found, clock, metrics
    finally:
        await runner.cleanup()


async def good(request: web.Request) -> web.Response:
    return web.json_response({**STATUS, "who": dict(request.match_info)})


async def drip(request: web.Request) -> web.StreamResponse:
    """Each byte comes in time, the end never does."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.02)


def body(content: bytes, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=content, headers=headers)

    return answer


def redirect(to: str) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": to})

    return answer


def status(code: int) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(STATUS, status=code)

    return answer


def test_the_url_names_the_run_and_its_ledger() -> None:
    async def main() -> Any:
        async with ledgers(good) as (found, _, metrics):
            return await found.read(KEY), figures(metrics)

    answer, counted = asyncio.run(main())
    assert answer["who"] == {"namespace": "team", "name": "orz-7b", "service": "orz-7b-ledger"}
    assert counted["rz_operator_ledger_polls_total{result=answered}"] == 1


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (status(500), "refused"),
        (status(404), "refused"),
        (redirect("http://127.0.0.1:1/"), "refused"),
        (body(b"not json"), "garbled"),
        (body(b"[1, 2]"), "garbled"),
        (body(b"null"), "garbled"),
        (body(b""), "garbled"),
        (body(b"\xff\xfe{}"), "garbled"),
        (body(b"[" * 200_000), "garbled"),
        (body(b'{"step": ' + b"9" * 5000 + b"}"), "garbled"),
        (body(json.dumps({"pad": "x" * (1 << 20)}).encode()), "garbled"),
        (body(gzip.compress(b'{"step": 1}'), **{"Content-Encoding": "gzip"}), "garbled"),
        (drip, "silent"),
    ],
    ids=[
        "a fault of the ledger",
        "no such page",
        "a redirect is not followed",
        "no JSON",
        "a list",
        "null",
        "nothing",
        "no UTF-8",
        "nested without end",
        "a number that is too long",
        "more than 1 MiB",
        "compressed, which was not asked for (it could hold gigabytes)",
        "drips for ever",
    ],
)
def test_whatever_is_wrong_is_no_answer(answer: Answer, result: str) -> None:
    async def main() -> Any:
        async with ledgers(answer, timeout_seconds=0.4) as (found, _, metrics):
            return await found.read(KEY), figures(metrics)

    answered, counted = asyncio.run(main())
    assert answered is None
    assert counted[f"rz_operator_ledger_polls_total{{result={result}}}"] == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/status", "http://{name}:x/", "nonsense", "ftp://127.0.0.1/"])
def test_a_ledger_that_is_not_there_is_no_answer(url: str) -> None:
    async def main() -> Any:
        async with Ledgers(settings(ledger_status_url=url), OperatorMetrics()) as found:
            return await found.read(KEY), found.silent_since(KEY)

    answered, since = asyncio.run(main())
    assert answered is None
    assert since is not None


def test_a_run_is_polled_once_within_half_the_poll_time_and_others_apart_from_it() -> None:
    polls: list[str] = []

    async def count(request: web.Request) -> web.Response:
        polls.append(request.match_info["name"])
        return web.json_response({"step": len(polls)})

    async def main() -> list[Any]:
        async with ledgers(count) as (found, clock, _):
            steps = []
            for seconds in (0, 3, 9.9, 10, 12, 20, 21, -5):
                clock.now = 1_000_000.0 + seconds
                steps.append((await found.read(KEY) or {}).get("step"))
            await found.read(RunKey("team", "other"))
            return steps

    assert asyncio.run(main()) == [1, 1, 1, 2, 2, 3, 3, 4], "a clock that was set back polls anew"
    assert polls == ["orz-7b"] * 4 + ["other"]


def test_it_remembers_since_when_a_ledger_is_silent() -> None:
    answers: list[bool] = []

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(STATUS, status=200 if answers[0] else 503)

    async def main() -> list[float | None]:
        async with ledgers(answer) as (found, clock, _):
            silent: list[float | None] = [found.silent_since(KEY)]
            for fine in (False, False, True, False, False, True):
                answers[:] = [fine]
                clock.now += 100
                await found.read(KEY)
                since = found.silent_since(KEY)
                silent.append(None if since is None else since - 1_000_000)
            found.forget(KEY)
            return [*silent, found.silent_since(KEY)]

    assert asyncio.run(main()) == [None, 100, 100, None, 300, 300, None, None]


def test_many_ledgers_at_once_share_a_bounded_pool() -> None:
    at_once = [0, 0]

    async def slow(request: web.Request) -> web.Response:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.02)
        at_once[0] -= 1
        return web.json_response(STATUS)

    async def main() -> list[Any]:
        async with ledgers(slow, timeout_seconds=60) as (found, _, _):
            return await asyncio.gather(*(found.read(RunKey("team", f"run-{n}")) for n in range(100)))

    assert asyncio.run(main()) == [STATUS] * 100
    assert at_once[1] <= 64
