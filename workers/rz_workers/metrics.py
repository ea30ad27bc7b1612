r"""The figures of a training step: names, units and formulas of all, and the values of those that trajectories give.

The trainer calls ``rollout_metrics`` on a step's trajectories and adds what it measures itself; ``METRICS`` documents
all of them and is what the docs, the report and the dashboard take names and units from. Pure; no torch, no numpy.

Notation: a step has the trajectories i = 1..N in prompt groups; n_i is the number of response tokens, R_i the reward. A
trajectory is correct if R_i > 0. A mean over nothing is absent from the result, not 0.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from rz_workers.protocol.messages import RewardStatus

REFLECTION_PATTERNS = ("wait,", "recheck", "retry", "alternatively,", "however,")
"""The published code's marks of reflection, looked for without regard to case."""

REPEAT_NGRAM = 4
"""Length of the n-grams of ``repeat_score``: the usual one (seq-rep-4, Welleck et al. 2019)."""

LENGTH_PERCENTILES = (10, 50, 90, 99)

MAX_STOP_STRINGS = 32
"""As many as the spec allows in ``rollout.sampling.stop``."""

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class MetricDoc:
    """What the docs say of a metric."""

    unit: str
    """``1`` for a plain number, ``fraction`` for one in [0, 1]."""
    formula: str


class TrajectoryLike(Protocol):
    """The columns of a stored trajectory that the metrics need."""

    @property
    def group_id(self) -> int: ...
    @property
    def response(self) -> str: ...
    @property
    def response_token_ids(self) -> Sequence[int]: ...
    @property
    def reward(self) -> float: ...
    @property
    def reward_status(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def stop_reason(self) -> str | None: ...


def rollout_metrics(trajectories: Sequence[TrajectoryLike], stop: Sequence[str]) -> dict[str, float]:
    """Metrics of one step's trajectories, by the names and formulas of ``METRICS``; an empty dict for none.

    ``stop`` are the spec's stop strings, ``rollout.sampling.stop``.
    """
    lengths = [len(t.response_token_ids) for t in trajectories]
    correct = [t.reward > 0 for t in trajectories]
    reflections = [reflection_count(t.response) for t in trajectories]
    groups: defaultdict[int, list[float]] = defaultdict(list)
    for t in trajectories:
        groups[t.group_id].append(t.reward)
    rows = list(zip(lengths, correct, reflections, strict=True))
    means = {
        "reward_mean": _mean(t.reward for t in trajectories),
        "response_length_mean": _mean(lengths),
        "response_length_std": _std(lengths),
        "response_length_correct_mean": _mean(n for n, right, _ in rows if right),
        "response_length_incorrect_mean": _mean(n for n, right, _ in rows if not right),
        "truncated_fraction": _mean(t.reward_status == "truncated" for t in trajectories),
        "format_fraction": _mean(has_format(t.response) for t in trajectories),
        "pass_at_n": _mean(max(rewards) > 0 for rewards in groups.values()),
        "zero_variance_group_fraction": _mean(min(rewards) == max(rewards) for rewards in groups.values()),
        "reflection_fraction": _mean(count > 0 for count in reflections),
        "reflection_count_mean": _mean(reflections),
        "reflection_correct_length_mean": _mean(n for n, right, count in rows if right and count),
        "repeat_score_mean": _mean(repeat_score(t.response_token_ids) for t in trajectories),
    }
    for percent in LENGTH_PERCENTILES:
        means[f"response_length_p{percent}"] = percentile(lengths, percent)
    means["response_length_max"] = float(max(lengths)) if lengths else None
    for status in get_args(RewardStatus):
        means[f"reward_status_{status}_fraction"] = _mean(t.reward_status == status for t in trajectories)
    means["stop_length_fraction"] = _mean(t.finish_reason == "length" for t in trajectories)
    means["stop_eos_fraction"] = _mean(t.finish_reason == "stop" and t.stop_reason not in stop for t in trajectories)
    for i, text in enumerate(stop):
        means[f"stop_string_{i}_fraction"] = _mean(t.stop_reason == text for t in trajectories)
    return {name: value for name, value in means.items() if value is not None}


def reflection_count(response: str) -> int:
    """Occurrences of all reflection patterns. Example: ``Wait, let me recheck. Wait, no`` has 3."""
    text = response.lower()
    return sum(text.count(pattern) for pattern in REFLECTION_PATTERNS)


def has_format(response: str) -> bool:
    """Whether the response is exactly ``... </think> <answer> ... </answer>``: each tag once, in this order, only white
    space between the two parts and after the end. The prompt ends in ``<think>``."""
    tags = list(_TAG.finditer(response))
    if [tag.group() for tag in tags] != ["</think>", "<answer>", "</answer>"]:
        return False
    return not response[tags[0].end() : tags[1].start()].strip() and not response[tags[2].end() :].strip()


def repeat_score(tokens: Sequence[int]) -> float:
    r"""Share of the response's n-grams (n = 4 tokens) that occurred in it before.

    .. math:: 1 - |\{(x_j, .., x_{j+3})\}| / (T - 3)

    0 for a response without a repeated 4-gram and for one of fewer than 4 tokens, towards 1 for a loop. In the spirit
    of the published code, which counts repeated substrings of every length; n-grams are one cheap pass.

    Example: ``[1, 2, 3, 4, 1, 2, 3, 4]`` has 5 4-grams, 4 of them distinct: 0.2.
    """
    total = len(tokens) - REPEAT_NGRAM + 1
    if total < 1:
        return 0.0
    distinct = set(zip(*(tokens[offset:] for offset in range(REPEAT_NGRAM)), strict=False))
    return 1.0 - len(distinct) / total


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Interpolated linearly between the two nearest ranks, as numpy does it; None of nothing.

    Example: the 90th of 10, 20, 30 is 28.
    """
    if not values:
        return None
    ordered, place = sorted(values), (len(values) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def _std(values: Sequence[float]) -> float | None:
    """Population standard deviation; None of nothing."""
    mean = _mean(values)
    if mean is None:
        return None
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


_REWARD_STATUS_MEANING = {
    "ok": "answer found and compared",
    "no_answer": "stopped without an answer in a box in an answer block",
    "truncated": "did not end by a stop",
    "timeout": "comparison took its whole CPU-time limit",
}

METRICS: dict[str, MetricDoc] = {
    # From the trajectories: rollout_metrics.
    "reward_mean": MetricDoc("fraction", "(1/N) sum_i R_i"),
    "response_length_mean": MetricDoc("tokens", "(1/N) sum_i n_i"),
    "response_length_std": MetricDoc("tokens", "population standard deviation of n_i"),
    "response_length_correct_mean": MetricDoc("tokens", "mean of n_i over correct trajectories"),
    "response_length_incorrect_mean": MetricDoc("tokens", "mean of n_i over incorrect trajectories"),
    **{
        f"response_length_p{percent}": MetricDoc("tokens", f"percentile {percent} of n_i, interpolated linearly")
        for percent in LENGTH_PERCENTILES
    },
    "response_length_max": MetricDoc("tokens", "max_i n_i"),
    "truncated_fraction": MetricDoc("fraction", "share of trajectories that did not end by a stop string or EOS"),
    "format_fraction": MetricDoc(
        "fraction", "share of responses of exactly the form `... </think> <answer> ... </answer>`"
    ),
    "pass_at_n": MetricDoc("fraction", "share of prompt groups with at least one correct trajectory"),
    "zero_variance_group_fraction": MetricDoc("fraction", "share of prompt groups in which all rewards are the same"),
    "reflection_fraction": MetricDoc("fraction", "share of responses with at least one reflection pattern"),
    "reflection_count_mean": MetricDoc(
        "occurrences",
        f"mean per response of occurrences of {', '.join(f'`{p}`' for p in REFLECTION_PATTERNS)}, any case",
    ),
    "reflection_correct_length_mean": MetricDoc(
        "tokens", "mean of n_i over correct trajectories with at least one reflection pattern"
    ),
    "repeat_score_mean": MetricDoc(
        "fraction", f"mean of 1 - distinct / all {REPEAT_NGRAM}-grams of the response's tokens (0 if it has none)"
    ),
    **{
        f"reward_status_{status}_fraction": MetricDoc("fraction", f"share of trajectories: {meaning}")
        for status, meaning in _REWARD_STATUS_MEANING.items()
    },
    "stop_length_fraction": MetricDoc("fraction", "share of trajectories that reached `maxNewTokens`"),
    "stop_eos_fraction": MetricDoc("fraction", "share of trajectories that ended by an end-of-sequence token"),
    **{
        f"stop_string_{i}_fraction": MetricDoc(
            "fraction", f"share of trajectories that ended by `rollout.sampling.stop[{i}]`"
        )
        for i in range(MAX_STOP_STRINGS)
    },
    # From the step: the trainer. Sums over t run over the loss tokens of the step, T in all.
    "value_mean": MetricDoc("1", "(1/T) sum_t V_t, before the critic's update"),
    **{
        f"value_decile_{i}_mean": MetricDoc(
            "1", f"mean of V_t over the tokens in tenth {i} of their response; absent if there is none"
        )
        for i in range(1, 11)
    },
    "advantage_std": MetricDoc("1", "population standard deviation of A_t over tokens, before normalisation"),
    "explained_variance": MetricDoc("1", "1 - var(G - V) / var(G) over tokens, G the return; absent if var(G) = 0"),
    "critic_loss": MetricDoc(
        "1", "(1/T) sum_t 0.5 (V_t - G_t)^2, each token in its mini-batch, before that one's update"
    ),
    "critic_loss_before": MetricDoc(
        "1", "mean of 0.5 (V_t - G_t)^2 over a sample (each rank's first micro-batch), before the critic's updates"
    ),
    "critic_loss_after": MetricDoc("1", "the same tokens after the critic's updates"),
    "policy_loss": MetricDoc("1", "-(1/T) sum_t min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)"),
    "policy_entropy": MetricDoc("nats", "(1/T) sum_t of the entropy of the policy's next-token distribution"),
    "ratio_max": MetricDoc("1", "max_t r_t, r_t = exp(new - old log-prob); 1 in a strictly on-policy step"),
    "clip_fraction": MetricDoc("fraction", "share of tokens with |r_t - 1| > eps; tells nothing when on-policy"),
    "policy_update_kl": MetricDoc(
        "nats", "k3 estimate of KL(version v || version v + 1) over a sample (each rank's first micro-batch)"
    ),
    "weights_changed_fraction": MetricDoc(
        "fraction", "share of the policy's weights whose value in `trainer.dtype` the update changed"
    ),
    "policy_grad_norm": MetricDoc("1", "global L2 norm of the policy's gradient before clipping"),
    "critic_grad_norm": MetricDoc("1", "the critic's, mean over its mini-batches, before clipping"),
    "policy_learning_rate": MetricDoc("1", "rate of the policy's optimizer step"),
    "critic_learning_rate": MetricDoc("1", "rate of the critic's last optimizer step"),
    "reference_kl": MetricDoc(
        "nats", "k3 estimate of KL(policy || base model) over tokens; only with a KL coefficient"
    ),
    "mismatch_abs_mean": MetricDoc("nats", "(1/T) sum_t |d_t|, d_t = trainer's minus sampler's log-prob of token t"),
    "mismatch_k3": MetricDoc("nats", "(1/T) sum_t exp(d_t) - 1 - d_t, an estimate of KL(sampler || trainer)"),
    "mismatch_max": MetricDoc("nats", "max_t |d_t|"),
    "sampler_ess_fraction": MetricDoc(
        "fraction",
        "effective sample size of w_t = exp(d_t), (sum_t w_t)^2 / (T sum_t w_t^2); with samplerCorrection `tis` "
        "w_t is at most tisCap",
    ),
    "staleness_mean": MetricDoc("versions", "mean over trajectories of trainer's version minus sampling version"),
    "seconds_step": MetricDoc("s", "wall time from the end of the step before to the end of this one"),
    "seconds_wait": MetricDoc("s", "wall time for which the trainer waited for trajectories"),
    "seconds_values": MetricDoc("s", "wall time of the critic's forward passes"),
    "seconds_policy_update": MetricDoc("s", "wall time of the policy update"),
    "seconds_measure": MetricDoc("s", "wall time of the pass for policy_update_kl"),
    "seconds_publish": MetricDoc("s", "wall time of publishing the new weights"),
    "seconds_critic_update": MetricDoc("s", "wall time of the critic update"),
    "seconds_checkpoint": MetricDoc(
        "s", "wall time for which the checkpoint that was taken just before this step held it up; 0 where none was"
    ),
    "critic_hidden_fraction": MetricDoc(
        "fraction",
        "share of the critic update of the step before that ran while this step was generated; absent in the first "
        "step of a gang, 0 in a replay",
    ),
    "trainer_idle_fraction": MetricDoc("fraction", "seconds_wait / seconds_step"),
    "rollout_idle_fraction": MetricDoc(
        "fraction",
        "share of the time from the last completion of the step before to this step's in which no training lease was "
        "out (evaluations may have been); absent in the first step of a gang",
    ),
    "tokens_generated": MetricDoc("tokens", "sum_i n_i"),
    "tokens_per_second_generated": MetricDoc("tokens/s", "tokens_generated / (last completion - first lease)"),
    "tokens_per_second_trained": MetricDoc(
        "tokens/s",
        "prompt and response tokens of the step / (seconds_values + seconds_policy_update + seconds_critic_update)",
    ),
    "flops_per_second_trained": MetricDoc(
        "FLOP/s",
        "of one rank: FLOPs of the step's passes (linear layers, causal attention, output layer on response tokens; an "
        "update is three forward passes, recomputation not counted) / ranks / the same seconds",
    ),
    "mfu": MetricDoc(
        "fraction", "flops_per_second_trained / the device's peak in `trainer.dtype`; absent where that is not known"
    ),
}
"""Every key of ``StepCommit.metrics``."""
