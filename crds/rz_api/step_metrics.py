"""No figure of a step is without name, unit and formula here: every key of ``StepCommit.metrics``.

``rz_workers.metrics`` computes those that trajectories give, the trainer measures the others. metrics.jsonl,
TensorBoard, the report, Prometheus (``rz_api.metrics``) and docs/metrics.md take names, units and formulas from here.

Notation: a step has the trajectories i = 1..N in prompt groups; n_i is the number of response tokens, R_i the reward. A
trajectory is correct if R_i > 0. One whose verifier crashed has no reward: it is masked, and of these figures it is in
the shares of reward statuses and in tokens_generated alone. A mean over nothing is absent from a step, not 0.
"""

from __future__ import annotations

from dataclasses import dataclass

# Lower case: responses are lowered before these are looked for, unlike in the published code (RECIPE.md).
REFLECTION_PATTERNS = ("wait,", "recheck", "retry", "alternatively,", "however,")
"""The published code's marks of reflection, looked for without regard to case."""

REPEAT_NGRAM = 4
"""Length of the n-grams of ``repeat_score_mean``: the usual one (seq-rep-4, Welleck et al. 2019)."""

LENGTH_PERCENTILES = (10, 50, 90, 99)

MAX_STOP_STRINGS = 32
"""As many as the spec allows in ``rollout.sampling.stop``."""


@dataclass(frozen=True)
class StepMetric:
    """What the docs say of a figure."""

    unit: str
    """``1`` for a plain number, ``fraction`` for one in [0, 1]."""
    formula: str


_REWARD_STATUS_MEANING = {
    "ok": "answer found and compared",
    "no_answer": "stopped without an answer in a box in an answer block",
    "truncated": "did not end by a stop",
    "timeout": "comparison took its whole CPU-time limit",
    "memory": "comparison took its whole memory limit",
    "crashed": "the verifier died again and again: masked, in no other figure",
}

STEP_METRICS: dict[str, StepMetric] = {
    # From the trajectories: rz_workers.metrics.
    "reward_mean": StepMetric("fraction", "(1/N) sum_i R_i"),
    "reward_std": StepMetric("1", "population standard deviation of R_i; exactly 0 where all are equal"),
    "response_length_mean": StepMetric("tokens", "(1/N) sum_i n_i"),
    "response_length_std": StepMetric("tokens", "population standard deviation of n_i"),
    "response_length_correct_mean": StepMetric("tokens", "mean of n_i over correct trajectories"),
    "response_length_incorrect_mean": StepMetric("tokens", "mean of n_i over incorrect trajectories"),
    **{
        f"response_length_p{percent}": StepMetric("tokens", f"percentile {percent} of n_i, interpolated linearly")
        for percent in LENGTH_PERCENTILES
    },
    "response_length_max": StepMetric("tokens", "max_i n_i"),
    "truncated_fraction": StepMetric("fraction", "share of trajectories that did not end by a stop string or EOS"),
    "format_fraction": StepMetric(
        "fraction", "share of responses of exactly the form `... </think> <answer> ... </answer>`"
    ),
    "pass_at_n": StepMetric("fraction", "share of prompt groups with at least one correct trajectory"),
    "zero_variance_group_fraction": StepMetric("fraction", "share of prompt groups in which all rewards are the same"),
    "reflection_fraction": StepMetric("fraction", "share of responses with at least one reflection pattern"),
    "reflection_count_mean": StepMetric(
        "occurrences",
        f"mean per response of occurrences of {', '.join(f'`{p}`' for p in REFLECTION_PATTERNS)}, any case",
    ),
    "reflection_correct_length_mean": StepMetric(
        "tokens", "mean of n_i over correct trajectories with at least one reflection pattern"
    ),
    "repeat_score_mean": StepMetric(
        "fraction", f"mean of 1 - distinct / all {REPEAT_NGRAM}-grams of the response's tokens (0 if it has none)"
    ),
    **{
        f"reward_status_{status}_fraction": StepMetric(
            "fraction", f"share of all trajectories, masked ones included: {meaning}"
        )
        for status, meaning in _REWARD_STATUS_MEANING.items()
    },
    "stop_length_fraction": StepMetric("fraction", "share of trajectories that reached `maxNewTokens`"),
    "stop_eos_fraction": StepMetric("fraction", "share of trajectories that ended by an end-of-sequence token"),
    **{
        f"stop_string_{i}_fraction": StepMetric(
            "fraction", f"share of trajectories that ended by `rollout.sampling.stop[{i}]`"
        )
        for i in range(MAX_STOP_STRINGS)
    },
    # From the step: rz_workers.trainer. Sums over t run over the loss tokens of the step, T in all.
    "policy_update_skipped": StepMetric(
        "1",
        "1 where the step made no update of the policy, whose figures it then lacks: every trajectory was masked, or "
        "there was nothing to learn (`algorithm.skipUniformSteps`); else 0",
    ),
    "value_mean": StepMetric("1", "(1/T) sum_t V_t, before the critic's update"),
    **{
        f"value_decile_{i}_mean": StepMetric(
            "1", f"mean of V_t over the tokens in tenth {i} of their response; absent if there is none"
        )
        for i in range(1, 11)
    },
    "advantage_std": StepMetric("1", "population standard deviation of A_t over tokens, before normalisation"),
    "explained_variance": StepMetric("1", "1 - var(G - V) / var(G) over tokens, G the return; absent if var(G) = 0"),
    "critic_loss": StepMetric(
        "1", "(1/T) sum_t 0.5 (V_t - G_t)^2, each token in its mini-batch, before that one's update"
    ),
    "critic_loss_before": StepMetric(
        "1", "mean of 0.5 (V_t - G_t)^2 over a sample (each rank's first micro-batch), before the critic's updates"
    ),
    "critic_loss_after": StepMetric("1", "the same tokens after the critic's updates"),
    "policy_loss": StepMetric("1", "-(1/T) sum_t min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)"),
    "policy_entropy": StepMetric("nats", "(1/T) sum_t of the entropy of the policy's next-token distribution"),
    "ratio_max": StepMetric("1", "max_t r_t, r_t = exp(new - old log-prob); 1 in a strictly on-policy step"),
    "clip_fraction": StepMetric("fraction", "share of tokens with |r_t - 1| > eps; tells nothing when on-policy"),
    "policy_update_kl": StepMetric(
        "nats", "k3 estimate of KL(version v || version v + 1) over a sample (each rank's first micro-batch)"
    ),
    "weights_changed_fraction": StepMetric(
        "fraction", "share of the policy's weights whose value in `trainer.dtype` the update changed"
    ),
    "policy_grad_norm": StepMetric("1", "global L2 norm of the policy's gradient before clipping"),
    "critic_grad_norm": StepMetric("1", "the critic's, mean over its mini-batches, before clipping"),
    "policy_learning_rate": StepMetric("1", "rate of the policy's optimizer step"),
    "critic_learning_rate": StepMetric("1", "rate of the critic's last optimizer step"),
    "reference_kl": StepMetric(
        "nats", "k3 estimate of KL(policy || base model) over tokens; only with a KL coefficient"
    ),
    "mismatch_abs_mean": StepMetric(
        "nats",
        "(1/T) sum_t |d_t|, d_t = trainer's minus sampler's log-prob of token t; with topP or topK the sampler's is of "
        "the truncated distribution, the trainer's of the whole one",
    ),
    "mismatch_k3": StepMetric("nats", "(1/T) sum_t exp(d_t) - 1 - d_t, an estimate of KL(sampler || trainer)"),
    "mismatch_max": StepMetric("nats", "max_t |d_t|"),
    "sampler_ess_fraction": StepMetric(
        "fraction",
        "effective sample size of w_t = exp(d_t), (sum_t w_t)^2 / (T sum_t w_t^2); with samplerCorrection `tis` "
        "w_t is at most tisCap",
    ),
    "staleness_mean": StepMetric("versions", "mean over trajectories of trainer's version minus sampling version"),
    "seconds_step": StepMetric("s", "wall time from the end of the step before to the end of this one"),
    "seconds_wait": StepMetric("s", "wall time for which the trainer waited for trajectories"),
    "seconds_values": StepMetric("s", "wall time of the critic's forward passes"),
    "seconds_policy_update": StepMetric("s", "wall time of the policy update"),
    "seconds_measure": StepMetric("s", "wall time of the pass for policy_update_kl"),
    "seconds_publish": StepMetric("s", "wall time of publishing the new weights"),
    "seconds_critic_update": StepMetric("s", "wall time of the critic update"),
    "seconds_checkpoint": StepMetric(
        "s", "wall time for which the checkpoint that was taken just before this step held it up; 0 where none was"
    ),
    "critic_hidden_fraction": StepMetric(
        "fraction",
        "share of the critic update of the step before that ran while this step was generated; absent in the first "
        "step of a gang, 0 in a replay",
    ),
    "trainer_idle_fraction": StepMetric("fraction", "seconds_wait / seconds_step"),
    "rollout_idle_fraction": StepMetric(
        "fraction",
        "share of the time from the last completion of the step before to this step's in which no training lease was "
        "out (evaluations may have been); absent in the first step of a gang",
    ),
    "tokens_generated": StepMetric("tokens", "sum_i n_i, masked trajectories included"),
    "tokens_per_second_generated": StepMetric("tokens/s", "tokens_generated / (last completion - first lease)"),
    "tokens_per_second_trained": StepMetric(
        "tokens/s",
        "prompt and response tokens of the step / (seconds_values + seconds_policy_update + seconds_critic_update)",
    ),
    "flops_per_second_trained": StepMetric(
        "FLOP/s",
        "of one rank: FLOPs of the step's passes (linear layers, causal attention, output layer on response tokens; an "
        "update is three forward passes, recomputation not counted) / ranks / the same seconds",
    ),
    "mfu": StepMetric(
        "fraction", "flops_per_second_trained / the device's peak in `trainer.dtype`; absent where that is not known"
    ),
}
"""Every key of ``StepCommit.metrics``."""
