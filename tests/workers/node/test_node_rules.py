"""What ``RZ_NODE`` may say, and what the end of a process means."""

from __future__ import annotations

import json

import pytest

from rz_workers.node.rules import (
    End,
    Next,
    after_end,
    backoff,
    count,
    exit_code,
    likely_cause,
    outcome,
    parse,
    root_cause,
)
from rz_workers.runtime import UserError

RANK = {"name": "trainer-0", "command": ["true"], "essential": True}
HELPER = {"name": "rollout-0", "command": ["true"], "essential": False}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(None, "found no RZ_NODE in the environment", id="absent"),
        pytest.param("{", "the text: Invalid JSON", id="no JSON"),
        pytest.param('{"processes": []}', "processes: List should have at least 1 item", id="nothing to run"),
        pytest.param('{"processes": [{"name": "a"}]}', "processes.0.command: Field required", id="no command"),
        pytest.param(json.dumps({"processes": [RANK | {"name": "A b"}]}), "processes.0.name: String", id="a bad name"),
        pytest.param(json.dumps({"processes": [RANK | {"envs": {}}]}), "processes.0.envs: Extra", id="a field unknown"),
        pytest.param(
            json.dumps({"processes": [RANK | {"env": {"A": 1}}]}), "env.A: Input should", id="a number as env"
        ),
        pytest.param(json.dumps({"processes": [RANK, RANK]}), "names trainer-0 more than once", id="a name twice"),
        pytest.param(json.dumps({"processes": [HELPER]}), "no essential process among rollout-0", id="none essential"),
    ],
)
def test_a_description_that_cannot_be_used_says_why(text: str | None, words: str) -> None:
    with pytest.raises(UserError, match="RZ_NODE") as error:
        parse(text)
    assert words in str(error.value)


def test_an_environment_is_not_repeated_in_the_complaint() -> None:
    with pytest.raises(UserError) as error:
        parse(json.dumps({"processes": [RANK | {"env": {"TOKEN": ["hidden-value"]}}]}))
    assert "hidden-value" not in str(error.value)


@pytest.mark.parametrize(
    ("essential", "code", "failures", "want"),
    [
        pytest.param(True, 0, 0, Next.GO_ON, id="a rank that is done lets the others go on"),
        pytest.param(True, 75, 0, Next.DRAIN, id="a drained rank drains the others"),
        pytest.param(True, 70, 1, Next.STOP, id="a failed rank stops everyone"),
        pytest.param(True, 137, 1, Next.STOP, id="a killed rank stops everyone"),
        pytest.param(False, 0, 0, Next.GO_ON, id="a rollout that is done stays done"),
        pytest.param(False, 75, 0, Next.START_AGAIN, id="a drained rollout starts again"),
        pytest.param(False, 70, 4, Next.START_AGAIN, id="a failed rollout starts again"),
        pytest.param(False, 70, 5, Next.STOP, id="a rollout that fails for the fifth time stops everyone"),
        pytest.param(False, 64, 1, Next.STOP, id="a rollout with a user error stops everyone"),
    ],
)
def test_what_follows_from_an_end(essential: bool, code: int, failures: int, want: Next) -> None:
    assert after_end(End("x", essential, code, ""), failures, 5) is want


@pytest.mark.parametrize(
    ("codes", "want"),
    [
        pytest.param([], None, id="all is well"),
        pytest.param([75, 75], 0, id="drained"),
        pytest.param([75, 70], 1, id="a failure counts more than a drain before it"),
        pytest.param([137, 70, 70], 0, id="the first failure"),
        pytest.param([70, 76, 64], 2, id="exit 64 whenever it came"),
    ],
)
def test_the_root_cause(codes: list[int], want: int | None) -> None:
    ends = [End(f"trainer-{rank}", True, code, "") for rank, code in enumerate(codes)]
    assert root_cause(ends) is (None if want is None else ends[want])


def test_of_ends_at_the_same_moment_a_kill_from_outside_comes_first() -> None:
    ends = [End("a", True, 0, ""), End("b", True, 70, ""), End("c", True, 137, "")]
    assert [end.name for end in sorted(ends, key=likely_cause)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("code", "before", "lived", "want"),
    [
        (70, 2, 10.0, 3),
        (70, 2, 900.0, 1),
        (75, 2, 10.0, 2),
        (0, 2, 10.0, 2),
    ],
)
def test_failures_in_a_row(code: int, before: int, lived: float, want: int) -> None:
    assert count(End("x", False, code, ""), before, lived) == want


def test_pauses_double_up_to_a_minute() -> None:
    assert [backoff(1.0, failures) for failures in (0, 1, 2, 3, 7, 100)] == [1, 1, 2, 4, 60, 60]


@pytest.mark.parametrize(
    ("returncode", "code", "words"),
    [
        (70, 70, "ended with exit code 70"),
        (-9, 137, "was killed by SIGKILL (137; perhaps for its memory limit)"),
        (-15, 143, "was killed by SIGTERM (143)"),
        (255, 255, "ended with exit code 255"),
    ],
)
def test_exit_codes_and_their_words(returncode: int, code: int, words: str) -> None:
    assert (exit_code(returncode), outcome(code)) == (code, words)
