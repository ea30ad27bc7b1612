"""Every default is the paper's value; the numbers are RECIPE's, written here a second time on purpose."""

from __future__ import annotations

from typing import Any

import pytest
from api_builders import document

from rz_api.resource import load_run
from rz_api.spec import PROMPT_TEMPLATE

DEFAULTS: dict[str, Any] = {
    "algorithm.name": "ppo",
    "algorithm.epochs": 20,
    "algorithm.totalSteps": None,
    "algorithm.promptsPerStep": 128,
    "algorithm.samplesPerPrompt": 64,
    "algorithm.gamma": 1.0,
    "algorithm.gaeLambda": 1.0,
    "algorithm.normalizeAdvantages": True,
    "algorithm.clipRatio": 0.2,
    "algorithm.klCoefficient": 0.0,
    "algorithm.maxStaleness": 0,
    "algorithm.samplerCorrection": "none",
    "algorithm.policy.learningRate": 1e-6,
    "algorithm.policy.warmupSteps": 50,
    "algorithm.policy.lrSchedule": "constant",
    "algorithm.policy.finalLearningRate": 3e-7,
    "algorithm.policy.decaySteps": 100,
    "algorithm.policy.beta1": 0.9,
    "algorithm.policy.beta2": 0.95,
    "algorithm.policy.weightDecay": 0.0,
    "algorithm.policy.maxGradNorm": 1.0,
    "algorithm.critic.learningRate": 5e-6,
    "algorithm.critic.warmupSteps": 50,
    "algorithm.critic.beta1": 0.9,
    "algorithm.critic.beta2": 0.95,
    "algorithm.critic.weightDecay": 0.0,
    "algorithm.critic.maxGradNorm": 1.0,
    "algorithm.critic.miniBatches": 12,
    "algorithm.critic.initFrom": None,
    "algorithm.critic.valueHeadInit": "normal",
    "algorithm.critic.valueClip": None,
    "data.maxPromptTokens": 2048,
    "rollout.sampling.temperature": 1.0,
    "rollout.sampling.topP": 1.0,
    "rollout.sampling.topK": 0,
    "rollout.sampling.maxNewTokens": 8000,
    "rollout.sampling.stop": ["User:", "Human:", "Assistant:", "</answer>"],
    "rollout.maxModelLength": 8192 + 2048,
    "rollout.samplesPerLease": 16,
    "rollout.placement": "separate",
    "evaluation.samples": 16,
    "evaluation.temperature": 1.0,
    "evaluation.topP": 1.0,
    "reward.verifier": "math-verify",
    "trainer.dtype": "bfloat16",
    "trainer.checkpoint.interval": 5,
    "model.trustRemoteCode": False,
}


@pytest.mark.parametrize(("path", "value"), DEFAULTS.items(), ids=DEFAULTS)
def test_a_field_that_is_left_out_has_the_papers_value(path: str, value: Any) -> None:
    at: Any = load_run(document()).spec.model_dump(by_alias=True)
    for key in path.split("."):
        at = at[key]
    assert at == value


def test_the_prompt_is_the_papers_to_the_letter() -> None:
    assert PROMPT_TEMPLATE == (
        "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The "
        "Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
        "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: You "
        "must put your answer inside <answer> </answer> tags, i.e., <answer> answer here </answer>. And your final "
        "answer will be extracted automatically by the \\boxed{} tag.\nThis is the problem:\n{question}\nAssistant: "
        "<think>"
    )
    assert load_run(document()).spec.data.prompt_template == PROMPT_TEMPLATE
