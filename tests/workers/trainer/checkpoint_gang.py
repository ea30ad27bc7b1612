"""Ranks that train a step, write a checkpoint, and read everybody's: ``checkpoint_gang.py RANK WORLD_SIZE OUT`` is one
of a gang (FSDP needs a process for each rank)."""

import math
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_models import policy_and_critic
from torch.distributed.device_mesh import init_device_mesh

from rz_api.run import read_stored_run
from rz_workers.seals import Seal
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import decode
from rz_workers.trainer.durable import checkpoint
from rz_workers.trainer.durable.checkpoint import Checkpoints
from rz_workers.trainer.durable.export import gather_state
from rz_workers.trainer.messages import refuse_pickles
from rz_workers.trainer.method import batch as batches
from rz_workers.trainer.method.learner import Learner, advantages_and_returns
from rz_workers.trainer.ranks import Ranks, shard, whole

LAYOUTS = {"1": (1,), "2": (2,), "4": (4,), "2 replicas of 2": (2, 2)}
"""Shape of the device mesh."""


def full_state(learner: Learner) -> dict[str, torch.Tensor]:
    state = {}
    for part, module, optimizer in (
        ("policy", learner.policy, learner.policy_optimizer),
        ("critic", learner.critic, learner.critic_optimizer),
    ):
        state |= {f"{part}.{name}": tensor.clone() for name, tensor in gather_state(module).items()}
        for name, parameter in module.named_parameters():
            for kind, value in optimizer.state[parameter].items():
                state[f"{part}.{name}.{kind}"] = whole(value).clone()
    return state


class Rank:
    """One rank of one layout; ``out`` holds run and trajectories, and gets folders and states."""

    def __init__(self, layout: str, rank: int, out: Path) -> None:
        shape = LAYOUTS[layout]
        mesh = None
        if shape != (1,):
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
        self.layout, self.out = layout, out
        self.ranks = Ranks(
            rank, 1 if mesh is None else mesh.size(), torch.device("cpu"), mesh, Seal.of("a token", "ranks", 1)
        )
        self.run = read_stored_run((out / "run.json").read_text()).run

    def new_learner(self) -> Learner:
        policy, critic = policy_and_critic()
        for module in (policy, critic):
            shard(module, self.ranks, self.run.spec.trainer)
        return Learner(self.run.spec, self.ranks, policy, critic, None)

    def folder_of(self, writer: str) -> RunFolder:
        return RunFolder.claim(ObjectStore(str(self.out / f"run {writer}")), self.run)

    def write(self) -> None:
        """Train a step and write a checkpoint while the next one is computed."""
        learner = self.new_learner()
        batch = batches.collate(decode((self.out / "step-0.parquet").read_bytes()))
        values = learner.values(batch)
        advantages, returns, _ = advantages_and_returns(self.run.spec.algorithm, batch, values, None)
        learner.policy_update(batch, advantages, None)
        learner.critic_update(batch, returns, values, 0)
        written = full_state(learner)
        folder = self.folder_of(self.layout)
        if self.ranks.is_first:
            torch.save(written, self.out / f"{self.layout}.pt")
            folder.claim_incarnation(1)
        self.ranks.barrier()
        checkpoints = Checkpoints(folder, self.ranks, learner, 1)
        checkpoints.save(1)
        learner.policy_update(batch, advantages, None)  # collectives of both threads at a time
        checkpoints.wait()

    def read_all(self) -> None:
        """Read the checkpoints of all layouts, waiting for those that come later."""
        for writer in LAYOUTS:
            deadline = time.monotonic() + 240
            while checkpoint.newest(self.folder_of(writer)) is None:
                assert time.monotonic() < deadline, f"no checkpoint of {writer}"
                time.sleep(0.1)
            learner = self.new_learner()
            assert Checkpoints(self.folder_of(writer), self.ranks, learner, 2).resume() == 1
            state = full_state(learner)
            if self.ranks.is_first:
                torch.save(state, self.out / f"{writer} read by {self.layout}.pt")


def main() -> None:
    rank, world_size, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    refuse_pickles()
    store = out / f"rendezvous-{world_size}"
    limit = timedelta(seconds=300)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=limit)
    mine = [Rank(layout, rank, out) for layout, shape in LAYOUTS.items() if math.prod(shape) == world_size]
    for layout in mine:
        layout.write()
    for layout in mine:
        layout.read_all()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
