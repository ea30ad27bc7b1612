"""Bad specs: somebody says what was found, required and to be changed, the operator stays up, other runs go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from api_builders import document
from bad_specs import BAD, RULES, Bad
from crd_server import CrdServer
from kube_api import Api, ApiError, Object, path_of
from kubelet_double import Kubelet
from operator_process import OperatorProcess

from rz_api import names, rules
from rz_api.resource import SpecError, load_run
from rz_operator.commands.plan_text import objects_of
from rz_operator.errors import UserError

NAMED = {f"bad-{number}": bad for number, bad in enumerate(BAD.values())}
"""By the name that its run gets, unless the name is what is bad."""
SENTENCE = re.compile(r"found .+: .+|no such field .*: .+| is .+; .+ is required", re.DOTALL)
"""Found, required, change (where the bound that was broken is in what was found, two of them)."""
MESSAGES = {rule.message for rule in rules.RULES}
SAID_SECONDS = 30.0


def test_there_are_sixty_and_every_rule_is_among_them() -> None:
    assert len(BAD) >= 60
    said = {sentence for bad in RULES.values() for _, sentence in problems(bad.body("tiny"))}
    assert {message for message in MESSAGES if any(sentence.endswith(message) for sentence in said)} == MESSAGES


def problems(body: Object) -> list[tuple[str, str]]:
    """(path, sentence) of each problem that ``load_run`` finds."""
    try:
        load_run(body)
    except SpecError as error:
        return [(problem.path, problem.text) for problem in error.problems]
    return []


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_rz_says_what_was_found_what_is_required_and_what_to_change(bad: Bad) -> None:
    body = bad.body("tiny")
    found = problems(body)
    if found:
        assert [text for path, text in found if path == bad.path and bad.words in text], found
        assert [text for _, text in found if not SENTENCE.search(text)] == []
    elif bad.old == "create":
        assert objects_of(body, "default"), "only an API server can tell"
    else:
        with pytest.raises(UserError) as error:
            objects_of(body, "default")
        assert bad.path in str(error.value)
        assert bad.words in str(error.value)


# ------------------------------------------------------------------------------------------------ a new server


@pytest.fixture(scope="module")
def cel(crd_server: CrdServer) -> Api:
    crd_server.apply_crd()
    return crd_server.api


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_new_server_refuses_it_by_schema_or_rule(cel: Api, bad: Bad) -> None:
    error = posted(cel, "cel", bad.body("tiny"), fieldValidation="Strict", dryRun="All")
    if bad.new == "stores":
        assert error is None
        return
    assert error is not None
    assert bad.named in error.message
    if bad.new == "rule":
        ((path, sentence),) = problems(bad.body("tiny"))
        ((field, message),) = [(cause["field"], cause["message"]) for cause in error.causes]
        assert field == path
        assert [rule for rule in MESSAGES if message.endswith(rule) and sentence.endswith(rule)], (message, sentence)


def posted(api: Api, namespace: str, body: Object, **params: str) -> ApiError | None:
    """Create it; the refusal."""
    try:
        api.request("POST", path_of(names.KIND, namespace), body, params=params)
    except ApiError as error:
        return error
    return None


# ------------------------------------------------------------------------------------------------ an old server


def test_an_old_server_or_the_operator_refuses_each_of_them_and_the_other_runs_go_on(
    api: Api, namespace: str, operator: Callable[..., OperatorProcess], kubelet: Kubelet, wait_for: Callable[..., Any]
) -> None:
    process = operator(namespace)

    def good(name: str) -> None:
        """A good run is created, accepted, gets its children, and these run."""
        api.create(document({"metadata.name": name, "spec.storage.uri": f"s3://runs/{name}"}), namespace)
        for look in (running, accepted):
            wait_for(
                lambda look=look: look(api, namespace, name), 30, each=kubelet.tick, what=f"{name} is {look.__name__}"
            )

    good("before")
    wrong: dict[str, object] = {}
    for name, bad in NAMED.items():
        error = posted(api, namespace, bad.body(name))
        if bad.old == "refuses":
            if error is None or bad.named not in error.message:
                wrong[name] = error
        elif error is not None:
            wrong[name] = error
    assert {title(name): seen for name, seen in wrong.items()} == {}
    good("between")

    stored = {name: bad for name, bad in NAMED.items() if bad.old in ("condition", "create")}
    for name, bad in stored.items():
        try:
            wait_for(lambda name=name, bad=bad: is_said(api, namespace, name, bad), SAID_SECONDS, what=title(name))
        except pytest.fail.Exception as error:
            wrong[title(name)] = str(error)
    assert wrong == {}
    for name, bad in stored.items():
        if bad.old == "condition":
            assert children(api, namespace, name) == set(), f"{title(name)}: nothing may be started"

    good("after")
    for name in ("before", "between"):
        assert accepted(api, namespace, name)
        assert running(api, namespace, name)
    assert process.running
    assert "Traceback" not in process.log()
    assert {(request.verb, request.path.rpartition("/")[2]) for request in process.denied()} <= {("create", "pods")}


def title(name: str) -> str:
    return next(title for title, bad in BAD.items() if bad is NAMED[name])


def is_said(api: Api, namespace: str, name: str, bad: Bad) -> bool:
    """Whether the conditions say what they must: of a broken rule, and whatever ``load_run`` finds, in its words."""
    if bad.old == "create":
        found = condition(api, namespace, name, bad.path)
        assert condition(api, namespace, name, "Accepted")["status"] == "True"
        return found["reason"] == "CreateRefused" and bad.words in found["message"]
    found = condition(api, namespace, name, "Accepted")
    assert (found["status"], found["reason"]) == ("False", "SpecInvalid")
    expected = problems(bad.body(name))
    if expected:
        ((path, sentence),) = expected
        assert found["message"] == f"{name}: {path}: {sentence}"
    assert bad.path in found["message"]
    assert bad.words in found["message"]
    return bool(SENTENCE.search(found["message"]))


def condition(api: Api, namespace: str, name: str, kind: str) -> dict[str, Any]:
    run = api.get(names.KIND, namespace, name)
    found = {each["type"]: each for each in run.get("status", {}).get("conditions") or []}
    assert kind in found, f"no condition {kind} yet: {sorted(found)}"
    return dict(found[kind])


def children(api: Api, namespace: str, name: str) -> set[str]:
    kinds = ("Pod", "Deployment", "Service", "ConfigMap", "Secret", "NetworkPolicy")
    return {
        f"{kind}/{child['metadata']['name']}"
        for kind in kinds
        for child in api.list(kind, namespace, {names.LABEL_RUN: name})
    }


def accepted(api: Api, namespace: str, name: str) -> bool:
    return bool(condition(api, namespace, name, "Accepted")["status"] == "True")


def running(api: Api, namespace: str, name: str) -> bool:
    """Whether its first pods run and its Deployments are there."""
    pods = [api.get("Pod", namespace, pod) for pod in (names.rollout_pod(name, 0, 1), names.trainer_pod(name, 1, 0))]
    deployments = [api.get("Deployment", namespace, each) for each in (names.ledger(name), names.reward(name))]
    return bool(deployments) and all(pod["status"].get("phase") == "Running" for pod in pods)
