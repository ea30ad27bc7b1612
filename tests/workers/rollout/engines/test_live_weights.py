"""What an engine keeps is compared with what was published, in whatever form it keeps it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rz_workers.rollout.engines.vllm.live_weights import Published, compare, fingerprint


def published() -> dict[str, Tensor]:
    """An embedding, and a layer with three projections that engines fuse, one with a bias."""
    torch.manual_seed(0)
    return {
        "embed_tokens.weight": torch.randn(10, 6),
        "layers.0.q_proj.weight": torch.randn(6, 6),
        "layers.0.q_proj.bias": torch.randn(6),
        "layers.0.k_proj.weight": torch.randn(2, 6),
        "layers.0.k_proj.bias": torch.randn(2),
        "layers.0.norm.weight": torch.randn(6),
        "layers.0.gate.weight": torch.randn(5, 6),
    }


class Packed:
    """vLLM's ``quant_method`` on CPUs: the product uses a copy of the weight."""

    def __init__(self, weight: Tensor) -> None:
        self.copy = weight.clone()

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        return x @ self.copy.T


def engine_model(tensors: dict[str, Tensor]) -> Any:
    """How an engine keeps them: the embedding padded, q and k in one, the gate packed."""
    model, layer = nn.Module(), nn.Module()
    model.embed_tokens = nn.Embedding(16, 6, _weight=torch.cat([tensors["embed_tokens.weight"], torch.ones(6, 6)]))
    layer.qk_proj = nn.Linear(6, 8)
    for leaf in ("weight", "bias"):
        parts = [tensors[f"layers.0.{part}.{leaf}"] for part in ("q_proj", "k_proj")]
        setattr(layer.qk_proj, leaf, nn.Parameter(torch.cat(parts)))
    layer.norm = nn.LayerNorm(6, bias=False)
    layer.norm.weight = nn.Parameter(tensors["layers.0.norm.weight"].clone())
    layer.gate = nn.Module()
    layer.gate.weight = nn.Parameter(torch.empty(0))
    layer.gate.quant_method = Packed(tensors["layers.0.gate.weight"])
    model.layers = nn.ModuleList([layer])
    model.packed_modules_mapping = {"qk_proj": ["q_proj", "k_proj"]}
    return model


def seen(tensors: dict[str, Tensor]) -> Any:
    watcher = Published(torch.device("cpu"))
    for _ in watcher.watch(tensors.items()):
        pass
    return watcher.seen


def test_every_tensor_is_found_where_the_engine_keeps_it() -> None:
    tensors = published()
    found = compare(engine_model(tensors), seen(tensors))
    assert (found.equal, found.differing, found.unknown) == (len(tensors), (), ())
    assert found.complaint() is None


@pytest.mark.parametrize("name", published())
def test_a_tensor_that_stayed_behind_by_one_element_is_named(name: str) -> None:
    tensors = published()
    model = engine_model(tensors)
    tensors[name].view(-1)[-1] *= 1 + 1e-6
    found = compare(model, seen(tensors))
    assert (found.equal, found.differing) == (len(tensors) - 1, (name,))
    assert f"1 of {len(tensors)} tensors that were compared are not those that were published, '{name}'" in str(
        found.complaint()
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda w: w.update({"layers.0.odd.weight": torch.ones(1)}), id="the engine has no such name"),
        pytest.param(lambda w: w.update({"layers.0.norm.weight": torch.ones(2, 3)}), id="it is kept in another shape"),
        pytest.param(lambda w: w.update({"layers.0.norm.weight": torch.ones(6).double()}), id="in less precision"),
        pytest.param(lambda w: w.update({"layers.0.norm.weight": torch.ones(())}), id="in more dimensions"),
    ],
)
def test_what_cannot_be_compared_is_counted_and_no_complaint(change: Any) -> None:
    tensors = published()
    model = engine_model(tensors)
    change(tensors)
    found = compare(model, seen(tensors))
    assert len(found.unknown) == 1
    assert found.equal == len(tensors) - 1
    assert found.complaint() is None


def test_parts_of_a_fused_tensor_are_unknown_when_one_of_them_was_not_published() -> None:
    tensors = published()
    model = engine_model(tensors)
    del tensors["layers.0.k_proj.weight"]
    assert compare(model, seen(tensors)).unknown == ("layers.0.q_proj.weight",)


def test_a_tensor_that_is_kept_in_more_precision_is_compared() -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in published().items()}
    model = engine_model({name: tensor.float() for name, tensor in tensors.items()})
    assert compare(model, seen(tensors)).equal == len(tensors)


def test_the_head_is_remembered_and_stands_before_the_embedding() -> None:
    embedding, head = torch.zeros(3, 2), torch.ones(3, 2)
    watcher = Published(torch.device("cpu"))
    list(watcher.watch([("model.embed_tokens.weight", embedding)]))
    assert watcher.head is not None
    assert torch.equal(watcher.head, embedding)
    for order in ([("lm_head.weight", head), ("model.embed_tokens.weight", embedding)],):
        watcher = Published(torch.device("cpu"))
        list(watcher.watch(order))
        assert watcher.head is not None
        assert torch.equal(watcher.head, head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_fingerprints_tell_values_and_places_apart(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    one = (100 * torch.randn(2_500_000)).to(dtype)  # more than is multiplied at once
    assert fingerprint(one) == fingerprint(one.clone().reshape(1000, 2500))
    for place in (0, 1_048_576, 2_499_999):
        other = one.clone()
        other[place] += 8
        assert fingerprint(other) != fingerprint(one)
    swapped = one.clone()
    swapped[[3, 1_048_579]] = one[[1_048_579, 3]]
    assert fingerprint(swapped) != fingerprint(one)


def test_minus_zero_has_the_fingerprint_of_zero() -> None:
    """A packed layer that is asked for its weight answers with sums, in which the sign of a zero is lost."""
    assert fingerprint(torch.tensor([0.0, 1.0])) == fingerprint(torch.tensor([-0.0, 1.0]))
