import math

import pytest
from report_builders import START, an_evaluation, weights

from rz_workers.report.series import (
    Series,
    chosen_steps,
    critic_hidden_fraction,
    evaluation,
    metric,
    smooth,
    step_window,
)
from rz_workers.report.style import spread
from rz_workers.storage.records import Phase, StepCommit


def commit(step: int, **metrics: float) -> StepCommit:
    return StepCommit(step=step, incarnation=1, shards=(), weights=weights(step + 1), metrics=metrics)


def timed(*phases: tuple[int, str, float, float]) -> list[tuple[int, Phase]]:
    """(step, name, start, end) each, seconds from START."""
    return [
        (step, Phase(name=name, role="trainer", started=START + start, seconds=end - start))
        for step, name, start, end in phases
    ]


def test_a_step_without_a_finite_value_has_no_point() -> None:
    commits = [commit(0, reward_mean=0.2), commit(1), commit(2, reward_mean=math.nan), commit(3, reward_mean=0.5)]
    assert metric(commits, "reward_mean", "reward") == Series("reward", (0, 3), (0.2, 0.5))


def test_an_evaluation_is_at_its_weight_version() -> None:
    evaluations = [an_evaluation(0, ["a"]), an_evaluation(10, ["a", "b"])]
    assert evaluation(evaluations, "accuracy", "b").x == (10,)


@pytest.mark.parametrize(
    ("values", "width", "want"),
    [
        pytest.param(
            (0.0, 3.0, 6.0, 0.0), 3, (0.0, 3.0, 3.0, 0.0), id="each point is the mean of itself and neighbours"
        ),
        pytest.param((1.0, 2.0), 5, (1.0, 2.0), id="the ends are never pulled to one side"),
        pytest.param((), 5, (), id="nothing stays nothing"),
    ],
)
def test_smooth(values: tuple[float, ...], width: int, want: tuple[float, ...]) -> None:
    assert smooth(Series("", tuple(range(len(values))), values), width).y == pytest.approx(want)


@pytest.mark.parametrize(
    ("steps", "want"),
    [
        pytest.param([0], (0,), id="one step is shown once"),
        pytest.param([0, 1], (0, 1), id="two steps have no middle"),
        pytest.param(list(range(60)), (0, 29, 59), id="first, middle and last of sixty"),
    ],
)
def test_chosen_steps(steps: list[int], want: tuple[int, ...]) -> None:
    assert chosen_steps(steps) == want


def steps_of(phases: list[tuple[int, str, float, float]]) -> list[StepCommit]:
    found = timed(*phases)
    return [
        commit(step).model_copy(update={"phases": tuple(phase for of, phase in found if of == step)})
        for step in sorted({step for step, _ in found})
    ]


@pytest.mark.parametrize(
    ("phases", "want"),
    [
        pytest.param([(0, "critic_update", 10, 14), (1, "generate", 11, 20)], 0.75, id="three of four seconds"),
        pytest.param([(0, "critic_update", 0, 4), (1, "generate", 5, 9)], 0.0, id="one after the other hides nothing"),
        pytest.param(
            [(0, "critic_update", 0, 4), (1, "generate", 0, 4), (1, "critic_update", 5, 9)],
            1.0,
            id="behind the last step nothing is generated",
        ),
        pytest.param([(0, "critic_update", 0, 4)], None, id="one step has no next one"),
        pytest.param([(0, "generate", 0, 4), (1, "generate", 4, 6)], None, id="without a critic there is no fraction"),
    ],
)
def test_share_of_the_critic_behind_generation(phases: list[tuple[int, str, float, float]], want: float | None) -> None:
    assert critic_hidden_fraction(steps_of(phases)) == pytest.approx(want)


def test_a_late_evaluation_does_not_stretch_its_steps_window() -> None:
    phases = timed((3, "generate", 1, 2), (3, "critic_update", 4, 5), (3, "evaluate", 2, 99), (4, "generate", 4, 8))
    assert step_window(phases, 3) == (START + 1, START + 5)


@pytest.mark.parametrize(
    ("heights", "want"),
    [
        pytest.param([1.0, 1.0], [0.0, 2.0], id="two labels at one place move apart evenly"),
        pytest.param([5.0, 1.0], [5.0, 1.0], id="distant labels stay"),
        pytest.param([0.0, 3.0, 3.0], [0.0, 2.0, 4.0], id="a pushed label stops at its neighbour"),
    ],
)
def test_labels_are_spread(heights: list[float], want: list[float]) -> None:
    assert spread(heights, gap=2.0) == pytest.approx(want)
