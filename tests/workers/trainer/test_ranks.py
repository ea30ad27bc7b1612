"""Several ranks over gloo do what one rank does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rz_workers.storage.trajectories import encode


@pytest.fixture
def train(make_spec, make_trajectories, tmp_path):
    for step in range(2):
        rows = make_trajectories(step=step, groups=5, samples=3, seed=step)
        (tmp_path / f"step-{step}.parquet").write_bytes(encode(rows))

    def run(world_size: int, dtype: str):
        spec = make_spec(trainer={"nodes": world_size, "dtype": dtype, "maxTokensPerMicroBatch": 24})
        (tmp_path / "spec.json").write_text(spec.model_dump_json(by_alias=True))
        store = tmp_path / f"store-{world_size}-{dtype}"
        command = [sys.executable, Path(__file__).with_name("gang.py")]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(world_size), store, dtype, tmp_path], stderr=subprocess.PIPE, text=True
            )
            for rank in range(world_size)
        ]
        for process in ranks:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        return torch.load(tmp_path / f"result-{world_size}-{dtype}.pt")

    return run


def test_two_ranks_give_one_ranks_parameters_and_metrics(train):
    one, two = train(1, "float32"), train(2, "float32")
    assert one["state"].keys() == two["state"].keys()
    for name, value in one["state"].items():
        assert torch.allclose(value, two["state"][name], atol=1e-5), name
    for name, value in one["figures"].items():
        assert two["figures"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("world_size", [1, 2])
def test_bfloat16_passes_train_fp32_masters(train, world_size):
    result = train(world_size, "bfloat16")
    assert {value.dtype for value in result["state"].values()} == {torch.float32}
    assert result["figures"]["policy_grad_norm"] > 0
