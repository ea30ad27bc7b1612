"""A gloo gang for the trainer's tests: the same training (``train``) on one rank, in the test's own process, or on
several.

FSDP needs a process for each rank, and to start one takes seconds: ``Gang`` starts them once and gives them one piece
of work after the other.
"""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from tiny_models import policy_and_critic
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.seals import Seal
from rz_workers.trainer import ranks as ranks_module
from rz_workers.trainer.messages import refuse_pickles
from rz_workers.trainer.method import packing, ppo
from rz_workers.trainer.method.batch import collate
from rz_workers.trainer.method.finite import NonFiniteLossError
from rz_workers.trainer.method.learner import Learner, advantages_and_returns
from rz_workers.trainer.models.actor_critic import prepare
from rz_workers.trainer.ranks import Ranks, whole

TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True)
class Work:
    """Training steps: ``trainer.nodes`` of the spec is the number of ranks."""

    spec: ReasonerZeroRunSpec
    steps: Sequence[Sequence[Trajectory]]
    float64: bool = False
    """Parameters, passes and reductions in fp64, whatever ``trainer.dtype`` is."""
    packing_seed: int | None = None
    """Draws any split into micro-batches and any dealing over ranks (``deal_at_random``); None: the trainer decides."""
    note_gradients: bool = False
    """Costs a collective for each parameter and optimizer step."""
    spoiled: str | None = None
    """A loss of ``ppo`` that is NaN on the last rank alone; its gradient is what it was."""


@dataclass(frozen=True)
class Outcome:
    """What a training did; tensors are whole."""

    parameters: dict[str, Tensor]
    """After the last step, as ``policy.…`` and ``critic.…``."""
    gradients: list[dict[str, Tensor]]
    """Of each optimizer step in turn, as it was applied (after clipping); with ``note_gradients``."""
    figures: list[dict[str, float]]
    """Metrics of each step."""
    refused: str | None = None
    """Why a step was not finished: a loss that is not finite."""


def train(work: Work, ranks: Ranks) -> Outcome:
    """``work`` on this rank: what the trainer does with a step's trajectories, on the tests' tiny models."""
    spec = work.spec
    policy, critic = policy_and_critic(torch.float64 if work.float64 else torch.float32)
    reference, _ = policy_and_critic(torch.float64 if work.float64 else torch.float32, seed=5)
    models = {
        "policy": policy,
        "critic": critic if spec.algorithm.name == "ppo" else None,
        "reference": reference if spec.algorithm.kl_coefficient > 0 else None,
    }
    gradients: list[dict[str, Tensor]] = []
    with ExitStack() as patches:
        if work.float64:
            patches.enter_context(patch.object(ranks_module, "MixedPrecisionPolicy", _in_float64))
        if work.packing_seed is not None:
            patches.enter_context(patch.object(packing, "balance", deal_at_random(work.packing_seed)))
        if work.spoiled is not None and ranks.rank == ranks.world_size - 1:
            patches.enter_context(patch.object(ppo, work.spoiled, spoil(getattr(ppo, work.spoiled))))
        for module in filter(None, models.values()):
            prepare(
                getattr(module, "model", None) or module.backbone,
                activation_checkpointing=spec.trainer.activation_checkpointing,
            )
            ranks_module.shard(module, ranks, spec.trainer)
        learner = Learner(spec, ranks, **models)
        for name, optimizer in (("policy", learner.policy_optimizer), ("critic", learner.critic_optimizer)):
            if optimizer is not None and work.note_gradients:
                note = partial(_note_gradients, models[name], name, gradients)
                optimizer.register_step_pre_hook(lambda *_, note=note: note())
        figures, refused = [], None
        try:
            for step, trajectories in enumerate(work.steps):
                figures.append(_step(learner, step, trajectories))
        except NonFiniteLossError as error:
            refused = str(error)
    whole_state = StateDictOptions(full_state_dict=True, cpu_offload=True)
    parameters = {
        f"{name}.{key}": value
        for name in ("policy", "critic")
        if (module := models[name]) is not None
        for key, value in get_model_state_dict(module, options=whole_state).items()
    }
    return Outcome(parameters, gradients, figures, refused)


def _step(learner: Learner, step: int, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    batch = collate(trajectories)
    values, ref_logprobs = learner.values(batch), learner.reference_logprobs(batch)
    advantages, returns, figures = advantages_and_returns(learner.algorithm, batch, values, ref_logprobs)
    figures |= learner.policy_update(batch, advantages, ref_logprobs)
    figures |= learner.update_kl(batch)
    return figures | learner.critic_update(batch, returns, values, step)


def _note_gradients(module: nn.Module, name: str, noted: list[dict[str, Tensor]]) -> None:
    noted.append({f"{name}.{key}": whole(p.grad).clone() for key, p in module.named_parameters() if p.grad is not None})


def spoil(loss: Any) -> Any:
    """The loss with NaN added to every token's, which has no gradient."""
    return lambda *arguments, **options: loss(*arguments, **options) + torch.nan


def _in_float64(**dtypes: Any) -> MixedPrecisionPolicy:
    return MixedPrecisionPolicy(**dict.fromkeys(dtypes, torch.float64))


def deal_at_random(seed: int) -> Any:
    """A ``packing.balance`` with micro-batches of any size and order, and ranks of a round without any."""
    chance = random.Random(seed)

    def balance(
        lengths: Sequence[int], max_tokens: int, world_size: int, attention_ratio: float = 0.0
    ) -> list[list[list[int]]]:
        left, rounds = chance.sample(range(len(lengths)), len(lengths)), []
        while left:
            packs: list[list[int]] = []
            for _ in range(chance.randint(1, world_size)):
                size = chance.randint(1, max(1, len(left)))
                packs.append(left[:size])
                left = left[size:]
            rounds.append(packs + [[]] * (world_size - len(packs)))
        return rounds

    return balance


# ------------------------------------------------------------------------------------------------------- processes


class Gang:
    """Rank processes that wait for work; used as a context manager. They are forked from a server that has imported
    torch once for all."""

    def __init__(self, size: int, folder: Path) -> None:
        """``folder``: where the ranks of one piece of work meet."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._folder, self._done = folder, 0
        self._ranks = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=be_rank, args=(rank, theirs), daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))

    def train(self, work: Work) -> Outcome:
        """``work`` on the first ``work.spec.trainer.nodes`` ranks; every rank must have come to the same figures."""
        store = self._folder / f"store-{self._done}"
        self._done += 1
        pipes = [pipe for _, pipe in self._ranks[: work.spec.trainer.nodes]]
        assert len(pipes) == work.spec.trainer.nodes
        for pipe in pipes:
            pipe.send_bytes(pickle.dumps((store, work)))
        first, *others = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
        assert all((other.figures, other.refused) == (first.figures, first.refused) for other in others)
        return first

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._ranks:
            process.kill()
            process.join()
            process.close()
            pipe.close()


def be_rank(rank: int, pipe: Connection) -> None:
    """A rank's life: work comes in, its outcome goes out. An error ends it, and with it the others' collectives."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    refuse_pickles()
    while True:
        store, work = pickle.loads(pipe.recv_bytes())
        with process_group(store, rank, work.spec) as ranks:
            outcome = train(work, ranks)
        pipe.send_bytes(pickle.dumps(outcome))


@contextmanager
def process_group(store: Path, rank: int, spec: ReasonerZeroRunSpec) -> Iterator[Ranks]:
    """What ``ranks.join`` does, but that the ranks meet in a file."""
    world_size, device = spec.trainer.nodes, torch.device("cpu")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        mesh = ranks_module._mesh(spec.trainer, world_size, device)
        yield Ranks(rank, world_size, device, mesh, Seal.of("a token", "ranks", 1))
        dist.barrier()
    finally:
        dist.destroy_process_group()
