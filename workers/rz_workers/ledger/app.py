"""No request is answered without the run's token: the ledger's routes over ``service.Ledger``.

The table of routes is in ``protocol.messages``. ``main`` and the tests build the app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from rz_workers.ledger.service import Ledger, UnavailableError
from rz_workers.ledger.state import EarlyError, RefusedError, UnknownError
from rz_workers.protocol.messages import (
    Ack,
    CodeRequest,
    Completion,
    DrainRequest,
    Heartbeat,
    LeaseRequest,
    Message,
    Publication,
    StepReport,
    StorageReport,
    TakeRequest,
    TransferRequest,
    TurnRequest,
)
from rz_workers.runtime import SupersededError
from rz_workers.web import RequireToken

STATUS_CODES: dict[type[Exception], int] = {
    RefusedError: 422,
    UnknownError: 404,
    SupersededError: 409,
    UnavailableError: 503,
    EarlyError: 503,
}
"""What the caller is told; ``protocol.client`` repeats after 503 alone."""


def create_app(ledger: Ledger, token_file: Path | None) -> FastAPI:
    """The service; ``token_file`` None admits everyone (tests)."""
    app = FastAPI(title="reasonerzero ledger", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequireToken, token_file=token_file)
    for error, code in STATUS_CODES.items():
        app.add_exception_handler(error, _refusal(code))

    @app.post("/lease")
    async def lease(body: LeaseRequest, request: Request) -> Response:
        return _json(await ledger.lease(body, request.is_disconnected))

    @app.post("/heartbeat")
    async def heartbeat(body: Heartbeat) -> Response:
        return _json(ledger.heartbeat(body))

    @app.post("/complete")
    async def complete(body: Completion) -> Response:
        return _json(ledger.complete(body))

    @app.get("/weights/{version}")
    async def weights(version: int) -> Response:
        return _json(ledger.weights(version))

    @app.post("/turn")
    async def turn(body: TurnRequest) -> Response:
        return _json(ledger.turn(body))

    @app.post("/weights")
    async def announce_weights(body: Publication) -> Response:
        ledger.announce_weights(body)
        return _json(Ack())

    @app.post("/transfer/open")
    async def open_transfer(body: TransferRequest) -> Response:
        return _json(ledger.open_transfer(body))

    @app.post("/step/take")
    async def take(body: TakeRequest) -> Response:
        return _json(await ledger.take(body))

    @app.post("/step/commit")
    async def commit(body: StepReport) -> Response:
        ledger.commit(body)
        return _json(Ack())

    @app.get("/eval/{version}")
    async def evaluation(version: int) -> Response:
        return _json(await ledger.evaluation(version))

    @app.post("/drain")
    async def drain(body: DrainRequest) -> Response:
        ledger.drain(body.draining)
        return _json(Ack())

    @app.post("/storage")
    async def storage(body: StorageReport) -> Response:
        ledger.storage_reported(body)
        return _json(Ack())

    @app.post("/verifier")
    async def verifier(body: CodeRequest) -> Response:
        return _json(await ledger.verifier_code(body))

    return app


def _json(message: Message) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")


def _refusal(code: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, code)

    return handle
