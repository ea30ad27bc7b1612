"""Weights that the model did not take up are reported as a complaint, and never as loaded.

What runs inside vLLM's worker processes: weights from a file or a broadcast, and the proof that the model computes with
them. ``engine`` names ``PublishedWeights`` as worker extension: vLLM makes it a base class of its worker, and
``collective_rpc`` calls it in every one. vLLM 0.32 loads new tensors into a running model, but on CPUs a matrix product
may use a packed copy of the weight: where the head is tied to the embedding, the copy is left as it was, and nothing
but a line in the log says so (log-probs were off by 0.67). So the head is packed again, and then has to give the logits
that the published tensor gives; and every parameter of which it is known how the engine keeps it is compared with what
was published (``live_weights``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rz_workers.rollout.engines.cpu import cpu_name
from rz_workers.rollout.engines.vllm.live_weights import Comparison, Published, compare
from rz_workers.rollout.engines.vllm.transfer import BACKEND, TransferEngine, reload

__all__ = ["PublishedWeights", "head_error"]

WeightTransferEngineFactory.register_engine(BACKEND, TransferEngine)

PROBES = 4
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest error of a logit, as a share of the largest logit. Rounding of sums over some thousand terms is a tenth of
it; a head that missed one step of 1e-6 on weights of 0.02 is off by 5e-5, which fp32 can tell and the others cannot."""
_HEAD_ROWS = 8192
"""Rows of the head that are held in float32 at once."""


class PublishedWeights:
    """Methods of the worker. ``model_runner``, ``vllm_config`` and ``weight_transfer_engine`` are vLLM's.

    Reports are dictionaries: ``complaint`` (None where all is well); ``equal`` and ``unknown`` (how many tensors are as
    they were published, and how many could not be compared); of a broadcast also ``digest`` and ``group``, and where it
    did not arrive ``failure``, the name of the error.
    """

    model_runner: Any
    vllm_config: Any
    weight_transfer_engine: Any
    arrived: Published | None = None
    """What the newest update brought, until it is proven."""

    def device_name(self) -> str:
        """Of this worker, as far as it decides how sums are rounded."""
        device = _device(self.model_runner.get_model())
        return cpu_name() if device.type == "cpu" else str(torch.cuda.get_device_name(device))

    def load_published(self, file: str) -> dict[str, Any]:
        """Replace all weights by the tensors of a safetensors file, and report whether the model has them."""
        self.replace_tensors(file)
        self.mend_head()
        return self.prove()

    def conclude_update(self) -> dict[str, Any]:
        """The same for what vLLM's ``update_weights`` received."""
        transfer = self.weight_transfer_engine
        outcome, transfer.outcome = transfer.outcome, None
        state = {"group": transfer.group, "digest": outcome.digest}
        if outcome.error is not None:
            return state | {"failure": type(outcome.error).__name__, "complaint": str(outcome.error)}
        self.arrived = outcome.published
        self.mend_head()
        return state | self.prove()

    # ------------------------------------------------------------------------------------------------------- parts

    def replace_tensors(self, file: str) -> None:
        model = self.model_runner.get_model()
        self.arrived = Published(_device(model))
        with set_current_vllm_config(self.vllm_config):
            reload(model, self.model_runner.model_config, self.arrived.watch(_tensors(Path(file))))

    def mend_head(self) -> None:
        """Pack the head again, where there are packed copies (CPUs)."""
        head: Any = getattr(self.model_runner.get_model(), "lm_head", None)
        if head is not None and head.weight.device.type == "cpu":
            head.quant_method.process_weights_after_loading(head)

    def prove(self, file: str | None = None) -> dict[str, Any]:
        """Report whether the model has what arrived last, or else the tensors of a file."""
        model = self.model_runner.get_model()
        published = self.arrived
        if file is not None:
            published = Published(_device(model))
            for _ in published.watch(_tensors(Path(file))):
                pass
        assert published is not None, "prove before an update"
        self.arrived = None  # a copy of the head is held there
        found = Comparison(0, (), tuple(published.seen))
        parallel = self.vllm_config.parallel_config
        # A rank of several holds slices, and a quantized parameter is no published tensor: not compared.
        if parallel.world_size == 1 and self.model_runner.model_config.quantization is None:
            found = compare(model, published.seen)
        complaints = [found.complaint(), _complaint_of_head(model, published.head)]
        return {
            "complaint": "; ".join(filter(None, complaints)) or None,
            "equal": found.equal,
            "unknown": len(found.unknown),
        }


def head_error(model: Any, published: torch.Tensor) -> float | None:
    """Largest error of the model's logits for fixed hidden states, as a share of the largest; None on a tensor-parallel
    rank that gathers no logits. ``published`` is ``[V, D]``, on any device."""
    generator = torch.Generator().manual_seed(0)
    device = _device(model)
    hidden = torch.randn(PROBES, published.shape[1], generator=generator).to(published.dtype).to(device)
    with torch.inference_mode():
        logits = model.compute_logits(hidden)
        if logits is None:
            return None
        blocks = torch.split(published, _HEAD_ROWS)
        want = torch.cat([hidden.float() @ rows.to(device).float().T for rows in blocks], dim=1)
        logits = logits[:, : want.shape[1]].float()
        return float((logits - want).abs().max() / want.abs().max())


def _complaint_of_head(model: Any, published: torch.Tensor | None) -> str | None:
    """None when the head's logits are those of the published head, or embedding where it is tied to that."""
    if published is None:
        return "no head and no embedding was published"
    error, allowed = head_error(model, published), TOLERANCE[published.dtype]
    if error is None or error <= allowed:
        return None
    return (
        f"the logits of the head are off by {error:.1e} of the largest one, {allowed:.0e} are allowed: it still "
        "computes with other weights than those that were published"
    )


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (no mapping)
            yield name, tensors.get_tensor(name)
