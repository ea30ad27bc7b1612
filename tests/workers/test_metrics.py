"""Metrics of a step against worked numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import pytest

from rz_api.spec import SamplingSpec
from rz_api.step_metrics import MAX_STOP_STRINGS, STEP_METRICS
from rz_workers.metrics import (
    has_format,
    percentile,
    reflection_count,
    repeat_score,
    rollout_metrics,
)
from rz_workers.protocol.messages import RewardStatus


@dataclass(frozen=True)
class Row:
    """As much of a trajectory as the metrics need."""

    group_id: int
    reward: float
    length: int
    response: str = "1 </think> <answer> \\boxed{1} </answer>"
    reward_status: str = "ok"
    stop_reason: str | None = "</answer>"
    finish_reason: str = field(init=False)
    response_token_ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "response_token_ids", tuple(range(self.length)))
        object.__setattr__(self, "finish_reason", "length" if self.stop_reason is None else "stop")


STOP = ("User:", "</answer>")

STEP = [
    Row(0, 1.0, 10),
    Row(0, 0.0, 20, "Wait, no </think> <answer> 1 </answer>", "no_answer"),
    Row(1, 0.0, 30, "However, wait, let me recheck", "truncated", None),
    Row(1, 0.0, 40, stop_reason="eos"),
    Row(2, 1.0, 50, "Alternatively, retry </think><answer>\\boxed{1}</answer>", stop_reason="User:"),
    Row(2, 1.0, 60),
]
"""Rewards 1 0 | 0 0 | 1 1, lengths 10 20 | 30 40 | 50 60, reflections 0 1 | 3 0 | 2 0; they end by
string, string | truncated, eos | another string, string."""

WANT = {
    "reward_mean": 3 / 6,
    "reward_std": 0.5,
    "response_length_mean": 35.0,
    "response_length_std": (1750 / 6) ** 0.5,  # squares of 25, 15, 5, 5, 15, 25
    "response_length_correct_mean": 120 / 3,
    "response_length_incorrect_mean": 90 / 3,
    "response_length_p10": 15.0,  # half-way between 10 and 20
    "response_length_p50": 35.0,
    "response_length_p90": 55.0,
    "response_length_p99": 59.5,  # 4.95 of 5 steps up
    "response_length_max": 60.0,
    "truncated_fraction": 1 / 6,
    "format_fraction": 5 / 6,
    "pass_at_n": 2 / 3,
    "zero_variance_group_fraction": 2 / 3,
    "reflection_fraction": 3 / 6,
    "reflection_count_mean": 6 / 6,
    "reflection_correct_length_mean": 50.0,
    "repeat_score_mean": 0.0,
    "reward_status_ok_fraction": 4 / 6,
    "reward_status_no_answer_fraction": 1 / 6,
    "reward_status_truncated_fraction": 1 / 6,
    "reward_status_timeout_fraction": 0.0,
    "reward_status_memory_fraction": 0.0,
    "reward_status_crashed_fraction": 0.0,
    "stop_length_fraction": 1 / 6,
    "stop_eos_fraction": 1 / 6,
    "stop_string_0_fraction": 1 / 6,
    "stop_string_1_fraction": 3 / 6,
}


def test_a_step_of_three_groups() -> None:
    assert rollout_metrics(STEP, STOP) == pytest.approx(WANT)


def test_masked_trajectories_count_in_the_shares_of_statuses_alone() -> None:
    masked = [Row(0, 1.0, 1000, "Wait, wait", "crashed"), Row(3, 1.0, 7, reward_status="crashed", stop_reason=None)]
    shares = {name: value * 6 / 8 for name, value in WANT.items() if name.startswith("reward_status_")}
    want = WANT | shares | {"reward_status_crashed_fraction": 2 / 8}
    assert rollout_metrics([masked[0], *STEP, masked[1]], STOP) == pytest.approx(want)
    assert rollout_metrics(masked, STOP) == {name: float(name == "reward_status_crashed_fraction") for name in shares}


def test_equal_rewards_have_no_spread_to_the_bit() -> None:
    assert rollout_metrics([Row(0, 0.1, 5)] * 10, STOP)["reward_std"] == 0.0


def test_a_step_of_nothing_has_no_metrics() -> None:
    assert rollout_metrics([], STOP) == {}


@pytest.mark.parametrize(
    ("reward", "absent"),
    [
        (0.0, {"response_length_correct_mean", "reflection_correct_length_mean"}),
        (1.0, {"response_length_incorrect_mean", "reflection_correct_length_mean"}),
    ],
    ids=["nothing is correct", "everything is correct, without reflection"],
)
def test_a_mean_over_nothing_is_absent(reward: float, absent: set[str]) -> None:
    assert set(WANT) - set(rollout_metrics([Row(0, reward, 5), Row(1, reward, 7)], STOP)) == absent


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("", 0),
        ("WAIT, what?", 1),
        ("wait what? however it goes", 0),
        ("Wait, let me recheck. Wait, no. Alternatively, I retry; however, ...", 6),
        ("rechecking and retrying", 2),
    ],
)
def test_reflection_patterns(response: str, count: int) -> None:
    assert reflection_count(response) == count


FORMAT = {
    "the plain form": ("1+1=2 </think> <answer> \\boxed{2} </answer>", True),
    "nothing between the tags": ("</think><answer></answer>", True),
    "lines and trailing white space": ("a\nb\n</think>\n\n<answer>\n2\n</answer>\n", True),
    "no end of the reasoning": ("1+1=2 <answer> 2 </answer>", False),
    "words between reasoning and answer": ("a </think> so <answer> 2 </answer>", False),
    "words after the answer": ("a </think> <answer> 2 </answer> indeed", False),
    "an answer that is not closed": ("a </think> <answer> 2", False),
    "two answers": ("a </think> <answer> 1 </answer> <answer> 2 </answer>", False),
    "an answer within the reasoning": ("a <answer> 1 </answer> </think> <answer> 2 </answer>", False),
    "a second start of the reasoning": ("a <think> b </think> <answer> 2 </answer>", False),
    "two ends of the reasoning": ("a </think> b </think> <answer> 2 </answer>", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize(("response", "good"), FORMAT.values(), ids=FORMAT.keys())
def test_format(response: str, good: bool) -> None:
    assert has_format(response) is good


REPEATS = {
    "nothing": ([], 0.0),
    "shorter than one 4-gram": ([7, 7, 7], 0.0),
    "no repetition": ([1, 2, 3, 4, 5, 6], 0.0),
    "one 4-gram of five again": ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),
    "the same token 103 times": ([7] * 103, 99 / 100),
    "a loop of two tokens": ([1, 2] * 10, 1 - 2 / 17),
}


@pytest.mark.parametrize(("tokens", "score"), REPEATS.values(), ids=REPEATS.keys())
def test_repeat_score(tokens: list[int], score: float) -> None:
    assert repeat_score(tokens) == pytest.approx(score)


@pytest.mark.parametrize(
    ("values", "percent", "want"),
    [
        pytest.param([10, 20, 30], 90, 28.0, id="between the two nearest"),
        pytest.param([30, 10, 20], 50, 20.0, id="in any order"),
        pytest.param([7], 99, 7.0, id="of one value it is that"),
        pytest.param([1, 2], 100, 2.0, id="the hundredth is the largest"),
        pytest.param([], 50, None, id="of nothing there is none"),
    ],
)
def test_percentile(values: list[float], percent: float, want: float | None) -> None:
    assert percentile(values, percent) == want


def test_every_stop_string_that_the_spec_allows_has_a_metric() -> None:
    texts = [str(i) for i in range(MAX_STOP_STRINGS)]
    assert len(SamplingSpec(stop=texts).stop) == MAX_STOP_STRINGS
    with pytest.raises(ValueError, match="at most 32"):
        SamplingSpec(stop=[*texts, "one more"])
    assert {f"stop_string_{i}_fraction" for i in range(MAX_STOP_STRINGS)} <= set(STEP_METRICS)


def test_every_metric_of_a_step_is_documented() -> None:
    assert set(rollout_metrics(STEP, STOP)) <= set(STEP_METRICS)
    assert {f"reward_status_{status}_fraction" for status in get_args(RewardStatus)} <= set(STEP_METRICS)
    assert all(doc.unit and doc.formula for doc in STEP_METRICS.values())
