"""Kubernetes events about a run: what they look like, and that nothing waits for them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from rz_operator.decisions.members import Event
from rz_operator.service.events import EventWriter, event_object

RUN = {"metadata": {"name": "orz-7b", "namespace": "team", "uid": "u-1"}}
NOW = 1_763_845_200.0
OOM = Event("Warning", "OOMKilled", "trainer-3 ended (OOMKilled)", "trainer")


def test_an_event_is_one_about_the_run() -> None:
    body = event_object(RUN, OOM, NOW, "operator-pod-1")
    name = body["metadata"].pop("name")
    assert name.startswith("orz-7b.")
    assert len(name) == len("orz-7b.") + 16
    assert body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "team"},
        "involvedObject": {
            "apiVersion": "reasonerzero.dev/v1alpha1",
            "kind": "ReasonerZeroRun",
            "namespace": "team",
            "name": "orz-7b",
            "uid": "u-1",
        },
        "type": "Warning",
        "reason": "OOMKilled",
        "message": "trainer-3 ended (OOMKilled)",
        "count": 1,
        "firstTimestamp": "2025-11-22T21:00:00Z",
        "lastTimestamp": "2025-11-22T21:00:00Z",
        "source": {"component": "reasonerzero-operator"},
        "reportingComponent": "reasonerzero-operator",
        "reportingInstance": "operator-pod-1",
    }


def test_an_event_tells_no_credentials_whoever_reads_it() -> None:
    leak = Event("Warning", "UserError", "403 for https://b.s3/k?X-Amz-Signature=made0up&v=1 " + "x" * 2000)
    message = event_object(RUN, leak, NOW, "o")["message"]
    assert message.startswith("403 for https://b.s3/k?X-Amz-Signature=***&v=1 ")
    assert len(message.encode()) <= 1024


@pytest.mark.parametrize(
    ("run", "event", "now", "same"),
    [
        (RUN, OOM, NOW + 3599, True),
        (RUN, OOM, NOW + 3600, False),
        (RUN, Event("Warning", "OOMKilled", "trainer-4 ended (OOMKilled)", "trainer"), NOW, False),
        (RUN, Event("Normal", "OOMKilled", OOM.message), NOW, False),
        ({"metadata": {**RUN["metadata"], "uid": "u-2"}}, OOM, NOW, False),
        ({"metadata": {**RUN["metadata"], "resourceVersion": "77"}}, OOM, NOW, True),
    ],
    ids=[
        "within the hour",
        "an hour later",
        "another message",
        "another type",
        "another run of the name",
        "run changed",
    ],
)
def test_the_same_event_has_the_same_name(run: dict[str, Any], event: Event, now: float, same: bool) -> None:
    first = event_object(RUN, OOM, NOW, "a")["metadata"]["name"]
    second = event_object(run, event, now, "b")["metadata"]["name"]
    assert (first == second) is same


@pytest.mark.parametrize(
    ("text", "most"),
    [("x" * 5000, 1024), ("ü" * 5000, 1024), ("\ud800" * 5000, 1024), ("x" * 1024, 1024), ("", 0)],
    ids=["too long", "too long in bytes", "no valid text at all", "just as long as is allowed", "empty"],
)
def test_texts_are_cut_to_what_the_api_server_takes(text: str, most: int) -> None:
    body = event_object(RUN, Event("Normal", text, text), NOW, text)
    assert most - 3 <= len(body["message"].encode()) <= most
    assert len(body["reason"].encode()) <= 128
    assert len(body["reportingInstance"].encode()) <= 128
    assert body["message"].endswith("…") is (len(text) > 1024)


def events(count: int) -> list[Event]:
    return [Event("Normal", "Started", f"step {n}") for n in range(count)]


def test_events_are_written_in_order_in_the_background() -> None:
    async def main() -> tuple[list[tuple[str, str]], list[str]]:
        written: list[tuple[str, str]] = []
        results: list[str] = []

        async def write(namespace: str, body: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            written.append((namespace, body["message"]))

        writer = EventWriter(write, "me", on_result=results.append)
        for event in events(3):
            writer.put(RUN, event)
        assert written == []
        running = asyncio.create_task(writer.run())
        await writer.flush()
        running.cancel()
        await asyncio.wait([running])
        return written, results

    written, results = asyncio.run(main())
    assert written == [("team", "step 0"), ("team", "step 1"), ("team", "step 2")]
    assert results == ["written"] * 3


def test_what_the_api_server_refuses_is_lost_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[str]:
        results: list[str] = []

        async def write(namespace: str, body: dict[str, Any]) -> None:
            if body["message"] not in ("step 3", "step 5"):
                raise RuntimeError("forbidden")

        writer = EventWriter(write, "me", on_result=results.append)
        running = asyncio.create_task(writer.run())
        for event in events(6):
            writer.put(RUN, event)
        await writer.flush()
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])
        return results

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(main()) == ["refused"] * 3 + ["written", "refused", "written"]
    assert len(caplog.messages) == 2
    assert caplog.messages[0].endswith(": forbidden")


def test_while_the_api_server_is_slow_a_bounded_number_waits() -> None:
    async def main() -> list[str]:
        results: list[str] = []

        async def hang(namespace: str, body: dict[str, Any]) -> None:
            await asyncio.sleep(3600)

        writer = EventWriter(hang, "me", max_waiting=5, on_result=results.append)
        running = asyncio.create_task(writer.run())
        await asyncio.sleep(0)
        for event in events(20):
            writer.put(RUN, event)
        running.cancel()
        await asyncio.wait([running])
        return results

    assert asyncio.run(main()) == ["dropped"] * 15


def test_a_body_that_is_no_run_disturbs_nobody() -> None:
    async def main() -> list[str]:
        results: list[str] = []

        async def write(namespace: str, body: dict[str, Any]) -> None: ...

        EventWriter(write, "me", on_result=results.append).put({}, OOM)
        return results

    assert asyncio.run(main()) == ["dropped"]
