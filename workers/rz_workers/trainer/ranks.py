"""All ranks of the gang have the same weights and decide alike: process group, device, sharding, and the few
collectives that the step needs.

One rank works the same way as many: a process group of one is made in memory, and a model that nothing needs to shard
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rz_api.spec import TrainerSpec
from rz_workers import stores
from rz_workers.runtime import Settings, UserError, read_token
from rz_workers.seals import Seal
from rz_workers.trainer.messages import MessageError, Messages, refuse_pickles

T = TypeVar("T")
_Shapes = dict[str, tuple[str, tuple[int, ...]]]
_SHAPES = TypeAdapter(_Shapes)
"""Tensor -> dtype (torch's name without the module) and shape."""


@dataclass(frozen=True)
class Ranks:
    """This rank's place in the gang."""

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh | None
    """None for a single rank that shards nothing."""
    seal: Seal | None = None
    """Of what ranks tell each other; None for a single rank."""

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

    def from_first(self, value: T, kind: TypeAdapter[T]) -> T:
        """The first rank's value, on every rank. Raises MessageError for what the first rank cannot have sent."""
        return value if self.world_size == 1 else self._messages.from_first(value, kind)

    def gather(self, value: T, kind: TypeAdapter[T]) -> list[T]:
        """Every rank's value, in order of rank, on every rank. Raises MessageError as above."""
        return [value] if self.world_size == 1 else self._messages.gather(value, kind)

    def messages(self, name: str, group: Any) -> Messages:
        """To use beside these, on a group of all ranks with gloo."""
        assert self.seal is not None, "several ranks have a seal"
        return Messages(name, self.rank, self.world_size, self.seal, group)

    @cached_property
    def _messages(self) -> Messages:
        return self.messages("step", None)

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
    token = read_token(settings.token_file)
    refuse_pickles()
    if settings.world_size == 1:
        # No port, no rendezvous: several runs of one rank share a machine.
        in_memory: Any = dist  # its stubs leave HashStore out
        store: Store = in_memory.HashStore()
    else:
        stores.stay_on_this_machine(settings.bind_host)
        store = rendezvous(settings, Seal.of(token, "rendezvous", settings.incarnation), timeout)
    dist.init_process_group(backend, store=store, rank=settings.rank, world_size=settings.world_size, timeout=timeout)
    mesh = _mesh(trainer, settings.world_size, device)
    return Ranks(settings.rank, settings.world_size, device, mesh, Seal.of(token, "ranks", settings.incarnation))


def rendezvous(settings: Settings, seal: Seal, limit: timedelta) -> Store:
    """Where the gang's process groups meet: the first rank's store, below a prefix that this gang alone has. A rank of
    another run, or of an earlier gang of this one, that comes to the wrong door waits there for nothing."""
    host, port = settings.environment["MASTER_ADDR"], int(settings.environment["MASTER_PORT"])
    if settings.rank == 0:
        store = stores.serve(host, port, settings.bind_host, limit)
    else:
        store = TCPStore(host, port, is_master=False, timeout=limit, wait_for_workers=False)
    return PrefixStore(seal.prefix, store)


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
    shapes = ranks.from_first(_shapes(weights), _SHAPES)
    shard(module, ranks, trainer)
    if not ranks.is_first:
        _materialize(module, torch.device("cpu") if trainer.offload == "all" else ranks.device, ranks.device)
    own = module.state_dict()
    _check_same(shapes, _shapes(own))
    for name, tensor in own.items():
        value = torch.empty(tensor.shape, dtype=tensor.dtype, device=ranks.device)
        if ranks.is_first:
            value.copy_(weights[name])
        dist.broadcast(value, src=0)
        _take_own_part(tensor, value)
    module.load_state_dict(own)  # FSDP looks here whether its parameters are others now
    for buffer in module.buffers():  # those of rotary embeddings are in no state dict
        dist.broadcast(buffer, src=0)


def _shapes(tensors: Mapping[str, Tensor]) -> _Shapes:
    return {name: (str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in tensors.items()}


def _check_same(first: _Shapes, here: _Shapes) -> None:
    """Raises MessageError where the first rank's model has other tensors than this rank's, or in another order."""
    if list(first.items()) == list(here.items()):
        return
    differ = sorted(name for name in first.keys() | here.keys() if first.get(name) != here.get(name))
    example = f", such as {differ[0]!r}: {first.get(differ[0])} and {here.get(differ[0])}" if differ else ""
    raise MessageError(
        f"the first rank's model has {len(first)} tensors, this rank's {len(here)}, and {len(differ)} differ{example}. "
        "All ranks must run one version of the image"
    )


def _take_own_part(own: Tensor, value: Tensor) -> None:
    """Copy what this rank holds of a whole tensor."""
    if isinstance(own, DTensor):  # without a source rank it is cut here, and nothing is sent
        value = local(distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None))
    local(own).copy_(value)


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
