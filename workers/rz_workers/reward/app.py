"""What can't be decided never becomes a reward, and never stops the others: its status is ``crashed``.

The reward service's HTTP side: ``POST /verify`` (see ``messages``), bearer token. ``main`` builds it. The rule
(RECIPE.md, "Reward"): the verifier's reward if the response ended by a stop and has an answer, else 0. There is no
reward for form. Only a service that can't go on answers 503, which is asked again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from rz_api.metrics import described
from rz_workers.protocol.messages import RewardStatus, Verdict, VerifyItem, VerifyReply, VerifyRequest
from rz_workers.reward.extract import extract_answer
from rz_workers.reward.interface import Example
from rz_workers.reward.pool import Asked, Outcome, VerifierPool
from rz_workers.runtime import WorkerError
from rz_workers.web import RequireToken

log = logging.getLogger(__name__)


def verdict(item: VerifyItem, answer: str | None, outcome: Outcome | None) -> Verdict:
    """Apply the rule to an item, the answer extracted from it, and the verifier's outcome (None where it was not
    asked)."""
    if outcome is None:
        status: RewardStatus = "no_answer" if item.stopped else "truncated"
        return Verdict(reward=0.0, status=status, extracted_answer=answer, cpu_seconds=0.0)
    return Verdict(
        reward=outcome.reward,
        status=outcome.status,
        rule=outcome.rule,
        extracted_answer=answer,
        cpu_seconds=outcome.cpu_seconds,
    )


async def judge(pool: VerifierPool, items: tuple[VerifyItem, ...], default: str) -> tuple[Verdict, ...]:
    """One verdict per item, in order; ``default`` is the verifier of items that name none."""
    answers = [extract_answer(item.response) for item in items]
    asked: dict[int, Asked] = {}
    for number, (item, answer) in enumerate(zip(items, answers, strict=True)):
        verifier = item.verifier or default
        whole = verifier in pool.reads_responses
        given = item.response if whole else answer
        if item.stopped and given is not None:
            example = Example(given, item.reference_answer, item.response, item.question, item.fields)
            asked[number] = Asked(verifier, example)
    outcomes = dict(zip(asked, await pool.verify(list(asked.values())), strict=True))
    return tuple(verdict(item, answers[n], outcomes.get(n)) for n, item in enumerate(items))


def create_app(
    pool: VerifierPool, default: str, token_file: Path | None, registry: CollectorRegistry = REGISTRY
) -> FastAPI:
    """The service around a running pool. ``default``: the run's verifier. The token file is read for each request, so
    that a renewed token counts at once; None admits everyone (tests)."""
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
        unknown = {item.verifier for item in asked.items} - pool.verifiers - {""}
        if unknown:
            return JSONResponse({"detail": f"this service was started without the verifier {', '.join(unknown)}"}, 422)
        started = time.monotonic()
        try:
            with waiting.track_inprogress():
                reply = VerifyReply(verdicts=await judge(pool, asked.items, default))
        except WorkerError as error:
            log.error("%s", error)
            return JSONResponse({"detail": str(error)}, 503)
        seconds.observe(time.monotonic() - started)
        for given in reply.verdicts:
            # In tenths: a verifier of somebody's own may give any number, and each would be a series.
            verdicts.labels(given.status, f"{round(given.reward, 1):g}").inc()
        return Response(reply.model_dump_json(), media_type="application/json")

    return app


class _PoolCollector(Collector):
    """The pool's counts, read when Prometheus asks."""

    def __init__(self, pool: VerifierPool) -> None:
        self._stats = pool.stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        counts = {
            "rz_reward_comparisons_total": stats.comparisons,
            "rz_reward_cache_hits_total": stats.cache_hits,
            "rz_reward_timeouts_total": stats.timeouts,
            "rz_reward_crashes_total": stats.crashes,
            "rz_reward_children_started_total": stats.children_started,
        }
        for name, count in counts.items():
            yield CounterMetricFamily(*described(name)[:2], value=count)
        name, words, labels = described("rz_reward_figure")
        means = GaugeMetricFamily(name, words, labels=labels)
        for name, (total, number) in list(stats.figures.items()):
            means.add_metric([name], total / number)
        yield means
