"""examples/tiny/task.py: problems, written solutions and the held-out rule, on worked examples."""

import random
from itertools import pairwise

import pytest
from task import (
    PROMPT_TEMPLATE,
    Problem,
    answered,
    draw_distinct,
    draw_problem,
    full_steps,
    is_right,
    terse_steps,
    totals_with_slips,
)

PROBLEM = Problem(7, (8, -4, -1, 2, -8))


def test_question_and_totals_of_the_worked_example() -> None:
    assert PROBLEM.question == "7 a+8 b-4 c-1 d+2 e-8 =?"
    assert PROBLEM.totals == (15, 11, 10, 12, 4)
    assert PROBLEM.answer == 4


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param(answered("", 4), r" </think> <answer> \boxed{4} </answer>", id="a direct answer has no thoughts"),
        pytest.param(
            answered(terse_steps(PROBLEM, PROBLEM.totals), 4),
            r" 7 a 15 b 11 c 10 d 12 e 4 </think> <answer> \boxed{4} </answer>",
            id="terse steps give totals only",
        ),
        pytest.param(
            answered(full_steps(PROBLEM, PROBLEM.totals), 4),
            r" 7 a+8 = 15 b-4 = 11 c-1 = 10 d+2 = 12 e-8 = 4 </think> <answer> \boxed{4} </answer>",
            id="full steps repeat the operands",
        ),
    ],
)
def test_solutions_are_written_like(response: str, expected: str) -> None:
    assert response == expected
    assert is_right(PROBLEM, response)


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(answered("", 5), id="another number"),
        pytest.param(answered("", 14), id="a number that ends like the answer"),
        pytest.param(r" \boxed{4} </answer>", id="no answer tag"),
        pytest.param(answered("", 4) + " 7", id="text behind the answer"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_response_is_wrong_with(response: str) -> None:
    assert not is_right(PROBLEM, response)


def test_drawn_problems_have_5_to_9_numbers_and_totals_within_0_to_19() -> None:
    rng = random.Random(0)
    problems = [draw_problem(rng, held_out=False) for _ in range(500)]
    assert {len(problem.operands) + 1 for problem in problems} == {5, 6, 7, 8, 9}
    assert all(0 <= total <= 19 for problem in problems for total in problem.totals)
    assert all(1 <= abs(operand) <= 9 for problem in problems for operand in problem.operands)


def test_a_problem_is_held_out_by_its_question_alone() -> None:
    # Facts about sha256: were this to change, problems that older base models have seen would be held out.
    assert [start for start in range(1, 10) if Problem(start, (1, 2, 3, 4)).held_out] == [1]
    assert all(problem.held_out for problem in draw_distinct(random.Random(1), 50, held_out=True))
    assert not any(problem.held_out for problem in draw_distinct(random.Random(1), 50, held_out=False))


def test_distinct_problems_are_distinct_and_follow_from_the_seed() -> None:
    drawn = draw_distinct(random.Random(3), 300, held_out=False)
    assert len(set(drawn)) == 300
    assert drawn == draw_distinct(random.Random(3), 300, held_out=False)


def test_no_slips_at_rate_0() -> None:
    assert totals_with_slips(PROBLEM, random.Random(0), 0.0) == PROBLEM.totals


def test_a_slip_shifts_all_later_totals_and_stays_within_0_to_19() -> None:
    rng = random.Random(0)
    for _ in range(200):
        totals = totals_with_slips(PROBLEM, rng, 0.2)
        shifts = [found - true for found, true in zip(totals, PROBLEM.totals, strict=True)]
        steps = [after - before for before, after in pairwise(totals)]
        assert all(0 <= total <= 19 for total in totals)
        assert all(
            (step == operand) == (before == after)
            for step, operand, (before, after) in zip(steps, PROBLEM.operands[1:], pairwise(shifts), strict=True)
        )


def test_the_prompt_ends_where_the_response_starts() -> None:
    assert PROMPT_TEMPLATE.replace("{question}", PROBLEM.question) == (
        "User: 7 a+8 b-4 c-1 d+2 e-8 =? Assistant: <think>"
    )
