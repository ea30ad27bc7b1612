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


def rollout_metrics(trajectories: Sequence[TrajectoryLike]) -> dict[str, float]:
    """Metrics of one step's trajectories, by the names and formulas of ``METRICS``; an empty dict for none."""
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
    for status in get_args(RewardStatus):
        means[f"reward_status_{status}_fraction"] = _mean(t.reward_status == status for t in trajectories)
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
    # From the step: the trainer. Sums over t run over the loss tokens of the step, T in all.
    "value_mean": MetricDoc("1", "(1/T) sum_t V_t, before the critic's update"),
    "advantage_std": MetricDoc("1", "population standard deviation of A_t over tokens, before normalisation"),
    "explained_variance": MetricDoc("1", "1 - var(G - V) / var(G) over tokens, G the return; absent if var(G) = 0"),
    "critic_loss": MetricDoc(
        "1", "(1/T) sum_t 0.5 (V_t - G_t)^2, each token in its mini-batch, before that one's update"
    ),
    "policy_loss": MetricDoc("1", "-(1/T) sum_t min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)"),
    "policy_entropy": MetricDoc("nats", "(1/T) sum_t of the entropy of the policy's next-token distribution"),
    "ratio_max": MetricDoc("1", "max_t r_t, r_t = exp(new - old log-prob); 1 in a strictly on-policy step"),
    "clip_fraction": MetricDoc("fraction", "share of tokens with |r_t - 1| > eps; tells nothing when on-policy"),
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
    "staleness_mean": MetricDoc("versions", "mean over trajectories of trainer's version minus sampling version"),
    "seconds_step": MetricDoc("s", "wall time from the end of the step before to the end of this one"),
    "seconds_wait": MetricDoc("s", "wall time for which the trainer waited for trajectories"),
    "seconds_values": MetricDoc("s", "wall time of the critic's forward passes"),
    "seconds_policy_update": MetricDoc("s", "wall time of the policy update"),
    "seconds_publish": MetricDoc("s", "wall time of publishing the new weights"),
    "seconds_critic_update": MetricDoc("s", "wall time of the critic update, behind the next generation"),
    "seconds_checkpoint": MetricDoc(
        "s", "wall time of the checkpoint that was taken just before this step; 0 where none was"
    ),
    "tokens_generated": MetricDoc("tokens", "sum_i n_i"),
    "tokens_per_second_generated": MetricDoc("tokens/s", "tokens_generated / (last completion - first lease)"),
    "tokens_per_second_trained": MetricDoc(
        "tokens/s",
        "prompt and response tokens of the step / (seconds_values + seconds_policy_update + seconds_critic_update)",
    ),
}
"""Every key of ``StepCommit.metrics``."""
