"""The CRD on a server that evaluates CEL: it is accepted, and refuses what Python refuses, in the same words."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from api_builders import document
from crd_server import CrdServer
from kube_api import Api, ApiError, Object
from test_immutability import FIXED, FREE
from test_spec_rules import ALLOWED, REFUSED

from rz_api import names, rules
from rz_api.resource import SpecError, load_run

NAMESPACE = "cel"
MESSAGES = {rule.message for rule in rules.RULES} | {rules.NAME_MESSAGE}
BAD_NAMES = ("1st", "a.b")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cel(crd_server: CrdServer) -> Api:
    """The server with the CRD in it."""
    crd_server.apply_crd()
    return crd_server.api


def refused(cel: Api, run: Object) -> list[tuple[str, str]]:
    """(field, message) of each cause that the server refuses ``run`` for; nothing is stored."""
    try:
        cel.create(run, NAMESPACE, dryRun="All", fieldValidation="Strict")
    except ApiError as error:
        if error.code != 422:
            raise
        return [(cause["field"], cause["message"]) for cause in error.causes]
    return []


def problems(run: Object) -> list[tuple[str, str]]:
    """(path, sentence) of each problem that Python finds."""
    try:
        load_run(run)
    except SpecError as error:
        return [(problem.path, problem.text) for problem in error.problems]
    return []


def same_words(server: str, python: str) -> bool:
    """Both end in the same rule's message; before it each shows what it found in its own way."""
    messages = [message for message in MESSAGES if python.endswith(message)]
    return len(messages) == 1 and server.endswith(messages[0])


def test_the_crd_is_accepted_with_every_type_and_cost_of_its_rules_checked(cel: Api) -> None:
    found = cel.get("CustomResourceDefinition", "", names.CRD_NAME)
    conditions = {item["type"]: (item["status"], item.get("message")) for item in found["status"]["conditions"]}
    assert conditions["Established"][0] == "True"
    assert "NonStructuralSchema" not in conditions
    assert "x-kubernetes-validations" in json.dumps(found["spec"]), "this server drops the rules"


@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED)
def test_the_server_accepts_what_python_accepts(cel: Api, changes: dict[str, Any]) -> None:
    assert refused(cel, document(changes)) == []


@pytest.mark.parametrize("changes", [changes for changes, _, _ in REFUSED.values()], ids=REFUSED)
def test_the_server_refuses_what_python_refuses_at_the_same_field_in_the_same_words(
    cel: Api, changes: dict[str, Any]
) -> None:
    run = document(changes)
    ((field, message),) = refused(cel, run)
    ((path, sentence),) = problems(run)
    assert field == path
    assert same_words(message, sentence), f"the server says {message!r}, Python {sentence!r}"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_no_child_could_carry_is_refused_in_the_same_words(cel: Api, name: str) -> None:
    """The schema's pattern refuses it too, in its own words."""
    run = document({"metadata.name": name})
    ((path, sentence),) = problems(run)
    assert [message for field, message in refused(cel, run) if field == path and same_words(message, sentence)]


def test_a_name_that_is_too_long_is_refused_by_the_schema(cel: Api) -> None:
    causes = refused(cel, document({"metadata.name": "a" * 41}))
    assert causes[0] == ("metadata.name", "Too long: may not be more than 40 bytes")


def test_all_broken_rules_are_named_at_once(cel: Api) -> None:
    run = document({"spec.scheduling.gang": "kueue", "spec.trainer.shardSize": 3})
    assert sorted(field for field, _ in refused(cel, run)) == sorted(path for path, _ in problems(run))


def test_a_field_that_is_not_in_the_contract_is_refused_under_strict_validation(cel: Api) -> None:
    with pytest.raises(ApiError, match=r'unknown field "spec.trainer.nodess"'):
        cel.create(document({"spec.trainer.nodess": 2}), NAMESPACE, dryRun="All", fieldValidation="Strict")


@pytest.fixture
def stored(cel: Api) -> Iterator[Object]:
    """A run on the server; its phase is set by ``started``."""
    run = document({"metadata.name": f"run-{next(_numbers)}"})
    yield cel.create(run, NAMESPACE)
    cel.delete(names.KIND, NAMESPACE, run["metadata"]["name"])


def started(cel: Api, run: Object, phase: str) -> Object:
    body = {"status": {"phase": phase}}
    return cel.patch(names.KIND, NAMESPACE, run["metadata"]["name"], body, subresource="status")


def changed(run: Object, changes: dict[str, Any]) -> Object:
    made = copy.deepcopy(run)
    made["spec"] = document(changes)["spec"]
    return made


@pytest.mark.parametrize(("path", "changes"), FIXED.items(), ids=FIXED)
def test_what_is_fixed_can_change_until_the_run_has_started_and_not_after(
    cel: Api, stored: Object, path: str, changes: dict[str, Any]
) -> None:
    name = stored["metadata"]["name"]
    cel.patch(names.KIND, NAMESPACE, name, {"spec": changed(stored, changes)["spec"]})
    run = started(cel, cel.replace(changed(cel.get(names.KIND, NAMESPACE, name), {})), "Running")
    with pytest.raises(ApiError, match="can't change once the run has started") as error:
        cel.replace(changed(run, changes))
    assert [cause["field"] for cause in error.value.causes] == [path]


@pytest.mark.parametrize("changes", FREE.values(), ids=FREE)
def test_the_rest_can_change_while_the_run_is_running(cel: Api, stored: Object, changes: dict[str, Any]) -> None:
    run = started(cel, stored, "Running")
    cel.replace(changed(run, changes))


def test_scale_reads_and_sets_the_rollouts(cel: Api, stored: Object) -> None:
    name = stored["metadata"]["name"]
    started(cel, stored, "Running")
    before = cel.get(names.KIND, NAMESPACE, name, subresource="scale")
    assert before["kind"] == "Scale"
    cel.patch(names.KIND, NAMESPACE, name, {"spec": {"replicas": 7}}, subresource="scale")
    assert cel.get(names.KIND, NAMESPACE, name)["spec"]["rollout"]["replicas"] == 7


def test_scale_keeps_the_bounds(cel: Api, stored: Object) -> None:
    with pytest.raises(ApiError):
        cel.patch(names.KIND, NAMESPACE, stored["metadata"]["name"], {"spec": {"replicas": -1}}, subresource="scale")
