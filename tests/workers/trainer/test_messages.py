"""Two ranks that join as a gang does: what the one believes of the other, and what ends it."""

from __future__ import annotations

import multiprocessing
import socket
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import messages_gang
import pytest

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.seals import Seal

TOKEN = "the run's token"
INCARNATION = 4
PATIENCE = 300.0


class Heard(NamedTuple):
    """Of both ranks."""

    members: list[list[int]]
    keys: list[list[str]]
    """Of the rendezvous store."""
    scenes: dict[str, list[tuple[Any, list[str] | None]]]
    """What came of each, and the error."""


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    environment = environment_of_a_gang(tmp_path_factory.mktemp("gang"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([messages_gang.__name__])
    gang = []
    for rank in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=messages_gang.be_rank, args=(rank, environment, theirs), daemon=True)
        process.start()
        theirs.close()
        gang.append((process, ours))
    starts = [hear(pipe) for _, pipe in gang]
    scenes: dict[str, list[tuple[Any, list[str] | None]]] = {name: [] for name in messages_gang.SCENES}
    for name in messages_gang.SCENES:
        for _, pipe in gang:
            said, value, error = hear(pipe)
            assert said == name
            scenes[name].append((value, error))
    for process, _ in gang:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return Heard([members for members, _ in starts], [keys for _, keys in starts], scenes)


def hear(pipe: Connection) -> Any:
    assert pipe.poll(PATIENCE), "the rank said nothing"
    return pipe.recv()


def environment_of_a_gang(folder: Path) -> dict[str, str]:
    spec = ReasonerZeroRunSpec.model_validate(
        {
            "model": {"name": "base"},
            "data": {"train": [{"uri": "train.jsonl"}]},
            "storage": {"uri": "memory://run"},
            "trainer": {"gpusPerNode": 0, "nodes": 2},
        }
    )
    run = ResolvedRun(name="test", namespace="local", uid="uid-1", spec=spec)
    (folder / "run.json").write_text(run.model_dump_json(by_alias=True))
    (folder / "token").write_text(f"{TOKEN}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "RZ_RUN_FILE": str(folder / "run.json"),
        "RZ_SCRATCH": str(folder / "scratch"),
        "RZ_TOKEN_FILE": str(folder / "token"),
        "RZ_INCARNATION": str(INCARNATION),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def test_ranks_meet_below_a_prefix_that_follows_from_the_token(heard: Heard) -> None:
    assert heard.members == [[0, 1], [0, 1]]
    prefix = Seal.of(TOKEN, "rendezvous", INCARNATION).prefix
    for keys in heard.keys:
        assert keys
        assert [key for key in keys if not key.startswith(f"{prefix}/")] == []
        assert not any(TOKEN in key for key in keys)


@pytest.mark.parametrize(
    ("scene", "first", "second"),
    [
        ("honest", messages_gang.TOLD, messages_gang.TOLD),
        ("gathered", *[[{"rank": (0,)}, {"rank": (1,) * 51}]] * 2),
        ("gathered on the first", [{"rank": (0,)}, {"rank": (1,)}], None),
        ("all well", "done", "done"),
    ],
)
def test_what_ranks_tell_each_other_arrives(heard: Heard, scene: str, first: Any, second: Any) -> None:
    assert heard.scenes[scene] == [(first, None), (second, None)]


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ("another token", "without the seal of this run"),
        ("played again", "without the seal of this run"),
        ("raw JSON", "without the seal of this run"),
        ("noise", "without the seal of this run"),
        ("another kind", "cannot read what rank 0 sent as 'scenes/1/rank-0': "),
        ("nothing", "found a message of 0 bytes"),
        ("less than nothing", "found a message of -1 bytes"),
        ("too much", "found a message of 1073741825 bytes"),
    ],
)
def test_anything_else_ends_the_rank_with_a_clear_error(heard: Heard, scene: str, words: str) -> None:
    _, (value, error) = heard.scenes[scene]
    assert value is None
    assert error is not None
    assert error[0] == "MessageError"
    assert error[1].startswith("rank 1 ")
    assert words in error[1]


def test_no_library_exchanges_pickles_in_a_trainer(heard: Heard) -> None:
    for value, error in heard.scenes["a library's pickle"]:
        assert value is None
        assert error is not None
        assert error[0] == "MessageError"
        assert "wanted to exchange pickles" in error[1]


@pytest.mark.parametrize(
    ("scene", "first", "second"),
    [
        ("superseded on the first", *[["SupersededError", "gang 2 is at work"]] * 2),
        (
            "corrupt on the second, a bug on the first",
            *[["CorruptObjectError", "the bytes of 'w' are not those that were written"]] * 2,
        ),
        ("a bug on the second", ["RuntimeError", "rank 1 failed: KeyError: 'a bug'"], ["KeyError", "'a bug'"]),
    ],
)
def test_what_fails_on_one_rank_is_raised_on_all(heard: Heard, scene: str, first: list[str], second: list[str]) -> None:
    assert heard.scenes[scene] == [(None, first), (None, second)]
