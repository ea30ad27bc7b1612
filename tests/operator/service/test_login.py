"""What kopf gets when it asks for credentials again."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import kopf
import pytest

from rz_operator.service.login import Login


def test_other_credentials_are_tried_at_once_and_the_same_ones_after_a_while() -> None:
    now, token = 0.0, "first"

    async def credentials() -> dict[str, Any]:
        return {"server": "http://127.0.0.1:1", "token": token, "scheme": "Bearer"}

    async def main() -> None:
        nonlocal now, token
        login = Login(credentials, aiohttp.TraceConfig(), 10.0, clock=lambda: now)
        first = await login()
        with pytest.raises(kopf.TemporaryError, match="refuses these credentials; waiting for others") as told:
            await login()
        assert told.value.delay == 2
        now = 10.0
        again = await login()
        assert again != first, "kopf would not take an equal one, and watch nothing any more"
        token = "second"
        other = await login()
        assert other.aiohttp_session.headers["Authorization"] == "Bearer second"
        await login.close()
        assert all(each.aiohttp_session.closed for each in (first, again, other))

    asyncio.run(main())
