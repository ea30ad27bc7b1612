"""What runs inside vLLM's worker processes: weights from a file, and the proof that the head computes with them.

``vllm_engine`` names ``PublishedWeights`` as worker extension: vLLM makes it a base class of its worker, and
``collective_rpc`` calls it in every one. vLLM 0.32 loads new tensors into a running model, but on CPUs a matrix product
may use a packed copy of the weight: where the head is tied to the embedding, the copy is left as it was, and nothing
but a line in the log says so (log-probs were off by 0.67). So the head is packed again, and then has to give the logits
that the published tensor gives.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

__all__ = ["PublishedWeights", "head_error"]

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
PROBES = 4
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest error of a logit, as a share of the largest logit. Rounding of sums over some thousand terms is a tenth of
it; a head that missed one step of 1e-6 on weights of 0.02 is off by 5e-5, which fp32 can tell and the others cannot."""


class PublishedWeights:
    """Methods of the worker. ``model_runner`` is vLLM's."""

    model_runner: Any

    def die_with(self, rollout: int) -> None:
        """End this process, and vLLM's scheduler if that is another one, when process ``rollout`` ends, however that
        ends: vLLM's processes outlive a rollout that was killed, with all of their memory."""
        scheduler = os.getppid() if os.getppid() != rollout else None
        ended = os.pidfd_open(rollout)

        def watch() -> None:
            select.select([ended], [], [])
            if scheduler is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(scheduler, signal.SIGKILL)
            os._exit(1)

        threading.Thread(target=watch, name="die-with-rollout", daemon=True).start()

    def load_published(self, file: str) -> str | None:
        """Replace all weights by the tensors of a safetensors file; returns a complaint when the head is not theirs."""
        self.replace_tensors(file)
        self.mend_head()
        return self.complain_of_head(file)

    def replace_tensors(self, file: str) -> None:
        self.model_runner.reload_weights(weights_iterator=_tensors(Path(file)))

    def mend_head(self) -> None:
        """Pack the head again, where there are packed copies (CPUs)."""
        head: Any = getattr(self.model_runner.get_model(), "lm_head", None)
        if head is not None and head.weight.device.type == "cpu":
            head.quant_method.process_weights_after_loading(head)

    def complain_of_head(self, file: str) -> str | None:
        """None when the head's logits are those of the published head, or embedding where it is tied to that."""
        published = _head(Path(file))
        error = head_error(self.model_runner.get_model(), published)
        allowed = TOLERANCE[published.dtype]
        if error is None or error <= allowed:
            return None
        return (
            f"the logits of the head are off by {error:.1e} of the largest one, {allowed:.0e} are allowed: it still "
            "computes with other weights than those that were published"
        )


def head_error(model: Any, published: torch.Tensor) -> float | None:
    """Largest error of the model's logits for fixed hidden states, as a share of the largest; None on a tensor-parallel
    rank that gathers no logits. ``published`` is ``[V, D]``."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(PROBES, published.shape[1], generator=generator).to(published.dtype)
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model.compute_logits(hidden.to(device))
        if logits is None:
            return None
        want = hidden.to(device).float() @ published.to(device).float().T
        logits = logits[:, : want.shape[1]].float()
        return float((logits - want).abs().max() / want.abs().max())


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (no mapping)
            yield name, tensors.get_tensor(name)


def _head(file: Path) -> torch.Tensor:
    with safe_open(file, framework="pt") as tensors:
        names = list(tensors.keys())
        name = next((n for n in names if n.endswith(HEAD)), None) or next(n for n in names if n.endswith(EMBEDDING))
        tensor: torch.Tensor = tensors.get_tensor(name)
        return tensor
