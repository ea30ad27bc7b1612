"""The operator's rights: enough for what it creates, and no more than is used."""

from __future__ import annotations

import pytest
import yaml
from manifest_builders import REPOSITORY, cases

from rz_operator.manifests import all_of

RULES = yaml.safe_load((REPOSITORY / "charts/reasonerzero/files/rbac.yaml").read_text())["rules"]
GRANTED = {
    (group, resource, verb)
    for rule in RULES
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
}


@pytest.mark.parametrize("name", cases())
def test_everything_that_is_rendered_may_be_created(name: str) -> None:
    for body in all_of(cases()[name]):
        group = body["apiVersion"].rpartition("/")[0]
        plural = body["kind"].lower().removesuffix("y") + ("ies" if body["kind"].endswith("y") else "s")
        assert (group, plural, "create") in GRANTED


def test_a_secret_can_be_created_and_nothing_else() -> None:
    assert {verb for _, resource, verb in GRANTED if resource == "secrets"} == {"create"}


def test_a_running_pod_cannot_be_changed() -> None:
    assert {verb for _, resource, verb in GRANTED if resource == "pods"} & {"update", "patch"} == set()


def test_there_is_no_wildcard_and_no_finalizer() -> None:
    assert not [rule for rule in RULES if "*" in rule["apiGroups"] + rule["resources"] + rule["verbs"]]
    assert not [resource for _, resource, _ in GRANTED if "finalizers" in resource]


def test_a_spec_is_never_written_by_the_operator() -> None:
    verbs = {verb for _, resource, verb in GRANTED if resource == "reasonerzeroruns"}
    assert verbs == {"get", "list", "watch", "delete"}
    assert {verb for _, resource, verb in GRANTED if resource == "reasonerzeroruns/status"} == {"update"}
