"""Broadcasts between real processes over loopback: everything arrives, and what fails takes down nobody else."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import TCPStore
from transfer_builders import (
    BUCKET_BYTES,
    PATIENCE,
    SEAL,
    Process,
    Rollout,
    broadcast,
    digests,
    send_buckets,
    some_tensors,
)

from rz_workers.protocol.messages import Backend, Endpoint
from rz_workers.storage.checksums import describe_all, digest
from rz_workers.transfer.errors import TransferError
from rz_workers.transfer.sender import Sender
from rz_workers.transfer.wire import TensorMeta, cut

TENSORS = some_tensors()
DIGEST = digest(describe_all(TENSORS))
METAS = [TensorMeta.of(name, tensor) for name, tensor in TENSORS.items()]
MIDDLE = "layers.2.weight"
"""In a bucket that is neither the first nor the last."""

SHORT_SECONDS = 10.0
"""Where a test waits for a time limit; enough for what succeeds on a busy machine."""

MakeRollout = Callable[..., Rollout]
MakeSender = Callable[..., Sender]


@pytest.fixture(params=["gloo", "shared"])
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture(scope="module")
def standing() -> Iterator[dict[str, Rollout]]:
    """Rollouts that live through all tests here: a process takes seconds to start. Each test gives them new groups."""
    rollouts = {"first": Rollout("first"), "second": Rollout("second"), "pair": Rollout("pair", 2)}
    for rollout in rollouts.values():
        rollout.wait_until_started()
    yield rollouts
    for rollout in rollouts.values():
        rollout.end()


@pytest.fixture
def first(standing: dict[str, Rollout]) -> Rollout:
    standing["first"].new_group()
    return standing["first"]


@pytest.fixture
def second(standing: dict[str, Rollout]) -> Rollout:
    standing["second"].new_group()
    return standing["second"]


@pytest.fixture
def pair(standing: dict[str, Rollout]) -> Rollout:
    standing["pair"].new_group()
    return standing["pair"]


@pytest.fixture
def make_doomed() -> Iterator[MakeRollout]:
    """A rollout that does not survive its test, or that no other test could use."""
    made: list[Rollout] = []

    def make(workers: int = 1, *arguments: str) -> Rollout:
        made.append(Rollout("doomed", workers, *arguments))
        made[-1].wait_until_started()
        return made[-1]

    yield make
    for rollout in made:
        rollout.end()


@pytest.fixture
def make_sender() -> Iterator[MakeSender]:
    made: list[Sender] = []

    def make(backend: Backend, seconds: float = 60) -> Sender:
        made.append(Sender("127.0.0.1", 0, backend, torch.device("cpu"), seconds, lambda: SEAL))
        return made[-1]

    yield make
    for sender in made:
        sender.shutdown()


@pytest.mark.parametrize("own_buffers", [True, False], ids=["from the sender's buffers", "from other memory"])
def test_every_tensor_arrives_at_every_worker_of_every_rollout(
    backend: Backend, own_buffers: bool, make_sender: MakeSender, first: Rollout, pair: Rollout
) -> None:
    rollouts = [first, pair]
    sender = make_sender(backend)
    for rollout in rollouts:
        rollout.order(sender.endpoint, 1, backend)
    arrived = broadcast(sender, 1, [rollout.assignment() for rollout in rollouts], TENSORS, own_buffers)
    assert len(cut(METAS, BUCKET_BYTES)) > 4
    assert set(arrived) == {"first", "pair"}
    for rollout in rollouts:
        assert rollout.hear() == {"digest": DIGEST, "group": rollout.group, "kept": digests(TENSORS)}


def test_a_group_is_used_again_for_the_next_versions(backend: Backend, make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender(backend)
    for version in (1, 2, 4):
        tensors = some_tensors(seed=version)
        first.order(sender.endpoint, version, backend)
        assert broadcast(sender, version, [first.assignment(is_new=version == 1)], tensors) == ("first",)
        assert first.hear()["digest"] == digest(describe_all(tensors))
        assert sender.groups == (first.group,)


def test_a_version_can_be_sent_again_in_the_same_group(make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender("gloo")
    for is_new in (True, False):
        first.order(sender.endpoint, 1, "gloo")
        assert broadcast(sender, 1, [first.assignment(is_new)], TENSORS) == ("first",)
        assert first.hear()["digest"] == DIGEST


def test_what_the_engine_does_not_ask_for_is_verified_all_the_same(make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender("gloo")
    first.order(sender.endpoint, 1, "gloo", stop_asking_at="scale")
    assert broadcast(sender, 1, [first.assignment()], TENSORS) == ("first",)
    heard = first.hear()
    assert (heard["digest"], list(heard["kept"])) == (DIGEST, ["norm.weight", "scale"])


def test_nobody_to_send_to_is_no_failure(make_sender: MakeSender) -> None:
    assert broadcast(make_sender("gloo"), 1, [], TENSORS) == ()


@pytest.mark.parametrize(
    ("backend_used", "how", "workers"),
    [
        pytest.param("gloo", signal.SIGKILL, 1, id="gloo: is killed"),
        pytest.param("gloo", signal.SIGKILL, 2, id="gloo: one worker of two is killed"),
        pytest.param("gloo", signal.SIGSTOP, 1, id="gloo: stops reading"),
        pytest.param("shared", signal.SIGKILL, 1, id="shared: is killed"),
        pytest.param("shared", signal.SIGSTOP, 2, id="shared: one worker of two stops reading"),
    ],
)
def test_a_receiver_that_fails_in_the_middle_takes_down_its_own_group_only(
    backend_used: Backend,
    how: signal.Signals,
    workers: int,
    make_sender: MakeSender,
    make_doomed: MakeRollout,
    second: Rollout,
) -> None:
    lost = make_doomed(workers)
    sender = make_sender(backend_used, SHORT_SECONDS)
    lost.order(sender.endpoint, 1, backend_used, pause_at=MIDDLE)
    second.order(sender.endpoint, 1, backend_used)
    with ThreadPoolExecutor(1) as background:
        sending = background.submit(broadcast, sender, 1, [lost.assignment(), second.assignment()], TENSORS)
        assert lost.hear() == {"at": MIDDLE}
        lost.processes[-1].signal(how)
        assert sending.result(PATIENCE) == ("second",)
    assert sender.groups == (second.group,)
    assert second.hear()["digest"] == DIGEST
    second.order(sender.endpoint, 2, backend_used)
    assert broadcast(sender, 2, [second.assignment(is_new=False)], TENSORS) == ("second",)
    assert second.hear()["digest"] == DIGEST


def test_a_receiver_that_was_dropped_learns_it_and_can_come_back(
    backend: Backend, make_sender: MakeSender, first: Rollout
) -> None:
    sender = make_sender(backend)
    first.order(sender.endpoint, 1, backend, pause_at=MIDDLE)
    sender.open(1, [first.assignment()], METAS, BUCKET_BYTES)
    with ThreadPoolExecutor(1) as background:
        sending = background.submit(send_buckets, sender, TENSORS)
        assert first.hear() == {"at": MIDDLE}
        sender.drop(first.group, "somebody wants it so")
        sending.result(PATIENCE)
    assert sender.close(describe_all(TENSORS)) == ()
    first.processes[0].tell("go on")
    heard = first.hear()
    assert (heard["error"], heard["group"]) == ("TransferError", None)
    first.new_group()
    first.order(sender.endpoint, 2, backend)
    assert broadcast(sender, 2, [first.assignment()], TENSORS) == ("first",)
    assert first.hear()["digest"] == DIGEST


def test_an_engine_that_refuses_a_tensor_leaves_the_broadcast_with_its_own_error(
    backend: Backend, make_sender: MakeSender, first: Rollout, second: Rollout
) -> None:
    sender = make_sender(backend)
    first.order(sender.endpoint, 1, backend, fail_at=MIDDLE)
    second.order(sender.endpoint, 1, backend)
    assert broadcast(sender, 1, [first.assignment(), second.assignment()], TENSORS) == ("second",)
    assert first.hear() == {"error": "ValueError", "words": f"the engine does not know {MIDDLE}", "group": None}
    assert second.hear()["digest"] == DIGEST


def test_a_tensor_that_changed_on_the_way_is_named(
    backend: Backend, make_sender: MakeSender, make_doomed: MakeRollout, second: Rollout
) -> None:
    damaged = make_doomed(1, "flip")
    sender = make_sender(backend)
    for each in (damaged, second):
        each.order(sender.endpoint, 1, backend)
    assert broadcast(sender, 1, [damaged.assignment(), second.assignment()], TENSORS) == ("second",)
    heard = damaged.hear()
    name = cut(METAS, BUCKET_BYTES)[2][0].name
    assert (heard["error"], heard["group"]) == ("TransferError", None)
    assert heard["words"].startswith(f"tensor '{name}' (")
    assert sender.groups == (second.group,)
    assert second.hear()["digest"] == DIGEST


@pytest.mark.parametrize(
    "how",
    [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.thorough)],
    ids=["dies", "hangs"],
)
def test_a_receiver_whose_sender_fails_gives_up_and_can_join_another(
    how: signal.Signals, backend: Backend, make_sender: MakeSender, first: Rollout
) -> None:
    failing = Process("sender_process", backend)
    try:
        endpoint = Endpoint(host="127.0.0.1", port=failing.hear()["port"])
        first.order(endpoint, 1, backend, seconds=SHORT_SECONDS)
        failing.tell([first.assignment().model_dump()])
        assert failing.hear() == {"sent": [first.group]}
        failing.signal(how)
        heard = first.hear()
    finally:
        failing.end()
    assert (heard["error"], heard["group"]) == ("TransferError", None)
    first.new_group()
    sender = make_sender(backend)
    first.order(sender.endpoint, 2, backend)
    assert broadcast(sender, 2, [first.assignment()], TENSORS) == ("first",)
    assert first.hear()["digest"] == DIGEST


def test_who_comes_late_is_left_out_and_told(
    backend: Backend, make_sender: MakeSender, first: Rollout, second: Rollout
) -> None:
    sender = make_sender(backend, SHORT_SECONDS)
    first.order(sender.endpoint, 1, backend)
    sender.open(1, [first.assignment(), second.assignment()], METAS, BUCKET_BYTES)
    second.order(sender.endpoint, 1, backend)
    heard = second.hear()
    assert heard["error"] == "TransferError"
    assert "not every worker had come" in heard["words"]
    send_buckets(sender, TENSORS)
    assert sender.close(describe_all(TENSORS)) == ("first",)
    assert first.hear()["digest"] == DIGEST


def test_a_rollout_that_believes_in_a_group_that_is_gone_is_told(make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender("gloo")
    first.order(sender.endpoint, 1, "gloo")
    assert broadcast(sender, 1, [first.assignment()], TENSORS) == ("first",)
    assert first.hear()["digest"] == DIGEST
    sender.drop(first.group)
    first.order(sender.endpoint, 2, "gloo")
    assert broadcast(sender, 2, [first.assignment(is_new=False)], TENSORS) == ()
    assert "gone on the trainer's side" in first.hear()["words"]


def test_a_version_that_was_not_sent_to_its_end_costs_its_groups(make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender("gloo")
    first.order(sender.endpoint, 1, "gloo", seconds=SHORT_SECONDS)
    sender.open(1, [first.assignment()], METAS, BUCKET_BYTES)
    sender.open(2, [], METAS, BUCKET_BYTES)
    assert sender.groups == ()
    assert first.hear()["error"] == "TransferError"


def test_a_port_that_is_taken_is_named(make_sender: MakeSender) -> None:
    port = make_sender("gloo").endpoint.port
    with pytest.raises(TransferError, match=f"cannot listen on 127.0.0.1:{port}"):
        Sender("127.0.0.1", port, "gloo", torch.device("cpu"), 5, lambda: SEAL)


def test_shared_memory_leaves_no_file_behind(make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender("shared")
    first.order(sender.endpoint, 1, "shared")
    assert broadcast(sender, 1, [first.assignment()], TENSORS) == ("first",)
    assert first.hear()["digest"] == DIGEST
    folders = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    assert [path for folder in folders for path in folder.glob(f"reasonerzero-{os.getpid()}-*")] == []


def keys_that_end(store: TCPStore, end: str) -> list[str]:
    """As a stranger finds them, who knows no prefix: the store tells its keys to whoever connects."""
    deadline = time.monotonic() + PATIENCE
    while not (found := [key for key in store.list_keys() if key.endswith(end)]):
        assert time.monotonic() < deadline, f"no key ends with {end}"
        time.sleep(0.01)
    return list(found)


def test_a_stranger_who_writes_to_the_store_is_not_believed(make_sender: MakeSender, first: Rollout) -> None:
    sender = make_sender("gloo")
    stranger = TCPStore("127.0.0.1", sender.endpoint.port, is_master=False, wait_for_workers=False)
    first.order(sender.endpoint, 1, "gloo")
    [hello] = keys_that_end(stranger, "/hello/0")
    stranger.set(hello.replace("hello/0", "join"), "{}")
    heard = first.hear()
    assert (heard["error"], heard["group"]) == ("TransferError", None)
    assert "'join' without the seal of this run" in heard["words"].replace(f"{first.group}/", "")
    first.new_group()
    first.order(sender.endpoint, 2, "gloo")
    assert broadcast(sender, 2, [first.assignment()], TENSORS) == ("first",)
    assert first.hear()["digest"] == DIGEST


def test_what_a_stranger_says_in_a_rollouts_name_costs_its_group_and_nothing_else(
    make_sender: MakeSender, first: Rollout, second: Rollout
) -> None:
    sender = make_sender("gloo")
    stranger = TCPStore("127.0.0.1", sender.endpoint.port, is_master=False, wait_for_workers=False)
    for rollout in (first, second):
        rollout.order(sender.endpoint, 1, "gloo")
    [hello] = keys_that_end(stranger, f"{first.group}/hello/0")
    stranger.set(hello.replace("hello/0", "v1/result/0"), '{"digest": "of other weights"}')
    assert broadcast(sender, 1, [first.assignment(), second.assignment()], TENSORS) == ("second",)
    assert first.hear()["error"] == "TransferError"
    assert second.hear()["digest"] == DIGEST


def test_a_rollout_with_another_token_is_never_heard(
    make_sender: MakeSender, make_doomed: MakeRollout, second: Rollout
) -> None:
    foreign = make_doomed(1, "foreign")
    sender = make_sender("gloo", SHORT_SECONDS)
    foreign.order(sender.endpoint, 1, "gloo", seconds=SHORT_SECONDS)
    second.order(sender.endpoint, 1, "gloo")
    assert broadcast(sender, 1, [foreign.assignment(), second.assignment()], TENSORS) == ("second",)
    assert foreign.hear()["error"] == "TransferError"
    assert second.hear()["digest"] == DIGEST
