import pytest
from report_builders import a_trajectory

from rz_api.spec import PROMPT_TEMPLATE
from rz_workers.report.samples import choose, question_of


def test_the_sample_has_median_length_among_those_of_its_outcome() -> None:
    rows = [a_trajectory(sample_index=i, tokens=n) for i, n in enumerate((9, 1, 5, 7, 3))]
    wrong = [a_trajectory(sample_index=9, tokens=5, reward=0.0)]
    chosen = choose([*wrong, *rows], correct=True)
    assert chosen is not None
    assert (len(chosen.response_token_ids), chosen.reward) == (5, 1.0)


def test_a_sample_of_like_prompts_is_preferred() -> None:
    like = a_trajectory(prompt_tokens=4)
    rows = [
        a_trajectory(sample_index=i, prompt_tokens=p, tokens=t) for i, (p, t) in enumerate([(8, 1), (4, 9), (8, 2)])
    ]
    chosen = choose(rows, correct=True, like=like)
    assert chosen is not None
    assert chosen.sample_index == 1


def test_any_prompt_serves_where_none_is_alike() -> None:
    assert choose([a_trajectory(prompt_tokens=8)], correct=True, like=a_trajectory(prompt_tokens=4)) is not None


def test_there_is_no_correct_sample_where_nothing_is_correct() -> None:
    assert choose([a_trajectory(reward=0.0)], correct=True) is None


@pytest.mark.parametrize(
    ("prompt", "template", "want"),
    [
        pytest.param("User: 1+1\nAssistant:", "User: {question}\nAssistant:", "1+1", id="the question alone"),
        pytest.param(PROMPT_TEMPLATE.replace("{question}", "2+2"), PROMPT_TEMPLATE, "2+2", id="the paper's template"),
        pytest.param("something else", "User: {question}\n", "something else", id="another form is shown whole"),
    ],
)
def test_question_of(prompt: str, template: str, want: str) -> None:
    assert question_of(prompt, template) == want
