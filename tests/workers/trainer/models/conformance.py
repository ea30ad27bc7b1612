"""What the trainer makes of an architecture, held against what transformers makes of each sequence alone.

A model of a small configuration is stored and taken up as at the start of a run (configuration, proof, loading). Then
three sequences are packed, and log-probs, values, the gradients of one policy update and of one critic update are
compared with a loop over the sequences, one after the other, through the model's own forward pass. ``judge`` says
*right*, *refused* and why, or *wrong*, which must not be. ``write_models.py`` makes docs/models.md of it.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PretrainedConfig

from rz_api.models import refusal
from rz_api.shapes import ModelShape
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.runtime import UserError
from rz_workers.trainer.method.batch import TrainBatch, collate
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.models.actor_critic import Critic, Policy
from rz_workers.trainer.models.loading import load_critic, load_policy, read_config
from rz_workers.trainer.models.tiny import DEFAULTS, VOCABULARY, WINDOW, tiny_copy
from rz_workers.trainer.models.value_head import critic_format
from rz_workers.trainer.proof import TOLERANCE, prove
from rz_workers.trainer.ranks import Ranks
from rz_workers.trainer.twins import Twins, logprobs_alone, packed_logprobs, values_alone

LENGTHS, PROMPTS = (40, 23, 7), (5, 2, 3)
"""Tokens of the packed sequences, and how many of them are the prompt: two are longer than any window, one is not."""
assert LENGTHS[1] > WINDOW > LENGTHS[2]

ALONE = Ranks(0, 1, torch.device("cpu"), None)

SPEC = ReasonerZeroRunSpec.model_validate(
    {
        "model": {"name": "model"},
        "data": {"train": [{"uri": "train.jsonl"}]},
        "storage": {"uri": "memory://run"},
        "trainer": {"gpusPerNode": 0, "dtype": "float32", "maxTokensPerMicroBatch": sum(LENGTHS)},
        "algorithm": {
            "promptsPerStep": 1,
            "samplesPerPrompt": len(LENGTHS),
            "totalSteps": 1,
            "policy": {"warmupSteps": 0},
            "critic": {"warmupSteps": 0, "miniBatches": 1},
        },
    }
)
"""One pack, one optimizer step of each model."""


@dataclass(frozen=True)
class Judgement:
    verdict: Literal["right", "refused", "wrong"]
    reason: str | None = None
    """Why it is refused."""
    deviation: float | None = None
    """The largest that was seen: nats, values, and gradients as a share of their largest entry."""
    critic_format: str | None = None
    """How its critic is exported."""


def judge_type(model_type: str, folder: Path) -> Judgement:
    """What becomes of a model of this type's default configuration; ``folder`` is empty."""
    try:
        config = CONFIG_MAPPING[model_type](**DEFAULTS.get(model_type, {}))
    except Exception as error:  # each class checks in its own way
        return Judgement("refused", f"has no usable default configuration ({type(error).__name__})")
    # Of the default, not of its twin: the page shows the numbers of experts that published models have.
    if (reason := refusal(config.to_dict())) is not None:
        assert_refused_alike(config, folder)
        return Judgement("refused", reason)
    try:
        twins = Twins.make(tiny_copy(config))
    except Exception:  # the proof says it in its own words, or else this is no refusal
        with pytest.raises(UserError) as refused:
            prove(config, "the model")
        return Judgement("refused", str(refused.value))
    return judge(twins, folder)


def assert_refused_alike(config: PretrainedConfig, folder: Path) -> None:
    """What ``rz plan`` reads from the file and what the trainer says of the loaded configuration is one sentence."""
    config.save_pretrained(folder)
    reason = refusal(json.loads((folder / "config.json").read_text()))
    assert reason == refusal(config.to_dict())
    with pytest.raises(UserError) as refused:
        read_config(str(folder), None, False)
    assert str(refused.value) == f"{folder}: {reason}"


def judge(twins: Twins, folder: Path) -> Judgement:
    """What the trainer does with the model ``twins.plain``, which is stored in ``folder``."""
    # Else two of ours would be compared: a model reads it from its configuration in each pass.
    assert {m.config._attn_implementation for m in (twins.plain, twins.plain_backbone)} == {"eager"}
    twins.plain.save_pretrained(folder)
    options: dict[str, Any] = {"revision": None, "trust_remote_code": False, "activation_checkpointing": True}
    try:
        # As rz_workers.trainer.startup.
        config = read_config(str(folder), None, False)
        shape = ModelShape.from_config(config.to_dict())
        prove(config, "the model", activation_checkpointing=True)
        policy = load_policy(str(folder), **options)
        critic = load_critic(str(folder), init="normal", seed=1, **options)
    except ValueError as error:  # a UserError, or ModelShape's, which startup makes one
        return Judgement("refused", str(error).replace(str(folder), "the model"))
    assert shape.hidden_size == policy.model.config.get_text_config().hidden_size
    found = deviation(twins, policy, critic)
    if not found <= TOLERANCE:
        return Judgement("wrong", None, found)
    return Judgement("right", None, found, critic_format(config))


def deviation(twins: Twins, policy: Policy, critic: Critic) -> float:
    """The largest difference between ``policy`` and ``critic`` on a pack and ``twins.plain`` on each sequence."""
    batch = collate(trajectories())
    learner = Learner(SPEC, ALONE, policy, critic, None)
    advantages, returns = torch.randn(2, batch.num_tokens, generator=torch.Generator().manual_seed(3))
    head = copy.deepcopy(critic.head)

    expected = torch.cat(of_responses(batch, [logprobs_alone(twins.plain, each) for each in batch.sequences]))
    scored = packed_logprobs(policy, batch.sequences).split([len(each) - 1 for each in batch.sequences])
    # The value of a token is that of the state in which it was chosen: the row before.
    states = [values_alone(twins.plain_backbone, head, each)[:-1] for each in batch.sequences]
    expected_values = torch.cat(of_responses(batch, states))
    values = learner.values(batch)

    # At staleness 0 the ratio is 1 and its gradient the log-prob's (RECIPE.md, PPO).
    (-advantages * expected).sum().div(batch.num_tokens).backward()
    with noted(learner.policy_optimizer, policy.model) as policy_gradients:
        learner.policy_update(batch, advantages, None)
    (0.5 * (expected_values - returns) ** 2).sum().div(batch.num_tokens).backward()
    assert learner.critic_optimizer is not None
    with noted(learner.critic_optimizer, critic) as critic_gradients:
        learner.critic_update(batch, returns, values, 0)

    algorithm = SPEC.algorithm
    plain_critic = Critic(twins.plain_backbone, head)
    found = (
        largest(torch.cat(of_responses(batch, scored)), expected),
        largest(values, expected_values),
        of_gradients(policy_gradients, clipped(twins.plain, algorithm.policy.max_grad_norm)),
        of_gradients(critic_gradients, clipped(plain_critic, algorithm.critic.max_grad_norm)),
    )
    return math.inf if any(math.isnan(each) for each in found) else max(found)


def trajectories() -> list[Trajectory]:
    """One prompt group whose sequences have ``LENGTHS`` random tokens."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for index, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        tokens = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        rows.append(
            Trajectory(
                run="test",
                step=0,
                group_id=0,
                sample_index=index,
                prompt_id="0-0",
                prompt="p",
                response="r",
                prompt_token_ids=tokens[:prompt],
                response_token_ids=tokens[prompt:],
                rollout_logprobs=[-3.0] * (length - prompt),
                loss_mask=None,
                finish_reason="stop",
                stop_reason=None,
                extracted_answer="1",
                reference_answer="1",
                reward=float(index % 2),
                reward_status="ok",
                weight_version=0,
                engine="test",
                seconds=0.1,
            )
        )
    return rows


def of_responses(batch: TrainBatch, sequences: Any) -> list[Tensor]:
    """Of each sequence's numbers, one for each token but the first, those of the response."""
    return [each[int(prompt) - 1 :] for each, prompt in zip(sequences, batch.prompt_lengths, strict=True)]


@contextmanager
def noted(optimizer: torch.optim.Optimizer, module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The gradients that the optimizer's step is given, by name, once it was taken."""
    found: dict[str, Tensor] = {}

    def note(*_: Any) -> None:
        found.update({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})

    hook = optimizer.register_step_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def clipped(module: nn.Module, limit: float) -> dict[str, Tensor]:
    """Gradients by name, after clipping to the norm ``limit``."""
    nn.utils.clip_grad_norm_(module.parameters(), limit)
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max())


def of_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, as a share of the largest entry; where only one has a gradient, the other's is 0."""
    zero = torch.zeros(())
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(largest(found.get(n, zero), expected.get(n, zero)) for n in found.keys() | expected.keys()) / scale
