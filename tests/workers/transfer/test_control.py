"""What is believed of a document in a store to which anybody may write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from transfer_builders import SEAL, TOKEN

from rz_workers.seals import Seal
from rz_workers.transfer.control import TRANSFER, Control, Deadline
from rz_workers.transfer.documents import Done, Header, Notice, Refusal, Result, TensorFields, Trailer
from rz_workers.transfer.errors import TransferError

HEADER = Header(version=1, buckets=((TensorFields(name="w", dtype="float32", shape=(2, 3)),),), shared=None)
KEY = f"{SEAL.prefix}/g/header"


@pytest.fixture
def store() -> Store:
    in_memory: Any = dist
    made: Store = in_memory.HashStore()
    return made


@pytest.fixture
def control(store: Store) -> Control:
    return Control(store, SEAL, "g")


def wait(control: Control) -> Header:
    return control.wait("header", Header, Deadline(20))


def test_a_document_is_read_as_it_was_written(control: Control) -> None:
    control.put("header", HEADER)
    assert wait(control) == HEADER == control.read("header", Header)


def test_a_refusal_is_told_with_its_reason(control: Control) -> None:
    control.refuse("header", "the trainer ends")
    with pytest.raises(TransferError, match="it has left this rollout out: the trainer ends"):
        wait(control)


Write = Callable[[Store], None]


def raw(content: bytes) -> Write:
    return lambda store: store.set(KEY, content)  # type: ignore[arg-type]


def by(seal: Seal, place: str = "g/header", document: Any = HEADER) -> Write:
    return raw(seal.close(place, document.model_dump_json().encode()))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(raw(HEADER.model_dump_json().encode()), id="the right JSON, from somebody without the token"),
        pytest.param(raw(b""), id="nothing"),
        pytest.param(raw(bytes(range(256)) * 4), id="noise"),
        pytest.param(by(Seal.of("another token", TRANSFER, 1)), id="another run"),
        pytest.param(by(Seal.of(TOKEN, TRANSFER, 2)), id="another gang of this run"),
        pytest.param(by(Seal.of(TOKEN, "ranks", 1)), id="another purpose"),
        pytest.param(by(SEAL, place="h/header"), id="our own header of another group"),
    ],
)
def test_what_was_written_without_the_token_is_refused(store: Store, control: Control, write: Write) -> None:
    write(store)
    for read in (lambda: wait(control), lambda: control.read("header", Header)):
        with pytest.raises(TransferError, match="without the seal of this run"):
            read()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "1"}, "version is wrong"),
        ({"buckets": [[{"name": "w", "dtype": "float32", "shape": [-2]}]]}, r"buckets\.0\.0\.shape\.0 is wrong"),
        ({"buckets": [[]]}, r"buckets\.0 is wrong"),
        ({"shared": {"file": 3, "nbytes": 1}}, r"shared\.FileHandle\.file is wrong"),
        ({"more": 1}, "more is wrong"),
    ],
)
def test_a_sealed_document_of_another_form_names_the_field(
    store: Store, control: Control, change: dict[str, Any], words: str
) -> None:
    content = json.dumps(json.loads(HEADER.model_dump_json()) | change).encode()
    raw(SEAL.close("g/header", content))(store)
    with pytest.raises(TransferError, match=f"found a header in which {words}.*one version of the image"):
        wait(control)


def test_runs_with_other_tokens_write_to_other_keys(store: Store) -> None:
    ours, theirs = Control(store, SEAL, "g"), Control(store, Seal.of("another token", TRANSFER, 1), "g")
    ours.put("join", Done())
    assert ours.has("join")
    assert not theirs.has("join")


@pytest.mark.parametrize(
    "document",
    [
        Done(),
        HEADER,
        Notice(slot=1, nbytes=3),
        Trailer(digest="d", tensors={"w": "c"}),
        Result(error="x"),
        Refusal(refused="r"),
    ],
    ids=lambda document: type(document).__name__,
)
def test_every_kind_of_document_comes_back_as_it_was(control: Control, document: Any) -> None:
    control.put("x", document)
    assert control.read("x", type(document)) == document
