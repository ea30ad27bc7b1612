"""What the clients make of a peer's answers, and how long they wait for one that is away."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rz_workers.protocol.client import (
    UNAUTHORIZED_SECONDS,
    LedgerClient,
    ProtocolError,
    RewardClient,
    backoff_seconds,
)
from rz_workers.protocol.messages import Verdict, VerifyItem, WeightsReply
from rz_workers.runtime import DrainedError, SupersededError

EMPTY = WeightsReply(weights=None)
Answer = httpx.Response | Exception


class FakeStop(threading.Event):
    """Waits for no time, and notes for how long it should have."""

    def __init__(self, stopped_after: int = 10**6) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.stopped_after = stopped_after

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return len(self.waits) >= self.stopped_after


class Peer:
    """Answers in the given order; repeats the last answer."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def ledger() -> Iterator[Callable[..., LedgerClient]]:
    made: list[LedgerClient] = []

    def make(peer: Peer, stop: threading.Event | None = None, token_file: Path | None = None) -> LedgerClient:
        made.append(LedgerClient("http://ledger", token_file, stop or FakeStop(), httpx.MockTransport(peer)))
        return made[-1]

    yield make
    for client in made:
        client.close()


def ok() -> httpx.Response:
    return httpx.Response(200, content=EMPTY.model_dump_json())


PASSING_TROUBLE: dict[str, Answer] = {
    "refused connection": httpx.ConnectError("connection refused"),
    "no answer in time": httpx.ReadTimeout("timed out"),
    "connection lost": httpx.RemoteProtocolError("server disconnected"),
    "internal error": httpx.Response(500, text="Internal Server Error"),
    "not ready": httpx.Response(503, json={"detail": "the ledger is still reading"}),
    "too many requests": httpx.Response(429),
}


@pytest.mark.parametrize("trouble", PASSING_TROUBLE.values(), ids=PASSING_TROUBLE.keys())
def test_trouble_that_passes_is_waited_for(ledger: Callable[..., LedgerClient], trouble: Answer) -> None:
    peer, stop = Peer(trouble, trouble, trouble, ok()), FakeStop()
    assert ledger(peer, stop).weights(0) == EMPTY
    assert len(peer.requests) == 4
    assert len(stop.waits) == 3


def test_the_back_off_doubles_up_to_ten_seconds_with_jitter() -> None:
    assert [backoff_seconds(n, jitter=1.0) for n in (1, 2, 3, 6, 7, 1000)] == [0.2, 0.4, 0.8, 6.4, 10.0, 10.0]
    assert backoff_seconds(7, jitter=0.0) == 5.0


def test_a_long_outage_is_logged_at_growing_intervals(
    ledger: Callable[..., LedgerClient], caplog: pytest.LogCaptureFixture
) -> None:
    down: list[Answer] = [httpx.ConnectError("connection refused")] * 20
    with caplog.at_level(logging.WARNING, "rz_workers.protocol.client"):
        ledger(Peer(*down, ok())).weights(0)
    assert [record.args[3] for record in caplog.records if record.args] == [1, 2, 4, 8, 16]  # type: ignore[index]


def test_a_request_to_stop_ends_the_wait_but_not_the_first_try(ledger: Callable[..., LedgerClient]) -> None:
    down = httpx.ConnectError("connection refused")
    with pytest.raises(DrainedError, match="waiting for the ledger at http://ledger"):
        ledger(Peer(down), FakeStop(stopped_after=3)).weights(0)
    assert ledger(Peer(ok()), FakeStop(stopped_after=1)).weights(0) == EMPTY


def test_a_refusal_is_raised_with_the_peers_words(ledger: Callable[..., LedgerClient]) -> None:
    peer = Peer(httpx.Response(422, json={"detail": "shard x was sampled with weight version 3"}))
    with pytest.raises(ProtocolError, match="shard x was sampled with weight version 3") as refused:
        ledger(peer).weights(0)
    assert refused.value.status_code == 422
    assert len(peer.requests) == 1


def test_409_means_that_a_newer_incarnation_exists(ledger: Callable[..., LedgerClient]) -> None:
    with pytest.raises(SupersededError, match="incarnation 2"):
        ledger(Peer(httpx.Response(409, json={"detail": "incarnation 2 is at work"}))).take_step(0, 1)


def test_something_that_is_not_the_reply_is_told_as_such(ledger: Callable[..., LedgerClient]) -> None:
    with pytest.raises(ProtocolError, match="is another service on that port"):
        ledger(Peer(httpx.Response(200, text="<html>hello</html>"))).weights(0)


def test_a_refused_token_is_read_again(ledger: Callable[..., LedgerClient], tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("old")

    class Renewing(Peer):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            token_file.write_text("new\n")
            good = request.headers["authorization"] == "Bearer new"
            return ok() if good else httpx.Response(401, json={"detail": "not this run's token"})

    assert ledger(Renewing(ok()), token_file=token_file).weights(0) == EMPTY


def test_a_token_that_stays_refused_ends_the_call_when_every_kubelet_has_had_its_time(
    ledger: Callable[..., LedgerClient],
) -> None:
    peer, stop = Peer(httpx.Response(401, json={"detail": "the bearer token is missing"})), FakeStop()
    with pytest.raises(ProtocolError, match="the bearer token is missing"):
        ledger(peer, stop).weights(0)
    assert UNAUTHORIZED_SECONDS <= sum(stop.waits) <= UNAUTHORIZED_SECONDS + 10
    assert UNAUTHORIZED_SECONDS >= 2 * 90, "a kubelet refreshes a mounted Secret every 60 to 90 s"


def test_an_outage_does_not_count_as_a_refused_token(ledger: Callable[..., LedgerClient]) -> None:
    away = [httpx.Response(503)] * 100
    refused = httpx.Response(401, json={"detail": "not this run's token"})
    assert ledger(Peer(*away, refused, ok())).weights(0) == EMPTY


def test_a_long_poll_is_given_more_time_than_the_ledger_may_hold_it(ledger: Callable[..., LedgerClient]) -> None:
    peer = Peer(httpx.Response(200, json={"shards": None, "units_done": 0, "units_total": 2}))
    ledger(peer).take_step(0, 1, wait_seconds=20.0)
    assert peer.requests[0].extensions["timeout"]["read"] == 50.0


def test_verdicts_come_in_order_and_as_many_as_items() -> None:
    items = [VerifyItem(response="r", reference_answer="4", stopped=True)] * 2
    verdicts = [
        Verdict(reward=reward, status="ok", extracted_answer="4", cpu_seconds=0.1).model_dump() for reward in (1.0, 0.0)
    ]
    peer = Peer(httpx.Response(200, json={"verdicts": verdicts}), httpx.Response(200, json={"verdicts": verdicts[:1]}))
    client = RewardClient("http://reward", transport=httpx.MockTransport(peer))
    assert [verdict.reward for verdict in client.verify(items)] == [1.0, 0.0]
    with pytest.raises(ProtocolError, match="1 verdicts for 2 items"):
        client.verify(items)
    assert client.verify([]) == ()
    client.close()


def verdict_reply() -> httpx.Response:
    verdict = Verdict(reward=1.0, status="ok", extracted_answer="4", cpu_seconds=0.1)
    return httpx.Response(200, json={"verdicts": [verdict.model_dump()]})


@pytest.mark.parametrize(
    ("answer", "seconds", "trouble"),
    [
        (httpx.Response(503, json={"detail": "no child can be forked"}), 4.0, None),
        (
            httpx.Response(503, json={"detail": "no child can be forked"}),
            5.0,
            r"fails, .* \(503 no child can be forked\)",
        ),
        (httpx.ConnectError("connection refused"), 5.0, r"fails, .* \(ConnectError: connection refused\)"),
        (httpx.Response(503, text="x" * 9000), 5.0, r"fails, .{,600}$"),
        (None, 59.0, None),
        (None, 60.0, "has not answered a request for more than 60 s"),
    ],
    ids=["a restart", "a failure that lasts", "nobody there", "a long answer", "a slow answer", "no answer"],
)
def test_what_keeps_verdicts_from_coming_is_known_until_they_come(
    answer: httpx.Response | Exception | None, seconds: float, trouble: str | None
) -> None:
    now, seen = [100.0], []

    class Late(Peer):
        """Looks at the client while a request is under way, ``seconds`` after the first one began."""

        def __call__(self, request: httpx.Request) -> httpx.Response:
            if answer is None or self.requests:
                now[0] = 100.0 + seconds
                seen.append(client.trouble())
            return super().__call__(request)

    peer = Late(*([] if answer is None else [answer]), verdict_reply())
    client = RewardClient("http://reward", None, FakeStop(), httpx.MockTransport(peer), clock=lambda: now[0])
    client.verify([VerifyItem(response="r", reference_answer="4", stopped=True)])
    [found] = seen
    assert (found is None) == (trouble is None)
    assert trouble is None or re.search(trouble, found or "")
    assert client.trouble() is None
