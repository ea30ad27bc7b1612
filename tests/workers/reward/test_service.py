"""The reward service end to end: the real process, the real verifier, HTTP, hostile answers, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rz_api import exit_codes
from rz_workers.protocol.client import RewardClient
from rz_workers.protocol.messages import Verdict, VerifyItem
from rz_workers.reward.app import verdict
from rz_workers.reward.pool import Outcome

TOKEN = "a-token"
CPU_SECONDS = 0.5


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Service:
    """A running ``python -m rz_workers.reward``."""

    process: subprocess.Popen[bytes]
    port: int
    status_port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> RewardClient:
        return RewardClient(self.url, self.folder / "token")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{self.status_port}/healthz", trust_env=False).status_code == 200
                return
            except httpx.TransportError:
                assert self.process.poll() is None, "the service ended"
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.05)

    def family(self) -> list[int]:
        """The fork server and two children, once they are there: the service is ready as soon as it listens."""
        deadline = time.monotonic() + 60
        while len(family := _descendants(self.process.pid)) != 3:
            assert time.monotonic() < deadline, f"found processes {family} below the service"
            time.sleep(0.02)
        return family

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def start(
    folder: Path, port: int | None = None, verifier: str = "math-verify", cpu_seconds: float = CPU_SECONDS
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
    process = subprocess.Popen([sys.executable, "-m", "rz_workers.reward"], env=os.environ | environment)
    return Service(process, port, status_port, folder)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = start(tmp_path_factory.mktemp("service"))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def reward(service: Service) -> Iterator[RewardClient]:
    client = service.client()
    yield client
    client.close()


def item(answer: str, reference: str, stopped: bool = True) -> VerifyItem:
    return VerifyItem(
        response=f"so it is {answer} </think> <answer> \\boxed{{{answer}}} </answer>",
        reference_answer=reference,
        stopped=stopped,
    )


def test_verdicts_in_order(reward: RewardClient) -> None:
    items = [
        item("4", "4"),
        item("5", "4"),
        item("0.5", "\\frac{1}{2}"),
        VerifyItem(response="I think it is \\boxed{4}", reference_answer="4", stopped=True),
        item("4", "4", stopped=False),
        VerifyItem(response="and so on and so", reference_answer="4", stopped=False),
    ]
    assert [(v.reward, v.status, v.extracted_answer) for v in reward.verify(items)] == [
        (1.0, "ok", "4"),
        (0.0, "ok", "5"),
        (1.0, "ok", "0.5"),
        (0.0, "no_answer", None),
        (0.0, "truncated", "4"),
        (0.0, "truncated", None),
    ]


HOSTILE = {
    "a tower of powers": "9^9^9^9",
    "a tower of powers in braces": "9^{9^{9^{9}}}",
    "a factorial of a factorial": "((((9!)!)!)!)!",
    "5000 parentheses": "(" * 5000 + "1" + ")" * 5000,
    "5000 braces": "{" * 5000 + "1" + "}" * 5000,
    "2000 fractions in each other": "\\frac{1}{" * 2000 + "2" + "}" * 2000,
    "3000 roots in each other": "\\sqrt{" * 3000 + "2" + "}" * 3000,
    "10000 signs": "-" * 10_000 + "1",
    "a number of a million digits": "9" * 1_000_000,
    "a word of a million letters": "a" * 1_000_000,
    "a sum of 300000 terms": "1+" * 300_000 + "1",
    "50000 commas": "1," * 50_000 + "1",
    "200000 dollar signs": "$" * 200_000,
    "a sum to 10^12": "\\sum_{n=1}^{10^{12}} \\frac{1}{n^n}",
    "Python": "__import__('os').system('touch /tmp/rz-hostile')",
    "control characters": "\x00\x1b[2J\u202e\U0001f600",
}


@pytest.mark.parametrize("verifier", ["math-verify", "legacy"])
def test_hostile_answers_get_a_verdict_of_zero_and_crash_nothing(verifier: str, tmp_path: Path) -> None:
    running = start(tmp_path, verifier=verifier)
    try:
        running.wait_until_ready()
        client = running.client()
        verdicts = client.verify([*(item(answer, "12") for answer in HOSTILE.values()), item("12", "12.0")])
        client.close()
        status = httpx.get(f"http://127.0.0.1:{running.status_port}/status", trust_env=False).json()
    finally:
        running.stop()
    assert {v.status for v in verdicts} <= {"ok", "timeout"}
    assert [v.reward for v in verdicts] == [0.0] * len(HOSTILE) + [1.0]
    assert status["crashes"] == 0
    assert not Path("/tmp/rz-hostile").exists()


def test_256_short_verdicts_cost_little_cpu(service: Service, reward: RewardClient) -> None:
    """A step of the tiny run: 8 requests of 32 answers of 0..19."""
    reward.verify([item("1", "2")])
    before = _cpu_seconds(service.process.pid)
    for request in range(8):
        reward.verify([item(str((7 * n + request) % 20), str(n % 20)) for n in range(32)])
    assert _cpu_seconds(service.process.pid) - before < 0.3


def test_without_the_token_nothing_is_verified(service: Service) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        reply = httpx.post(f"{service.url}/verify", json={"items": []}, headers=headers, trust_env=False)
        assert reply.status_code == 401


def test_a_malformed_request_is_refused_with_the_reason(service: Service) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    reply = httpx.post(f"{service.url}/verify", json={"item": []}, headers=headers, trust_env=False)
    assert reply.status_code == 422
    assert "items" in reply.json()["detail"]


def test_prometheus_sees_verdicts_latency_and_crashes(service: Service, reward: RewardClient) -> None:
    reward.verify([item("4", "4")])
    text = httpx.get(f"http://127.0.0.1:{service.status_port}/metrics", trust_env=False).text
    assert 'rz_reward_verdicts_total{reward="1",status="ok"}' in text
    for name in ("rz_reward_request_seconds_count", "rz_reward_crashes_total", "rz_reward_children_started_total"):
        assert name in text


def test_a_port_in_use_is_a_user_error(service: Service, tmp_path: Path) -> None:
    second = start(tmp_path, port=service.port)
    assert second.process.wait(30) == exit_codes.USER_ERROR
    assert f"cannot listen on port {service.port}" in (tmp_path / "last-words").read_text()


def test_sigterm_ends_the_service_and_its_children(tmp_path: Path) -> None:
    running = start(tmp_path)
    try:
        running.wait_until_ready()
        family = running.family()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == exit_codes.DRAINED
    finally:
        running.stop()
    assert _gone(family)


def test_kill_9_takes_the_children_with_it_busy_or_not_and_callers_retry(tmp_path: Path) -> None:
    running = start(tmp_path, cpu_seconds=60)
    try:
        running.wait_until_ready()
        family = running.family()
        spinning = item("((((9!)!)!)!)!", "12").model_dump()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{running.url}/verify",
                json={"items": [spinning]},
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=1.0,
                trust_env=False,
            )
        running.process.kill()
        running.process.wait()
        assert _gone(family)
        running = start(tmp_path, port=running.port)
        give_up = threading.Event()
        timer = threading.Timer(90, give_up.set)
        timer.start()
        client = RewardClient(running.url, tmp_path / "token", stop=give_up)  # the new service is not up yet
        assert client.verify([item("4", "4.0")])[0].reward == 1.0
        timer.cancel()
        client.close()
    finally:
        running.stop()


RULE = {
    "right and stopped": ("4", True, Outcome(equal=True, cpu_seconds=0.1), (1.0, "ok", 0.1)),
    "wrong and stopped": ("5", True, Outcome(equal=False, cpu_seconds=0.1), (0.0, "ok", 0.1)),
    "right but truncated": ("4", False, None, (0.0, "truncated", 0.0)),
    "truncated before an answer": (None, False, None, (0.0, "truncated", 0.0)),
    "stopped without an answer": (None, True, None, (0.0, "no_answer", 0.0)),
    "not decided within the CPU limit": ("9^9", True, Outcome(False, True, 10.0), (0.0, "timeout", 10.0)),
}


@pytest.mark.parametrize(("answer", "stopped", "outcome", "want"), RULE.values(), ids=RULE.keys())
def test_the_reward_rule(
    answer: str | None, stopped: bool, outcome: Outcome | None, want: tuple[float, str, float]
) -> None:
    given = verdict(VerifyItem(response="", reference_answer="4", stopped=stopped), answer, outcome)
    assert given == Verdict(reward=want[0], status=want[1], extracted_answer=answer, cpu_seconds=want[2])  # type: ignore[arg-type]


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _cpu_seconds(pid: int) -> float:
    ticks = 0
    for member in [pid, *_descendants(pid)]:
        fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _gone(pids: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
