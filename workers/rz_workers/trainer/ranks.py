"""All ranks of the gang have the same weights and decide alike: process group, device, sharding, and the few
collectives that the step needs.

One rank works the same way as many: a process group of one is made in memory, and a model that nothing needs to shard
stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from rz_api.spec import TrainerSpec
from rz_workers.runtime import Settings, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This rank's place in the gang."""

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh | None
    """None for a single rank that shards nothing."""

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks to the ledger and writes to storage."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; every rank gets the same bits."""
        if self.world_size > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            tensor.copy_(on_device)
        return tensor

    def from_first(self, value: T) -> T:
        """The first rank's value, on every rank (pickled between ranks of one gang, never from outside)."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        received: T = box[0]
        return received

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank, on every rank."""
        values: list[Any] = [None] * self.world_size
        if self.world_size == 1:
            return [value]
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def join(settings: Settings) -> Ranks:
    """Form the process group of the gang (NCCL on GPUs, gloo on CPU) with a time limit, so that a lost rank ends the
    others.

    Raises UserError when the run wants GPUs and the machine shows none.
    """
    trainer = settings.run.spec.trainer
    if trainer.gpus_per_node > 0 and not torch.cuda.is_available():
        raise UserError(
            f"found no GPU on this machine, trainer.gpusPerNode is {trainer.gpus_per_node}: set it to 0 to "
            "train on the CPU, or give "
            f"the trainer's pods GPUs"
        )
    device = torch.device("cuda", settings.local_rank) if trainer.gpus_per_node > 0 else torch.device("cpu")
    if device.type == "cuda":
        # Before the process group: NCCL and pickled objects use the current device, GPU 0 unless it is set.
        torch.cuda.set_device(device)
    # On the CPU always: a replay is equal to the bit there, whatever trainer.deterministic says.
    torch.use_deterministic_algorithms(device.type == "cpu" or trainer.deterministic)
    # gloo too: with trainer.offload shards and gradients lie on the host, and so does the sum of their norms.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=trainer.watchdog_seconds)
    if settings.world_size == 1:
        # No port, no rendezvous: several runs of one rank share a machine.
        in_memory: Any = dist  # its stubs leave HashStore out
        dist.init_process_group(backend, store=in_memory.HashStore(), rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(
            backend, init_method="env://", rank=settings.rank, world_size=settings.world_size, timeout=timeout
        )
    return Ranks(settings.rank, settings.world_size, device, _mesh(trainer, settings.world_size, device))


def _mesh(trainer: TrainerSpec, world_size: int, device: torch.device) -> DeviceMesh | None:
    # A single rank that computes in bfloat16 is given to FSDP all the same: it casts for the passes.
    if world_size == 1 and device.type == "cpu" and trainer.dtype == "float32":
        return None
    shard = trainer.shard_size or world_size
    if shard == world_size:
        return init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (world_size // shard, shard), mesh_dim_names=("replicate", "shard"))


def shard(module: nn.Module, ranks: Ranks, trainer: TrainerSpec) -> nn.Module:
    """FSDP2 over the gang: one group per decoder layer and one for the rest; fp32 masters, ``trainer.dtype`` in the
    passes. With ``trainer.compile`` each layer is compiled at its first pass.

    Gradients are summed over ranks, not averaged: losses are divided by the token count of the whole batch.
    """
    # Before it is sharded, as torchtitan does: FSDP's hooks stay outside of the compiled graph.
    if trainer.compile:
        for layer in decoder_layers(module):
            layer.compile(dynamic=True)
    if ranks.mesh is None:
        return module.to(ranks.device)
    dtype = getattr(torch, trainer.dtype)
    # Gradients are reduced in fp32: a sum over many ranks in bfloat16 would lose digits.
    inner = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # A layer's output stays in the dtype of the passes, as the next layer expects; what the model returns is fp32.
    outer = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=torch.float32)
    offload: OffloadPolicy = CPUOffloadPolicy() if trainer.offload == "all" else OffloadPolicy()
    for layer in decoder_layers(module):
        fully_shard(layer, mesh=ranks.mesh, mp_policy=inner, offload_policy=offload)
    # After its layers: the outer call takes what no inner one has (torch: apply it bottom-up).
    fully_shard(module, mesh=ranks.mesh, mp_policy=outer, offload_policy=offload)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    return module


def distribute(module: nn.Module, ranks: Ranks, trainer: TrainerSpec) -> None:
    """Shard a model over the gang, with the first rank's weights and buffers; the other ranks' may be on the meta
    device. Every rank must call it; no rank but the first ever holds a whole model."""
    if ranks.world_size == 1:
        shard(module, ranks, trainer)
        return
    # Before sharding: afterwards the module holds this rank's parts alone.
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()} if ranks.is_first else {}
    shard(module, ranks, trainer)
    if not ranks.is_first:
        _materialize(module, torch.device("cpu") if trainer.offload == "all" else ranks.device, ranks.device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, weights, options=options)
    for buffer in module.buffers():  # those of rotary embeddings are in no state dict
        dist.broadcast(buffer, src=0)


def _materialize(module: nn.Module, parameters_on: torch.device, buffers_on: torch.device) -> None:
    """Memory for what is on the meta device; a tensor of several places stays one."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for tensors, device in ((part._parameters, parameters_on), (part._buffers, buffers_on)):
            for name, tensor in tensors.items():
                if tensor is None or not tensor.is_meta:
                    continue
                # Module.to_empty makes a tensor for each place: embedding and output layer would be tied no longer.
                if id(tensor) not in made:
                    empty = torch.empty_like(tensor, device=device)
                    made[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
                tensors[name] = made[id(tensor)]


def decoder_layers(module: nn.Module) -> nn.ModuleList:
    """The list of transformer layers: the longest ModuleList of the model."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    if not lists:
        raise UserError(
            "the model has no list of layers to shard; a decoder-only transformer is required: change model.name"
        )
    return max(lists, key=len)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks (every rank must call it), any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
