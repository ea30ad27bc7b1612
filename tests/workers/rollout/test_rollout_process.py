"""The worker as a process: real engine, real HTTP, real signals. Ledger and reward service are one small server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from rollout_builders import build_model, weights_of
from worker_builders import lease_of, make_folder, run_of, train_unit, verdict_of

from rz_api import exit_codes
from rz_workers.protocol.messages import (
    Completion,
    CompletionReply,
    Heartbeat,
    HeartbeatReply,
    Lease,
    LeaseReply,
    VerifyReply,
    VerifyRequest,
    WeightsReply,
)
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import read_shard
from rz_workers.storage.weights import publish

LEASE_SECONDS = 1.0
PATIENCE = 120.0
"""For what happens by itself, however busy the machine is."""


class Peers:
    """Ledger and reward service. Leases are taken from ``offers``; without one, a request is held until ``release``."""

    def __init__(self) -> None:
        self.offers: list[LeaseReply] = []
        self.completions: list[Completion] = []
        self.lost: list[str] = []
        self.asked = 0
        self.scoring = threading.Event()
        """A request for verdicts has come: the worker holds its lease."""
        self.verify = threading.Event()
        """Verdicts may be given."""
        self.release = threading.Event()
        routes = {"/lease": self._lease, "/heartbeat": self._beat, "/complete": self._complete, "/verify": self._verify}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(routes[self.path](body))

            def do_GET(self) -> None:
                assert self.path.startswith("/weights/")
                self.answer(WeightsReply(weights=None))  # without a canary nothing is to be proven

            def answer(self, message: BaseModel) -> None:
                reply = message.model_dump_json().encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)
                except OSError:  # the worker has gone, as it should
                    pass

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _lease(self, _body: bytes) -> BaseModel:
        self.asked += 1
        if self.offers:
            return self.offers.pop(0)
        self.release.wait(PATIENCE)
        return LeaseReply()

    def _beat(self, body: bytes) -> BaseModel:
        Heartbeat.model_validate_json(body)
        return HeartbeatReply(lost=tuple(self.lost))

    def _complete(self, body: bytes) -> BaseModel:
        self.completions.append(Completion.model_validate_json(body))
        return CompletionReply(accepted=True)

    def _verify(self, body: bytes) -> BaseModel:
        self.scoring.set()
        self.verify.wait(PATIENCE)
        return VerifyReply(verdicts=tuple(map(verdict_of, VerifyRequest.model_validate_json(body).items)))


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers()
    yield peers
    peers.release.set()
    peers.verify.set()
    peers.server.shutdown()
    peers.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path, run_of(str(tmp_path / "run"), LEASE_SECONDS))


@pytest.fixture
def lease(tmp_path: Path, folder: RunFolder) -> Lease:
    info = publish(folder, 0, 1, weights_of(build_model(tmp_path / "other-files")))
    return lease_of(train_unit(folder), info, seconds=LEASE_SECONDS)


@pytest.fixture
def worker(tmp_path: Path, folder: RunFolder, peers: Peers) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "run-file.json").write_text(folder.run.model_dump_json(by_alias=True))
    environment = {
        **os.environ,
        "RZ_RUN_FILE": str(tmp_path / "run-file.json"),
        "RZ_ROLE": "rollout",
        "RZ_LEDGER_URL": peers.url,
        "RZ_REWARD_URL": peers.url,
        "RZ_SCRATCH": str(tmp_path / "scratch"),
        "RZ_TERMINATION_LOG": str(tmp_path / "last-words"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "rz_workers.rollout"], env=environment)
    yield process
    process.kill()
    process.wait()


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_unit_is_sampled_scored_stored_and_handed_in_and_a_finished_run_ends_the_process(
    peers: Peers, folder: RunFolder, lease: Lease, worker: subprocess.Popen[bytes]
) -> None:
    peers.verify.set()
    peers.offers += [LeaseReply(leases=(lease,)), LeaseReply(finished=True)]
    assert worker.wait(PATIENCE) == exit_codes.OK
    (completion,) = peers.completions
    rows = read_shard(folder.store, completion.shard)
    assert [row.sample_index for row in rows] == [0, 1, 0, 1]
    assert all(row.engine.startswith("transformers ") for row in rows)


def test_a_process_frozen_past_its_lease_writes_nothing_and_sigterm_ends_its_wait_for_the_next(
    peers: Peers, folder: RunFolder, lease: Lease, worker: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    peers.offers.append(LeaseReply(leases=(lease,)))
    assert peers.scoring.wait(PATIENCE)
    worker.send_signal(signal.SIGSTOP)
    time.sleep(2 * LEASE_SECONDS)  # the worker's own clock has to pass its deadline
    peers.lost.append(lease.lease_id)
    peers.verify.set()
    worker.send_signal(signal.SIGCONT)
    until(lambda: peers.asked == 2)
    assert peers.completions == []
    assert folder.store.list("trajectories/") == []

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(2) == exit_codes.DRAINED
    assert "told to stop" in (tmp_path / "last-words").read_text()


def test_sigterm_while_verdicts_are_missing_ends_the_process_at_once(
    peers: Peers, lease: Lease, worker: subprocess.Popen[bytes]
) -> None:
    peers.offers.append(LeaseReply(leases=(lease,)))
    assert peers.scoring.wait(PATIENCE)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(2) == exit_codes.DRAINED
    assert peers.completions == []
