"""Compiled layers (``trainer.compile``) compute what plain ones do, and packs of other lengths compile nothing anew."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from rz_workers.trainer.method import batch as batches
from rz_workers.trainer.ranks import Ranks, shard

# dynamo looks at every attribute of a layer's input, also at one that torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture
def quick_compiler(monkeypatch):
    """dynamo traces and autograd is split as always; the C++ that inductor would make of it takes a minute."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


def test_scores_and_gradients_are_the_same_and_lengths_do_not_matter(
    quick_compiler, make_models, make_spec, make_trajectories
):
    plain, _ = make_models(torch.float64)
    compiled = copy.deepcopy(plain)
    spec = make_spec(trainer={"compile": True})
    shard(compiled, Ranks(0, 1, torch.device("cpu"), None), spec.trainer)
    graphs = []
    for seed, groups in enumerate((2, 3, 5, 4)):
        batch = batches.collate(make_trajectories(groups=groups, samples=2, seed=seed))
        pack = batches.pack(batch, range(batch.num_trajectories))
        results = []
        for policy in (plain, compiled):
            policy.zero_grad(set_to_none=True)
            scores, _ = policy(pack.input_ids, pack.positions, pack.lengths, pack.rows, pack.targets, 1.0)
            scores.sum().backward()
            results.append([scores, *(parameter.grad for parameter in policy.parameters())])
        for ours, expected in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0, "nothing was compiled"
    assert graphs[-1] == graphs[0]


def test_nothing_is_compiled_unless_it_is_asked_for(quick_compiler, make_models, make_spec, make_trajectories):
    policy, _ = make_models()
    shard(policy, Ranks(0, 1, torch.device("cpu"), None), make_spec().trainer)
    pack = batches.pack(batches.collate(make_trajectories()), range(4))
    policy(pack.input_ids, pack.positions, pack.lengths, pack.rows, pack.targets, 1.0)
    assert counters["stats"]["unique_graphs"] == 0
