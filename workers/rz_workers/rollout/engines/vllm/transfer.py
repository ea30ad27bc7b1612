"""An update that was begun is finished in any case, so that the next one meets layers that wait for nothing.

Broadcasts into vLLM: the weight transfer engine ``reasonerzero`` in each of vLLM's worker processes (decision 7). vLLM
makes one per worker (``WeightTransferConfig(backend=BACKEND)``) and drives it in this order, every call in all workers
at once; ``engine`` asks for each of them:

    init_transfer_engine   which names and shapes are the model's
    start_weight_update    the model's layers wait for new tensors
    update_weights         a ``transfer.Receiver`` joins the order's group and receives into them
    finish_weight_update   the layers that are complete are packed and copied to where the model computes with them

vLLM 0.32 tells the caller of an error no more than its text, and is left halfway by one. So a failure is noted here
(``outcome``), and the update is finished in any case: without the tensors that came, where they are of no use.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rz_workers.protocol.messages import TransferOrder
from rz_workers.rollout.engines.fit import Layout
from rz_workers.rollout.engines.vllm.live_weights import Published
from rz_workers.runtime import read_token, token_file
from rz_workers.transfer.receiver import Receiver

__all__ = ["BACKEND", "Outcome", "TransferEngine", "abandon_reload", "reload"]

log = logging.getLogger(__name__)

BACKEND = "reasonerzero"


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    shapes: dict[str, list[int]]
    tied: dict[str, str]


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    order: dict[str, Any]
    """``TransferOrder``, as JSON has it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one update in this worker."""

    published: Published
    digest: str | None = None
    error: Exception | None = None


class TransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):  # type: ignore[misc]
    """See the module. The worker's methods in ``worker`` read ``outcome`` and ``group``."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        parallel = vllm_config.parallel_config
        run_token = token_file(os.environ)  # of the rollout's process, whose environment this one has
        self._receiver = Receiver(
            device, partial(read_token, run_token), worker=parallel.rank, workers=parallel.world_size
        )
        self._layout: Layout | None = None
        self.outcome: Outcome | None = None
        """Of the update that was begun last, until ``worker`` takes it."""

    @property
    def group(self) -> str | None:
        return self._receiver.group

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        shapes = {name: tuple(shape) for name, shape in init_info.shapes.items()}
        self._layout = Layout(shapes, init_info.tied)

    def start_weight_update(self) -> None:
        self.outcome = Outcome(Published(self.device))
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """The base class's waits for an accelerator, and fails where there is none."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        assert self.outcome is not None, "update_weights before start_weight_update"
        order, published = TransferOrder.model_validate(update_info.order), self.outcome.published
        try:
            digest = self._receiver.receive(order, lambda tensors: self._load(order.version, published, tensors))
            self.outcome = Outcome(published, digest=digest)
        except Exception as error:
            log.warning("version %d was not received: %s", order.version, error)
            self.outcome = Outcome(published, error=error)

    def finish_weight_update(self) -> None:
        if self.outcome is None or self.outcome.digest is None:
            abandon_reload(self.model, self.model_config)
        else:
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        self._receiver.shutdown()

    def _load(self, version: int, published: Published, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        assert self._layout is not None, "update_weights before init_weight_transfer_engine"
        layout = self._layout
        found: dict[str, tuple[int, ...]] = {}

        def of_the_model() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in tensors:
                found[name] = tuple(tensor.shape)
                # Others are passed over, so that `check_names` can tell of all that does not fit at once.
                if layout.shapes.get(name) == found[name]:
                    yield name, tensor

        self.model.load_weights(published.watch(of_the_model()))
        layout.check_names(version, found)
        for name, source in layout.tied.items():
            if {name, source} <= found.keys() and published.seen[name] != published.seen[source]:
                raise layout.torn(version, name)


def reload(model: Any, model_config: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load tensors (Hugging Face names) into a running model. After an error the model computes as it did before, or
    partly with what came."""
    initialize_layerwise_reload(model)
    try:
        model.load_weights(tensors)
    except BaseException:
        abandon_reload(model, model_config)
        raise
    finalize_layerwise_reload(model, model_config)


def abandon_reload(model: torch.nn.Module, model_config: Any) -> None:
    """End an update that was begun and will not be completed, so that another one can begin. Layers that had all of
    their tensors keep them. vLLM 0.32 has no such call: what the next update brings would be added to what this one
    left in its layers, and half of the one be combined with half of the other."""
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            info.loaded_weights.clear()
            info.load_numel = 0
    finalize_layerwise_reload(model, model_config)
