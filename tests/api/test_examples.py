"""The examples of the paper's runs load, and use as many GPUs as the paper's did."""

from __future__ import annotations

from pathlib import Path

import pytest

from rz_api.resource import ReasonerZeroRun, load_run

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

GPUS = {"orz-0.5b": 8, "orz-1.5b": 16, "orz-7b": 64, "orz-32b": 128}


def example(name: str) -> ReasonerZeroRun:
    return load_run((EXAMPLES / f"{name}.yaml").read_text())


@pytest.mark.parametrize(("name", "gpus"), GPUS.items())
def test_an_example_loads_and_asks_for_the_papers_gpus(name: str, gpus: int) -> None:
    spec = example(name).spec
    asked = spec.trainer.nodes * spec.trainer.gpus_per_node
    if spec.rollout.placement == "separate":
        asked += spec.rollout.replicas * spec.rollout.tensor_parallel
    assert asked == gpus


@pytest.mark.parametrize("name", GPUS)
def test_an_example_is_named_after_its_model_and_owns_a_folder(name: str) -> None:
    run = example(name)
    assert run.metadata.name == name.replace(".", "-")
    assert run.spec.model.name == f"Qwen/Qwen2.5-{name.removeprefix('orz-').upper()}"
    assert run.spec.storage.uri == f"s3://runs/{run.metadata.name}"


@pytest.mark.parametrize("name", ["orz-0.5b", "orz-1.5b", "orz-32b"])
def test_the_papers_four_sets_are_evaluated(name: str) -> None:
    assert [source.name for source in example(name).spec.data.eval] == ["aime24", "aime25", "math500", "gpqa-diamond"]


def test_the_7b_run_is_the_one_of_the_design() -> None:
    assert (EXAMPLES / "orz-7b.yaml").read_text() == (
        "apiVersion: reasonerzero.dev/v1alpha1\n"
        "kind: ReasonerZeroRun\n"
        "metadata: {name: orz-7b}\n"
        "spec:\n"
        "  model: {name: Qwen/Qwen2.5-7B}\n"
        "  data: {train: [{uri: s3://datasets/orz_math_57k.jsonl}], "
        "eval: [{name: math500, uri: s3://datasets/math500.json}]}\n"
        "  storage: {uri: s3://runs/orz-7b, secretName: bucket-credentials}\n"
        "  trainer: {nodes: 5, gpusPerNode: 8}\n"
        "  rollout: {replicas: 24}\n"
    )
