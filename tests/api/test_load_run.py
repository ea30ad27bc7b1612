"""A user's file to a run, or to an error that says where, what was found, what was required and what to change."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from api_builders import document

from rz_api.resource import SpecError, load_run

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field that resembles a known one": (
        {"spec.rollout.replcas": 24},
        "spec.rollout.replcas: found 24, but there is no such field: did you mean replicas?",
    ),
    "an unknown field that belongs elsewhere": (
        {"spec.maxNewTokens": 100},
        "spec.maxNewTokens: found 100, but there is no such field here: move it to spec.rollout.sampling.maxNewTokens",
    ),
    "a field in the spelling of Python": (
        {"spec.algorithm.prompts_per_step": 8},
        "spec.algorithm.prompts_per_step: found 8, but the field is written promptsPerStep: rename it",
    ),
    "an unknown field that resembles nothing": (
        {"spec.storage.flavour": "salt"},
        'spec.storage.flavour: found "salt", but there is no such field: remove it; '
        "known here are uri, secretName, adopt, retention",
    ),
    "an unknown field in a list": (
        {"spec.data.train.0.url": "x"},
        'spec.data.train[0].url: found "x", but there is no such field: did you mean uri?',
    ),
    "a number in quotes": (
        {"spec.trainer.nodes": "5"},
        'spec.trainer.nodes: found "5", a whole number is required: write it without quotes, point or unit',
    ),
    "a fraction for a whole number": (
        {"spec.trainer.gpusPerNode": 7.5},
        "spec.trainer.gpusPerNode: found 7.5, a whole number is required: write it without quotes, point or unit",
    ),
    "a word for a number": (
        {"spec.algorithm.gamma": "one"},
        'spec.algorithm.gamma: found "one", a number is required: write it without quotes or unit',
    ),
    "infinity": (
        {"spec.algorithm.policy.maxGradNorm": float("inf")},
        "spec.algorithm.policy.maxGradNorm: found Infinity, a finite number is required: "
        "write a large one, or remove the field to get the default",
    ),
    "a word for a switch": (
        {"spec.suspend": "yes"},
        'spec.suspend: found "yes", true or false is required: write one of them, without quotes',
    ),
    "a number for a string": (
        {"spec.model.revision": 123},
        "spec.model.revision: found 123, a string is required: put it in quotes",
    ),
    "a value for a list": (
        {"spec.rollout.sampling.stop": "User:"},
        'spec.rollout.sampling.stop: found "User:", a list is required: begin each entry with a dash',
    ),
    "a value for a section": (
        {"spec.trainer": 5},
        "spec.trainer: found 5, a mapping is required: write its fields below it, indented",
    ),
    "an empty section": (
        {"spec.algorithm": None},
        "spec.algorithm: found nothing (null), a mapping is required: set it, or remove the field to get the default",
    ),
    "too small": (
        {"spec.rollout.sampling.maxNewTokens": 0},
        "spec.rollout.sampling.maxNewTokens: found 0, at least 1 is required: change the value",
    ),
    "not positive": (
        {"spec.algorithm.clipRatio": 0},
        "spec.algorithm.clipRatio: found 0, more than 0.0 is required: change the value",
    ),
    "too large": (
        {"spec.algorithm.maxStaleness": 2},
        "spec.algorithm.maxStaleness: found 2, at most 1 is required: change the value",
    ),
    "just too large": (
        {"spec.algorithm.policy.beta1": 1.0},
        "spec.algorithm.policy.beta1: found 1.0, less than 1.0 is required: change the value",
    ),
    "a choice that resembles another": (
        {"spec.trainer.dtype": "float16"},
        'spec.trainer.dtype: found "float16", one of bfloat16, float32 is required: did you mean bfloat16?',
    ),
    "a choice that resembles nothing": (
        {"spec.algorithm.name": "reinforce"},
        'spec.algorithm.name: found "reinforce", one of ppo, grpo is required: change the value',
    ),
    "an empty string": (
        {"spec.storage.uri": ""},
        "spec.storage.uri: found 0 characters, at least 1 is required: fill it in",
    ),
    "no training data": (
        {"spec.data.train": []},
        "spec.data.train: found 0 entries, at least 1 is required: fill it in",
    ),
    "a fraction for a quantity": (
        {"spec.trainer.resources.limits": {"cpu": 1.5}},
        "spec.trainer.resources.limits.cpu: found 1.5, a string or a whole number is required: put it in quotes",
    ),
    "a name that no variable can have": (
        {"spec.ledger.env": [{"name": "A=B"}]},
        'spec.ledger.env[0].name: found "A=B", a string that matches ^[A-Za-z_][A-Za-z0-9_.-]*$ is required: '
        "change the value",
    ),
    "a name with a dot": (
        {"metadata.name": "orz-0.5b"},
        "metadata.name: found \"orz-0.5b\"; a run's name is at most 40 lower-case letters, digits and '-', begins with "
        "a letter and ends with a letter or digit, because its pods' names and hostnames are made from it: rename the "
        "run",
    ),
    "another kind": (
        {"kind": "Job"},
        "kind: found 'Job', ReasonerZeroRun is required: write `kind: ReasonerZeroRun`",
    ),
    "another version": (
        {"apiVersion": "v1"},
        "apiVersion: found 'v1', reasonerzero.dev/v1alpha1 is required: write `apiVersion: reasonerzero.dev/v1alpha1`",
    ),
    "a section outside the spec": (
        {"trainer": {"nodes": 2}},
        "trainer: found a field 'trainer' at the top, there is none of this name: move it below spec",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_spec_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        load_run(document(changes))
    assert [str(problem) for problem in error.value.problems] == [message]


@pytest.mark.parametrize("field", ["model", "data", "storage"])
def test_what_has_no_default_is_asked_for(field: str) -> None:
    bad = document()
    del bad["spec"][field]
    with pytest.raises(SpecError, match=rf"tiny: spec\.{field}: found nothing, a value is required: add `{field}`"):
        load_run(bad)


def test_all_problems_come_at_once_under_the_runs_name() -> None:
    with pytest.raises(SpecError) as error:
        load_run(document({"spec.trainer.nodes": 0, "spec.rollout.replicas": -1, "kind": "Job"}))
    first, *lines = str(error.value).splitlines()
    assert first == "tiny: 3 problems"
    assert [line.strip().split(":")[0] for line in lines] == [
        "- kind",
        "- spec.rollout.replicas",
        "- spec.trainer.nodes",
    ]


def test_an_empty_document_names_everything_that_is_missing() -> None:
    with pytest.raises(SpecError) as error:
        load_run({})
    paths = [problem.path for problem in error.value.problems]
    assert paths == ["apiVersion", "kind", "metadata.name", "spec.model", "spec.data", "spec.storage"]


def test_text_and_the_object_parsed_from_it_give_the_same_run() -> None:
    assert load_run(yaml.safe_dump(document())) == load_run(document())


def test_text_that_is_no_yaml_is_an_error_of_the_same_kind() -> None:
    with pytest.raises(SpecError, match="line 2: this is not YAML"):
        load_run("spec:\n  model: ]\n")


def test_an_object_of_the_api_server_loads_with_what_this_project_does_not_read() -> None:
    run = load_run(
        document(
            {
                "metadata.uid": "0d8e",
                "metadata.generation": 3,
                "metadata.creationTimestamp": "2025-11-22T20:54:00Z",
                "metadata.managedFields": [{"manager": "kubectl"}],
                "status.phase": "Running",
                "status.aFieldOfANewerOperator": 1,
            }
        )
    )
    assert (run.metadata.uid, run.metadata.generation, run.status.phase) == ("0d8e", 3, "Running")
    assert run.metadata.creation_timestamp is not None


def test_a_run_that_was_loaded_survives_a_round_trip() -> None:
    run = load_run(document({"spec.algorithm.seed": 7}))
    assert load_run(run.model_dump(mode="json", by_alias=True)) == run
