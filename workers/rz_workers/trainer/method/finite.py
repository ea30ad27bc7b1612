"""No rank applies an update that another one refuses: whether one may be applied is asked of all ranks together.

The loss of one optimizer step while its micro-batches are passed. ``rz_workers.trainer.method.learner`` steps the
optimizer only behind ``require_finite`` and ``require_finite_norm``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor

from rz_workers.trainer.method.batch import TrainBatch
from rz_workers.trainer.ranks import Ranks

__all__ = ["NonFiniteLossError", "UpdateLoss"]

Model = Literal["policy", "critic"]

_GROUPS = TypeAdapter(list[int])
_GROUPS_SHOWN = 8


class NonFiniteLossError(RuntimeError):
    """A loss or gradient norm is NaN or infinite: the update would destroy the model, so the trainer stops instead.
    Raised on all ranks alike, before anything is applied."""

    def __init__(self, model: Model, figure: str, value: float, groups: Sequence[int]) -> None:
        """``groups``: prompt groups (their ids) whose tokens made the loss so; where none is to blame, all of them."""
        self.model = model
        self.groups = tuple(groups)
        shown = ", ".join(map(str, groups[:_GROUPS_SHOWN]))
        more = f" and {len(groups) - _GROUPS_SHOWN} more" if len(groups) > _GROUPS_SHOWN else ""
        super().__init__(
            f"the {model}'s {figure} is {value} on prompt group(s) {shown}{more}; the update is not applied, the "
            "checkpoint before it stays valid"
        )


class UpdateLoss:
    """Of one optimizer step of ``model`` on the trajectories ``members``."""

    def __init__(self, model: Model, batch: TrainBatch, members: Sequence[int]) -> None:
        self._model: Model = model
        self._batch, self._members = batch, members
        self._suspects: set[int] = set()
        self.total = torch.zeros(())
        """fp32 on the host: of this rank's micro-batches, and behind ``require_finite`` of all ranks'."""

    def add(self, loss: Tensor, of_tokens: Tensor, flat: Tensor) -> None:
        """Count a micro-batch.

        Args:
            loss: its loss, on the host.
            of_tokens: ``[n]`` what it is the sum of, but for a factor.
            flat: ``[n]`` see ``MicroBatch.flat``.
        """
        self.total += loss
        if not math.isfinite(float(loss)):
            odd = flat[~torch.isfinite(of_tokens.detach()).cpu()]
            members = torch.searchsorted(self._batch.offsets, odd, right=True) - 1
            self._suspects.update(self._batch.groups[members].tolist())

    def require_finite(self, ranks: Ranks) -> None:
        """Raises NonFiniteLossError on every rank when the sum over ranks is not finite. A collective."""
        loss = float(ranks.sum(self.total))
        if not math.isfinite(loss):
            found = {group for one in ranks.gather(sorted(self._suspects), _GROUPS) for group in one}
            raise NonFiniteLossError(self._model, "loss", loss, sorted(found) or self._groups())

    def require_finite_norm(self, norm: float) -> None:
        """The same for the gradient's norm, which is the same number on every rank."""
        if not math.isfinite(norm):
            raise NonFiniteLossError(self._model, "gradient norm", norm, self._groups())

    def _groups(self) -> list[int]:
        return sorted(set(self._batch.groups[list(self._members)].tolist()))
