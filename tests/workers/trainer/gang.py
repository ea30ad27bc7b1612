"""One rank of a gloo gang for ``test_ranks``: ``gang.py RANK WORLD_SIZE STORE DTYPE OUT`` trains two steps and writes
what came out (run as a process of its own: FSDP needs one process a rank)."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_models import policy_and_critic
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.storage.trajectories import decode
from rz_workers.trainer import batch as batches
from rz_workers.trainer.learner import Learner, advantages_and_returns
from rz_workers.trainer.ranks import Ranks, shard

rank, world_size, store, dtype, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5])
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
)
spec = ReasonerZeroRunSpec.model_validate_json((out / "spec.json").read_text())
alone = world_size == 1 and dtype == "float32"
mesh = None if alone else init_device_mesh("cpu", (world_size,), mesh_dim_names=("shard",))
ranks = Ranks(rank, world_size, torch.device("cpu"), mesh)
policy, critic = policy_and_critic()
for module in (policy, critic):
    shard(module, ranks, spec.trainer)
learner = Learner(spec, ranks, policy, critic, None)
figures: dict[str, float] = {}
for step in range(2):
    batch = batches.collate(decode((out / f"step-{step}.parquet").read_bytes()))
    values = learner.values(batch)
    advantages, returns, _ = advantages_and_returns(spec.algorithm, batch, values, None)
    figures |= learner.policy_update(batch, advantages, None)
    figures |= learner.critic_update(batch, returns, values, step)
options = StateDictOptions(full_state_dict=True, cpu_offload=True)
state = {
    f"{name}.{key}": value
    for name, module in (("policy", policy), ("critic", critic))
    for key, value in get_model_state_dict(module, options=options).items()
}
if rank == 0:
    torch.save({"state": state, "figures": figures}, out / f"result-{world_size}-{dtype}.pt")
dist.barrier()
dist.destroy_process_group()
