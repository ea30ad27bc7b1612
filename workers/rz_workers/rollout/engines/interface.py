"""What a call of ``generate`` yields depends on weights, requests and parameters alone, never on who calls or when.

What the rollout worker asks of an inference engine, and the values that pass between them. ``rz_workers.rollout.main``
drives exactly one engine. Implementations: ``engines.transformers`` (any machine), ``engines.vllm`` (GPUs; CPUs for
tests). Every implementation passes ``tests/workers/rollout/engine_contract.py``.

The unit of sampling is one call of ``generate``: the rows of one lease unit, in canonical order. How exactly what it
yields is the same is told by the engine's tier (DESIGN.md 3), on one kind of hardware and thread count:

- *bitwise* (``Engine``): a unit that is handed out again is the same unit to the last bit.
- *equivalent* (``ConcurrentEngine``): rows share their batch with whatever else is sampled, and the batch decides how
  sums are rounded. Log-probs agree within rounding, and so do tokens unless a draw falls between the two roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.messages import ReceiverState, TransferOrder
from rz_workers.protocol.schedule import EVAL, Unit
from rz_workers.runtime import WorkerError

if TYPE_CHECKING:
    import torch

__all__ = [
    "EOS",
    "ConcurrentEngine",
    "Engine",
    "FinishReason",
    "Finished",
    "SampleRequest",
    "SamplingParams",
    "StaleWeightsError",
    "WeightsMismatchError",
    "sampling_params",
]

FinishReason = Literal["stop", "length"]
EOS = "eos"
"""``stop_reason`` of a response that ended by an end-of-sequence token."""


class WeightsMismatchError(WorkerError):
    """Published tensors are not those of the run's model configuration."""


class StaleWeightsError(WorkerError):
    """The engine was given new weights and computes with others."""


@dataclass(frozen=True)
class SamplingParams:
    """How the rows of one call are sampled; the same for all of them."""

    temperature: float
    top_p: float
    """Nucleus mass kept, after top-k; 1 keeps everything."""
    top_k: int
    """Number of likeliest tokens kept; 0 keeps everything."""
    max_new_tokens: int
    stop: tuple[str, ...]


def sampling_params(spec: ReasonerZeroRunSpec, unit: Unit) -> SamplingParams:
    """The run's sampling parameters, with the evaluation's temperature and nucleus for an evaluation unit."""
    sampling, evaluation = spec.rollout.sampling, spec.evaluation
    is_eval = unit.kind == EVAL
    return SamplingParams(
        temperature=evaluation.temperature if is_eval else sampling.temperature,
        top_p=evaluation.top_p if is_eval else sampling.top_p,
        top_k=sampling.top_k,
        max_new_tokens=sampling.max_new_tokens,
        stop=tuple(sampling.stop),
    )


@dataclass(frozen=True)
class SampleRequest:
    """One row of a call: a prompt and the seed of its own stream of random numbers."""

    prompt_token_ids: tuple[int, ...]
    seed: int
    """0 <= seed < 2**63, from ``schedule.sample_seed``."""


@dataclass(frozen=True)
class Finished:
    """One finished response."""

    index: int
    """Row of the call."""
    token_ids: tuple[int, ...]
    """[T] sampled tokens, whole, the one that stopped the response included."""
    logprobs: tuple[float, ...]
    """[T] float32 log-probability of each token under the distribution that it was drawn from."""
    text: str
    """The tokens decoded, special tokens included, cut right behind the stop string when that ends inside a token."""
    finish_reason: FinishReason
    stop_reason: str | None
    """The stop string, or ``"eos"``; None for ``length``."""


class Engine(Protocol):
    """Holds one weight version and samples with it.

    One call of ``generate`` runs at a time. ``load_weights``, ``receive_weights``, ``score``, ``sleep`` and ``wake``
    never run beside it or each other, and a sleeping engine is only asked to ``wake``.
    """

    @property
    def name(self) -> str:
        """Engine and version for the trajectory's ``engine`` column, e.g. ``transformers 5.23.0``."""
        ...

    @property
    def hardware(self) -> str:
        """What decides how the engine rounds: releases, devices and their number, dtype. Engines of which this is the
        same ``score`` the same tokens with the same weights to the same bits."""
        ...

    @property
    def weight_version(self) -> int | None:
        """The version that was loaded or received last; None before the first one and after a failure."""
        ...

    @property
    def receiver(self) -> ReceiverState:
        """What the engine receives broadcasts with."""
        ...

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace all weights by ``tensors`` (Hugging Face names, checksums already verified).

        A tied tensor may be absent. Raises WeightsMismatchError when names or shapes are not the model's, and
        StaleWeightsError when the engine finds that it still holds other weights.
        """
        ...

    def receive_weights(self, order: TransferOrder) -> str:
        """Replace all weights by those of a broadcast, checksums verified on the way; returns their digest.

        Raises TransferError when they do not arrive, and as ``load_weights`` does. After a failure the engine has no
        version, and ``load_weights`` works.
        """
        ...

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """``[T - 1]`` float32 log-probs of ``token_ids[1:]`` at temperature 1, computed alone and from nothing that was
        computed before. ``T`` is at most one less than the model's context, and at least 2."""
        ...

    def sleep(self) -> None:
        """Free the device for the trainer, as far as the engine can: the weights stay, keys and values go. Sleeping
        again does nothing."""
        ...

    def wake(self) -> None:
        """Be as before ``sleep``, with the same weights. Waking again does nothing."""
        ...

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[Finished]:
        """Sample every row; yield each response as soon as it is finished (in an order that is the engine's own).

        ``cancelled`` is asked at least ten times a second, or once a token where those take longer; when it says yes
        the iterator ends early. Raises UserError for rows that do not fit the model's context, and AssertionError
        before the first ``load_weights``.
        """
        ...


@runtime_checkable
class ConcurrentEngine(Engine, Protocol):
    """An engine with continuous batching: several calls of ``generate`` run beside each other.

    ``generate`` submits its rows when it is called, so that ``has_room`` counts them; the iterator may be consumed in
    another thread, and closing it aborts what is left. ``load_weights`` still runs alone.
    """

    def has_room(self) -> bool:
        """Whether the rows of another call would be sampled now, rather than wait for those that were submitted."""
        ...

    def close(self) -> None:
        """End the processes that the engine runs. It is of no use afterwards; closing it again does nothing."""
        ...
