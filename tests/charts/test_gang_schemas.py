"""Every pod and group of a run is valid by Kubernetes' published schemas, those of its own gangs included (1.37)."""

from __future__ import annotations

import pytest
from kubernetes_schemas import errors
from manifest_builders import cases

from rz_operator.manifests import all_of

OF_OTHERS = ("scheduling.x-k8s.io/", "scheduling.volcano.sh/", "scheduling.run.ai/")
"""Groups whose schemas are in CRDs of other projects."""


@pytest.mark.parametrize("name", cases())
def test_what_a_run_consists_of_is_what_the_newest_server_takes(name: str) -> None:
    own = [body for body in all_of(cases()[name]) if not body["apiVersion"].startswith(OF_OTHERS)]
    assert [
        f"{body['kind']} {body['metadata']['name']}: {wrong}" for body in own for wrong in errors(body, "1.37")
    ] == []


def test_kubernetes_own_group_is_among_them() -> None:
    (group,) = [body for body in all_of(cases()["variant-workload"]) if body["kind"] == "PodGroup"]
    assert group["apiVersion"] == "scheduling.k8s.io/v1beta1"
    broken = group | {"spec": {"schedulingPolicy": {"gang": {"minMember": 2}}}}
    assert errors(broken, "1.37"), "a field that it does not have is noticed"
