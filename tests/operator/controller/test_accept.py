"""What a run's object means: the first time, after a change, and when it is anything that JSON can say."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kube_builders import IMAGES, SPEC, START, run_body

from rz_api.conditions import Condition, Reason
from rz_api.resource import SpecError, load_run
from rz_api.rules import IMMUTABLE
from rz_operator.controller import words
from rz_operator.controller.accept import Verdict, accept, unrenderable
from rz_operator.controller.completion import Completion
from rz_operator.controller.frozen import MAX_FROZEN_BYTES, Frozen
from rz_operator.controller.spec_changes import LIVE
from rz_operator.controller.storage_claims import StorageClaim
from rz_operator.controller.words import MAX_VERDICT_LENGTH
from rz_operator.plan import RUN_FILE, plan

TODAYS_IMAGES = {role: f"{image}-of-today" for role, image in IMAGES.items()}
"""Those of another operator, which must not touch a run that is frozen already."""


def spec(**changes: Any) -> dict[str, Any]:
    """``SPEC`` with these values, by path: ``spec(trainer__nodes=3)``; ``...`` removes one."""
    found = copy.deepcopy(SPEC)
    for path, value in changes.items():
        *sections, key = path.split("__")
        holder = found
        for section in sections:
            holder = holder.setdefault(section, {})
        if value is ...:
            del holder[key]
        else:
            holder[key] = value
    return found


def first(**changes: Any) -> Frozen:
    """What is frozen of a new run with this spec."""
    verdict = accept(run_body(spec(**changes)), None, Completion(IMAGES), (), False)
    assert verdict.accepted, verdict.message
    assert verdict.freeze is not None
    return verdict.freeze


def again(frozen: Frozen, new: Any, gang_exists: bool = False) -> Verdict:
    return accept(run_body(new), frozen, Completion(TODAYS_IMAGES), (), gang_exists)


def field(verdict: Verdict, path: str) -> Any:
    """A field of what the run does now."""
    assert verdict.run is not None
    value: Any = verdict.run.spec.model_dump(mode="json", by_alias=True)
    for key in path.split("."):
        value = value[key]
    return value


# ------------------------------------------------------------------------------------------------ the first time


def test_a_good_run_is_frozen_complete() -> None:
    verdict = accept(run_body(), None, Completion(IMAGES), (), False)
    assert (verdict.accepted, verdict.reason, verdict.suspend) == (True, Reason.SPEC_VALID, False)
    assert verdict.run is not None
    assert verdict.freeze == Frozen(verdict.run, SPEC)
    assert (verdict.run.name, verdict.run.namespace, verdict.run.uid) == ("orz", "team", "u-1")
    assert field(verdict, "ledger.image") == "slim:1"
    assert field(verdict, "trainer.image") == "worker:1"
    assert field(verdict, "rollout.engine") == "vllm"


def test_an_image_that_is_named_stays() -> None:
    assert first(rollout__image="mine:2").run.spec.rollout.image == "mine:2"


def test_the_config_map_is_what_the_workers_read_and_comes_back_equal() -> None:
    frozen = first(trainer__podTemplate={"spec": {"priority": 3}}, data__promptTemplate="ä {question}")
    data = frozen.to_data()
    assert Frozen.from_data(data) == frozen
    planned = {file.name: file.content for file in plan(frozen.run).files}
    assert data["run.json"] == planned[RUN_FILE]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run.json": None}, "found no 'run.json'"),
        ({"submitted.json": None}, "found no 'submitted.json'"),
        ({"run.json": "{"}, "must be a resolved run"),
        ({"run.json": "{}"}, "found name: Field required"),
        ({"run.json": '{"name": NaN}'}, "NaN is no number in JSON"),
        ({"submitted.json": "{"}, "must be a spec in JSON"),
        ({"submitted.json": "[]"}, "found a list"),
        ({"submitted.json": "[" * 100_000}, "must be a spec"),
        ({"submitted.json": 7}, "must be a spec"),
    ],
)
def test_a_config_map_that_somebody_changed_is_refused(change: dict[str, Any], words: str) -> None:
    data: dict[str, Any] = {**first().to_data(), **change}
    with pytest.raises(ValueError, match=r"required|must be") as error:
        Frozen.from_data({key: text for key, text in data.items() if text is not None})
    assert words in str(error.value)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


BAD_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "no spec": ({**run_body(), "spec": None}, "spec.model: found nothing"),
    "an empty object": ({}, "metadata.uid: found nothing"),
    "a spec that is a list": (run_body([1]), "spec: found [1], a mapping is required"),
    "a spec that is a text": (run_body("x"), 'spec: found "x", a mapping is required'),
    "metadata that is a text": ({"metadata": "x", "spec": SPEC}, "metadata.uid: found nothing"),
    "a name that is no name": (run_body(name="Orz.7b"), "metadata.name: found"),
    "no number of nodes": (run_body(spec(trainer__nodes="5")), "spec.trainer.nodes: found"),
    "a broken rule": (run_body(spec(rollout__maxModelLength=100)), "raise rollout.maxModelLength"),
    "a field that is not there": (run_body(spec(trainer__node=5)), "spec.trainer.node: found 5"),
    "not a number": (run_body(spec(algorithm__gamma=float("nan"))), "spec.algorithm.gamma: found nan, a finite number"),
    "infinity": (run_body(spec(trainer__podTemplate={"a": float("inf")})), "found inf"),
    "a number of 5,000 digits": (run_body(spec(algorithm__seed=10**5000)), "found a number of more than 64 bits"),
    "a number that is too large": (run_body(spec(trainer__nodes=10**18)), "at most 4096 is required"),
    "nested too deep": (run_body(spec(trainer__podTemplate=deep(5000))), "more than 100 levels"),
    "half a character": (run_body(spec(model__name="\ud800")), "is no Unicode text"),
    "half a character in a key": (run_body(spec(trainer__podTemplate={"\ud800": 1})), "keys must be text"),
    "a key that is no text": (run_body({1: 2}), "keys must be text"),
    "too large to be frozen": (
        run_body(spec(trainer__podTemplate={"a": "x" * MAX_FROZEN_BYTES})),
        f"at most {MAX_FROZEN_BYTES} are allowed",
    ),
}


@pytest.mark.parametrize(("body", "words"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_object_is_refused_in_words(body: dict[str, Any], words: str) -> None:
    verdict = accept(body, None, Completion(IMAGES), (), False)
    assert (verdict.accepted, verdict.reason, verdict.run, verdict.freeze) == (False, Reason.SPEC_INVALID, None, None)
    assert words in verdict.message


def test_the_words_are_those_of_every_other_place() -> None:
    body = run_body(spec(rollout__maxModelLength=100, trainer__shardSize=3))
    with pytest.raises(SpecError) as error:
        load_run(body)
    assert accept(body, None, Completion(IMAGES), (), False).message == str(error.value)


def test_thousands_of_problems_are_cut_to_whole_ones() -> None:
    body = run_body(spec(rollout__tolerations=["x" * 200] * 5000, **{"trainer__" + "k" * 50_000: 1}))
    verdict = accept(body, None, Completion(IMAGES), (), False)
    assert 10_000 < len(verdict.message) <= MAX_VERDICT_LENGTH
    assert verdict.message.splitlines()[-1].endswith("more problems: repair the ones above first")
    Condition(type="Accepted", status="False", reason=verdict.reason, message=verdict.message, last_transition_time=0)


def test_suspend_of_a_refused_run_is_known() -> None:
    assert accept(run_body(spec(suspend=True, trainer__nodes=0)), None, Completion(IMAGES), (), False).suspend


# ------------------------------------------------------------------------------------------------------ storage

OTHER = StorageClaim("team/older", "u-0", START - 5, "s3://runs/orz", final=False)
LOCAL = replace(OTHER, uri="file:///runs/orz")

CLAIMS: dict[str, tuple[StorageClaim, str, bool]] = {
    "an older run has the folder": (OTHER, "s3://runs/orz", False),
    "slashes at the end do not matter": (replace(OTHER, uri="s3://runs/orz//"), "s3://runs/orz/", False),
    "nor does how the URI is written": (replace(OTHER, uri="s3a://Runs//./orz"), "s3://runs/orz", False),
    "another folder": (replace(OTHER, uri="s3://runs/orz-2"), "s3://runs/orz", True),
    "a folder inside the other run's": (OTHER, "s3://runs/orz/x", False),
    "a folder around the other run's": (replace(OTHER, uri="s3://runs/orz/a/b"), "s3://runs/orz", False),
    "a younger run has to wait": (replace(OTHER, created=START + 5), "s3://runs/orz", True),
    "a younger run that was accepted before has it": (
        replace(OTHER, created=START + 5, holds=True),
        "s3://runs/orz",
        False,
    ),
    "of two that are equally old the UID decides": (replace(OTHER, created=START), "s3://runs/orz", False),
    "and for the other one too": (replace(OTHER, created=START, uid="u-2"), "s3://runs/orz", True),
    "the older one has finished": (replace(OTHER, final=True), "s3://runs/orz", True),
    "what another namespace says is hearsay": (replace(OTHER, run="other/older"), "s3://runs/orz", True),
    "also of a run that was accepted": (replace(OTHER, run="other/older", holds=True), "s3://runs/orz", True),
    "and of a folder around it": (replace(OTHER, run="other/older", uri="s3://runs"), "s3://runs/orz", True),
    "and of a path": (replace(LOCAL, run="other/older"), "file:///runs/orz", True),
    "a path in the same namespace": (LOCAL, "/runs/orz", False),
    "itself": (replace(OTHER, uid="u-1"), "s3://runs/orz", True),
}


@pytest.mark.parametrize(("claim", "uri", "accepted"), CLAIMS.values(), ids=CLAIMS)
def test_one_folder_has_one_run(claim: StorageClaim, uri: str, accepted: bool) -> None:
    verdict = accept(run_body(spec(storage__uri=uri, storage__adopt=True)), None, Completion(IMAGES), [claim], False)
    assert verdict.accepted is accepted
    if not accepted:
        assert verdict.reason == Reason.STORAGE_REFUSED
        assert (verdict.run, verdict.freeze) == (None, None)
        assert f"which the run {claim.run} uses" in verdict.message
        assert f"found {uri}" in verdict.message
        assert "create this run with a storage.uri of its own" in verdict.message


def test_a_folder_inside_another_is_refused_with_both_their_names() -> None:
    verdict = accept(run_body(spec(storage__uri="s3://runs/orz/x")), None, Completion(IMAGES), [OTHER], False)
    assert "found s3://runs/orz/x, and one of it and s3://runs/orz lies inside the other" in verdict.message


@given(st.text(), st.text().filter(lambda name: "/" not in name), st.booleans(), st.booleans(), st.floats(0, 2 * START))
def test_no_claim_of_another_namespace_changes_a_verdict(
    uri: str, namespace: str, final: bool, holds: bool, created: float
) -> None:
    body = run_body(spec(storage__uri="s3://runs/orz"))
    assume(namespace != body["metadata"]["namespace"])
    hearsay = StorageClaim(f"{namespace}/older", "u-0", created, uri, final, holds)
    same = replace(hearsay, uri="s3://runs/orz")
    assert accept(body, None, Completion(IMAGES), [hearsay, same], False) == accept(
        body, None, Completion(IMAGES), [], False
    )


def test_a_run_that_was_accepted_keeps_its_folder() -> None:
    verdict = accept(run_body(), first(), Completion(IMAGES), [replace(OTHER, holds=True)], False)
    assert verdict.accepted


# ------------------------------------------------------------------------------------------------------ changes


def test_an_upgraded_operator_changes_nothing() -> None:
    frozen = first()
    verdict = again(frozen, SPEC)
    assert verdict == Verdict(True, Reason.SPEC_VALID, "the spec is valid", frozen.run, None, False)


def test_a_spec_that_did_not_change_is_not_judged_again() -> None:
    """Frozen by an operator whose rules were laxer: a divisor of the ranks was not required."""
    lax = spec(trainer__shardSize=3, algorithm__epochs=30)
    frozen = first()
    old = frozen.run.spec.model_copy(update={"trainer": frozen.run.spec.trainer.model_copy(update={"shard_size": 3})})
    frozen = Frozen(frozen.run.model_copy(update={"spec": old}), lax)
    assert again(frozen, lax).accepted
    verdict = again(frozen, {**lax, "suspend": True})
    assert verdict.accepted
    assert verdict.suspend
    refused = again(frozen, {**lax, "storage": {**lax["storage"], "secretName": "s"}})
    assert (refused.accepted, refused.reason) == (False, Reason.SPEC_INVALID)
    assert refused.run == frozen.run


CHANGES: dict[str, tuple[dict[str, Any], bool, dict[str, Any], bool]] = {
    # name: (change, the gang exists, fields of what the run does now, frozen anew)
    "suspend acts at once": ({"suspend": True}, True, {"suspend": True}, False),
    "rollout.replicas acts at once": ({"rollout__replicas": 7}, True, {"rollout.replicas": 7}, False),
    "reward.replicas acts at once": ({"reward__replicas": 2}, True, {"reward.replicas": 2}, False),
    "one field of failurePolicy acts at once": (
        {"failurePolicy__maxRestarts": 3},
        True,
        {"failurePolicy.maxRestarts": 3, "failurePolicy.stallSeconds": 3600.0},
        False,
    ),
    "ttlSecondsAfterFinished acts at once": (
        {"ttlSecondsAfterFinished": 5},
        True,
        {"ttlSecondsAfterFinished": 5},
        False,
    ),
    "gangTimeoutSeconds acts at once": (
        {"scheduling__gangTimeoutSeconds": 60},
        True,
        {"scheduling.gangTimeoutSeconds": 60},
        False,
    ),
    "a live field needs no new freeze without a gang either": (
        {"rollout__replicas": 7},
        False,
        {"rollout.replicas": 7},
        False,
    ),
    "a live field that is removed gets the default": ({"rollout__replicas": ...}, True, {"rollout.replicas": 1}, False),
    "nodes wait for the next gang": ({"trainer__nodes": 4}, True, {"trainer.nodes": 2}, False),
    "nodes act while there is no gang": ({"trainer__nodes": 4}, False, {"trainer.nodes": 4}, True),
    "what nobody touched keeps its frozen value": (
        {"trainer__nodes": 4},
        False,
        {"trainer.image": "worker:1", "ledger.image": "slim:1", "rollout.replicas": 3},
        True,
    ),
    "the engine stays what it was resolved to": (
        {"trainer__gpusPerNode": 0},
        False,
        {"rollout.engine": "vllm", "trainer.gpusPerNode": 0},
        True,
    ),
    "a section that is new counts with what is in it": (
        {"trainer__resources__requests__cpu": "8"},
        False,
        {"trainer.resources.requests": {"cpu": "8"}, "trainer.resources.limits": {}},
        True,
    ),
    "a list is taken as a whole, complete": (
        {"trainer__env": [{"name": "A", "value": "1"}]},
        False,
        {"trainer.env": [{"name": "A", "value": "1", "valueFrom": None}]},
        True,
    ),
    "a live field acts at once beside one that waits": (
        {"trainer__nodes": 4, "rollout__replicas": 7},
        True,
        {"trainer.nodes": 2, "rollout.replicas": 7},
        False,
    ),
    "an empty section is no change": ({"trainer__resources": {}}, False, {"trainer.nodes": 2}, False),
    "a default that is written out is no change": ({"algorithm__epochs": 20}, False, {"algorithm.epochs": 20}, False),
    "nor is it while the gang exists": ({"trainer__dtype": "bfloat16"}, True, {"trainer.dtype": "bfloat16"}, False),
    "a whole number for one with decimals is no change": ({"algorithm__gamma": 1}, True, {"algorithm.gamma": 1}, False),
    "an empty list that is written out is no change": ({"data__eval": []}, True, {"data.eval": []}, False),
    "a 0 that is written out is no change": ({"algorithm__seed": 0}, True, {"algorithm.seed": 0}, False),
    "the frozen image that is written out is no change": (
        {"rollout__image": "worker:1"},
        True,
        {"rollout.image": "worker:1"},
        False,
    ),
}


@pytest.mark.parametrize(("change", "gang_exists", "fields", "frozen_anew"), CHANGES.values(), ids=CHANGES)
def test_good_changes(change: dict[str, Any], gang_exists: bool, fields: dict[str, Any], frozen_anew: bool) -> None:
    new = spec(**change)
    verdict = again(first(), new, gang_exists)
    assert (verdict.accepted, verdict.reason) == (True, Reason.SPEC_VALID), verdict.message
    assert {path: field(verdict, path) for path in fields} == fields
    assert (verdict.freeze is not None) is frozen_anew
    assert verdict.suspend == field(verdict, "suspend")
    if verdict.freeze is not None:
        assert verdict.freeze == Frozen(verdict.freeze.run, new)
        assert verdict.run == verdict.freeze.run
        assert again(verdict.freeze, new).freeze is None


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm__gamma": 1},
        {"algorithm__seed": 0},
        {"data__eval": []},
        {"trainer__dtype": "bfloat16"},
        {"rollout__image": "worker:1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_only_written_otherwise_is_not_said_to_wait(change: dict[str, Any]) -> None:
    assert again(first(), spec(**change), gang_exists=True).message == words.VALID


def test_beside_what_is_written_otherwise_only_the_change_is_named() -> None:
    message = again(first(), spec(algorithm__gamma=1, trainer__nodes=4), gang_exists=True).message
    assert "spec.trainer.nodes changed" in message
    assert "gamma" not in message


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("gang_exists", [True, False])
def test_a_change_of_a_run_that_has_finished_is_too_late(phase: str, gang_exists: bool) -> None:
    new = spec(trainer__nodes=4, rollout__replicas=9, algorithm__gamma=1, ttlSecondsAfterFinished=60)
    body = run_body(new) | {"status": {"phase": phase}}
    verdict = accept(body, first(), Completion(IMAGES), (), gang_exists)
    assert verdict.freeze is None
    assert field(verdict, "ttlSecondsAfterFinished") == 60
    assert field(verdict, "trainer.nodes") == 2
    assert verdict.message == (
        "the spec is valid; spec.trainer.nodes, spec.rollout.replicas changed and will not act, because the run has "
        "finished: submit it as a new run"
    )


def test_the_ttl_of_a_run_that_has_finished_acts_and_needs_no_words() -> None:
    body = run_body(spec(ttlSecondsAfterFinished=60)) | {"status": {"phase": "Failed"}}
    assert accept(body, first(), Completion(IMAGES), (), True).message == words.VALID


def test_a_change_that_waits_is_named() -> None:
    verdict = again(first(), spec(trainer__nodes=4, rollout__image="mine:2", suspend=False), True)
    assert "spec.trainer.nodes, spec.rollout.image changed" in verdict.message
    assert "will act with the next start of all pods: suspend and resume" in verdict.message
    verdict = again(first(), spec(trainer__nodes=4), True)
    assert "spec.trainer.nodes changed and will act with the next trainer incarnation" in verdict.message


def test_between_two_gangs_only_what_is_the_trainers_alone_is_frozen_anew() -> None:
    new = spec(trainer__nodes=4, rollout__tensorParallel=2, ledger__image="mine:2")
    verdict = accept(run_body(new), first(), Completion(IMAGES), (), gang_exists=False, others_exist=True)
    assert (field(verdict, "trainer.nodes"), field(verdict, "rollout.tensorParallel")) == (4, 1)
    assert "spec.rollout.tensorParallel, spec.ledger.image changed" in verdict.message
    assert verdict.freeze is not None
    assert verdict.freeze.submitted == spec(trainer__nodes=4)
    later = accept(run_body(new), verdict.freeze, Completion(IMAGES), (), gang_exists=False, others_exist=False)
    assert (field(later, "trainer.nodes"), field(later, "rollout.tensorParallel")) == (4, 2)
    assert later.freeze == Frozen(later.freeze.run, new) if later.freeze else False


def test_a_field_that_is_removed_gets_todays_default() -> None:
    frozen = first(
        rollout__image="mine:2", trainer__podTemplate={"spec": {"priority": 3}}, trainer__maxTokensPerMicroBatch=20_000
    )
    verdict = again(frozen, SPEC)
    assert field(verdict, "rollout.image") == TODAYS_IMAGES["rollout"]
    assert field(verdict, "trainer.image") == IMAGES["trainer"]
    assert field(verdict, "trainer.maxTokensPerMicroBatch") == 16_384
    assert not field(verdict, "trainer.podTemplate.spec")


def test_truth_is_not_one() -> None:
    frozen = first(trainer__podTemplate={"spec": {"hostNetwork": True}})
    verdict = again(frozen, spec(trainer__podTemplate={"spec": {"hostNetwork": 1}}))
    assert verdict.freeze is not None


IMMUTABLE_CHANGES: dict[str, Any] = {
    "model__name": "other",
    "data__train": [{"uri": "s3://data/other.jsonl"}],
    "algorithm__totalSteps": 7,
    "evaluation__interval": 7,
    "storage__uri": "s3://runs/other",
    "rollout__placement": "colocated",
    "rollout__engine": "transformers",
    "rollout__samplesPerLease": 8,
    "rollout__groupsPerLease": 2,
    "rollout__sampling__temperature": 0.5,
    "rollout__weightSync": "storage",
    "reward__verifier": "legacy",
    "reward__timeoutSeconds": 3.0,
    "trainer__dtype": "float32",
}


def test_every_immutable_field_is_tried() -> None:
    tried = {path.replace("__", ".") for path in IMMUTABLE_CHANGES}
    assert all(any(path.startswith(fixed) for path in tried) for fixed, _ in IMMUTABLE)


@pytest.mark.parametrize("path", IMMUTABLE_CHANGES)
def test_an_immutable_change_is_refused_and_the_run_goes_on(path: str) -> None:
    frozen = first()
    change = {path: IMMUTABLE_CHANGES[path]}
    verdict = again(frozen, spec(**change, rollout__replicas=7, trainer__nodes=4, suspend=True))
    assert (verdict.accepted, verdict.reason, verdict.freeze) == (False, Reason.SPEC_CHANGED, None)
    assert "can't change once the run has started" in verdict.message
    assert field(verdict, "rollout.replicas") == 7
    assert field(verdict, "trainer.nodes") == 2
    assert verdict.suspend
    assert verdict.run is not None
    assert verdict.run.identity() == frozen.run.identity()


BAD_CHANGES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    # name: (new spec, words, what the run does)
    "a bad field, a good suspend": (
        spec(trainer__nodes=0, suspend=True),
        "spec.trainer.nodes: found 0",
        {"suspend": True, "trainer.nodes": 2},
    ),
    "a suspend that is no bool": (spec(suspend="yes"), "spec.suspend: found", {"suspend": False}),
    "a bad live field leaves the good ones": (
        spec(rollout__replicas=-1, reward__replicas=2),
        "spec.rollout.replicas: found -1",
        {"rollout.replicas": 3, "reward.replicas": 2},
    ),
    "a failurePolicy that breaks its rule": (
        spec(failurePolicy__backoffSeconds=400),
        "raise maxBackoffSeconds",
        {"failurePolicy.backoffSeconds": 10.0},
    ),
    "a failurePolicy that is a text": (spec(failurePolicy="x"), "spec.failurePolicy: found", {"suspend": False}),
    "a live field that was scaled before a bad edit": (
        spec(rollout__replicas=7, model__nme="x"),
        "spec.model.nme",
        {"rollout.replicas": 7},
    ),
    "no spec any more": (None, "spec: found", {"trainer.nodes": 2}),
    "a list": ([], "spec: found", {"trainer.nodes": 2}),
    "too deep, but suspended": (
        {**SPEC, "suspend": True, "trainer": {**SPEC["trainer"], "podTemplate": deep(5000)}},
        "more than 100 levels",
        {"suspend": True},
    ),
    "a required field removed": (spec(model__name=...), "spec.model.name: found nothing", {"model.name": "base"}),
    "too large": (
        spec(trainer__podTemplate={"a": "x" * MAX_FROZEN_BYTES}, suspend=True),
        "are allowed",
        {"suspend": True, "trainer.podTemplate": None},
    ),
}


@pytest.mark.parametrize(("new", "words", "fields"), BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_bad_changes(new: Any, words: str, fields: dict[str, Any]) -> None:
    body = {**run_body(), "spec": new}
    verdict = accept(body, first(), Completion(TODAYS_IMAGES), (), False)
    assert (verdict.accepted, verdict.reason, verdict.freeze) == (False, Reason.SPEC_INVALID, None)
    assert words in verdict.message
    assert {path: field(verdict, path) for path in fields} == fields
    assert verdict.suspend == field(verdict, "suspend")


def test_what_acts_while_the_rest_waits_may_not_be_too_large_either() -> None:
    new = spec(trainer__podTemplate={"a": "x" * MAX_FROZEN_BYTES}, ledger__image="mine:2")
    verdict = accept(run_body(new), first(), Completion(IMAGES), (), gang_exists=False, others_exist=True)
    assert (verdict.accepted, verdict.reason, verdict.freeze) == (False, Reason.SPEC_INVALID, None)
    assert f"at most {MAX_FROZEN_BYTES} are allowed" in verdict.message


def test_what_cannot_be_rendered_goes_on_as_it_was() -> None:
    body = run_body(spec(trainer__podTemplate={"spec": {"containers": 3}}, rollout__replicas=7))
    verdict = unrenderable(body, first(), "no such container")
    assert (verdict.accepted, verdict.message, verdict.freeze) == (False, "no such container", None)
    assert field(verdict, "trainer.podTemplate") is None
    assert field(verdict, "rollout.replicas") == 7
    assert unrenderable(body, None, "no such container").run is None


# ------------------------------------------------------------------------------------------------- hostile input

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, 2**63, 0.5, float("nan"), float("inf"), "\ud800", "", "é" * 50])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["spec", "name", "uri", "suspend"]), inner, max_size=3)
    ),
    max_leaves=8,
)

FULL: dict[str, Any] = json.loads(first(trainer__env=[{"name": "A", "value": "1"}]).to_data()["run.json"])["spec"]
FROZEN = first()


def all_paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += all_paths(item, (*at, key))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return document


def check(body: Any) -> None:
    for frozen in (None, FROZEN):
        for gang_exists in (False, True):
            verdict = accept(body, frozen, Completion(IMAGES), [OTHER], gang_exists)
            assert len(verdict.message) <= MAX_VERDICT_LENGTH
            verdict.message.encode()
            if frozen is not None:
                assert verdict.run is not None
                assert verdict.run.identity() == frozen.run.identity()
            if verdict.freeze is not None:
                assert Frozen.from_data(verdict.freeze.to_data()) == verdict.freeze
            if verdict.run is not None:
                assert verdict.run.spec.suspend == verdict.suspend


@settings(max_examples=300)
@given(st.sampled_from(all_paths(run_body(FULL))), JSON)
def test_one_odd_value_anywhere_never_raises(path: tuple[Any, ...], value: Any) -> None:
    body = put(run_body(FULL), path, value)
    check(body if isinstance(body, Mapping) else {})


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "kind"]), JSON))
def test_any_object_never_raises(body: dict[str, Any]) -> None:
    check(body)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*SPEC, *(path.partition(".")[0] for path in LIVE)]), JSON))
def test_any_sections_never_raise(sections: dict[str, Any]) -> None:
    check(run_body({**SPEC, **sections}))
