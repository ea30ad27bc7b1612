"""What can't be decided is a 503 and is asked again; it never becomes a reward.

The reward service's HTTP side: ``POST /verify`` (see ``messages``), bearer token. ``main`` builds it. The rule
(RECIPE.md, "Reward"): reward 1 if and only if the answer equals the reference and the response ended by a stop. There
is no reward for form.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from pydantic import ValidationError

from rz_api.metrics import described
from rz_workers.protocol.messages import Verdict, VerifyItem, VerifyReply, VerifyRequest
from rz_workers.reward.extract import extract_answer
from rz_workers.reward.pool import Outcome, VerifierPool
from rz_workers.runtime import WorkerError
from rz_workers.web import RequireToken

log = logging.getLogger(__name__)


def verdict(item: VerifyItem, answer: str | None, outcome: Outcome | None) -> Verdict:
    """Apply the rule to an item, the answer extracted from it, and the comparison (None where none was needed)."""
    if not item.stopped:
        return Verdict(reward=0.0, status="truncated", extracted_answer=answer, cpu_seconds=0.0)
    if answer is None:
        return Verdict(reward=0.0, status="no_answer", extracted_answer=None, cpu_seconds=0.0)
    assert outcome is not None, "a stopped response with an answer is compared"
    return Verdict(
        reward=1.0 if outcome.equal else 0.0,
        status="timeout" if outcome.timed_out else "ok",
        rule=outcome.rule,
        extracted_answer=answer,
        cpu_seconds=outcome.cpu_seconds,
    )


async def judge(pool: VerifierPool, items: tuple[VerifyItem, ...]) -> tuple[Verdict, ...]:
    """One verdict per item, in order. Raises VerifierCrashError when one of them can't be had."""
    answers = [extract_answer(item.response) for item in items]
    pairs = {
        number: (answer, item.reference_answer)
        for number, (item, answer) in enumerate(zip(items, answers, strict=True))
        if item.stopped and answer is not None
    }
    outcomes = dict(zip(pairs, await pool.verify(list(pairs.values())), strict=True))
    return tuple(verdict(item, answers[n], outcomes.get(n)) for n, item in enumerate(items))


def create_app(pool: VerifierPool, token_file: Path | None, registry: CollectorRegistry = REGISTRY) -> FastAPI:
    """The service around a running pool. The token file is read for each request, so that a renewed token counts at
    once; None admits everyone (tests)."""
    app = FastAPI(title="reasonerzero reward service", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequireToken, token_file=token_file)
    verdicts = Counter(*described("rz_reward_verdicts_total"), registry=registry)
    seconds = Histogram(*described("rz_reward_request_seconds"), registry=registry)
    waiting = Gauge(*described("rz_reward_requests_waiting"), registry=registry)
    registry.register(_PoolCollector(pool))

    @app.post("/verify")
    async def verify(request: Request) -> Response:
        try:
            # Parsed here, because FastAPI's own 422 repeats the whole input.
            asked = VerifyRequest.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"detail": f"this is not a VerifyRequest: {error}"[:2000]}, 422)
        started = time.monotonic()
        try:
            with waiting.track_inprogress():
                reply = VerifyReply(verdicts=await judge(pool, asked.items))
        except WorkerError as error:
            log.error("%s", error)
            return JSONResponse({"detail": str(error)}, 503)
        seconds.observe(time.monotonic() - started)
        for given in reply.verdicts:
            verdicts.labels(given.status, f"{given.reward:g}").inc()
        return Response(reply.model_dump_json(), media_type="application/json")

    return app


class _PoolCollector(Collector):
    """The pool's counts, read when Prometheus asks."""

    def __init__(self, pool: VerifierPool) -> None:
        self._stats = pool.stats

    def collect(self) -> list[CounterMetricFamily]:
        stats = self._stats
        counts = {
            "rz_reward_comparisons_total": stats.comparisons,
            "rz_reward_cache_hits_total": stats.cache_hits,
            "rz_reward_timeouts_total": stats.timeouts,
            "rz_reward_crashes_total": stats.crashes,
            "rz_reward_children_started_total": stats.children_started,
        }
        return [CounterMetricFamily(*described(name)[:2], value=count) for name, count in counts.items()]
