"""Weight versions: digests, publication once, exact loading, detection of damage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import xxhash
from safetensors.torch import load as load_safetensors

from rz_api.run import ResolvedRun
from rz_workers.protocol.messages import Canary
from rz_workers.storage import versions
from rz_workers.storage.checksums import describe, describe_all, tensor_checksum
from rz_workers.storage.objects import CorruptObjectError, ObjectMissingError, ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.weights import digest, load, publish, published, stream

OpenStore = Callable[[], ObjectStore]
MakeRun = Callable[[], ResolvedRun]


def some_tensors(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.norm.weight": torch.randn(4, generator=generator).to(dtype),
        "model.embed.weight": torch.randn(3, 4, generator=generator).to(dtype),
        "model.scale": torch.tensor(2.0, dtype=dtype),
    }


def test_the_digest_is_that_of_sorted_names_types_shapes_and_bytes() -> None:
    tensors = {"b": torch.tensor([1.0]), "a": torch.tensor([[1, 2]], dtype=torch.int32)}
    lines = [
        ["a", "int32", [1, 2], xxhash.xxh3_128_hexdigest(bytes([1, 0, 0, 0, 2, 0, 0, 0]))],
        ["b", "float32", [1], xxhash.xxh3_128_hexdigest(bytes([0, 0, 0x80, 0x3F]))],
    ]
    assert digest(tensors) == hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()


def test_a_tensors_checksum_does_not_depend_on_how_it_lies_in_memory() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert tensor_checksum(matrix.T.contiguous().T) == tensor_checksum(matrix)
    assert tensor_checksum(torch.nn.Parameter(matrix)) == tensor_checksum(matrix)
    assert tensor_checksum(torch.arange(-3.0, 6.0)[3:].reshape(2, 3)) == tensor_checksum(matrix)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64, torch.complex64], ids=str
)
def test_a_checksum_is_that_of_the_bytes_whatever_the_dtype(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    raw = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    assert describe(tensor) == (str(dtype).removeprefix("torch."), (2, 2), xxhash.xxh3_128_hexdigest(raw))


def test_checksums_computed_at_the_same_time_are_those_of_one_at_a_time() -> None:
    tensors = {f"t{index}": torch.full((index,), float(index)) for index in range(50)}
    assert describe_all(tensors) == {name: describe(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"w": torch.zeros(2, 2)}, id="another shape"),
        pytest.param({"w": torch.zeros(4, dtype=torch.int32)}, id="another dtype of the same bytes"),
        pytest.param({"v": torch.zeros(4)}, id="another name"),
        pytest.param({"w": torch.tensor([0.0, 0.0, 0.0, -0.0])}, id="another bit"),
    ],
)
def test_the_digest_tells_weights_apart(other: dict[str, torch.Tensor]) -> None:
    assert digest(other) != digest({"w": torch.zeros(4)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
def test_published_weights_load_to_the_bit(open_store: OpenStore, make_run: MakeRun, dtype: torch.dtype) -> None:
    folder = RunFolder.claim(open_store(), make_run())
    tensors = some_tensors(dtype=dtype)
    info = publish(folder, 7, 1, tensors)
    loaded = load(folder, info)
    assert (info.version, info.incarnation, info.prefix) == (7, 1, "weights/v000007-i1")
    assert list(loaded) == list(tensors)
    assert all(loaded[name].dtype == dtype and torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert digest(loaded) == info.digest == digest(tensors)


def test_files_are_cut_at_the_limit_and_the_digest_is_the_same(folder: RunFolder) -> None:
    tensors = some_tensors(dtype=torch.float32)
    info = publish(folder, 0, 1, tensors, max_file_bytes=20)
    names = [key.removeprefix(f"{info.prefix}/") for key in folder.store.list(info.prefix)]
    assert names == ["manifest.json", *(f"model-{number:05d}.safetensors" for number in (1, 2, 3))]
    assert digest(load(folder, info)) == info.digest == digest(tensors)


def test_the_files_are_plain_safetensors(folder: RunFolder) -> None:
    tensors = some_tensors()
    info = publish(folder, 0, 1, tensors)
    plain = load_safetensors(folder.store.get(f"{info.prefix}/model-00001.safetensors"))
    assert {name: tensor.tolist() for name, tensor in plain.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


MIXED = {
    "odd": torch.arange(3, dtype=torch.uint8),
    "empty": torch.zeros(0, 4),
    "double": torch.arange(5, dtype=torch.float64),
    "flags": torch.tensor([True, False]),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "eighths": torch.arange(5.0).to(torch.float8_e5m2),
    "scalar": torch.tensor(7, dtype=torch.int64),
}


def test_any_mixture_of_dtypes_and_shapes_is_stored_as_others_read_it(folder: RunFolder) -> None:
    info = publish(folder, 0, 1, MIXED)
    plain = load_safetensors(folder.store.get(f"{info.prefix}/model-00001.safetensors"))
    loaded = load(folder, info)
    assert list(loaded) == list(MIXED)
    assert describe_all(plain) == describe_all(loaded) == describe_all(MIXED)


def test_a_dtype_that_safetensors_lacks_is_named(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="'w' is complex128; safetensors knows"):
        publish(folder, 0, 1, {"w": torch.zeros(1, dtype=torch.complex128)})


def test_reading_is_two_files_ahead_and_no_more(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    info = publish(folder, 0, 1, {f"t{index}": torch.zeros(100) for index in range(5)}, max_file_bytes=400)
    read: list[str] = []
    get = folder.store.get
    monkeypatch.setattr(folder.store, "get", lambda key: (read.append(key), get(key))[1])
    tensors = stream(folder, info)
    assert next(tensors)[0] == "t0"
    files = [key for key in read if key.endswith(".safetensors")]
    assert set(files) <= {f"{info.prefix}/model-0000{number}.safetensors" for number in (1, 2, 3)}
    assert [name for name, _ in tensors] == ["t1", "t2", "t3", "t4"]
    assert len([key for key in read if key.endswith(".safetensors")]) == 5


def test_checksums_that_the_caller_has_are_not_computed_again(folder: RunFolder) -> None:
    tensors = some_tensors()
    described = dict.fromkeys(tensors, ("bfloat16", (1,), "told"))
    assert publish(folder, 0, 1, tensors, described=described).digest == versions.published(folder)[0].digest
    with pytest.raises(CorruptObjectError, match="was published as bfloat16"):
        load(folder, versions.published(folder)[0])
    assert publish(folder, 1, 1, tensors, described=describe_all(tensors)).digest == digest(tensors)


def test_the_canary_is_kept_with_the_version(folder: RunFolder) -> None:
    canary = Canary(token_ids=(1, 2, 3), logprobs=(-0.5, -1.25))
    first = publish(folder, 0, 1, some_tensors(), canary=canary)
    second = publish(folder, 1, 1, some_tensors(1))
    assert [(one.weights, one.canary) for one in versions.publications(folder)] == [(first, canary), (second, None)]


def test_a_file_that_lost_its_end_is_named(folder: RunFolder) -> None:
    info = publish(folder, 5, 1, {"w": torch.zeros(8)})
    key = f"{info.prefix}/model-00001.safetensors"
    folder.store.put(key, folder.store.get(key)[:-4])
    with pytest.raises(CorruptObjectError, match=r"model-00001.safetensors: found \d+ bytes, its manifest requires"):
        load(folder, info)


def test_the_same_digest_is_published_once_whichever_incarnation_asks(folder: RunFolder) -> None:
    first = publish(folder, 5, 1, some_tensors())
    before = folder.store.list("")
    assert publish(folder, 5, 2, some_tensors()) == first
    assert folder.store.list("") == before


def test_a_replay_with_other_weights_is_published_under_its_incarnation(folder: RunFolder) -> None:
    first = publish(folder, 5, 1, some_tensors(0))
    second = publish(folder, 5, 2, some_tensors(1))
    earlier = publish(folder, 4, 1, some_tensors(2))
    assert published(folder) == [earlier, first, second]
    assert second.prefix == "weights/v000005-i2"


def test_an_incarnation_publishes_a_version_once(folder: RunFolder) -> None:
    publish(folder, 5, 1, some_tensors(0))
    with pytest.raises(CorruptObjectError, match="publishes a version once"):
        publish(folder, 5, 1, some_tensors(1))


def test_a_publication_without_its_manifest_does_not_count_and_can_be_repeated(folder: RunFolder) -> None:
    folder.store.put_new("weights/v000005-i1/model-00001.safetensors", b"half of it")
    assert published(folder) == []
    assert load(folder, publish(folder, 5, 1, some_tensors())).keys() == some_tensors().keys()


def test_deleted_weights_are_not_listed_and_do_not_load(folder: RunFolder) -> None:
    info = publish(folder, 5, 1, some_tensors())
    folder.store.delete(folder.store.list(f"{info.prefix}/"))
    assert published(folder) == []
    with pytest.raises(ObjectMissingError, match="weights/v000005-i1"):
        load(RunFolder(folder.store, folder.run), info)


def test_a_changed_byte_is_detected_and_its_tensor_named(folder: RunFolder) -> None:
    info = publish(folder, 5, 1, {"first": torch.zeros(8), "second": torch.zeros(8)})
    key = f"{info.prefix}/model-00001.safetensors"
    data = bytearray(folder.store.get(key))
    data[-1] ^= 1
    folder.store.put(key, bytes(data))
    with pytest.raises(CorruptObjectError, match=r"model-00001.safetensors: tensor 'second' was published as float32"):
        load(folder, info)


def test_a_changed_byte_anywhere_is_detected_or_changes_nothing(folder: RunFolder) -> None:
    """Only white space in the header's padding may change to other white space; the rest is covered by a checksum."""
    info = publish(folder, 5, 1, {"w": torch.arange(4.0)})
    key = f"{info.prefix}/model-00001.safetensors"
    data = folder.store.get(key)
    unnoticed = []
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        folder.store.put(key, bytes(damaged))
        with contextlib.suppress(CorruptObjectError):
            unnoticed.append(digest(load(folder, info)))
    assert unnoticed == [info.digest] * len(unnoticed)
    assert len(unnoticed) <= 64


def test_another_digest_than_was_announced_is_refused(folder: RunFolder) -> None:
    info = publish(folder, 5, 1, some_tensors())
    with pytest.raises(CorruptObjectError, match="has digest"):
        load(folder, info.model_copy(update={"digest": "0" * 64}))


def test_the_listing_of_versions_needs_no_torch() -> None:
    code = (
        "import sys; import rz_workers.storage.versions, rz_workers.storage.trajectories; "
        "import rz_workers.data.prompt_table; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert published is versions.published
