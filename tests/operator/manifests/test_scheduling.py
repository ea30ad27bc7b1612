"""Schedulers, groups and devices of a run's pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from manifest_builders import EVERYTHING_INSTALLED, context

from rz_operator.apiserver.versions import Capabilities
from rz_operator.decisions.members import Start
from rz_operator.errors import UserError
from rz_operator.manifests import Context, for_start, is_out_of_its_queue
from rz_operator.plan import plan

QUEUE = {"queueName": "q"}


def trainer(of: Context) -> dict[str, Any]:
    return for_start(of, Start("trainer", 0, 1), 0)[-1]


def rollout(of: Context) -> dict[str, Any]:
    return for_start(of, Start("rollout", 0, 1), 0)[-1]


def group(of: Context) -> dict[str, Any]:
    return next(body for body in for_start(of, Start("trainer", 0, 1), 0) if body["kind"] == "PodGroup")


SCHEDULERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "the operator needs none": ({}, None),
    "kueue needs none": ({"gang": "kueue", **QUEUE}, None),
    "coscheduling's": ({"gang": "coscheduling"}, "scheduler-plugins-scheduler"),
    "volcano's": ({"gang": "volcano"}, "volcano"),
    "kai's": ({"gang": "kai", **QUEUE}, "kai-scheduler"),
    "workload needs none": ({"gang": "workload"}, None),
    "coscheduling in the cluster's own": (
        {"gang": "coscheduling", "schedulerName": "default-scheduler"},
        "default-scheduler",
    ),
    "one of the user's": ({"schedulerName": "packing"}, "packing"),
}


@pytest.mark.parametrize(("scheduling", "name"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_scheduler_of_trainers_and_rollouts(scheduling: dict[str, Any], name: str | None) -> None:
    of = context(scheduling=scheduling)
    assert [pod["spec"].get("schedulerName") for pod in (trainer(of), rollout(of))] == [name, name]
    ledger = for_start(of, Start("ledger", 0, 1), 0)[0]["spec"]["template"]
    assert "schedulerName" not in ledger["spec"], "small pods never wait for GPUs"


def test_a_coscheduled_run_from_before_keeps_the_clusters_scheduler() -> None:
    of = context(scheduling={"gang": "coscheduling"})
    old = replace(of, plan=plan(of.plan.run.model_copy(update={"rendering_version": 1})))
    assert "schedulerName" not in trainer(old)["spec"]


# ------------------------------------------------------------------------------------------------------------ GPUs

GPUS: dict[str, tuple[str, str]] = {
    "NVIDIA's": ("nvidia.com/gpu", "nvidia.com/gpu"),
    "AMD's": ("amd.com/gpu", "amd.com/gpu"),
    "a MIG profile": ("nvidia.com/mig-1g.5gb", "nvidia.com/mig-1g.5gb"),
}


@pytest.mark.parametrize(("resource", "counted"), GPUS.values(), ids=GPUS)
def test_pods_and_volcanos_group_ask_for_the_same_gpus(resource: str, counted: str) -> None:
    of = context(scheduling={"gang": "volcano", "gpuResource": resource}, trainer={"nodes": 3, "gpusPerNode": 1})
    for pod in (trainer(of), rollout(of)):
        asked = pod["spec"]["containers"][0]["resources"]
        assert {side: asked[side][counted] for side in ("requests", "limits")} == {"requests": 1, "limits": 1}
    assert group(of)["spec"]["minResources"][counted] == "3"


def test_volcanos_group_asks_for_what_its_pods_ask_for() -> None:
    sidecar = {"name": "side", "resources": {"limits": {"cpu": "500m"}}}
    main = {"name": "main", "resources": {"requests": {"memory": "1.5Gi", "x.y/z": 2}}}
    of = context(
        scheduling={"gang": "volcano"},
        trainer={"nodes": 2, "gpusPerNode": 4, "podTemplate": {"spec": {"containers": [main, sidecar]}}},
    )
    assert group(of)["spec"]["minResources"] == {"memory": "3221225472", "x.y/z": "4", "cpu": "1"}


@pytest.mark.parametrize("role", ["trainer", "rollout"])
def test_a_quantity_that_is_none_is_the_users_error(role: str) -> None:
    main = {"name": "main", "resources": {"requests": {"memory": "lots"}}}
    of = context(scheduling={"gang": "volcano"}, **{role: {"podTemplate": {"spec": {"containers": [main]}}}})
    with pytest.raises(UserError, match=rf"spec\.{role}\.resources: found 'lots' as memory; a Kubernetes quantity"):
        for_start(of, Start("trainer", 0, 1, gang_rollouts=1), 0)


# ---------------------------------------------------------------------------------------------------------- claims

CLAIMS = [
    {"name": "gpus", "resourceClaimTemplateName": "eight", "roles": ["trainer"]},
    {"name": "gpu", "resourceClaimTemplateName": "one", "roles": ["rollout"]},
    {"name": "fabric", "resourceClaimName": "shared"},
]


def test_a_role_has_its_claims_and_no_extended_resource() -> None:
    of = context(trainer={"gpusPerNode": 8}, scheduling={"gpuResource": "", "resourceClaims": CLAIMS})
    assert trainer(of)["spec"]["resourceClaims"] == [
        {"name": "gpus", "resourceClaimTemplateName": "eight"},
        {"name": "fabric", "resourceClaimName": "shared"},
    ]
    for pod, names in ((trainer(of), ["gpus", "fabric"]), (rollout(of), ["gpu", "fabric"])):
        asked = pod["spec"]["containers"][0]["resources"]
        assert [claim["name"] for claim in asked["claims"]] == names
        assert "limits" not in asked


def test_gpus_that_nobody_brings_are_the_users_error() -> None:
    of = context(scheduling={"gpuResource": "", "resourceClaims": CLAIMS[:1]})
    with pytest.raises(UserError, match="found no claim for the role rollout, which has GPUs"):
        rollout(of)


def test_claims_on_a_server_without_them_are_the_users_error() -> None:
    old = context(capabilities=Capabilities(30), scheduling={"resourceClaims": CLAIMS[2:]})
    with pytest.raises(UserError, match=r"found fabric, but this cluster has no API resource\.k8s\.io"):
        trainer(old)


# ---------------------------------------------------------------------------------------------------------- groups


def test_kai_is_told_not_to_make_a_group_of_its_own_for_the_gang() -> None:
    of = context(scheduling={"gang": "kai", **QUEUE})
    assert group(of)["spec"] == {"minMember": 2, "queue": "q"}
    metadata = trainer(of)["metadata"]
    assert metadata["labels"]["kai.scheduler/queue"] == "q"
    assert metadata["annotations"]["pod-group-name"] == group(of)["metadata"]["name"]
    assert metadata["annotations"]["kai.scheduler/skip-podgrouper"] == "true"
    alone = rollout(of)["metadata"]
    assert alone["labels"]["kai.scheduler/queue"] == "q"
    assert "pod-group-name" not in alone["annotations"]


def test_kubernetes_own_group_is_disrupted_as_a_whole() -> None:
    of = context(scheduling={"gang": "workload", "priorityClassName": "low"})
    assert (group(of)["apiVersion"], group(of)["spec"]) == (
        "scheduling.k8s.io/v1beta1",
        {
            "schedulingPolicy": {"gang": {"minCount": 2}},
            "disruptionMode": {"all": {}},
            "priorityClassName": "low",
        },
    )
    assert trainer(of)["spec"]["schedulingGroup"] == {"podGroupName": group(of)["metadata"]["name"]}
    assert "schedulingGroup" not in rollout(of)["spec"]


@pytest.mark.parametrize("gang", ["kai", "workload"])
def test_a_group_that_is_not_served_is_the_users_error(gang: str) -> None:
    bare = context(capabilities=replace(EVERYTHING_INSTALLED, pod_groups={}), scheduling={"gang": gang, **QUEUE})
    with pytest.raises(UserError, match=f"found {gang}, but this cluster has no API"):
        trainer(bare)


# ----------------------------------------------------------------------------------------------------------- kueue

SIGNS: dict[str, tuple[dict[str, Any], bool]] = {
    "not for a queue": ({"metadata": {"labels": {"a": "b"}}}, False),
    "let through": ({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}, "spec": {}}, True),
    "labelled": (
        {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q", "kueue.x-k8s.io/managed": "true"}}},
        False,
    ),
    "with the finalizer": (
        {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}, "finalizers": ["kueue.x-k8s.io/managed"]}},
        False,
    ),
    "gated": (
        {
            "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
            "spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]},
        },
        False,
    ),
    "gated by somebody else": (
        {
            "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
            "spec": {"schedulingGates": [{"name": "example.com/images"}]},
        },
        True,
    ),
}


@pytest.mark.parametrize(("pod", "out"), SIGNS.values(), ids=SIGNS)
def test_a_pod_that_kueue_has_let_through(pod: dict[str, Any], out: bool) -> None:
    assert is_out_of_its_queue(pod) is out
