"""Neither packing nor the number of ranks changes an update, but for the order of its sums: each rank works on its
share of the packs, losses are divided by the token count of the whole batch (policy) or mini-batch (critic), and
gradients are summed.

Values, policy update, critic update: what happens to a train batch, on every rank alike. Who calls this:
``rz_workers.trainer.main``, in the order that DESIGN.md 3 gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rz_api.shapes import ModelShape, forward_flops
from rz_api.spec import AlgorithmSpec, OptimizerSpec, ReasonerZeroRunSpec
from rz_workers.trainer.method import figures, ppo, schedule
from rz_workers.trainer.method.batch import MicroBatch, TrainBatch, micro_batches
from rz_workers.trainer.method.finite import UpdateLoss
from rz_workers.trainer.models.actor_critic import Critic, Policy
from rz_workers.trainer.ranks import Ranks, local, whole


def adamw(module: nn.Module, spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW over all parameters of a model; the rate is set before each step (``schedule.learning_rate``)."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=spec.learning_rate,
        betas=(spec.beta1, spec.beta2),
        eps=spec.epsilon,
        weight_decay=spec.weight_decay,
    )


class Learner:
    """Policy, critic and their optimizers.

    ``critic`` is None for GRPO, ``reference`` unless a KL coefficient is set.
    """

    def __init__(
        self,
        spec: ReasonerZeroRunSpec,
        ranks: Ranks,
        policy: Policy,
        critic: Critic | None,
        reference: Policy | None,
        *,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec, self.algorithm, self.ranks = spec, spec.algorithm, ranks
        self.policy, self.critic, self.reference = policy, critic, reference
        self.policy_optimizer = adamw(policy, self.algorithm.policy)
        self.critic_optimizer = adamw(critic, self.algorithm.critic) if critic is not None else None
        self.policy_steps = 0
        self.critic_steps = 0
        self.shape = ModelShape.from_config(policy.model.config.to_dict())
        self._attention_ratio = attention_ratio(self.shape)
        self._on_progress = on_progress
        # Values, policy update and samples of a step pass the same packs: they are made once.
        self._shared_last: tuple[TrainBatch, list[tuple[MicroBatch, bool]]] | None = None

    # ------------------------------------------------------------------------------------------------------ values

    def values(self, batch: TrainBatch) -> Tensor:
        """V of the state in which each response token was chosen, ``[N]`` fp32 on the host; zeros without a critic."""
        values = torch.zeros(batch.num_tokens)
        if self.critic is None:
            return values
        with torch.no_grad():
            for micro_batch, counts in self._share(batch):
                predicted = self.critic(*_state(micro_batch.to(self.ranks.device)))
                if counts:
                    values[micro_batch.flat] = _host(predicted)
        return self.ranks.sum(values)

    def reference_logprobs(self, batch: TrainBatch) -> Tensor | None:
        """Log-probs of the response tokens under the base model, ``[N]`` fp32; None without a KL coefficient."""
        if self.reference is None:
            return None
        logprobs = torch.zeros(batch.num_tokens)
        with torch.no_grad():
            for micro_batch, counts in self._share(batch):
                scored, _ = self.reference(*_action(micro_batch.to(self.ranks.device)), self._temperature)
                if counts:
                    logprobs[micro_batch.flat] = _host(scored)
        return self.ranks.sum(logprobs)

    # ------------------------------------------------------------------------------------------------------ policy

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Log-probs of ``token_ids[1:]`` under the policy at temperature 1, ``[T - 1]`` fp32; on every rank."""
        ids = torch.tensor(token_ids, device=self.ranks.device)
        places = torch.arange(len(ids), device=self.ranks.device)
        with torch.no_grad():
            scored, _ = self.policy(ids, places, (len(ids),), places[:-1], ids[1:], 1.0)
        return tuple(_host(scored).tolist())

    def policy_update(self, batch: TrainBatch, advantages: Tensor, ref_logprobs: Tensor | None) -> dict[str, float]:
        """Exactly one optimizer step on the whole batch.

        At staleness 0 the old log-probs are the current ones, detached: the ratio is 1 and its gradient the policy
        gradient's, and no extra pass is made. Stale
        trajectories are held against the sampler's log-probs: as the old ones of the clipped ratio, or, with
        ``samplerCorrection: tis``, by truncated importance weights.

        Args:
            advantages: ``[N]`` normalised.
            ref_logprobs: ``[N]`` or None.

        Returns:
            the step's policy metrics.

        Raises NonFiniteLossError on all ranks, with nothing applied.
        """
        algorithm = self.algorithm
        # By the spec too, not by this batch alone: trajectories that agree may all be one version behind.
        stale = (batch.weight_versions != int(batch.weight_versions.max())).any() or algorithm.max_staleness > 0
        corrected = algorithm.sampler_correction == "tis"
        logprobs, entropies, ratios = (torch.zeros(batch.num_tokens) for _ in range(3))
        update = UpdateLoss("policy", batch, range(batch.num_trajectories))
        for micro_batch, counts in self._share(batch):
            flat = micro_batch.flat
            on_device = micro_batch.to(self.ranks.device)
            scored, entropy = self.policy(*_action(on_device), self._temperature)
            sampled = batch.rollout_logprobs[flat].to(self.ranks.device)
            old = sampled if stale and not corrected else scored.detach()
            weights = ppo.truncated_importance_weights(scored, sampled, cap=algorithm.tis_cap) if corrected else None
            of_tokens = ppo.policy_loss(
                scored, old, advantages[flat].to(self.ranks.device), clip_ratio=algorithm.clip_ratio, weights=weights
            )
            if ref_logprobs is not None and algorithm.kl_mode == "loss":
                of_tokens = of_tokens + algorithm.kl_coefficient * ppo.k3(
                    scored, ref_logprobs[flat].to(self.ranks.device)
                )
            # N of the whole batch, not of this pack: the mean over tokens of all packs and ranks (RECIPE.md, PPO).
            loss = of_tokens.sum() / batch.num_tokens
            # A rank without a pack of its own passes backward too: sharded gradients are reduced by all ranks together.
            _backward(loss if counts else loss * 0.0)
            if counts:
                update.add(_host(loss), of_tokens, flat)
                logprobs[flat], entropies[flat] = _host(scored), _host(entropy)
                ratios[flat] = _host(torch.exp(scored.detach() - old))
        self.policy_steps += 1
        # In the published dtype: most fp32 steps of 1e-6 change no bfloat16 value, and rollouts see only those.
        before = published_values(self.policy, getattr(torch, self.spec.trainer.dtype))
        norm, rate = self._step(self.policy, self.policy_optimizer, algorithm.policy, self.policy_steps, update)
        changed = self.ranks.sum(count_changes(self.policy, before))
        del before
        for tensor in (logprobs, entropies, ratios):
            self.ranks.sum(tensor)
        # Those of version v: ``update_kl`` holds the new weights against them.
        self._logprobs = logprobs
        gap = ppo.mismatch(logprobs, batch.rollout_logprobs)
        metrics = {
            "policy_loss": float(update.total),
            "policy_entropy": float(entropies.mean()),
            "policy_grad_norm": norm,
            "policy_learning_rate": rate,
            "weights_changed_fraction": float(changed[0] / changed[1]),
            "ratio_max": float(ratios.max()),
            "clip_fraction": float(((ratios - 1.0).abs() > algorithm.clip_ratio).float().mean()),
            "mismatch_abs_mean": gap.abs_mean,
            "mismatch_k3": gap.k3,
            "mismatch_max": gap.max,
            "sampler_ess_fraction": figures.effective_sample_fraction(
                logprobs, batch.rollout_logprobs, cap=algorithm.tis_cap if corrected else None
            ),
        }
        if ref_logprobs is not None:
            metrics["reference_kl"] = float(ppo.k3(logprobs, ref_logprobs).mean())
        return metrics

    def update_kl(self, batch: TrainBatch) -> dict[str, float]:
        """How far the update that was just made on ``batch`` moved the policy: KL(v || v+1), estimated (k3) on a
        sample, each rank's first micro-batch."""
        micro_batch, counts = self._share(batch)[0]
        with torch.no_grad():
            scored, _ = self.policy(*_action(micro_batch.to(self.ranks.device)), self._temperature)
        # Tokens were sampled with v, so that v is the p of k3.
        estimates = ppo.k3(self._logprobs[micro_batch.flat], _host(scored))
        return {"policy_update_kl": self._sample_mean(estimates, counts)}

    # ------------------------------------------------------------------------------------------------------ critic

    def critic_update(self, batch: TrainBatch, returns: Tensor, old_values: Tensor, step: int) -> dict[str, float]:
        """``critic.miniBatches`` optimizer steps, each on one part of a seeded permutation of the trajectories.

        Args:
            returns, old_values: ``[N]``.

        Returns:
            the mean loss over the batch's tokens, the mean gradient norm, the last rate, and the loss on a sample
            (each rank's first micro-batch of the batch) before and after; nothing without a critic.

        Raises NonFiniteLossError on all ranks, with the mini-batches before that one applied.
        """
        if self.critic is None or self.critic_optimizer is None:
            return {}
        spec, loss_total, norms = self.algorithm.critic, torch.zeros(()), []
        rate = 0.0
        for part in schedule.mini_batches(batch.num_trajectories, spec.mini_batches, self.algorithm.seed, step):
            tokens = int(batch.lengths[part].sum())
            update = UpdateLoss("critic", batch, part)
            for micro_batch, counts in self._share(batch, part):
                flat = micro_batch.flat
                values = self.critic(*_state(micro_batch.to(self.ranks.device)))
                of_tokens = ppo.value_loss(
                    values,
                    old_values[flat].to(self.ranks.device),
                    returns[flat].to(self.ranks.device),
                    value_clip=spec.value_clip,
                )
                loss = of_tokens.sum()
                # Tokens of the mini-batch on all ranks: the sum over ranks is the mini-batch's mean.
                _backward(loss / tokens if counts else loss * 0.0)
                if counts:
                    on_host = _host(loss)
                    loss_total += on_host
                    update.add(on_host, of_tokens, flat)
            self.critic_steps += 1
            norm, rate = self._step(self.critic, self.critic_optimizer, spec, self.critic_steps, update)
            norms.append(norm)
        loss_mean = float(self.ranks.sum(loss_total)) / batch.num_tokens
        sample, counts = self._share(batch)[0]
        with torch.no_grad():
            # Every rank passes its sample, one of no own trajectories too: sharded layers are gathered by all.
            after = _host(self.critic(*_state(sample.to(self.ranks.device))))
        before, goal = old_values[sample.flat], returns[sample.flat]
        return {
            "critic_loss": loss_mean,
            "critic_loss_before": self._sample_mean(ppo.value_loss(before, before, goal, value_clip=None), counts),
            "critic_loss_after": self._sample_mean(ppo.value_loss(after, before, goal, value_clip=None), counts),
            "critic_grad_norm": sum(norms) / len(norms),
            "critic_learning_rate": rate,
        }

    # ------------------------------------------------------------------------------------------------------ shared

    @property
    def _temperature(self) -> float:
        return self.spec.rollout.sampling.temperature

    def _share(self, batch: TrainBatch, members: Sequence[int] | None = None) -> list[tuple[MicroBatch, bool]]:
        """This rank's micro-batches of ``members``, or of the whole batch, whose share is kept until the next one's."""
        self._on_progress()
        if members is None and self._shared_last is not None and self._shared_last[0] is batch:
            return self._shared_last[1]
        share = micro_batches(
            batch,
            range(batch.num_trajectories) if members is None else members,
            self.spec.trainer.max_tokens_per_micro_batch,
            self.ranks.rank,
            self.ranks.world_size,
            self._attention_ratio,
        )
        if members is None:
            self._shared_last = (batch, share)
        return share

    def _sample_mean(self, values: Tensor, counts: bool) -> float:
        """Mean over the tokens of all ranks' samples; ``counts``: whether this rank's is not another's again."""
        # Never 0 tokens: the first rank's first pack is always its own (``packing.balance``).
        total = torch.tensor([float(values.double().sum()), float(len(values))], dtype=torch.float64) * counts
        self.ranks.sum(total)
        return float(total[0] / total[1])

    def _step(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        spec: OptimizerSpec,
        count: int,
        update: UpdateLoss,
    ) -> tuple[float, float]:
        """Clip, set the rate, step, clear; returns the gradient norm before clipping and the rate."""
        update.require_finite(self.ranks)
        # On shards the norm is a DTensor: ``whole`` is a collective, and every rank gets the same norm.
        norm = float(whole(nn.utils.clip_grad_norm_(module.parameters(), spec.max_grad_norm)))
        update.require_finite_norm(norm)
        rate = schedule.learning_rate(spec, count)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        # Gradients are freed, not zeroed: policy and critic never hold theirs at the same time (``rz_api.estimate``).
        optimizer.zero_grad(set_to_none=True)
        return norm, rate


def why_no_update(algorithm: AlgorithmSpec, batch: TrainBatch) -> str | None:
    """Why a step makes no update of the policy; None where it makes one. A pure function of the batch, so that every
    rank, and every replay, decides alike."""
    if batch.num_trajectories == 0:
        return "every trajectory is masked, because its verifier crashed"
    if algorithm.skip_uniform_steps:
        groups = batch.groups if algorithm.name == "grpo" else torch.zeros_like(batch.groups)
        if ppo.is_uniform(batch.rewards, groups):
            return "all rewards are equal (algorithm.skipUniformSteps)"
    return None


def attention_ratio(shape: ModelShape) -> float:
    """FLOPs of causal attention per squared token over FLOPs of the linear layers per token: a pass over L tokens costs
    a L + b L^2, the ratio is b / a."""
    # Two lengths give the two coefficients: f(1) = a + b and f(2) = 2 a + 4 b.
    one, two = forward_flops(shape, [1], 0), forward_flops(shape, [2], 0)
    quadratic = (two - 2 * one) / 2
    return quadratic / (one - quadratic)


def published_values(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    """This rank's parts of the parameters as they would be published: copies in ``dtype``."""
    return [local(parameter.detach()).to(dtype, copy=True) for parameter in module.parameters()]


def count_changes(module: nn.Module, before: Sequence[Tensor]) -> Tensor:
    """``[2]`` fp64 on the host: how many of this rank's weights are not what ``published_values`` held before, and how
    many there are."""
    after = [local(parameter.detach()) for parameter in module.parameters()]
    changed = sum(int((new.to(old.dtype) != old).sum()) for new, old in zip(after, before, strict=True))
    return torch.tensor([changed, sum(tensor.numel() for tensor in before)], dtype=torch.float64)


def advantages_and_returns(
    algorithm: AlgorithmSpec, batch: TrainBatch, values: Tensor, ref_logprobs: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Normalised advantages and returns of a step, ``[N]`` each, and what describes them.

    The KL penalty (``klMode: penalty``) is taken from the rewards with the sampler's log-probs, which are the
    policy's own.
    """
    if algorithm.name == "grpo":
        advantages = ppo.group_relative_advantages(batch.rewards, batch.groups, batch.lengths)
        return advantages, batch.rewards.repeat_interleave(batch.lengths), {"advantage_std": _std(advantages)}
    rewards = ppo.token_rewards(batch.rewards, batch.lengths)
    if ref_logprobs is not None and algorithm.kl_mode == "penalty":
        # k1, log p - log q of the sampled token: as part of the reward it needs no gradient.
        rewards = rewards - algorithm.kl_coefficient * (batch.rollout_logprobs - ref_logprobs)
    advantages, returns = ppo.generalized_advantages(
        rewards, values, batch.lengths, gamma=algorithm.gamma, gae_lambda=algorithm.gae_lambda
    )
    metrics = {"advantage_std": _std(advantages), "value_mean": float(values.mean())}
    metrics |= figures.value_deciles(values, batch.lengths)
    explained = ppo.explained_variance(values, returns)
    if explained is not None:
        metrics["explained_variance"] = explained
    return (ppo.normalize(advantages) if algorithm.normalize_advantages else advantages), returns, metrics


def _state(m: MicroBatch) -> tuple[Any, ...]:
    return m.input_ids, m.positions, m.lengths, m.rows


def _action(m: MicroBatch) -> tuple[Any, ...]:
    return m.input_ids, m.positions, m.lengths, m.rows, m.targets


def _host(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _std(values: Tensor) -> float:
    return float(values.double().std(correction=0))
