"""Every option of the method, from the run's file to the number that comes out, worked by hand.

The models here depend on no context (``CoinModels``), so that a step can be worked out on paper:

* The policy gives token 1 the probability ``sigmoid(t)``. At t = 0 both tokens have 1/2, and d log p / dt is +1/2 for
  token 1, -1/2 for token 0. The reference model has t = log 3: 3/4 for token 1, 1/4 for token 0.
* The critic values every state at v = 0.5.

The batch is one prompt group with two responses: ``1 1`` with reward 1 and ``0`` with reward 0. So N = 3, returns are
1 1 0 and advantages, before they are normalised, 0.5 0.5 -0.5.
"""

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from rz_api.resource import load_run
from rz_api.run import ResolvedRun
from rz_workers.trainer import startup
from rz_workers.trainer.method.batch import collate
from rz_workers.trainer.method.learner import Learner, advantages_and_returns
from rz_workers.trainer.models.actor_critic import Critic, Policy
from rz_workers.trainer.models.attention import PACKED_SDPA
from rz_workers.trainer.ranks import Ranks

LOG_3, LOG_2 = math.log(3), math.log(2)

# ------------------------------------------------------------------------------------------------------ the toy


def load_spec(**sections: dict[str, Any]):
    """The spec of a run's file, as ``rz`` and the operator read and judge it."""
    spec: dict[str, Any] = {
        "model": {"name": "base"},
        "data": {"train": [{"uri": "train.jsonl"}], "maxPromptTokens": 32},
        "storage": {"uri": "memory://run"},
        "rollout": {"sampling": {"maxNewTokens": 32}},
        "trainer": {"gpusPerNode": 0, "dtype": "float32", "activationCheckpointing": False},
        "algorithm": {"promptsPerStep": 1, "samplesPerPrompt": 2, "critic": {"miniBatches": 1}},
    }
    for section, fields in sections.items():
        spec[section] = {**spec.get(section, {}), **fields}
    document = {"apiVersion": "reasonerzero.dev/v1alpha1", "kind": "ReasonerZeroRun", "metadata": {"name": "coins"}}
    return load_run(yaml.safe_dump({**document, "spec": spec})).spec


def coin_policy(t: float) -> Policy:
    model = LlamaForCausalLM(_config())
    _make_constant(model.model)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.tensor([[0.0, 0.0], [t, 0.0]]))
    return Policy(model)


def coin_critic(v: float) -> Critic:
    backbone = LlamaModel(_config())
    _make_constant(backbone)
    head = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[v, 0.0]]))
    return Critic(backbone, head)


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=2,
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=False,
        rms_norm_eps=0.0,
        attn_implementation=PACKED_SDPA,
    )


def _make_constant(backbone: LlamaModel) -> None:
    """Hidden states (1, 0) whatever the tokens are, and nothing in here that is trained."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        backbone.embed_tokens.weight.fill_(1.0)
        backbone.norm.weight.copy_(torch.tensor([1.0, 0.0]))
    backbone.requires_grad_(False)


@pytest.fixture
def coin_batch(make_trajectories):
    """``sampled``: the probabilities that the sampler gave the three tokens."""

    def make(sampled=(0.5, 0.5, 0.5), version=0):
        heads, tail = make_trajectories(groups=1, samples=2)
        logprobs = [math.log(p) for p in sampled]
        return collate(
            [
                replace(
                    heads,
                    prompt_token_ids=[0],
                    response_token_ids=[1, 1],
                    rollout_logprobs=logprobs[:2],
                    reward=1.0,
                    weight_version=version,
                ),
                replace(
                    tail,
                    prompt_token_ids=[0],
                    response_token_ids=[0],
                    rollout_logprobs=logprobs[2:],
                    reward=0.0,
                    weight_version=version,
                ),
            ]
        )

    return make


def coin_learner(t: float = 0.0, temperature: float = 1.0, **algorithm: Any) -> Learner:
    """With the gradients that its optimizers applied in ``applied``: of t and of v, one a step."""
    optimizer = {"warmupSteps": 0, "learningRate": 0.01, "maxGradNorm": 1e9}
    algorithm["policy"] = {**optimizer, **algorithm.get("policy", {})}
    algorithm["critic"] = {**optimizer, "miniBatches": 1, **algorithm.get("critic", {})}
    spec = load_spec(algorithm=algorithm, rollout={"sampling": {"maxNewTokens": 32, "temperature": temperature}})
    learner = Learner(
        spec,
        Ranks(0, 1, torch.device("cpu"), None),
        coin_policy(t),
        coin_critic(0.5) if spec.algorithm.name == "ppo" else None,
        coin_policy(LOG_3) if spec.algorithm.kl_coefficient > 0 else None,
    )
    learner.applied = SimpleNamespace(t=[], v=[])
    learner.policy_optimizer.register_step_pre_hook(
        lambda *_: learner.applied.t.append(float(learner.policy.model.lm_head.weight.grad[1, 0]))
    )
    if learner.critic is not None:
        learner.critic_optimizer.register_step_pre_hook(
            lambda *_: learner.applied.v.append(float(learner.critic.head.weight.grad[0, 0]))
        )
    return learner


def policy_step(learner, batch):
    """Everything up to the policy's update, as the trainer does it."""
    ref_logprobs = learner.reference_logprobs(batch)
    values = learner.values(batch)
    advantages, returns, figures = advantages_and_returns(learner.algorithm, batch, values, ref_logprobs)
    return figures | learner.policy_update(batch, advantages, ref_logprobs), returns, values


# ---------------------------------------------------------------------------------------------- policy and advantages


@dataclass(frozen=True)
class Case:
    """What a step of the policy must come to."""

    algorithm: dict[str, Any]
    loss: float
    slope: float
    """d loss / dt."""
    sampled: tuple[float, float, float] = (0.5, 0.5, 0.5)
    figures: dict[str, float] = field(default_factory=dict)


RAW = {"normalizeAdvantages": False}
OFF_POLICY = (0.25, 0.8, 0.5)
"""The policy's 1/2 over these is 2, 0.625 and 1."""

CASES = {
    # mean of the advantages 1/6, variance 2/9: (1/3, 1/3, -2/3) / sqrt(2/9)
    "the paper: advantages of mean 0 and deviation 1": Case(
        {}, loss=0.0, slope=-(2 / math.sqrt(2) + math.sqrt(2)) / 6, figures={"advantage_std": math.sqrt(2 / 9)}
    ),
    "normalizeAdvantages false": Case(RAW, loss=-0.5 / 3, slope=-1.5 / 6),
    # A_1 = 1 - 0.5; A_0 = 0.9 x 0.5 - 0.5 + 0.72 x A_1 = 0.31; of the other response 0 - 0.5
    "gamma 0.9 and gaeLambda 0.8": Case(
        {**RAW, "gamma": 0.9, "gaeLambda": 0.8}, loss=-(0.31 + 0.5 - 0.5) / 3, slope=-(0.31 + 0.5 + 0.5) / 6
    ),
    # The group's rewards 1 0 have mean 0.5 and deviation 0.5.
    "grpo": Case({"name": "grpo"}, loss=-(1 + 1 - 1) / 3, slope=-(1 + 1 + 1) / 6),
    # k3 of 1/2 against 3/4 is 0.5 - log 1.5, against 1/4 it is log 2 - 0.5; d k3 / d log p = 1 - q/p = -0.5 and 0.5
    "klMode loss adds k3 against the reference": Case(
        {**RAW, "klCoefficient": 0.3},
        loss=-0.5 / 3 + 0.3 * (2 * (0.5 - math.log(1.5)) + LOG_2 - 0.5) / 3,
        slope=-1.5 / 6 + 0.3 * (-0.25 - 0.25 - 0.25) / 3,
        figures={"reference_kl": (2 * (0.5 - math.log(1.5)) + LOG_2 - 0.5) / 3},
    ),
    "klMode loss with grpo": Case(
        {"name": "grpo", "klCoefficient": 0.3},
        loss=-1 / 3 + 0.3 * (2 * (0.5 - math.log(1.5)) + LOG_2 - 0.5) / 3,
        slope=-3 / 6 + 0.3 * (-0.25 - 0.25 - 0.25) / 3,
    ),
    # Each 1 earns 0.3 log 1.5, the 0 pays 0.3 log 2: returns 1 + 0.6 log 1.5, 1 + 0.3 log 1.5, -0.3 log 2
    "klMode penalty takes the log-ratio from each token's reward": Case(
        {**RAW, "klCoefficient": 0.3, "klMode": "penalty"},
        loss=-(0.5 + 0.6 * math.log(1.5) + 0.5 + 0.3 * math.log(1.5) - 0.5 - 0.3 * LOG_2) / 3,
        slope=-(0.5 + 0.6 * math.log(1.5) + 0.5 + 0.3 * math.log(1.5) + 0.5 + 0.3 * LOG_2) / 6,
    ),
    "a sampler that is off is measured and changes nothing": Case(
        RAW,
        sampled=OFF_POLICY,
        loss=-0.5 / 3,
        slope=-1.5 / 6,
        figures={
            "ratio_max": 1.0,
            "mismatch_abs_mean": (LOG_2 + math.log(1.6)) / 3,
            "mismatch_max": LOG_2,
            "sampler_ess_fraction": 3.625**2 / (3 * (2**2 + 0.625**2 + 1)),
        },
    ),
    "samplerCorrection tis weighs each token, up to tisCap": Case(
        {**RAW, "samplerCorrection": "tis", "tisCap": 1.5},
        sampled=OFF_POLICY,
        loss=-(1.5 * 0.5 + 0.625 * 0.5 - 0.5) / 3,
        slope=-(1.5 * 0.5 + 0.625 * 0.5 + 0.5) / 6,
        figures={"ratio_max": 1.0, "sampler_ess_fraction": 3.125**2 / (3 * (1.5**2 + 0.625**2 + 1))},
    ),
    # min(2 x 0.5, 1.2 x 0.5) is clipped and has no slope; min(0.625 x 0.5, 0.8 x 0.5) is not
    "maxStaleness 1 holds the policy against the sampler, clipped": Case(
        {**RAW, "maxStaleness": 1},
        sampled=OFF_POLICY,
        loss=-(1.2 * 0.5 + 0.625 * 0.5 - 0.5) / 3,
        slope=-(0.0 + 0.625 * 0.5 + 0.5) / 6,
        figures={"ratio_max": 2.0, "clip_fraction": 2 / 3},
    ),
    "clipRatio 0.5 at maxStaleness 1": Case(
        {**RAW, "maxStaleness": 1, "clipRatio": 0.5},
        sampled=OFF_POLICY,
        loss=-(1.5 * 0.5 + 0.625 * 0.5 - 0.5) / 3,
        slope=-(0.0 + 0.625 * 0.5 + 0.5) / 6,
        figures={"ratio_max": 2.0, "clip_fraction": 1 / 3},
    ),
    "maxStaleness 1 with tis weighs in place of the ratio": Case(
        {**RAW, "maxStaleness": 1, "samplerCorrection": "tis", "tisCap": 1.5},
        sampled=OFF_POLICY,
        loss=-(1.5 * 0.5 + 0.625 * 0.5 - 0.5) / 3,
        slope=-(1.5 * 0.5 + 0.625 * 0.5 + 0.5) / 6,
        figures={"ratio_max": 1.0, "clip_fraction": 0.0},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_of_the_policy(coin_batch, case):
    learner = coin_learner(**case.algorithm)
    figures, _, _ = policy_step(learner, coin_batch(case.sampled))
    assert figures["policy_loss"] == pytest.approx(case.loss, abs=1e-5)
    assert learner.applied.t == pytest.approx([case.slope], abs=1e-5)
    # The logit of token 0 has the opposite gradient.
    assert figures["policy_grad_norm"] == pytest.approx(math.sqrt(2) * abs(case.slope), abs=1e-5)
    assert {name: figures[name] for name in case.figures} == pytest.approx(case.figures, abs=1e-5)


def test_the_temperature_of_sampling_divides_the_logits_in_training(coin_batch):
    """At t = 2 log 3 and temperature 2 the sampler draws token 1 with 3/4, and so must the trainer think."""
    learner = coin_learner(t=2 * LOG_3, temperature=2.0)
    figures, _, _ = policy_step(learner, coin_batch((0.75, 0.75, 0.25)))
    assert figures["mismatch_max"] == pytest.approx(0.0, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------- critic


@pytest.mark.parametrize(
    ("value_clip", "loss", "slope"),
    [
        pytest.param(None, 0.125, (-0.5 - 0.5 + 0.5) / 3, id="unclipped: half the squared error"),
        # Old values 0.2 hold V = 0.5 at 0.4: 0.5 x 0.6^2 is the larger loss where the return is 1, and has no slope.
        pytest.param(0.2, (0.18 + 0.18 + 0.125) / 3, 0.5 / 3, id="valueClip 0.2"),
    ],
)
def test_a_step_of_the_critic(coin_batch, value_clip, loss, slope):
    learner = coin_learner(critic={"valueClip": value_clip})
    figures = learner.critic_update(coin_batch(), torch.tensor([1.0, 1.0, 0.0]), torch.full((3,), 0.2), step=0)
    assert figures["critic_loss"] == pytest.approx(loss, abs=1e-6)
    assert learner.applied.v == pytest.approx([slope], abs=1e-6)
    assert figures["critic_grad_norm"] == pytest.approx(abs(slope), abs=1e-6)


def test_mini_batches_are_steps_of_their_own_with_their_own_number_of_tokens(coin_batch):
    """Each trajectory is a mini-batch: slopes V - 1 (two tokens) and V - 0, in the order of a seeded permutation."""
    learner = coin_learner(critic={"miniBatches": 2, "learningRate": 1e-6})
    learner.critic_update(coin_batch(), torch.tensor([1.0, 1.0, 0.0]), torch.zeros(3), step=0)
    assert sorted(learner.applied.v) == pytest.approx([-0.5, 0.5], abs=1e-5)


def test_the_critics_loss_is_given_before_and_after_its_updates(coin_batch):
    learner = coin_learner(critic={"learningRate": 0.1})
    batch, returns = coin_batch(), torch.ones(3)
    figures = learner.critic_update(batch, returns, learner.values(batch), step=0)
    # Adam's first step has the size of the rate: V goes from 0.5 to 0.6.
    assert figures["critic_loss_before"] == pytest.approx(0.5 * 0.5**2, abs=1e-6)
    assert figures["critic_loss_after"] == pytest.approx(0.5 * 0.4**2, abs=1e-6)


# --------------------------------------------------------------------------------------------------------- optimizer


def test_two_steps_of_adamw(coin_batch):
    """On V against returns of 1, whose gradient is V - 1::

    step 1: m = 0.5 g1,              v = 0.25 g1^2,                 corrected by 0.5 and 0.25
    step 2: m = 0.25 g1 + 0.5 g2,    v = 0.1875 g1^2 + 0.25 g2^2,   corrected by 0.75 and 0.4375
    V' = V (1 - rate x decay) - rate m / (sqrt v + epsilon)
    """
    fields = {"learningRate": 0.1, "beta1": 0.5, "beta2": 0.75, "epsilon": 0.1, "weightDecay": 0.2}
    learner = coin_learner(critic=fields)
    for step in range(2):
        learner.critic_update(coin_batch(), torch.ones(3), torch.zeros(3), step)
    g1 = 0.5 - 1
    one = 0.5 * (1 - 0.1 * 0.2) - 0.1 * g1 / (abs(g1) + 0.1)
    g2 = one - 1
    m, v = (0.25 * g1 + 0.5 * g2) / 0.75, (0.1875 * g1**2 + 0.25 * g2**2) / 0.4375
    two = one * (1 - 0.1 * 0.2) - 0.1 * m / (math.sqrt(v) + 0.1)
    assert one == pytest.approx(0.49 + 0.05 / 0.6)
    assert learner.critic.head.weight[0, 0].item() == pytest.approx(two, abs=1e-6)


def test_max_grad_norm_scales_the_gradient_that_is_applied_and_not_the_one_that_is_shown(coin_batch):
    learner = coin_learner(**RAW, policy={"maxGradNorm": 0.1}, critic={"maxGradNorm": 0.1})
    batch = coin_batch()
    figures, returns, values = policy_step(learner, batch)
    figures |= learner.critic_update(batch, returns, values, step=0)
    assert figures["policy_grad_norm"] == pytest.approx(math.sqrt(2) * 0.25, abs=1e-6)
    assert learner.applied.t == pytest.approx([-0.1 / math.sqrt(2)], abs=1e-5)
    assert figures["critic_grad_norm"] == pytest.approx(0.5 / 3, abs=1e-6)
    assert learner.applied.v == pytest.approx([-0.1], abs=1e-5)


def test_lr_schedule_linear_after_a_warm_up_counts_each_models_own_steps(coin_batch):
    schedule = {
        "learningRate": 1e-3,
        "warmupSteps": 2,
        "lrSchedule": "linear",
        "finalLearningRate": 1e-4,
        "decaySteps": 3,
    }
    learner = coin_learner(policy=schedule, critic={**schedule, "miniBatches": 2})
    rates = []
    for step in range(6):
        batch = coin_batch(version=step)
        figures, returns, values = policy_step(learner, batch)
        figures |= learner.critic_update(batch, returns, values, step)
        rates.append((figures["policy_learning_rate"], figures["critic_learning_rate"]))
    policy_rates, critic_rates = zip(*rates, strict=True)
    assert policy_rates == pytest.approx([5e-4, 1e-3, 7e-4, 4e-4, 1e-4, 1e-4])
    assert critic_rates == pytest.approx([1e-3, 4e-4, 1e-4, 1e-4, 1e-4, 1e-4])  # after its steps 2, 4, 6, ...


# -------------------------------------------------------------------------------------------------- models at the start


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    """A random model with a byte tokenizer, and two problems."""
    folder = tmp_path_factory.mktemp("base")
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16_384,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    (folder / "train.jsonl").write_text('{"question": "1+1", "answer": "2"}\n{"question": "1+2", "answer": "3"}\n')
    return folder


@pytest.fixture
def read_inputs(base_model, tmp_path):
    def read(**algorithm):
        spec = load_spec(
            model={"name": str(base_model / "model")},
            data={"train": [{"uri": str(base_model / "train.jsonl")}], "promptTemplate": "{question}="},
            storage={"uri": str(tmp_path / "run")},
            algorithm=algorithm,
        )
        return startup.read_inputs(ResolvedRun(name="test", uid="uid", spec=spec), tmp_path / "scratch")

    return read


@pytest.mark.parametrize(
    ("init", "low", "high"),
    [("normal", 0.0, 5 / 17), ("kaiming", 1 / 8, 1 / 4), ("uniform", 1.0, math.sqrt(5))],
    ids=["normal: deviation 1/(16 + 1)", "kaiming: within 1/sqrt 16", "uniform: within sqrt 5"],
)
def test_value_head_init(read_inputs, init, low, high):
    critic = read_inputs(critic={"miniBatches": 1, "valueHeadInit": init}).critic
    assert low < critic.head.weight.abs().max().item() < high


def test_a_kl_coefficient_brings_a_reference_model_with_the_base_models_weights(read_inputs):
    inputs = read_inputs(klCoefficient=0.1)
    assert inputs.reference is not inputs.policy
    for ours, base in zip(inputs.reference.parameters(), inputs.policy.parameters(), strict=True):
        assert torch.equal(ours, base)
    assert read_inputs().reference is None


def test_grpo_has_no_critic(read_inputs):
    assert read_inputs(name="grpo").critic is None
