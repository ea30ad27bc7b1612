from __future__ import annotations

import copy
from typing import Any

import pytest
from manifest_builders import context

from rz_operator.decisions.members import Start
from rz_operator.errors import UserError
from rz_operator.manifests import for_start
from rz_operator.manifests.pod_template import merge

RENDERED: dict[str, Any] = {
    "metadata": {"name": "p", "labels": {"reasonerzero.dev/run": "p"}, "annotations": {"reasonerzero.dev/x": "1"}},
    "spec": {
        "nodeSelector": {"a": "1"},
        "tolerations": [{"key": "t"}],
        "containers": [
            {
                "name": "main",
                "image": "i",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "ports": [{"name": "api", "containerPort": 1}],
                "livenessProbe": {"periodSeconds": 1},
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def main(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "main", **fields}]}}


MAIN = ("spec", "containers", 0)
LABELS = ("metadata", "labels")
MERGES: list[tuple[str, dict[str, Any], tuple[Any, ...], Any]] = [
    ("labels are added", {"metadata": {"labels": {"t": "1"}}}, ("metadata", "labels", "t"), "1"),
    ("rendered labels stay", {"metadata": {"labels": {"t": "1"}}}, ("metadata", "labels", "reasonerzero.dev/run"), "p"),
    ("labels can't be removed as a whole", {"metadata": {"labels": None}}, LABELS, RENDERED["metadata"]["labels"]),
    ("annotations are added", {"metadata": {"annotations": {"t": "1"}}}, ("metadata", "annotations", "t"), "1"),
    (
        "node selectors are merged",
        {"spec": {"nodeSelector": {"b": "2"}}},
        ("spec", "nodeSelector"),
        {"a": "1", "b": "2"},
    ),
    ("tolerations are replaced", {"spec": {"tolerations": []}}, ("spec", "tolerations"), []),
    ("an unknown field is taken over", {"spec": {"runtimeClassName": "r"}}, ("spec", "runtimeClassName"), "r"),
    (
        "null removes a field",
        main(livenessProbe=None),
        MAIN,
        {**RENDERED["spec"]["containers"][0]} | {"-": "livenessProbe"},
    ),
    ("a field of the main container is replaced", main(image="j"), (*MAIN, "image"), "j"),
    ("the others of it stay", main(image="j"), (*MAIN, "ports"), [{"name": "api", "containerPort": 1}]),
    ("probes are replaced as a whole", main(livenessProbe={"x": 1}), (*MAIN, "livenessProbe"), {"x": 1}),
    (
        "a variable takes the place of the rendered one",
        main(env=[{"name": "A", "valueFrom": {"f": 1}}, {"name": "C", "value": "3"}]),
        (*MAIN, "env"),
        [{"name": "A", "valueFrom": {"f": 1}}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
    ),
    (
        "ports are merged by name",
        main(ports=[{"name": "debug", "containerPort": 2}]),
        (*MAIN, "ports"),
        [{"name": "api", "containerPort": 1}, {"name": "debug", "containerPort": 2}],
    ),
    (
        "two mounts of a volume of one's own",
        main(volumeMounts=[{"name": "d", "mountPath": "/a"}, {"name": "d", "mountPath": "/b"}]),
        (*MAIN, "volumeMounts"),
        [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "d", "mountPath": "/a"},
            {"name": "d", "mountPath": "/b"},
        ],
    ),
    (
        "a volume takes the place of the rendered one",
        {"spec": {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}]}},
        ("spec", "volumes"),
        [{"name": "tmp", "hostPath": {"path": "/x"}}],
    ),
    (
        "a second container comes after the main one",
        {"spec": {"containers": [{"name": "sidecar", "image": "s"}]}},
        ("spec", "containers", 1),
        {"name": "sidecar", "image": "s"},
    ),
    (
        "init containers are added",
        {"spec": {"initContainers": [{"name": "warm", "image": "w"}]}},
        ("spec", "initContainers"),
        [{"name": "warm", "image": "w"}],
    ),
    (
        "names resolve on the host's network",
        {"spec": {"hostNetwork": True}},
        ("spec", "dnsPolicy"),
        "ClusterFirstWithHostNet",
    ),
    (
        "the user's own dnsPolicy is left alone",
        {"spec": {"hostNetwork": True, "dnsPolicy": "Default"}},
        ("spec", "dnsPolicy"),
        "Default",
    ),
]


@pytest.mark.parametrize(("given", "path", "wanted"), [row[1:] for row in MERGES], ids=[row[0] for row in MERGES])
def test_merges(given: dict[str, Any], path: tuple[Any, ...], wanted: Any) -> None:
    before = copy.deepcopy(RENDERED)
    found: Any = merge(RENDERED, given, "trainer")
    for key in path:
        found = found[key]
    if isinstance(wanted, dict) and "-" in wanted:
        wanted = {key: value for key, value in wanted.items() if key not in ("-", wanted["-"])}
    assert found == wanted
    assert before == RENDERED, "what was rendered is not changed in place"


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("a name", {"metadata": {"name": "x"}}, r'podTemplate\.metadata\.name: found "x"; .*: remove it'),
    ("owners", {"metadata": {"ownerReferences": []}}, r"metadata\.ownerReferences: found \[\]; .* belong to the run"),
    ("finalizers", {"metadata": {"finalizers": ["f"]}}, r"metadata\.finalizers: .*hold up the deletion"),
    ("a label of the run's", {"metadata": {"labels": {"reasonerzero.dev/run": "x"}}}, "found reasonerzero.dev/run; .*"),
    ("a label that the operator may use", {"metadata": {"labels": {"reasonerzero.dev/new": "x"}}}, "use another key"),
    ("an annotation of the run's", {"metadata": {"annotations": {"reasonerzero.dev/restarts": "9"}}}, "another key"),
    ("a host name", {"spec": {"hostname": "x"}}, r"spec\.hostname: .*find each other"),
    ("a restart policy", {"spec": {"restartPolicy": "Always"}}, "the operator decides which pods are restarted"),
    ("a field at the top", {"containers": []}, r"podTemplate\.containers: .*metadata and spec: move it"),
    ("containers without names", {"spec": {"containers": [{"image": "i"}]}}, "entries with a name .* each is required"),
    (
        "containers that are none",
        {"spec": {"containers": "main"}},
        r'spec\.containers: found "main"; a list of entries',
    ),
    ("a name that is a mapping", {"spec": {"volumes": [{"name": {"a": 1}}]}}, r"spec\.volumes: found .* \(a string\)"),
    ("a label that is a number", {"metadata": {"labels": {"a": 1}}}, r"metadata\.labels: found 1 at a; a string is"),
    ("labels that are no mapping", {"metadata": {"labels": ["a"]}}, r"metadata\.labels: found .*a mapping is required"),
    ("a spec that is none", {"spec": 3}, r"podTemplate\.spec: found 3; a mapping is required"),
]


@pytest.mark.parametrize(("given", "message"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        merge(RENDERED, given, "trainer")


def test_the_template_reaches_the_pods_of_a_deployment_too() -> None:
    of_reward = context(reward={"podTemplate": {"metadata": {"labels": {"team": "r"}}}})
    (deployment,) = for_start(of_reward, Start("reward", 0, 1), 0)
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "r"
