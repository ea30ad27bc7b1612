"""Packing, scoring and updates on small random models."""

import pytest
import torch

from rz_workers.trainer import batch as batches
from rz_workers.trainer.learner import NonFiniteLossError, advantages_and_returns

ARGUMENTS = ("input_ids", "positions", "segments", "rows", "targets")


def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_a_pack_holds_the_worked_example_of_its_docstring(make_trajectories):
    first, second = make_trajectories(groups=2, samples=1)
    from dataclasses import replace

    rows = [
        replace(first, prompt_token_ids=[1, 2], response_token_ids=[7, 8], rollout_logprobs=[-1.0, -2.0]),
        replace(second, prompt_token_ids=[3], response_token_ids=[9], rollout_logprobs=[-3.0]),
    ]
    batch = batches.collate(rows)
    [pack] = batches.pack(batch, [0, 1], 100)
    assert pack.input_ids.tolist() == [1, 2, 7, 8, 3, 9]
    assert pack.positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert pack.segments.tolist() == [0, 0, 0, 0, 1, 1]
    assert pack.rows.tolist() == [1, 2, 4]
    assert pack.targets.tolist() == [7, 8, 9]
    assert pack.flat.tolist() == [0, 1, 2]
    assert batch.rollout_logprobs.tolist() == [-1.0, -2.0, -3.0]


def test_collation_orders_by_group_and_sample_whatever_the_order_of_arrival(make_trajectories):
    rows = make_trajectories(groups=3, samples=2)
    forwards, backwards = batches.collate(rows), batches.collate(rows[::-1])
    assert all(torch.equal(a, b) for a, b in zip(forwards.sequences, backwards.sequences, strict=True))
    assert forwards.groups.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_trajectory_longer_than_the_budget_makes_a_pack_of_its_own(make_trajectories):
    batch = batches.collate(make_trajectories(groups=3, samples=2))
    packs = batches.pack(batch, range(6), 1)
    assert len(packs) == 6


def test_every_rank_gets_as_many_packs_and_each_pack_counts_once(make_trajectories):
    batch = batches.collate(make_trajectories(groups=3, samples=2))
    packs = batches.pack(batch, range(5), 1)
    shares = [batches.share(packs, rank, 4) for rank in range(4)]
    assert {len(part) for part in shares} == {2}
    counted = [pack.flat.tolist() for part in shares for pack, counts in part if counts]
    assert sorted(counted) == sorted(pack.flat.tolist() for pack in packs)


def test_packed_log_probs_and_entropies_are_those_of_each_sequence_alone(make_learner, make_spec, make_trajectories):
    learner = make_learner(make_spec(), torch.float64)
    batch = batches.collate(make_trajectories(groups=2, samples=2))
    [pack] = batches.pack(batch, range(4), 1000)
    logprobs, entropies = learner.policy(*(getattr(pack, n) for n in ARGUMENTS), 1.0)
    for member, sequence in enumerate(batch.sequences):
        logits = learner.policy.model(input_ids=sequence[None], use_cache=False).logits[0]
        distribution = torch.log_softmax(logits, -1)
        prompt = int(batch.prompt_lengths[member])
        expected = distribution[prompt - 1 : -1].gather(-1, sequence[prompt:, None])[:, 0]
        own = slice(int(batch.offsets[member]), int(batch.offsets[member + 1]))
        assert torch.allclose(logprobs[own], expected, atol=1e-12)
        entropy = -(distribution.exp() * distribution).sum(-1)[prompt - 1 : -1]
        assert torch.allclose(entropies[own], entropy, atol=1e-12)


def test_log_probs_divide_the_logits_by_the_temperature(make_learner, make_spec, make_trajectories):
    learner = make_learner(make_spec())
    batch = batches.collate(make_trajectories(groups=1, samples=1))
    [pack] = batches.pack(batch, [0], 1000)
    arguments = [getattr(pack, n) for n in ARGUMENTS]
    scored, _ = learner.policy(*arguments, 2.0)
    logits = learner.policy.model(input_ids=batch.sequences[0][None], use_cache=False).logits[0] / 2.0
    expected = torch.log_softmax(logits, -1)[pack.rows].gather(-1, pack.targets[:, None])[:, 0]
    assert torch.allclose(scored, expected, atol=1e-6)


def test_chunked_scoring_gives_the_same_gradients_as_one_piece(make_learner, make_spec, make_trajectories, monkeypatch):
    from rz_workers.trainer import models

    batch = batches.collate(make_trajectories(groups=4, samples=2))
    results = []
    for rows in (4096, 5):
        monkeypatch.setattr(models, "LOGIT_ROWS", rows)
        learner = make_learner(make_spec(), torch.float64)
        [pack] = batches.pack(batch, range(8), 1000)
        scored, _ = learner.policy(*(getattr(pack, n) for n in ARGUMENTS), 1.0)
        scored.sum().backward()
        results.append(gradients(learner.policy))
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-10) for name in results[0])


@pytest.mark.parametrize("budget", [1, 17, 40, 10_000], ids=lambda budget: f"{budget} tokens a micro-batch")
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_updates_do_not_depend_on_the_micro_batch_size(make_learner, make_spec, make_trajectories, budget, algorithm):
    batch = batches.collate(make_trajectories(groups=3, samples=2, seed=3))
    after = []
    for tokens in (60, budget):
        spec = make_spec(trainer={"maxTokensPerMicroBatch": tokens}, algorithm={"name": algorithm})
        learner = make_learner(spec, torch.float64)
        values = learner.values(batch)
        advantages, returns, _ = advantages_and_returns(spec.algorithm, batch, values, None)
        learner.policy_update(batch, advantages, None)
        learner.critic_update(batch, returns, values, step=0)
        modules = [learner.policy] + ([learner.critic] if learner.critic else [])
        after.append(
            {
                k: v.clone()
                for i, module in enumerate(modules)
                for k, v in [(f"{i}.{n}", p) for n, p in module.named_parameters()]
            }
        )
    # Adam divides by the gradient's own size, so equal gradients up to 1e-12 are equal steps up to about 1e-8.
    assert all(torch.allclose(after[0][name], after[1][name], atol=1e-7) for name in after[0])


def test_the_policy_gradient_is_the_mean_over_all_response_tokens_of_the_batch(
    make_learner, make_spec, make_trajectories
):
    batch = batches.collate(make_trajectories(groups=2, samples=2))
    spec = make_spec()
    learner = make_learner(spec, torch.float64)
    advantages = torch.linspace(-1, 1, batch.num_tokens, dtype=torch.float64)
    seen = {}
    learner._step = lambda module, *rest: (seen.update(gradients(module)), (0.0, 0.0))[1]
    learner.policy_update(batch, advantages, None)
    plain = make_learner(spec, torch.float64)
    total = 0.0
    for member, sequence in enumerate(batch.sequences):
        distribution = torch.log_softmax(plain.policy.model(input_ids=sequence[None], use_cache=False).logits[0], -1)
        prompt = int(batch.prompt_lengths[member])
        scored = distribution[prompt - 1 : -1].gather(-1, sequence[prompt:, None])[:, 0]
        total = total - (scored * advantages[int(batch.offsets[member]) : int(batch.offsets[member + 1])]).sum()
    (total / batch.num_tokens).backward()
    expected = gradients(plain.policy)
    assert all(torch.allclose(seen[name], expected[name], atol=1e-10) for name in expected)


def test_the_policy_takes_one_step_and_the_critic_as_many_as_it_has_mini_batches(
    make_learner, make_spec, make_trajectories
):
    learner = make_learner(make_spec())
    batch = batches.collate(make_trajectories(groups=2, samples=2))
    advantages, returns, _ = advantages_and_returns(learner.algorithm, batch, learner.values(batch), None)
    figures = learner.policy_update(batch, advantages, None)
    learner.critic_update(batch, returns, learner.values(batch), step=0)
    assert (learner.policy_steps, learner.critic_steps) == (1, 3)
    assert figures["ratio_max"] == 1.0
    assert figures["clip_fraction"] == 0.0


def test_critic_updates_lower_the_value_loss(make_learner, make_spec, make_trajectories):
    learner = make_learner(make_spec())
    batch = batches.collate(make_trajectories(groups=2, samples=2))
    returns = batch.rewards.repeat_interleave(batch.lengths)
    losses = [
        learner.critic_update(batch, returns, torch.zeros(batch.num_tokens), step)["critic_loss"] for step in range(30)
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_repeated_updates_are_equal_to_the_bit(make_learner, make_spec, make_trajectories):
    def run():
        learner = make_learner(make_spec())
        for step in range(2):
            batch = batches.collate(make_trajectories(step=step, groups=2, samples=2, seed=step))
            values = learner.values(batch)
            advantages, returns, _ = advantages_and_returns(learner.algorithm, batch, values, None)
            learner.policy_update(batch, advantages, None)
            learner.critic_update(batch, returns, values, step)
        return [*learner.policy.parameters(), *learner.critic.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_a_kl_loss_of_the_policy_against_itself_changes_nothing(make_learner, make_spec, make_trajectories):
    batch = batches.collate(make_trajectories())
    after = []
    for coefficient in (0.0, 0.5):
        learner = make_learner(make_spec(algorithm={"klCoefficient": coefficient}))
        if coefficient:
            learner.reference = make_learner(make_spec()).policy
        advantages = torch.linspace(-1, 1, batch.num_tokens)
        figures = learner.policy_update(batch, advantages, learner.reference_logprobs(batch))
        after.append(list(learner.policy.parameters()))
    assert figures["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*after, strict=True))


def test_a_kl_penalty_is_taken_from_each_tokens_reward(make_spec, make_trajectories):
    batch = batches.collate(make_trajectories(groups=1, samples=1))
    spec = make_spec(algorithm={"klCoefficient": 0.1, "klMode": "penalty", "normalizeAdvantages": False})
    values = torch.zeros(batch.num_tokens)
    advantages, _, _ = advantages_and_returns(spec.algorithm, batch, values, batch.rollout_logprobs - 1.0)
    # Each token pays 0.1 x (log p - log ref) = 0.1; what is still to pay counts from each token on.
    left = torch.arange(batch.num_tokens, 0, -1)
    assert torch.allclose(advantages, batch.rewards[0] - 0.1 * left, atol=1e-6)


def test_samples_of_an_older_version_are_held_against_the_samplers_log_probs(
    make_learner, make_spec, make_trajectories
):
    learner = make_learner(make_spec(algorithm={"maxStaleness": 1}))
    batch = batches.collate(make_trajectories())
    figures = learner.policy_update(batch, torch.ones(batch.num_tokens), None)
    assert figures["ratio_max"] != 1.0


def test_an_infinite_gradient_ends_the_step_before_it_is_applied(make_learner, make_spec, make_trajectories):
    learner = make_learner(make_spec())
    before = [parameter.clone() for parameter in learner.policy.parameters()]
    batch = batches.collate(make_trajectories())
    with pytest.raises(NonFiniteLossError, match="gradient norm"):
        learner.policy_update(batch, torch.full((batch.num_tokens,), torch.inf), None)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))


def test_truncated_weights_correct_stale_samples_too(make_learner, make_spec, make_trajectories):
    batch = batches.collate(make_trajectories())
    losses = []
    for cap in (1e-6, 1e6):
        spec = make_spec(algorithm={"maxStaleness": 1, "samplerCorrection": "tis", "tisCap": cap})
        learner = make_learner(spec)
        figures = learner.policy_update(batch, torch.ones(batch.num_tokens), None)
        assert figures["ratio_max"] == 1.0
        losses.append(figures["policy_loss"])
    assert losses[0] == pytest.approx(-1e-6)
    assert losses[1] < -1e-3
