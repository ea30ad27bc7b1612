"""What lies below a run's own words in its pods, and that its own words always win."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_builders import cases, context
from pydantic import ValidationError

from rz_api.names import Role
from rz_api.run_defaults import RunDefaults
from rz_operator.decisions.members import Start
from rz_operator.manifests import Context, for_start
from rz_operator.plan import plan

ROLES: tuple[Role, ...] = ("ledger", "reward", "rollout", "trainer")
CASES = cases()


def pod_of(of: Context, role: Role) -> dict[str, Any]:
    """Metadata and spec of a role's first pod."""
    body = for_start(of, Start(role, 0, 1), 0)[-1]
    found: dict[str, Any] = body["spec"]["template"] if body["kind"] == "Deployment" else body
    return found


def under(defaults: dict[str, Any], **sections: Any) -> Context:
    made = context(**sections)
    run = made.plan.run.model_copy(update={"pod_defaults": RunDefaults.model_validate(defaults)})
    return replace(made, plan=plan(run))


def as_of_version_1(of: Context) -> Context:
    return replace(of, plan=plan(of.plan.run.model_copy(update={"rendering_version": 1})))


def resources(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]["resources"]
    return found


# ------------------------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize("name", [name for name in CASES if name != "variant-pod-template"])
def test_no_pod_is_best_effort(name: str) -> None:
    for role in ROLES:
        if CASES[name].plan.role(role).hosted_by == role and CASES[name].plan.role(role).nodes:
            asked = resources(pod_of(CASES[name], role))
            for resource in ("cpu", "memory"):
                assert resource in asked["requests"] | asked.get("limits", {}), role


amounts = st.fixed_dictionaries({}, optional={name: st.sampled_from(["1", "2"]) for name in ("cpu", "memory", "x.y/z")})


@given(role=st.sampled_from(ROLES), requests=amounts, limits=amounts)
def test_what_the_spec_says_of_a_resource_is_what_the_pod_asks_for(
    role: Role, requests: dict[str, str], limits: dict[str, str]
) -> None:
    section = {
        **({"gpusPerNode": 1} if role == "trainer" else {}),
        "resources": {"requests": requests, "limits": limits},
    }
    found = resources(pod_of(context(**{"trainer": {"gpusPerNode": 1}, role: section}), role))
    for name in (*requests, *limits):
        assert found.get("requests", {}).get(name) == requests.get(name), "a limit alone is the request too"
        assert found.get("limits", {}).get(name) == limits.get(name)


def test_a_run_from_before_asks_for_what_it_asked_for() -> None:
    old = as_of_version_1(context())
    assert resources(pod_of(old, "ledger")) == {}
    assert "tolerations" not in pod_of(old, "ledger")["spec"]
    assert set(pod_of(old, "trainer")["metadata"]["annotations"]) == {
        "reasonerzero.dev/rendering-version",
        "reasonerzero.dev/restarts",
    }
    env = {entry["name"]: entry["value"] for entry in pod_of(old, "rollout")["spec"]["containers"][0]["env"]}
    assert env["RZ_BIND_HOST"] == "0.0.0.0", "its images are as old, and may know no IPv6"


# ------------------------------------------------------------------------------------------------------ lost nodes

ANY: dict[str, Any] = {"operator": "Exists"}
LATE: dict[str, Any] = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 600}
TOLERATIONS: dict[str, tuple[Role, list[dict[str, Any]], dict[str, int | None]]] = {
    "a ledger moves after half a minute": ("ledger", [], {"not-ready": 30, "unreachable": 30}),
    "so does a reward service": ("reward", [], {"not-ready": 30, "unreachable": 30}),
    "a rollout has the server's default": ("rollout", [], {}),
    "a trainer too": ("trainer", [], {}),
    "another taint changes nothing": ("ledger", [{"key": "gpu", **ANY}], {"not-ready": 30, "unreachable": 30}),
    "a user who has decided about one": ("ledger", [LATE], {"not-ready": 600, "unreachable": 30}),
    "a user who tolerates everything": ("ledger", [ANY], {}),
    "but for scheduling": ("ledger", [{**ANY, "effect": "NoSchedule"}], {"not-ready": 30, "unreachable": 30}),
}


@pytest.mark.parametrize(("role", "given_", "wanted"), TOLERATIONS.values(), ids=TOLERATIONS)
def test_how_long_a_pod_stays_on_a_lost_node(
    role: Role, given_: list[dict[str, Any]], wanted: dict[str, int | None]
) -> None:
    spec = pod_of(context(**{role: {"tolerations": given_}}), role)["spec"]
    found = {
        each["key"].rpartition("/")[2]: each.get("tolerationSeconds")
        for each in spec.get("tolerations", [])
        if each.get("key", "").startswith("node.kubernetes.io/")
    }
    assert found == wanted


# ---------------------------------------------------------------------------------------------------- the owner's


OWNERS: dict[str, Any] = {
    "labels": {"team": "a"},
    "annotations": {"cost": "1"},
    "env": [{"name": "REGION", "value": "here"}],
    "nodeSelector": {"pool": "shared", "arch": "amd64"},
    "tolerations": [{"key": "shared", **ANY}],
    "volumes": [{"name": "cache", "emptyDir": {}}],
    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    "securityContext": {"supplementalGroups": [7]},
}


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_the_owners_defaults(role: Role) -> None:
    pod = pod_of(under(OWNERS), role)
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["annotations"]["cost"] == "1"
    assert {"name": "REGION", "value": "here"} in container["env"]
    assert spec["nodeSelector"] == {"pool": "shared", "arch": "amd64"}
    assert {"key": "shared", **ANY} in spec["tolerations"]
    assert {"name": "cache", "emptyDir": {}} in spec["volumes"]
    assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "supplementalGroups": [7],
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_what_a_role_says_goes_before_them() -> None:
    template = {"metadata": {"labels": {"team": "b"}, "annotations": {"karpenter.sh/do-not-disrupt": "false"}}}
    trainer = {
        "gpusPerNode": 1,
        "env": [{"name": "REGION", "value": "there"}],
        "nodeSelector": {"pool": "own"},
        "podTemplate": template,
    }
    pod = pod_of(under(OWNERS, trainer=trainer), "trainer")
    assert pod["metadata"]["labels"]["team"] == "b"
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "false"
    assert pod["spec"]["nodeSelector"] == {"pool": "own", "arch": "amd64"}
    values = [entry["value"] for entry in pod["spec"]["containers"][0]["env"] if entry["name"] == "REGION"]
    assert values == ["there"]


def test_the_operators_own_variables_and_labels_go_before_them() -> None:
    owners = {"env": [{"name": "HOME", "value": "/root"}], "labels": {"kueue.x-k8s.io/queue-name": "other"}}
    pod = pod_of(under(owners, scheduling={"gang": "kueue", "queueName": "mine"}), "rollout")
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "mine"
    assert {"name": "HOME", "value": "/scratch"} in pod["spec"]["containers"][0]["env"]


def test_a_proxy_is_asked_for_nothing_of_the_clusters() -> None:
    pod = pod_of(under({"proxy": {"https": "http://proxy:3128", "exceptions": [".corp"]}}), "trainer")
    env = {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://proxy:3128"
    assert "HTTP_PROXY" not in env
    assert env["NO_PROXY"].split(",") == ["localhost", "127.0.0.1", "::1", ".svc", ".cluster.local", ".corp"]


def test_only_trainers_are_kept_from_consolidation() -> None:
    kept = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    for role in ROLES:
        annotations = pod_of(context(), role)["metadata"]["annotations"]
        assert (kept.items() <= annotations.items()) is (role == "trainer")
        assert (annotations.keys() & kept.keys() != set()) is (role == "trainer")


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"labels": {"reasonerzero.dev/run": "x"}}, "the operator knows the run's pods by it"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "the operator knows the run's pods by it"),
        ({"annotations": {"reasonerzero.dev/restarts": "0"}}, "the operator knows the run's pods by it"),
        ({"env": [{"name": "RZ_ROLE", "value": "x"}]}, "are the operator's"),
        ({"lables": {}}, "Extra inputs"),
    ],
    ids=["a label of ours", "one of the application's", "an annotation of ours", "a variable of ours", "a typo"],
)
def test_defaults_that_say_who_a_pod_is_are_refused(defaults: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RunDefaults.model_validate(defaults)
