"""Packing, scoring and updates on small random models."""

from dataclasses import replace

import torch

from rz_workers.trainer.method import batch as batches
from rz_workers.trainer.method.learner import advantages_and_returns
from rz_workers.trainer.models import actor_critic

ARGUMENTS = ("input_ids", "positions", "lengths", "rows", "targets")


def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_a_pack_holds_the_worked_example_of_its_docstring(make_trajectories):
    first, second = make_trajectories(groups=2, samples=1)
    rows = [
        replace(first, prompt_token_ids=[1, 2], response_token_ids=[7, 8], rollout_logprobs=[-1.0, -2.0]),
        replace(second, prompt_token_ids=[3], response_token_ids=[9], rollout_logprobs=[-3.0]),
    ]
    batch = batches.collate(rows)
    pack = batches.pack(batch, [0, 1])
    assert pack.input_ids.tolist() == [1, 2, 7, 8, 3, 9]
    assert pack.positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert pack.lengths == (4, 2)
    assert pack.rows.tolist() == [1, 2, 4]
    assert pack.targets.tolist() == [7, 8, 9]
    assert pack.flat.tolist() == [0, 1, 2]
    assert batch.rollout_logprobs.tolist() == [-1.0, -2.0, -3.0]


def test_collation_orders_by_group_and_sample_whatever_the_order_of_arrival(make_trajectories):
    rows = make_trajectories(groups=3, samples=2)
    forwards, backwards = batches.collate(rows), batches.collate(rows[::-1])
    assert all(torch.equal(a, b) for a, b in zip(forwards.sequences, backwards.sequences, strict=True))
    assert forwards.groups.tolist() == [0, 0, 1, 1, 2, 2]


def test_every_rank_gets_as_many_packs_and_each_pack_counts_once(make_trajectories):
    batch = batches.collate(make_trajectories(groups=3, samples=2))
    shares = [batches.micro_batches(batch, range(1, 6), 1, rank, 4, 0.0) for rank in range(4)]
    assert {len(part) for part in shares} == {2}
    counted = [pack.flat.tolist() for part in shares for pack, counts in part if counts]
    assert sorted(counted) == [list(range(batch.offsets[i], batch.offsets[i + 1])) for i in range(1, 6)]


def test_packed_log_probs_and_entropies_are_those_of_each_sequence_alone(make_learner, make_spec, make_trajectories):
    learner = make_learner(make_spec(), torch.float64)
    batch = batches.collate(make_trajectories(groups=2, samples=2))
    pack = batches.pack(batch, range(4))
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


def test_values_of_a_critic_in_bfloat16_are_not_rounded_to_bfloat16(make_models, make_trajectories):
    _, critic = make_models(torch.bfloat16)
    with torch.no_grad():
        critic.head.weight.fill_(0.3)
    pack = batches.pack(batches.collate(make_trajectories(groups=2, samples=2)), range(4))
    with torch.no_grad():
        values = critic(pack.input_ids, pack.positions, pack.lengths, pack.rows)
        hidden = actor_critic._hidden_states(critic.backbone, pack.input_ids, pack.positions, pack.lengths)[pack.rows]
    expected = torch.nn.functional.linear(hidden.double(), critic.head.weight.double()).squeeze(-1)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-6)


def test_log_probs_divide_the_logits_by_the_temperature(make_learner, make_spec, make_trajectories):
    learner = make_learner(make_spec())
    batch = batches.collate(make_trajectories(groups=1, samples=1))
    pack = batches.pack(batch, [0])
    arguments = [getattr(pack, n) for n in ARGUMENTS]
    scored, _ = learner.policy(*arguments, 2.0)
    logits = learner.policy.model(input_ids=batch.sequences[0][None], use_cache=False).logits[0] / 2.0
    expected = torch.log_softmax(logits, -1)[pack.rows].gather(-1, pack.targets[:, None])[:, 0]
    assert torch.allclose(scored, expected, atol=1e-6)


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
