"""Procedural tasks as teachers: what their scorers get right, and what is refused when the run starts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rz_api.spec import DataSource
from rz_workers.data.datasets import read_source
from rz_workers.data.procedural import check_scorer, check_seeds, dataset_of, make, packed, score, task_name
from rz_workers.reward.interface import Example
from rz_workers.reward.task_scorer import task_scorer
from rz_workers.runtime import UserError


def first(task: str) -> tuple[Any, str, dict[str, Any]]:
    """The task, its first answer, and the fields that travel with its first item."""
    uri = f"reasoning-gym://{task}?size=2"
    dataset, _ = dataset_of(uri)
    return dataset, str(dataset[0]["answer"]), json.loads(json.dumps(packed(dataset[0])))


SCORES: dict[str, tuple[str, str, float]] = {
    "the task's own answer": ("countdown", "{answer}", 1),
    "the bare target, which is no way to reach it": ("countdown", "{target}", 0.05),
    "a text where numbers are required": ("prime_factorization", "no idea", 0),
    "the right word in another case": ("spell_backward", "{upper}", 1),
    "the right word with more behind it": ("spell_backward", "{answer}xx", 0),
    "an anagram": ("spell_backward", "{reversed}", 0),
    "the right sentence with more behind it": ("letter_jumble", "{answer} and more", 0),
    "an answer that is compared with a tuple": ("rearc", "{answer}", 1),
    "ten tenths": ("letter_jumble", "{answer}", 1),
}


@pytest.mark.parametrize(("task", "given", "wanted"), SCORES.values(), ids=SCORES)
def test_the_score_of(task: str, given: str, wanted: float) -> None:
    dataset, answer, fields = first(task)
    target = dataset[0]["metadata"].get("target")
    text = given.format(answer=answer, target=target, upper=answer.upper(), reversed=answer[::-1])
    assert score(dataset, task, text, fields) == wanted


REFUSED: dict[str, str] = {
    "game_of_life_halting": r"gives 1 to its own answer and 1 to 'there is no answer here'",
    "rush_hour": r"item 0: found null; a reference answer",
}


@pytest.mark.parametrize(("task", "words"), REFUSED.items())
def test_a_task_that_teaches_nothing_is_refused(task: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_source(DataSource(uri=(uri := f"reasoning-gym://{task}?size=3")), verifier=uri)


@pytest.mark.parametrize("task", ["countdown", "rearc", "spell_backward", "chain_sum", "knights_knaves"])
def test_a_task_that_tells_its_answer_from_none_is_taken(task: str) -> None:
    uri = f"reasoning-gym://{task}?size=3"
    check_scorer(uri, make(uri))


def test_a_refused_task_may_have_another_verifier() -> None:
    uri = "reasoning-gym://game_of_life_halting?size=3"
    source = DataSource(uri=uri)
    with pytest.raises(UserError, match="set verifier at this source to another"):
        read_source(source, verifier=uri)
    assert len(read_source(source, verifier="exact")) == 3


def test_the_verifier_is_named_by_its_uri_and_scores_by_the_items_of_the_table() -> None:
    uri = "reasoning-gym://countdown?size=2&seed=4"
    (record, _) = read_source(DataSource(uri=uri), verifier=uri)
    verifier, fields = task_scorer(uri), json.loads(record.fields)
    rewards = [verifier(Example(answer, "", fields=fields)).reward for answer in (record.reference_answer, "no", "7")]
    assert rewards[0] == 1
    assert max(rewards[1:]) < 0.1
    assert task_name(uri) == "countdown"


def test_items_do_not_depend_on_the_hashes_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        made.add(make("reasoning-gym://isomorphic_strings?size=3"))
    assert len(made) == 1


SEEDS: dict[str, tuple[str, str, str | None]] = {
    "the next seed": ("chain_sum?size=200", "chain_sum?size=200&seed=1", "set seed=200"),
    "a seed within": ("chain_sum?size=200&seed=7", "chain_sum?size=1&seed=206", "set seed=207"),
    "a range around": ("chain_sum?size=2&seed=50", "chain_sum?size=100", "set seed=52"),
    "other options": ("chain_sum?size=9&max_terms=3", "chain_sum?size=9&max_terms=4", "set seed=9"),
    "the first seed behind": ("chain_sum?size=200", "chain_sum?size=200&seed=200", None),
    "another task": ("chain_sum?size=200", "countdown?size=200", None),
}


@pytest.mark.parametrize(("train", "evaluation", "words"), SEEDS.values(), ids=SEEDS)
def test_seeds_of_training_and_evaluation(train: str, evaluation: str, words: str | None) -> None:
    uris = ["train.jsonl", f"reasoning-gym://{train}"], ["heldout.jsonl", f"reasoning-gym://{evaluation}"]
    if words is None:
        check_seeds(*uris)
    else:
        with pytest.raises(UserError, match=words):
            check_seeds(*uris)
