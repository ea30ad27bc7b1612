from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from rz_operator.apiserver.versions import Capabilities, choose

OF_1_20 = {"apps": ["v1"], "policy": ["v1beta1"]}
OF_1_36 = {"apps": ["v1"], "policy": ["v1"]}
QUEUES = {
    "kueue.x-k8s.io": ["v1beta1"],
    "scheduling.x-k8s.io": ["v1alpha1"],
    "scheduling.volcano.sh": ["v1beta1"],
}

Row = tuple[str, Mapping[str, Any], Mapping[str, Collection[str]], Capabilities]
CHOICES: list[Row] = [
    ("1.20", {"major": "1", "minor": "20"}, OF_1_20, Capabilities(20, "policy/v1beta1")),
    ("1.36", {"major": "1", "minor": "36"}, OF_1_36, Capabilities(36, "policy/v1")),
    ("a provider's 20+", {"minor": "20+"}, OF_1_20, Capabilities(20, "policy/v1beta1")),
    ("both versions of policy", {"minor": "21"}, {"policy": ["v1", "v1beta1"]}, Capabilities(21, "policy/v1")),
    ("no policy group is told", {"minor": "25"}, {}, Capabilities(25, "policy/v1")),
    ("no policy group is told, old", {"minor": "20"}, {}, Capabilities(20, "policy/v1beta1")),
    ("only gitVersion", {"gitVersion": "v1.27.3-gke.100"}, OF_1_36, Capabilities(27, "policy/v1")),
    ("no version at all", {}, OF_1_20, Capabilities(0, "policy/v1beta1")),
    (
        "every scheduler is installed",
        {"minor": "36"},
        OF_1_36 | QUEUES,
        Capabilities(
            36,
            "policy/v1",
            {"coscheduling": "scheduling.x-k8s.io/v1alpha1", "volcano": "scheduling.volcano.sh/v1beta1"},
            kueue=True,
        ),
    ),
    (
        "KAI and dynamic resource allocation",
        {"minor": "36"},
        OF_1_36 | {"scheduling.run.ai": ["v2alpha2"], "resource.k8s.io": ["v1"]},
        Capabilities(36, "policy/v1", {"kai": "scheduling.run.ai/v2alpha2"}, resource_claims=True),
    ),
    (
        "a PodGroup of a version that nobody here has seen",
        {"minor": "36"},
        OF_1_36 | {"scheduling.x-k8s.io": ["v9"]},
        Capabilities(36, "policy/v1"),
    ),
]


@pytest.mark.parametrize(("version", "groups", "chosen"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_what_is_chosen(
    version: Mapping[str, Any], groups: Mapping[str, Collection[str]], chosen: Capabilities
) -> None:
    assert choose(version, groups) == chosen


OWN = {"scheduling.k8s.io": ["v1", "v1beta1"]}
"""Of a server from 1.37 on with its gangs enabled; before 1.22 the second was of PriorityClasses."""


@pytest.mark.parametrize(
    ("minor", "others", "mode"),
    [
        ("37", ["podgroups", "podgroups/status", "workloads"], {"workload": "scheduling.k8s.io/v1beta1"}),
        ("20", ["priorityclasses"], {}),
        ("37", [], {}),
    ],
    ids=["PodGroups of its own", "an old server's PriorityClasses", "nothing"],
)
def test_kubernetes_own_gangs_are_those_whose_podgroups_are_served(
    minor: str, others: list[str], mode: dict[str, str]
) -> None:
    assert choose({"minor": minor}, OWN, others).pod_groups == mode
