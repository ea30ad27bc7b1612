"""The client of the API server, against a small HTTP server: what is sent, what comes back, what a bad server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from rz_operator.apiserver.cluster import ApiError, Cluster

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(
    handler: Handler, folder: Path, request_seconds: float = 5.0, **connect: Any
) -> AsyncIterator[Cluster]:
    """A client of a server that answers everything with ``handler``."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "t",
                "clusters": [{"name": "t", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "contexts": [{"name": "t", "context": {"cluster": "t", "user": "u"}}],
                "users": [{"name": "u", "user": {"token": "sesame"}}],
            }
        )
    )
    try:
        async with Cluster.connect(str(kubeconfig), request_seconds=request_seconds, **connect) as cluster:
            yield cluster
    finally:
        await runner.cleanup()


def answer(body: Any, status: int = 200) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return handle


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_a_request_carries_the_token_and_the_body_as_it_is(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.update(path=request.path, token=request.headers["Authorization"], body=await request.json())
        return web.json_response(seen["body"])

    async def scenario() -> None:
        async with served(handle, tmp_path) as cluster:
            await cluster.create("Pod", "team", {"kind": "Pod", "spec": {"empty": "", "none": None}})

    run(scenario())
    assert seen == {
        "path": "/api/v1/namespaces/team/pods",
        "token": "Bearer sesame",
        "body": {"kind": "Pod", "spec": {"empty": "", "none": None}},
    }


@pytest.mark.parametrize(
    ("status", "body", "conflict", "refused", "words"),
    [
        (409, {"reason": "Conflict", "message": "changed"}, True, False, "409 Conflict: changed"),
        (422, {"reason": "Invalid", "message": "spec.x"}, False, True, "422 Invalid: spec.x"),
        (403, {"reason": "Forbidden", "message": "exceeded quota"}, False, True, "exceeded quota"),
        (500, "<html>proxy</html>", False, False, "500 Error"),
        (500, {"reason": "InternalError", "message": "failed calling webhook x"}, False, True, "calling webhook"),
    ],
)
def test_what_the_server_refuses_is_an_error_with_its_words(
    tmp_path: Path, status: int, body: Any, conflict: bool, refused: bool, words: str
) -> None:
    async def scenario() -> ApiError:
        async with served(answer(body, status), tmp_path) as cluster:
            with pytest.raises(ApiError) as caught:
                await cluster.get("Service", "team", "x")
            return caught.value

    error = run(scenario())
    assert (error.status, error.conflict, error.refused) == (status, conflict, refused)
    assert words in str(error)


def test_a_server_that_hangs_is_given_up_within_the_time_limit(tmp_path: Path) -> None:
    told: list[tuple[str, str, int]] = []

    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError

    async def scenario() -> float:
        observer = lambda verb, kind, status, seconds: told.append((verb, kind, status))  # noqa: E731
        async with served(hang, tmp_path, request_seconds=0.2, observer=observer) as cluster:
            began = asyncio.get_running_loop().time()
            with pytest.raises(ApiError) as caught:
                await cluster.get("Pod", "team", "x")
            assert caught.value.status == 0
            return asyncio.get_running_loop().time() - began

    assert run(scenario()) < 5
    assert told == [("GET", "Pod", 0)]


def test_an_answer_that_stops_in_its_middle_is_an_error_too(tmp_path: Path) -> None:
    async def stop(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"kind":')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def scenario() -> ApiError:
        async with served(stop, tmp_path) as cluster:
            with pytest.raises(ApiError) as caught:
                await cluster.get("Pod", "team", "x")
            return caught.value

    assert run(scenario()).status == 0


def test_a_list_is_read_in_pages_and_its_items_say_what_they_are(tmp_path: Path) -> None:
    queries: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        queries.append(dict(request.query))
        last = "continue" in request.query
        metadata = {"resourceVersion": "7"} | ({} if last else {"continue": "more"})
        return web.json_response({"metadata": metadata, "items": [{"metadata": {"name": str(len(queries))}}]})

    async def scenario() -> Any:
        async with served(handle, tmp_path) as cluster:
            return await cluster.snapshot("Deployment", label_selector="a=b")

    page = run(scenario())
    assert page.resource_version == "7"
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in page.items] == [
        ("Deployment", "apps/v1", "1"),
        ("Deployment", "apps/v1", "2"),
    ]
    assert queries == [
        {"limit": "500", "labelSelector": "a=b"},
        {"limit": "500", "labelSelector": "a=b", "continue": "more"},
    ]


@pytest.mark.parametrize("status", [404, 409])
def test_deleting_what_is_gone_or_is_another_by_now_is_no_error(tmp_path: Path, status: int) -> None:
    sent: dict[str, Any] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        sent.update(json.loads(await request.text()))
        return web.json_response({"reason": "x", "message": "x"}, status=status)

    async def scenario() -> None:
        async with served(handle, tmp_path) as cluster:
            await cluster.delete("Pod", "team", "x", uid="u-1", grace_seconds=4.6)

    run(scenario())
    assert (sent["preconditions"], sent["gracePeriodSeconds"], sent["propagationPolicy"]) == (
        {"uid": "u-1"},
        5,
        "Background",
    )


def test_without_a_kubeconfig_the_error_says_what_to_set(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Cluster.connect(str(tmp_path / "none")):
            raise AssertionError

    with pytest.raises(ApiError, match="set --kubeconfig or KUBECONFIG"):
        run(scenario())
