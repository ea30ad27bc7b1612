"""Values that are refused: before anything is sent to a cluster, and in words that say what to change."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import generate
import pytest
from helm import CHART, Helm, HelmError

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a key that nobody knows": ({"watchNamespce": "x"}, ["at ''", "'watchNamespce' not allowed"]),
    "one of an image": ({"images": {"operator": {"tg": "1"}}}, ["at '/images/operator'", "'tg' not allowed"]),
    "a key of a place that has none like it": ({"crd": {"enabled": True}}, ["at '/crd'", "'enabled' not allowed"]),
    "a toleration's": ({"tolerations": [{"kee": "gpu"}]}, ["at '/tolerations/0'", "'kee' not allowed"]),
    "one deep in an affinity": (
        {"affinity": {"nodeAffinity": {"requiredDuringScheduling": {}}}},
        ["at '/affinity/nodeAffinity'", "'requiredDuringScheduling' not allowed"],
    ),
    "an environment variable's": (
        {"operator": {"extraEnv": [{"name": "A", "valuefrom": {}}]}},
        ["at '/operator/extraEnv/0'", "'valuefrom' not allowed"],
    ),
    "a resource's": ({"resources": {"limit": {}}}, ["at '/resources'", "'limit' not allowed"]),
    "a peer's": (
        {"networkPolicy": {"operator": {"scrapeFrom": [{"namespaces": {}}]}}},
        ["at '/networkPolicy/operator/scrapeFrom/0'", "'namespaces' not allowed"],
    ),
    "a peer's of runs": (
        {"networkPolicy": {"runs": {"scrapeFrom": [{"namespace": "monitoring"}]}}},
        ["at '/networkPolicy/runs/scrapeFrom/0'", "'namespace' not allowed"],
    ),
    "a number below its least": ({"operator": {"concurrency": 0}}, ["at '/operator/concurrency'", "got 0, want 1"]),
    "a text in place of a number": (
        {"operator": {"pollSeconds": "15"}},
        ["at '/operator/pollSeconds'", "got string, want number"],
    ),
    "a level that there is not": (
        {"operator": {"logLevel": "LOUD"}},
        ["at '/operator/logLevel'", "one of 'DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'"],
    ),
    "a namespace that can be none": ({"watchNamespace": "Team A"}, ["at '/watchNamespace'", "does not match pattern"]),
    "a registry with a scheme": (
        {"images": {"registry": "https://registry.example.com/"}},
        ["at '/images/registry'", "does not match pattern"],
    ),
    "a digest that is cut off": (
        {"images": {"trainer": {"digest": "sha256:12"}}},
        ["at '/images/trainer/digest'", "does not match pattern"],
    ),
    "root as user": ({"podSecurity": {"runAsUser": 0}}, ["at '/podSecurity/runAsUser'", "got 0, want 1"]),
    "a label that is the chart's": (
        {"podLabels": {"app.kubernetes.io/name": "other"}},
        ["invalid propertyName 'app.kubernetes.io/name'"],
    ),
    "a label that is no text": ({"commonLabels": {"a": 1}}, ["at '/commonLabels/a'", "got number, want string"]),
    "an alert that there is not": (
        {"metrics": {"prometheusRule": {"disabled": ["Everything"]}}},
        ["at '/metrics/prometheusRule/disabled/0'", "'ReasonerZeroRewardCollapse'"],
    ),
    "an interval without a unit": (
        {"metrics": {"podMonitor": {"interval": "15"}}},
        ["at '/metrics/podMonitor/interval'", "does not match pattern"],
    ),
    "an address without a prefix": (
        {"networkPolicy": {"operator": {"apiServer": {"cidrs": ["10.0.0.1"]}}}},
        ["at '/networkPolicy/operator/apiServer/cidrs/0'", "does not match pattern"],
    ),
    # What a schema can't say, said by the templates: found, required, what to change.
    "a variable that the chart sets": (
        {"operator": {"extraEnv": [{"name": "RZ_POLL_SECONDS", "value": "1"}]}},
        ["operator.extraEnv has RZ_POLL_SECONDS, which the chart sets itself", "remove it"],
    ),
    "no ServiceAccount at all": (
        {"serviceAccount": {"create": False}},
        ["serviceAccount.name empty", "set serviceAccount.name"],
    ),
    "workers of no namespace": (
        {"networkPolicy": {"workers": {"enabled": True}}},
        ["networkPolicy.workers.namespaces empty", "name them, or set watchNamespaces"],
    ),
}


@pytest.mark.parametrize(("values", "words"), REFUSED.values(), ids=REFUSED)
def test_is_refused_in_words_that_help(helm: Helm, values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(HelmError) as refused:
        helm.template(values)
    assert [each for each in words if each not in str(refused.value)] == [], refused.value


def levels(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every part of a schema that describes a value, with where it is."""
    found = [(path, schema)]
    for key in ("properties", "$defs"):
        for name, part in schema.get(key, {}).items():
            found += levels(part, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += levels(schema[key], f"{path}/*")
    return found


def test_no_object_is_open_but_maps_of_text() -> None:
    schema = json.loads((generate.CHART / "values.schema.json").read_text())
    open_ones = [
        path
        for path, part in levels(schema)
        if ("object" in part.get("type", ()) or "properties" in part) and "additionalProperties" not in part
    ]
    assert open_ones == ["/global"], "unknown keys would be swallowed there"


def test_every_value_has_its_description_in_the_schema() -> None:
    schema = json.loads((generate.CHART / "values.schema.json").read_text())

    def described(tree: tuple[generate.Value, ...], part: dict[str, Any]) -> None:
        for value in tree:
            own = part["properties"][value.path[-1]]
            if value.children:
                described(value.children, own)
            else:
                assert own["description"] == value.description
                assert value.description.endswith((".", ")")), value.dotted

    described(generate.values(), schema)


def test_the_commands_of_the_readme_are_taken(helm: Helm) -> None:
    (block,) = re.findall(r"(?s)```sh\n(.*?)```", (CHART / "README.md").read_text())
    install, test = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    words = [str(CHART) if word == "charts/reasonerzero" else word for word in install[1:]]
    assert "STATUS: pending-install" in helm.run(*words, "--dry-run=client")
    assert (install[2], install[5]) == (test[2], test[4]), "the same release, in the same namespace"


@pytest.mark.parametrize("file", ["README.md", "templates/NOTES.txt"])
def test_every_value_that_is_set_in_a_text_is_one(helm: Helm, file: str) -> None:
    found = re.findall(r"--set ([\w.]+=[^\s`]+)", (CHART / file).read_text())
    assert found
    for each in found:
        helm.template(flags=("--set", each.replace("...", "registry.example.com")))
