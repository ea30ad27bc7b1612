"""What a pod asks for where its spec does not say."""

from __future__ import annotations

from typing import Any

import pytest
from api_builders import document
from hypothesis import given
from hypothesis import strategies as st

from rz_api.names import Role
from rz_api.requests import default_requests, parameters_in_name
from rz_api.resource import load_run
from rz_api.spec import ReasonerZeroRunSpec

SIZES = {
    "a hub id": ("Qwen/Qwen2.5-7B", 7e9),
    "with a suffix": ("meta-llama/Llama-3.2-1B-Instruct", 1e9),
    "with a decimal point": ("Qwen/Qwen2.5-0.5B", 5e8),
    "in millions": ("HuggingFaceTB/SmolLM2-135M", 1.35e8),
    "small letters": ("org/zero-32b", 3.2e10),
    "a folder in a bucket": ("s3://models/qwen-7B/", 7e9),
    "of two the smaller": ("org/72B-distilled-to-7B", 7e9),
    "the active part of a mixture is no size": ("Qwen/Qwen3-30B-A3B", 3e10),
    "a folder above it says nothing": ("s3://models-7B/mine", None),
    "a version is no size": ("org/model-v2", None),
    "none at all": ("runs/tiny/base/model", None),
    "nothing": ("org/0B", None),
}


@pytest.mark.parametrize(("name", "size"), SIZES.values(), ids=SIZES)
def test_the_size_that_a_models_name_says(name: str, size: float | None) -> None:
    assert parameters_in_name(name) == size


@given(st.text(max_size=200))
def test_any_name_has_a_size_above_zero_or_none(name: str) -> None:
    size = parameters_in_name(name)
    assert size is None or size > 0


def spec(**changes: Any) -> ReasonerZeroRunSpec:
    return load_run(document({f"spec.{path.replace('__', '.')}": value for path, value in changes.items()})).spec


SEVEN = {"model__name": "Qwen/Qwen2.5-7B"}
REQUESTS: dict[str, tuple[Role, dict[str, Any], dict[str, str]]] = {
    "a ledger, whatever the model": ("ledger", SEVEN, {"cpu": "100m", "memory": "256Mi"}),
    "a reward service, by its verifiers": ("reward", {"reward__workers": 6}, {"cpu": "100m", "memory": "1024Mi"}),
    # 16.1 = 3e9 + 2 x 7e9 bytes; 27.1 = 1 GiB + 2 x 14e9 bytes
    "a rollout of 7B": ("rollout", SEVEN, {"cpu": "1", "memory": "16Gi", "ephemeral-storage": "28Gi"}),
    "one over 4 GPUs": (
        "rollout",
        {**SEVEN, "rollout__tensorParallel": 4},
        {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "28Gi"},
    ),
    # staging 12 x 14e9 + on its way 4 x 7e9 + processes 8 x 3e9 = 2.2e11 bytes
    "a trainer of 7B on one node": ("trainer", SEVEN, {"cpu": "8", "memory": "205Gi", "ephemeral-storage": "28Gi"}),
    "a quarter of it on four": (
        "trainer",
        {**SEVEN, "trainer__nodes": 4},
        {"cpu": "8", "memory": "88Gi", "ephemeral-storage": "28Gi"},
    ),
    # and 8 engines beside it, each 3e9 + 1.4e10 bytes
    "with the rollouts that it hosts": (
        "trainer",
        {**SEVEN, "rollout__placement": "colocated"},
        {"cpu": "8", "memory": "332Gi", "ephemeral-storage": "236Gi"},
    ),
    "a rollout of an unknown model": ("rollout", {}, {"cpu": "1", "memory": "2862Mi"}),
    "a trainer of one": ("trainer", {}, {"cpu": "8", "memory": "23Gi"}),
    "a rollout on the CPU": ("rollout", {"trainer__gpusPerNode": 0}, {"cpu": "250m", "memory": "1024Mi"}),
    "a trainer on the CPU": ("trainer", {"trainer__gpusPerNode": 0}, {"cpu": "250m", "memory": "1024Mi"}),
}


@pytest.mark.parametrize(("role", "changes", "wanted"), REQUESTS.values(), ids=REQUESTS)
def test_requests(role: Role, changes: dict[str, Any], wanted: dict[str, str]) -> None:
    assert default_requests(spec(**changes), role) == wanted


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_a_larger_model_never_asks_for_less(gpus: int) -> None:
    def memory(size: int, role: Role) -> float:
        asked = default_requests(spec(model__name=f"m-{size}B", trainer__gpusPerNode=gpus), role)["memory"]
        return float(asked[:-2]) * (1024 if asked.endswith("Gi") else 1)

    roles: tuple[Role, ...] = ("rollout", "trainer")
    for role in roles:
        asked = [memory(size, role) for size in (1, 2, 7, 32, 70)]
        assert asked == sorted(asked)
