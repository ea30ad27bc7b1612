"""The reward service end to end: the real process, HTTP, signals; verifiers that are real, and one that misbehaves as
it is told (``fake_child``)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rz_api import exit_codes
from rz_workers.protocol.client import RewardClient
from rz_workers.protocol.messages import RewardStatus, Verdict, VerifyItem
from rz_workers.reward.app import verdict
from rz_workers.reward.pool import Outcome
from rz_workers.status_server import Limits

TOKEN = "a-token"
REAL = ("-m", "rz_workers.reward")
FAKE = (str(Path(__file__).with_name("fake_service.py")),)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Service:
    """A running ``REAL`` or ``FAKE``."""

    process: subprocess.Popen[bytes]
    port: int
    status_port: int
    folder: Path
    asked: dict[str, float] = field(default_factory=dict)
    """Page -> monotonic seconds of its last answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, stop: threading.Event | None = None) -> RewardClient:
        return RewardClient(self.url, self.folder / "token", stop)

    def verify(self, *items: VerifyItem) -> tuple[Verdict, ...]:
        client = self.client()
        try:
            return client.verify(items)
        finally:
            client.close()

    def post(self, body: Any, token: str = TOKEN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(f"{self.url}/verify", json=body, headers=headers, trust_env=False, timeout=60)

    def status(self) -> dict[str, Any]:
        reply: dict[str, Any] = self._get("status").json()
        return reply

    def metrics(self) -> str:
        return self._get("metrics").text

    def _get(self, page: str) -> httpx.Response:
        """A page that was not shown before: nobody else asks, so once it is that old it is made anew."""
        time.sleep(max(0.0, self.asked.get(page, 0.0) + Limits.page_seconds - time.monotonic()))
        reply = httpx.get(f"http://127.0.0.1:{self.status_port}/{page}", trust_env=False, timeout=60)
        self.asked[page] = time.monotonic()
        return reply

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert self._get("healthz").status_code == 200
                return
            except httpx.TransportError:
                assert self.process.poll() is None, "the service ended"
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.05)

    def family(self) -> list[int]:
        """The fork server and two children, once they are there: the service is ready as soon as it listens."""
        _wait_until(lambda: len(_descendants(self.process.pid)) == 3)
        return _descendants(self.process.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Impatient(threading.Event):
    """A request to stop that cuts its client's pauses short."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(0.05)


def start(
    program: tuple[str, ...],
    folder: Path,
    *,
    port: int | None = None,
    verifier: str = "math-verify",
    cpu_seconds: float = 10,
) -> Service:
    run = {
        "name": "test",
        "uid": "test",
        "spec": {
            "model": {"name": "m"},
            "data": {"train": [{"uri": "d.jsonl"}]},
            "storage": {"uri": str(folder / "run")},
            "reward": {"verifier": verifier, "timeoutSeconds": cpu_seconds, "workers": 2, "memoryLimitMib": 512},
        },
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "token").write_text(TOKEN + "\n")
    port, status_port = port or free_port(), free_port()
    environment = {
        "RZ_ROLE": "reward",
        "RZ_RUN_FILE": str(folder / "run.json"),
        "RZ_SCRATCH": str(folder),
        "RZ_TOKEN_FILE": str(folder / "token"),
        "RZ_PORT": str(port),
        "RZ_STATUS_PORT": str(status_port),
        "RZ_TERMINATION_LOG": str(folder / "last-words"),
    }
    process = subprocess.Popen([sys.executable, *program], env=os.environ | environment)
    return Service(process, port, status_port, folder)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One whose verifier children do what the answers say, within 0.1 s of CPU time."""
    running = start(FAKE, tmp_path_factory.mktemp("service"), cpu_seconds=0.1)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def item(answer: str, reference: str, stopped: bool = True) -> VerifyItem:
    return VerifyItem(
        response=f"so it is {answer} </think> <answer> \\boxed{{{answer}}} </answer>",
        reference_answer=reference,
        stopped=stopped,
    )


@pytest.mark.parametrize("verifier", ["math-verify", "legacy"])
def test_verdicts_in_order_by(verifier: str, tmp_path: Path) -> None:
    running = start(REAL, tmp_path, verifier=verifier)
    try:
        running.wait_until_ready()
        verdicts = running.verify(
            item("4", "4"),
            item("5", "4"),
            item("0.5", "\\frac{1}{2}"),
            item("12", "12.0"),
            item("of no use", "12.0"),
            VerifyItem(response="I think it is \\boxed{4}", reference_answer="4", stopped=True),
            item("4", "4", stopped=False),
            VerifyItem(response="and so on and so", reference_answer="4", stopped=False),
        )
        status = running.status()
    finally:
        running.stop()
    assert [(v.reward, v.status, v.extracted_answer) for v in verdicts] == [
        (1.0, "ok", "4"),
        (0.0, "ok", "5"),
        (1.0, "ok", "0.5"),
        (1.0, "ok", "12"),
        (0.0, "ok", "of no use"),
        (0.0, "no_answer", None),
        (0.0, "truncated", "4"),
        (0.0, "truncated", None),
    ]
    assert (status["verifier"], status["comparisons"], status["crashes"]) == (verifier, 3, 0)


def test_answers_that_misbehave_disturb_no_other(service: Service, tmp_path: Path) -> None:
    before = service.status()
    asked = {
        "same 1": (1.0, "ok"),
        "spin": (0.0, "timeout"),
        "spin in C": (0.0, "timeout"),
        f"segfault once {tmp_path / 'seen'}": (1.0, "ok"),
        f"same {'a' * 1_000_000}": (1.0, "ok"),
        "same \x00 \x1b[2J \u202e \U0001f600": (1.0, "ok"),
        "other": (0.0, "ok"),
        "same 2": (1.0, "ok"),
    }
    verdicts = service.verify(*(item(answer, "12") for answer in asked))
    after = service.status()
    assert [(v.reward, v.status) for v in verdicts] == list(asked.values())
    assert [v.extracted_answer for v in verdicts] == list(asked)
    assert [after[count] - before[count] for count in ("timeouts", "crashes")] == [2, 1]


@pytest.mark.parametrize(("answer", "status"), [("segfault", "crashed"), ("error", "crashed"), ("memory", "memory")])
def test_an_answer_that_the_verifier_dies_of_stops_no_batch(service: Service, answer: str, status: str) -> None:
    """A batch with it was refused for ever, and the run stood still without a word."""
    verdicts = service.verify(item(f"same {answer}", "12"), item(answer, "12"), item("other", "12"))
    assert [(verdict.reward, verdict.status) for verdict in verdicts] == [(1, "ok"), (0, status), (0, "ok")]
    assert any(f'status="{status}"' in line for line in verdicts_counted(service))


def test_a_verifier_that_the_service_was_started_without_is_refused(service: Service) -> None:
    asked = item("same", "12").model_copy(update={"verifier": "s3://b/rewards.py:grade"})
    reply = service.post({"items": [asked.model_dump()]})
    assert reply.status_code == 422
    assert "started without the verifier s3://b/rewards.py:grade" in reply.json()["detail"]


def verdicts_counted(service: Service) -> list[str]:
    return [line for line in service.metrics().splitlines() if line.startswith("rz_reward_verdicts_total{")]


def test_a_step_of_short_integers_needs_no_verifier(service: Service) -> None:
    """As in the tiny run: 8 requests of 32 answers of 0..19."""
    before = service.status()["comparisons"]
    for _ in range(8):
        verdicts = service.verify(*(item(str(n % 20), "7") for n in range(32)))
        assert [n for n, verdict in enumerate(verdicts) if verdict.reward] == [7, 27]
    assert service.status()["comparisons"] == before


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_token_nothing_is_verified(service: Service, token: str) -> None:
    assert service.post({"items": []}, token).status_code == 401


def test_a_malformed_request_is_refused_with_the_reason(service: Service) -> None:
    reply = service.post({"item": []})
    assert reply.status_code == 422
    assert "items" in reply.json()["detail"]


def test_prometheus_sees_verdicts_latency_and_crashes(service: Service) -> None:
    service.verify(item("4", "4"))
    text = service.metrics()
    assert 'rz_reward_verdicts_total{reward="1",status="ok"}' in text
    for name in ("rz_reward_request_seconds_count", "rz_reward_crashes_total", "rz_reward_children_started_total"):
        assert name in text


def test_a_port_in_use_is_a_user_error(service: Service, tmp_path: Path) -> None:
    second = start(REAL, tmp_path, port=service.port)
    assert second.process.wait(60) == exit_codes.USER_ERROR
    assert f"cannot listen on port {service.port}" in (tmp_path / "last-words").read_text()


def test_sigterm_ends_the_service_and_its_children(tmp_path: Path) -> None:
    running = start(REAL, tmp_path)
    try:
        running.wait_until_ready()
        family = running.family()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == exit_codes.DRAINED
    finally:
        running.stop()
    _wait_until_gone(family)


def test_kill_9_takes_a_busy_child_along_and_its_caller_hears_from_the_next_service(tmp_path: Path) -> None:
    begun, give_up = tmp_path / "begun", Impatient()
    running = start(FAKE, tmp_path, cpu_seconds=600)
    client = running.client(give_up)
    with ThreadPoolExecutor(1) as callers:
        try:
            running.wait_until_ready()
            asked = callers.submit(client.verify, [item(f"spin once {begun}", "12")])
            _wait_until(begun.exists)
            family = running.family()
            running.process.kill()
            running.process.wait()
            _wait_until_gone(family)
            running = start(FAKE, tmp_path, port=running.port)
            assert [verdict.reward for verdict in asked.result(60)] == [1.0]
        finally:
            give_up.set()
            running.stop()
    client.close()


RULE = {
    "right and stopped": ("4", True, Outcome(1.0, rule="library", cpu_seconds=0.1), (1.0, "ok", "library", 0.1)),
    "wrong and stopped": ("5", True, Outcome(0.0, cpu_seconds=0.1), (0.0, "ok", "", 0.1)),
    "right in part": ("5", True, Outcome(0.25), (0.25, "ok", "", 0.0)),
    "right but truncated": ("4", False, None, (0.0, "truncated", "", 0.0)),
    "truncated before an answer": (None, False, None, (0.0, "truncated", "", 0.0)),
    "stopped without an answer": (None, True, None, (0.0, "no_answer", "", 0.0)),
    "not decided within the CPU limit": ("5", True, Outcome(0.0, "timeout", cpu_seconds=9), (0.0, "timeout", "", 9)),
    "not decided within the memory limit": ("5", True, Outcome(0.0, "memory"), (0.0, "memory", "", 0.0)),
    "not decided at all": ("5", True, Outcome(0.0, "crashed"), (0.0, "crashed", "", 0.0)),
}


@pytest.mark.parametrize(("answer", "stopped", "outcome", "want"), RULE.values(), ids=RULE.keys())
def test_the_reward_rule(
    answer: str | None, stopped: bool, outcome: Outcome | None, want: tuple[float, RewardStatus, str, float]
) -> None:
    reward, status, rule, seconds = want
    given = verdict(VerifyItem(response="", reference_answer="4", stopped=stopped), answer, outcome)
    assert given == Verdict(reward=reward, status=status, rule=rule, extracted_answer=answer, cpu_seconds=seconds)


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _wait_until_gone(pids: list[int]) -> None:
    _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)
