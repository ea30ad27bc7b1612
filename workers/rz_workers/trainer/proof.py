"""A model that would be trained wrong is refused before anything is claimed: the start-up proof.

What the trainer does with a model has to be what the model does by itself, and nobody would see it in the figures: a
layer that ignores its window, or reads the neighbour in the pack, gives a ratio of exactly 1 and a healthy loss. So,
on a small random twin of the model (``models.tiny``: same class, same switches, every kind of layer, windows of a few
tokens), in a second or so:

1. log-probs, values and gradients of a pack equal those of its sequences alone, through transformers' own attention;
2. the same pass twice gives the same numbers;
3. what is exported loads again, and scores the same;
4. tensors go to rollouts under the names that a checkpoint of the model has, which engines load.

``startup`` calls this on the first rank; tests/workers/trainer/models has every architecture of transformers.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rz_workers.runtime import UserError, first_line
from rz_workers.trainer.durable import export
from rz_workers.trainer.models import actor_critic, loading
from rz_workers.trainer.models.actor_critic import Policy
from rz_workers.trainer.models.tiny import tiny_copy
from rz_workers.trainer.twins import Twins, logprobs_alone, packed_logprobs, packed_values, values_alone

__all__ = ["TOLERANCE", "Deviations", "prove"]

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Most that fp32 numbers of one model may differ by: nats, values, and gradients (a part of their tensor's largest)."""
LENGTHS = (40, 23, 7)
"""Tokens of the sequences that are packed: longer and shorter than a twin's windows."""
SEED = 15


@dataclass(frozen=True)
class Deviations:
    """Largest differences that were seen, from the model by itself."""

    logprobs: float
    """Nats."""
    values: float
    gradients: float
    """As a part of the largest number of the tensor, or of a hundredth of the largest of all where that is more: some
    are zero but for rounding (a bias of keys)."""
    again: float
    """Between two equal passes."""
    exported: float = 0.0
    """Between a pass and the same by what was exported, policy and critic."""


def prove(
    config: Any,
    name: str,
    *,
    is_ppo: bool = True,
    activation_checkpointing: bool = False,
    trust_remote_code: bool = False,
) -> Deviations:
    """Prove that a model of this configuration is trained as what it is.

    Args:
        config: the transformers configuration of the run's model, as loaded.
        name: of the model, for messages.

    Returns what was measured. Raises UserError, with the reason in one sentence, when the model can't be trained.
    """
    kind = config.model_type
    with _own_randomness():
        try:
            twins = Twins.make(
                tiny_copy(config),
                is_ppo=is_ppo,
                activation_checkpointing=activation_checkpointing,
                trust_remote_code=trust_remote_code,
            )
            sequences = _sequences(twins)
            found = _measure(twins, sequences)
            _judge(found, f"{name} (type {kind})")
            exported = _exported(twins, sequences, trust_remote_code=trust_remote_code)
            found = replace(found, exported=exported)
            _judge(found, f"{name} (type {kind})")
        except (UserError, MemoryError):
            raise
        # Whatever the code of a model raises, which may be anybody's: the model is what has to change.
        except Exception as error:
            raise UserError(
                f"a small copy of {name} (type {kind}) does not run as it would be trained: "
                f"{type(error).__name__}: {first_line(error)}. {_REQUIRED}"
            ) from error
    log.info("the model is trained as what it is: a small copy of it shows %s", found)
    return found


_REQUIRED = (
    "A causal language model all of whose layers mix tokens by transformers' attention interface is required: change "
    "model.name (docs/models.md lists them)"
)


def _judge(found: Deviations, model: str) -> None:
    reasons = (
        (found.again, "two equal passes differ", "it has randomness of its own, such as dropout"),
        (found.logprobs, "log-probs of packed sequences differ from each alone", _MIXES_OR_MORE),
        (found.values, "values of packed sequences differ from each alone", _MIXES),
        (found.gradients, "gradients of packed sequences differ from each alone", _MIXES),
        (found.exported, "what is exported scores otherwise than what was trained", "its class saves less than it has"),
    )
    for deviation, what, why in reasons:
        if not deviation <= TOLERANCE:  # NaN too
            raise UserError(
                f"{model} can't be trained right: {what}, by {deviation:.2g} on a small copy: {why}. {_REQUIRED}"
            )


_MIXES = "a layer of it reads other tokens than its own sequence's"
_MIXES_OR_MORE = f"{_MIXES}, or its log-probs are more than its backbone and a linear output layer"


@contextmanager
def _own_randomness() -> Iterator[None]:
    """A run's random numbers must not depend on whether this was done."""
    # On the CPU alone, where twins are: by default torch would take memory on each GPU of the node, other ranks' too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield


# ------------------------------------------------------------------------------------------------- what is compared


def _sequences(twins: Twins) -> list[Tensor]:
    vocabulary = twins.plain.config.get_text_config().vocab_size
    return [torch.randint(0, vocabulary, (length,)) for length in LENGTHS]


def _measure(twins: Twins, sequences: Sequence[Tensor]) -> Deviations:
    alone = torch.cat([logprobs_alone(twins.plain, each) for each in sequences])
    packed = packed_logprobs(twins.policy, sequences)
    again = packed_logprobs(twins.policy, sequences)
    # Of weighted sums: each log-prob's gradient counts, with a sign of its own.
    weights = torch.randn(len(alone))
    gradients = _gradient_difference(
        twins.plain, lambda: (alone * weights).sum(), twins.policy.model, lambda: (packed * weights).sum()
    )
    values = 0.0
    if twins.critic is not None:
        own = [values_alone(twins.plain_backbone, twins.critic.head, each) for each in sequences]
        values = _most(packed_values(twins.critic, sequences), torch.cat(own))
    return Deviations(
        logprobs=_most(packed, alone),
        values=values,
        gradients=gradients,
        again=_most(packed, again),
    )


def _gradient_difference(
    plain: nn.Module, loss: Callable[[], Tensor], trained: nn.Module, its_loss: Callable[[], Tensor]
) -> float:
    loss().backward()  # type: ignore[no-untyped-call]
    its_loss().backward()  # type: ignore[no-untyped-call]
    pairs = zip(plain.parameters(), trained.parameters(), strict=True)
    both = [(_gradient(one), _gradient(other)) for one, other in pairs]
    largest = max(float(wanted.abs().max()) for wanted, _ in both)
    return max(_most(got, wanted) / max(float(wanted.abs().max()), largest / 100) for wanted, got in both)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def _most(one: Tensor, other: Tensor) -> float:
    return float((one.detach() - other.detach()).abs().max())


# ----------------------------------------------------------------------------------------------------- the export


def _exported(twins: Twins, sequences: Sequence[Tensor], *, trust_remote_code: bool) -> float:
    """Largest difference between the trained models and what their exports load as."""
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        empty, target = Path(scratch) / "no tokenizer", Path(scratch) / "policy"
        empty.mkdir()
        export.write_policy(twins.policy.model, export.gather_state(twins.policy), torch.float32, empty, target)
        _check_names(twins.policy, target)
        options: dict[str, Any] = {
            "revision": None,
            "trust_remote_code": trust_remote_code,
            "activation_checkpointing": False,
        }
        loaded = loading.load_policy(str(target), **options)
        largest = _most(packed_logprobs(loaded, sequences), packed_logprobs(twins.policy, sequences))
        if twins.critic is not None:
            target = Path(scratch) / "critic"
            export.write_critic(twins.critic.backbone, export.gather_state(twins.critic), torch.float32, empty, target)
            critic = loading.load_critic(str(target), init=None, seed=0, **options)
            largest = max(largest, _most(packed_values(critic, sequences), packed_values(twins.critic, sequences)))
    return largest


def _check_names(policy: Policy, folder: Path) -> None:
    """Rollouts load what the trainer publishes; engines know the names that checkpoints have."""
    stored: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            stored |= set(tensors.keys())
    published = set(actor_critic.published_tensors(policy))
    if stored != published:
        odd = sorted(published ^ stored)
        raise UserError(
            f"a model of type {policy.model.config.model_type} has other tensors in a checkpoint than in memory "
            f"({', '.join(odd[:4])}{' …' if len(odd) > 4 else ''}), so that rollouts could not load what the trainer "
            f"publishes. {_REQUIRED}"
        )
