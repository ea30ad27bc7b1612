"""What another version has stored is read without it being lost, and without computing something else in silence."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from api_builders import document
from hypothesis import given
from hypothesis import strategies as st

from rz_api.conditions import find
from rz_api.resource import load_run
from rz_api.run import (
    SCHEMA_VERSION,
    NewerRunError,
    ResolvedRun,
    UnreadableRunError,
    read_stored_run,
    write_stored_run,
)
from rz_api.status import RunStatus, read_status


def stored(**changes: Any) -> dict[str, Any]:
    """What is stored of a run; ``spec__trainer__new=3`` puts something in it."""
    spec = load_run(document({"spec.trainer.env": [{"name": "A", "value": "1"}], "spec.algorithm.gamma": 0.5})).spec
    made: dict[str, Any] = json.loads(write_stored_run(ResolvedRun(name="tiny", uid="u", spec=spec)))
    for path, value in changes.items():
        *sections, key = path.split("__")
        holder: Any = made
        for section in sections:
            holder = holder[int(section) if section.isdigit() else section]
        holder[key] = value
    return made


def test_a_run_is_read_as_it_was_written() -> None:
    text = json.dumps(stored())
    read = read_stored_run(text)
    assert (read.unknown, read.unread, read.beyond) == ((), (), ())
    assert json.loads(write_stored_run(read.run)) == json.loads(text)
    assert read.run.schema_version == SCHEMA_VERSION


def test_what_was_stored_before_there_were_versions_is_version_one() -> None:
    old = stored()
    del old["schemaVersion"], old["mustUnderstand"]
    assert read_stored_run(json.dumps(old)).run.schema_version == 1


def test_all_that_the_result_depends_on_and_was_chosen_must_be_understood() -> None:
    assert stored()["mustUnderstand"] == ["spec.model.name", "spec.data.train[0].uri", "spec.algorithm.gamma"]


NEWER: dict[str, tuple[dict[str, Any], str]] = {
    "a field of a role": ({"spec__trainer__next": 7}, "spec.trainer.next"),
    "a field of a list's entry": ({"spec__trainer__env__0__next": 7}, "spec.trainer.env[0].next"),
    "a section": ({"spec__next": {"a": 1}}, "spec.next"),
    "a field of the run": ({"next": [1]}, "next"),
    "a field of the method that is at its default": ({"spec__algorithm__next": 0}, "spec.algorithm.next"),
}


@pytest.mark.parametrize(("change", "path"), NEWER.values(), ids=NEWER)
def test_an_unknown_field_is_left_out_named_and_written_back(change: dict[str, Any], path: str) -> None:
    text = json.dumps(stored(**change))
    read = read_stored_run(text)
    assert read.left_out == (path,)
    assert read.beyond == ()
    assert json.loads(write_stored_run(read.run, read)) == json.loads(text)


def test_an_unknown_field_that_the_result_depends_on_is_beyond_this_version_and_stays_so() -> None:
    newer = stored(spec__algorithm__next=7)
    newer["mustUnderstand"].append("spec.algorithm.next")
    read = read_stored_run(json.dumps(newer))
    assert read.beyond == ("spec.algorithm.next",)
    again = read_stored_run(write_stored_run(read.run, read))
    assert again.beyond == ("spec.algorithm.next",)


def test_a_section_that_the_result_depends_on_is_beyond_this_version_as_a_whole() -> None:
    newer = stored(spec__next={"a": {"b": 1}})
    newer["mustUnderstand"].append("spec.next.a.b")
    assert read_stored_run(json.dumps(newer)).beyond == ("spec.next.a.b",)


ODD_VALUES: dict[str, dict[str, Any]] = {
    "a new word in a list of words": {"spec__scheduling__gang": "next"},
    "a number beyond what was allowed": {"spec__trainer__nodes": 10**6},
    "a value of another type": {"spec__trainer__offload": {"optimizer": True}},
    "a section that became a list": {"spec__failurePolicy": []},
}


@pytest.mark.parametrize("change", ODD_VALUES.values(), ids=ODD_VALUES)
def test_a_worker_does_without_an_odd_value_and_an_operator_does_not(change: dict[str, Any]) -> None:
    text = json.dumps(stored(**change))
    (path,) = (path.replace("__", ".") for path in change)
    assert read_stored_run(text, odd_values=True).unread == (path,)
    with pytest.raises(UnreadableRunError, match=path):
        read_stored_run(text)


UNREADABLE: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "found no JSON"),
    "no number": ('{"name": NaN}', "NaN is no number"),
    "too deep": ("[" * 100_000, "found no JSON"),
    "no object": ("[]", "found a list"),
    "nothing of a run": ("{}", "found name: Field required"),
    "an odd value that the result depends on": (json.dumps(stored(spec__algorithm__name="next")), "algorithm.name"),
    "odd data": (json.dumps(stored(spec__data__train=[])), "spec.data.train"),
    "no storage": (json.dumps(stored(spec__storage={})), "spec.storage.uri"),
}


@pytest.mark.parametrize(("text", "words"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("odd_values", [True, False])
def test_what_is_no_run_is_refused(text: str, words: str, odd_values: bool) -> None:
    with pytest.raises(UnreadableRunError, match=words) as error:
        read_stored_run(text, odd_values=odd_values)
    assert not isinstance(error.value, NewerRunError)


def test_a_newer_schema_is_told_from_what_is_no_run() -> None:
    with pytest.raises(NewerRunError, match=rf"found schemaVersion {SCHEMA_VERSION + 1}; this version reads up to"):
        read_stored_run(json.dumps(stored(schemaVersion=SCHEMA_VERSION + 1, spec={"all": "else"})))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in items for path in paths_of(item, (*at, key)))]


FULL = stored()
MAPPINGS = [path for path in paths_of(FULL) if path == () or path[-1] not in ("mustUnderstand",)]


@given(st.sampled_from(MAPPINGS), st.text(min_size=1, max_size=5), JSON)
def test_an_unknown_field_anywhere_is_read_and_written_back(path: tuple[Any, ...], name: str, value: Any) -> None:
    newer = copy.deepcopy(FULL)
    holder: Any = newer
    for key in path:
        holder = holder[key]
    free = {"limits", "requests", "nodeSelector"}  # of these every key is known
    if not isinstance(holder, dict) or name in holder or free & set(path):
        return
    holder[name] = value
    read = read_stored_run(json.dumps(newer))
    assert json.loads(write_stored_run(read.run, read)) == newer


@given(st.sampled_from(MAPPINGS[1:]), JSON)
def test_an_odd_value_anywhere_is_left_out_or_refused(path: tuple[Any, ...], value: Any) -> None:
    odd = copy.deepcopy(FULL)
    holder: Any = odd
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    try:
        read = read_stored_run(json.dumps(odd), odd_values=True)
    except UnreadableRunError:
        return
    assert read.run.spec.model.name


# --------------------------------------------------------------------------------------------------------- a status

CONDITION = {"type": "Failed", "status": "False", "reason": "Running", "lastTransitionTime": "2025-01-01T00:00:00Z"}


def test_a_status_of_a_newer_operator_loses_what_is_new_alone() -> None:
    written = {
        "phase": "Running",
        "gang": {"incarnation": 7, "restarts": 3, "nextCounter": 1},
        "conditions": [CONDITION | {"type": "Next"}, CONDITION, CONDITION | {"type": "AfterNext"}],
        "members": {"rollout-1": {"failures": -1}, "rollout-2": {"failures": 2}},
        "next": {"a": 1},
    }
    status, unread = read_status(written)
    assert (status.phase, status.gang.incarnation, status.gang.restarts) == ("Running", 7, 3)
    assert [condition.type for condition in status.conditions] == ["Failed"]
    assert status.members["rollout-2"].failures == 2
    assert unread == ("conditions[0]", "conditions[1]", "members.rollout-1.failures")


@pytest.mark.parametrize(
    ("written", "phase"),
    [
        ({"phase": "Next", "completionTime": "2025-01-01T00:00:00Z"}, "Failed"),
        ({"phase": "Next"}, "Running"),
        ({"phase": ["Running"]}, "Running"),
        ({}, "Pending"),
    ],
    ids=["one that has ended is not started again", "the pods are looked at", "no word", "a new run"],
)
def test_a_phase_that_is_not_known(written: dict[str, Any], phase: str) -> None:
    assert read_status(written)[0].phase == phase


@given(st.dictionaries(st.sampled_from(["phase", "gang", "members", "conditions", "retries", "progress"]), JSON))
def test_any_status_is_read(written: dict[str, Any]) -> None:
    status, _ = read_status(written)
    assert isinstance(status, RunStatus)
    assert find(status.conditions, "Failed") is None
