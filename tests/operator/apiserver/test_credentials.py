"""A token that is replaced while the operator runs: the one in the file counts, at the latest when it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from rz_operator.apiserver.cluster import ApiError, Cluster
from rz_operator.apiserver.credentials import Credentials


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a pod has."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("an authority")
    return tmp_path


def of_pod(folder: Path, clock: Clock) -> Credentials:
    from kubernetes.aio import client

    return Credentials(client.Configuration(), None, None, folder, clock)


def test_a_pods_token_is_read_again_once_a_minute_and_at_once_when_it_is_refused(account: Path) -> None:
    async def main() -> None:
        clock = Clock()
        source = of_pod(account, clock)
        await source.read()
        assert await source.header() == "bearer first"
        (account / "token").write_text("second")
        clock.now = 59.0
        assert await source.header() == "bearer first"
        assert await source.renew("bearer first")
        assert await source.header() == "bearer second"
        (account / "token").write_text("third")
        clock.now = 120.0
        assert await source.header() == "bearer third"

    asyncio.run(main())


def test_a_refused_token_that_is_still_in_the_file_is_no_other_one(account: Path) -> None:
    async def main() -> bool:
        source = of_pod(account, Clock())
        await source.read()
        return await source.renew("bearer first")

    assert not asyncio.run(main())


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "gone"])
def test_a_file_that_cannot_be_read_leaves_the_token_that_there_was(account: Path, is_there: bool) -> None:
    async def main() -> None:
        clock = Clock()
        source = of_pod(account, clock)
        await source.read()
        (account / "token").write_text("")
        if not is_there:
            (account / "token").unlink()
        clock.now = 61.0
        assert await source.header() == "bearer first"
        assert not await source.renew("bearer first")
        (account / "token").write_text("second")
        assert await source.header() == "bearer second"

    asyncio.run(main())


class Server:
    """Answers 401 to every token but one."""

    def __init__(self) -> None:
        self.token = "first"
        self.codes: list[int] = []

    async def answer(self, request: web.Request) -> web.Response:
        is_welcome = request.headers.get("Authorization") == f"Bearer {self.token}"
        self.codes.append(200 if is_welcome else 401)
        return web.json_response({"kind": "Pod"}, status=self.codes[-1])

    @asynccontextmanager
    async def served(self, token_file: Path) -> AsyncIterator[Cluster]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        kubeconfig = token_file.with_name("kubeconfig")
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "t",
                    "clusters": [{"name": "t", "cluster": {"server": url}}],
                    "contexts": [{"name": "t", "context": {"cluster": "t", "user": "u"}}],
                    "users": [{"name": "u", "user": {"tokenFile": str(token_file)}}],
                }
            )
        )
        try:
            async with Cluster.connect(str(kubeconfig)) as cluster:
                yield cluster
        finally:
            await runner.cleanup()


def test_a_request_that_is_refused_is_made_again_with_the_token_that_the_file_has_now(tmp_path: Path) -> None:
    async def main() -> None:
        server, token_file = Server(), tmp_path / "token"
        token_file.write_text("first")
        async with server.served(token_file) as cluster:
            await cluster.get("Pod", "team", "x")
            server.token = "second"
            with pytest.raises(ApiError, match="401") as refused:
                await cluster.get("Pod", "team", "x")
            assert not refused.value.refused, "it is tried again soon"
            assert server.codes == [200, 401], "the same token again is no use"
            token_file.write_text("second")
            await cluster.create("Pod", "team", {"kind": "Pod"})
            assert server.codes == [200, 401, 401, 200]
            assert (await cluster.credentials())["token"] == "second"

    asyncio.run(main())


def test_requests_that_are_refused_together_all_succeed(tmp_path: Path) -> None:
    async def main() -> None:
        server, token_file = Server(), tmp_path / "token"
        token_file.write_text("first")
        async with server.served(token_file) as cluster:
            server.token = "second"
            token_file.write_text("second")
            await asyncio.gather(*(cluster.get("Pod", "team", str(index)) for index in range(20)))
            assert server.codes.count(200) == 20

    asyncio.run(main())
