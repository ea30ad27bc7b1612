from __future__ import annotations

from pathlib import Path

import pytest

from rz_operator.errors import UserError
from rz_operator.run_file import apply_override, read_object, read_run

GOOD = """apiVersion: reasonerzero.dev/v1alpha1
kind: ReasonerZeroRun
metadata: {name: tiny}
spec:
  model: {name: base}
  data: {train: [{uri: train.jsonl}]}
  storage: {uri: store}
  trainer: {gpusPerNode: 0}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(GOOD)
    return file


def test_a_local_run_has_an_absolute_storage_path_and_a_uid_that_name_and_storage_determine(file: Path) -> None:
    run = read_run(file)
    assert run.spec.storage.uri == str(file.parent / "store")
    assert run.uid == read_run(file, ["algorithm.seed=5", f"storage.uri={file.parent}/store"]).uid
    assert run.uid != read_run(file, ["storage.uri=elsewhere"]).uid
    assert run.uid != read_run(file, ["metadata.name=other"]).uid


def test_a_url_stays_as_it_is(file: Path) -> None:
    assert read_run(file, ["storage.uri=s3://bucket/run"]).spec.storage.uri == "s3://bucket/run"


def test_overrides_are_yaml_values_anywhere_in_the_spec(file: Path) -> None:
    run = read_run(
        file,
        [
            "algorithm.seed=7",
            "spec.algorithm.policy.learningRate=1e-4",
            "data.train.0.uri=other.jsonl",
            "rollout.sampling.stop=[a, b]",
            "suspend=true",
            "metadata.name=other",
        ],
    )
    algorithm = run.spec.algorithm
    assert (run.name, algorithm.seed, algorithm.policy.learning_rate) == ("other", 7, 1e-4)
    assert run.spec.data.train[0].uri == "other.jsonl"
    assert run.spec.rollout.sampling.stop == ["a", "b"]
    assert run.spec.suspend


BAD_FILES = [
    ("an unknown field", GOOD + "  trainr: {}\n", [], "did you mean trainer"),
    ("a wrong type", GOOD.replace("gpusPerNode: 0", "gpusPerNode: none"), [], r"spec.trainer.gpusPerNode.*'?none"),
    ("a syntax error names its line", GOOD + "  bad: [1\n  x: 2\n", [], r"run.yaml: line 10: this is not YAML"),
    ("two documents", GOOD + "---\n" + GOOD, [], "found 2 YAML documents"),
    ("nothing at all", "", [], "found 0 YAML documents"),
    ("a list", "- 1\n", [], "found a list"),
    ("no text", None, [], "no UTF-8 text"),
    ("an override of an unknown field", GOOD, ["algorithm.sed=1"], "did you mean seed"),
    ("an override of a wrong type", GOOD, ["algorithm.seed=many"], r"spec.algorithm.seed.*many"),
    ("an override without a value", GOOD, ["algorithm.seed"], r"key.path=value is required"),
    ("an override through a value", GOOD, ["model.name.x=1"], "spec.model.name is the value 'base', so it has no 'x'"),
    ("an override beyond a list", GOOD, ["data.train.3.uri=x"], "spec.data.train is a list of 1, so it has no '3'"),
    (
        "an override of metadata that nobody reads",
        GOOD,
        ["metadata.nam=x"],
        r"found metadata.nam; of the metadata only",
    ),
    ("an override of the whole metadata", GOOD, ["metadata={}"], "of the metadata only name, namespace"),
    ("an override below a name", GOOD, ["metadata.name.x=y"], "of the metadata only"),
    ("a label that is no text", GOOD, ["metadata.labels.a=1"], r"metadata.labels.a: found 1, a string is required"),
    ("an override that is no YAML", GOOD, ["algorithm.seed=[1"], "the value is no YAML"),
]


@pytest.mark.parametrize(
    ("text", "overrides", "words"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES]
)
def test_bad_files_are_the_users_error(file: Path, text: str | None, overrides: list[str], words: str) -> None:
    file.write_bytes(b"\xff\xfe\x00" if text is None else text.encode())
    with pytest.raises(UserError, match=words):
        read_run(file, overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no file .*nothing.yaml"):
        read_run(tmp_path / "nothing.yaml")


def test_labels_and_annotations_have_dots_in_their_keys(file: Path) -> None:
    document, run = read_object(file, ["metadata.labels.example.com/team=a", "metadata.namespace=n"])
    assert document["metadata"] == {"name": "tiny", "labels": {"example.com/team": "a"}, "namespace": "n"}
    assert run.metadata.labels == {"example.com/team": "a"}


def test_an_object_is_as_it_is_written_with_no_path_made_absolute(file: Path) -> None:
    document, run = read_object(file, ["trainer.nodes=2"])
    assert document["spec"]["storage"] == {"uri": "store"}
    assert (run.spec.storage.uri, run.spec.trainer.nodes) == ("store", 2)


def test_an_override_makes_sections_that_are_not_there() -> None:
    document: dict[str, object] = {"spec": {"rollout": None}}
    apply_override(document, "rollout.sampling.temperature=0.5")
    assert document == {"spec": {"rollout": {"sampling": {"temperature": 0.5}}}}
