"""The generated CRD: up to date, structural, described, and with no default but what /scale needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rz_api import crd, rules
from rz_api.spec import SpecModel
from rz_api.verifiers import OWN_PATTERN

CRD = yaml.safe_load(crd.text())
VERSION = CRD["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in ``schema``, itself included, with its path."""
    yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}[]")


ALL = dict(schemas(ROOT))
FIELDS = {path: schema for path, schema in ALL.items() if path.startswith((".spec", ".status")) and path[-1] != "]"}


def test_the_file_in_the_repository_is_what_the_models_say() -> None:
    assert crd.PATH.read_text() == crd.text(), "run `python -m rz_api.crd`"


def test_check_passes_on_the_file_in_the_repository() -> None:
    assert crd.main(["--check"]) == 0


def test_check_fails_when_the_file_is_out_of_date_and_writing_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crd, "PATH", tmp_path / "crd.yaml")
    assert crd.main(["--check"]) == 1
    assert "run `python -m rz_api.crd`" in capsys.readouterr().err
    assert crd.main([]) == 0
    assert crd.main(["--check"]) == 0


def test_the_file_is_small_enough_for_kubectl_apply() -> None:
    assert len(crd.text().encode()) < crd.MAX_BYTES


def test_the_schema_is_structural() -> None:
    for path, schema in ALL.items():
        forbidden = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "title", "const", "definitions"} & set(schema)
        assert not forbidden, (path, forbidden)
        if schema.get("x-kubernetes-int-or-string"):
            assert set(schema) <= {"x-kubernetes-int-or-string", "description"}, path
        else:
            assert schema["type"] in ("object", "array", "string", "integer", "number", "boolean"), path
        if schema.get("type") == "array":
            assert "items" in schema, path
        if schema.get("type") == "object":
            kinds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(schema)
            assert len(kinds) == 1, (path, kinds)
        for bound in ("exclusiveMinimum", "exclusiveMaximum"):
            assert schema.get(bound, True) is True, (path, "the old spelling is a flag beside minimum or maximum")


def test_every_field_is_described_in_a_sentence_on_one_line() -> None:
    for path, schema in FIELDS.items():
        text = schema["description"]
        assert len(text) > 10, path
        assert text.endswith("."), (path, text)
        assert "\n" not in text, path
        assert "  " not in text, path


def test_every_field_of_the_spec_says_its_default_or_that_it_is_required() -> None:
    for path, schema in FIELDS.items():
        if path.startswith(".spec."):
            parent, _, name = path.rpartition(".")
            required = name in ALL[parent].get("required", [])
            assert schema["description"].endswith("Required.") if required else "Default: " in schema["description"], (
                path
            )


@pytest.mark.parametrize(
    ("path", "ending"),
    [
        (".spec.model", "Required."),
        (".spec.algorithm", "Default: the defaults of its fields."),
        (".spec.algorithm.promptsPerStep", "Default: 128."),
        (".spec.algorithm.critic.learningRate", "Default: 5e-06."),
        (".spec.algorithm.totalSteps", "Default: absent."),
        (".spec.algorithm.name", 'Default: "ppo".'),
        (".spec.trainer.activationCheckpointing", "Default: true."),
        (".spec.rollout.sampling.stop", 'Default: ["User:", "Human:", "Assistant:", "</answer>"].'),
    ],
)
def test_a_description_ends_in_the_default(path: str, ending: str) -> None:
    assert ALL[path]["description"].endswith(ending)


def test_only_what_scale_needs_has_a_default() -> None:
    defaults = {path: schema["default"] for path, schema in ALL.items() if "default" in schema}
    assert defaults == {".spec.rollout": {}, ".spec.rollout.replicas": 1}


def test_scale_and_status_are_subresources_at_fields_that_exist() -> None:
    scale = VERSION["subresources"]["scale"]
    assert VERSION["subresources"]["status"] == {}
    assert [ALL[scale[path]]["type"] for path in ("specReplicasPath", "statusReplicasPath", "labelSelectorPath")] == [
        "integer",
        "integer",
        "string",
    ]


def test_kubectl_get_shows_phase_step_reward_length_rollouts_and_age() -> None:
    columns = VERSION["additionalPrinterColumns"]
    assert [column["name"].upper() for column in columns if not column.get("priority")] == [
        "PHASE",
        "STEP",
        "REWARD",
        "LENGTH",
        "ROLLOUTS",
        "AGE",
    ]
    for column in columns:
        if column["jsonPath"] != ".metadata.creationTimestamp":
            assert ALL[column["jsonPath"]]["type"] == column["type"], column["name"]


def test_it_has_its_names() -> None:
    assert CRD["metadata"]["name"] == "reasonerzeroruns.reasonerzero.dev"
    assert CRD["spec"]["names"]["shortNames"] == ["rzr"]
    assert CRD["spec"]["names"]["categories"] == ["all", "reasonerzero"]
    assert CRD["spec"]["scope"] == "Namespaced"


def test_what_kubernetes_defines_passes_through_untouched() -> None:
    free = [path for path, schema in ALL.items() if schema.get("x-kubernetes-preserve-unknown-fields")]
    for role in ("trainer", "rollout", "reward", "ledger"):
        for field in ("podTemplate", "tolerations[]", "envFrom[]", "env[].valueFrom"):
            assert f".spec.{role}.{field}" in free
    assert len(free) == 16


def test_quantities_are_strings_or_numbers() -> None:
    for role in ("trainer", "rollout", "reward", "ledger"):
        for kind in ("requests", "limits"):
            assert ALL[f".spec.{role}.resources.{kind}[]"] == {"x-kubernetes-int-or-string": True}


def test_conditions_are_merged_by_type() -> None:
    conditions = ALL[".status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize("section", ["model", "data", "algorithm", "evaluation", "storage.uri", "rollout.sampling"])
def test_what_cel_compares_as_a_whole_is_bounded(section: str) -> None:
    """A CEL rule's cost is estimated from the largest value that the schema allows, and refused if it is too high."""
    for path, schema in ALL.items():
        if path.startswith(f".spec.{section}"):
            if schema.get("type") == "string":
                assert "maxLength" in schema or "enum" in schema, path
            if schema.get("type") == "array":
                assert "maxItems" in schema, path


def test_the_fields_that_rules_are_reported_at_exist() -> None:
    for path, schema in ALL.items():
        for rule in schema.get("x-kubernetes-validations", []):
            assert path + rule["fieldPath"] in ALL, rule
            assert "\n" not in rule["message"] + rule["rule"]
            assert "$" not in rule["rule"].replace(rules.NAME_PATTERN, "").replace(OWN_PATTERN, "")


def test_every_rule_is_attached_wherever_its_model_occurs() -> None:
    attached = [rule["message"] for schema in ALL.values() for rule in schema.get("x-kubernetes-validations", [])]
    expected = {"EnvVar": 4, "OptimizerSpec": 2, "DataSource": 2}
    for rule in rules.RULES:
        assert attached.count(rule.message) == expected.get(rule.model.__name__, 1), rule.message


def test_the_name_rule_is_at_the_root_in_words_and_for_old_servers_as_a_pattern() -> None:
    assert {"rule": rules.NAME_CEL, "message": rules.NAME_MESSAGE, "fieldPath": ".metadata.name"} in ROOT[
        "x-kubernetes-validations"
    ]
    assert ROOT["properties"]["metadata"]["properties"] == {
        "name": {"type": "string", "maxLength": 40, "pattern": rules.NAME_PATTERN}
    }


def test_a_model_field_without_a_docstring_is_refused() -> None:
    class Silent(SpecModel):
        """A model."""

        field: int

    with pytest.raises(AssertionError, match="without a docstring"):
        crd._Structural(Silent, defaults=True).schema()
