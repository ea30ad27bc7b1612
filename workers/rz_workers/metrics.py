r"""A mean over nothing is absent, never 0: the figures of a training step that its trajectories give.

Names and formulas are those of ``rz_api.step_metrics``. The trainer calls ``rollout_metrics`` and adds what it measures
itself. Pure; no torch, no numpy.

Notation: a step has the trajectories i = 1..N in prompt groups, those without a reward (masked) left out; n_i is the
number of response tokens, R_i the reward. A trajectory is correct if R_i > 0.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, get_args

from rz_api.step_metrics import LENGTH_PERCENTILES, REFLECTION_PATTERNS, REPEAT_NGRAM
from rz_workers.protocol.messages import RewardStatus, is_masked

_TAG = re.compile(r"</?(?:think|answer)>")


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
    """Metrics of one step's trajectories, by the names and formulas of ``STEP_METRICS``; an empty dict for none.

    ``stop`` are the spec's stop strings, ``rollout.sampling.stop``. Masked trajectories count in the shares of reward
    statuses alone.
    """
    statuses = {
        f"reward_status_{status}_fraction": _mean(t.reward_status == status for t in trajectories)
        for status in get_args(RewardStatus)
    }
    means = statuses | _of_scored([t for t in trajectories if not is_masked(t.reward_status)], stop)
    return {name: value for name, value in means.items() if value is not None}


def _of_scored(trajectories: Sequence[TrajectoryLike], stop: Sequence[str]) -> dict[str, float | None]:
    """Metrics of the trajectories that have a reward; None is a mean over nothing."""
    lengths = [len(t.response_token_ids) for t in trajectories]
    correct = [t.reward > 0 for t in trajectories]
    reflections = [reflection_count(t.response) for t in trajectories]
    groups: defaultdict[int, list[float]] = defaultdict(list)
    for t in trajectories:
        groups[t.group_id].append(t.reward)
    rows = list(zip(lengths, correct, reflections, strict=True))
    rewards = [t.reward for t in trajectories]
    means: dict[str, float | None] = {
        "reward_mean": _mean(rewards),
        "reward_std": _std(rewards),
        "response_length_mean": _mean(lengths),
        "response_length_std": _std(lengths),
        "response_length_correct_mean": _mean(n for n, right, _ in rows if right),
        "response_length_incorrect_mean": _mean(n for n, right, _ in rows if not right),
        "truncated_fraction": _mean(t.reward_status == "truncated" for t in trajectories),
        "format_fraction": _mean(has_format(t.response) for t in trajectories),
        "pass_at_n": _mean(max(group) > 0 for group in groups.values()),
        "zero_variance_group_fraction": _mean(min(group) == max(group) for group in groups.values()),
        "reflection_fraction": _mean(count > 0 for count in reflections),
        "reflection_count_mean": _mean(reflections),
        "reflection_correct_length_mean": _mean(n for n, right, count in rows if right and count),
        "repeat_score_mean": _mean(repeat_score(t.response_token_ids) for t in trajectories),
    }
    for percent in LENGTH_PERCENTILES:
        means[f"response_length_p{percent}"] = percentile(lengths, percent)
    means["response_length_max"] = float(max(lengths)) if lengths else None
    means["stop_length_fraction"] = _mean(t.finish_reason == "length" for t in trajectories)
    means["stop_eos_fraction"] = _mean(t.finish_reason == "stop" and t.stop_reason not in stop for t in trajectories)
    for i, text in enumerate(stop):
        means[f"stop_string_{i}_fraction"] = _mean(t.stop_reason == text for t in trajectories)
    return means


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
    # The slices end one after the other; the shortest has `total` elements.
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
    """Population standard deviation; exactly 0 of equal values, None of nothing."""
    mean = _mean(values)
    if mean is None:
        return None
    if min(values) == max(values):
        return 0.0  # the mean of equal values may be another number: of ten times 0.1 it is
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
