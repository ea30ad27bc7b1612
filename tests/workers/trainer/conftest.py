"""Builders for the trainer's tests: tiny random models, trajectories, settings."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.models.actor_critic import Critic, Policy
from rz_workers.trainer.ranks import Ranks

sys.path.insert(0, str(Path(__file__).parent))
from gang import Gang
from tiny_models import policy_and_critic


@pytest.fixture
def make_spec() -> Callable[..., ReasonerZeroRunSpec]:
    """A CPU run with few, short samples; keyword arguments replace whole sections' fields."""

    def make(**sections: dict[str, Any]) -> ReasonerZeroRunSpec:
        document: dict[str, Any] = {
            "model": {"name": "base"},
            "data": {"train": [{"uri": "train.jsonl"}]},
            "storage": {"uri": "memory://run"},
            "trainer": {
                "gpusPerNode": 0,
                "dtype": "float32",
                "maxTokensPerMicroBatch": 64,
                "activationCheckpointing": False,
            },
            "algorithm": {
                "promptsPerStep": 2,
                "samplesPerPrompt": 2,
                "totalSteps": 4,
                "policy": {"warmupSteps": 0, "learningRate": 1e-3},
                "critic": {"warmupSteps": 0, "learningRate": 1e-3, "miniBatches": 3},
            },
        }
        for section, fields in sections.items():
            document[section] = {**document.get(section, {}), **fields}
        return ReasonerZeroRunSpec.model_validate(document)

    return make


@pytest.fixture
def make_run(make_spec: Callable[..., ReasonerZeroRunSpec]) -> Callable[..., ResolvedRun]:
    def make(**sections: dict[str, Any]) -> ResolvedRun:
        return ResolvedRun(name="test", namespace="local", uid="uid-1", spec=make_spec(**sections))

    return make


@pytest.fixture
def make_models() -> Callable[..., tuple[Policy, Critic]]:
    """Policy and critic with random weights; the same every time."""
    return policy_and_critic


@pytest.fixture
def make_learner(make_models: Callable[..., tuple[Policy, Critic]]) -> Callable[..., Learner]:
    def make(spec: ReasonerZeroRunSpec, dtype: torch.dtype = torch.float32) -> Learner:
        policy, critic = make_models(dtype)
        has_critic = spec.algorithm.name == "ppo"
        return Learner(spec, Ranks(0, 1, torch.device("cpu"), None), policy, critic if has_critic else None, None)

    return make


@pytest.fixture
def make_trajectories() -> Callable[..., list[Trajectory]]:
    """Trajectories of random tokens and lengths: ``groups`` x ``samples``, of weight version ``step``."""

    def make(step: int = 0, groups: int = 2, samples: int = 2, seed: int = 0) -> list[Trajectory]:
        generator = torch.Generator().manual_seed(seed)

        def tokens(low: int, high: int) -> list[int]:
            size = int(torch.randint(low, high, (), generator=generator))
            return torch.randint(0, 29, (size,), generator=generator).tolist()

        rows = []
        for group in range(groups):
            prompt = tokens(2, 6)
            for sample in range(samples):
                response = tokens(1, 9)
                rows.append(
                    Trajectory(
                        run="test",
                        step=step,
                        group_id=step * groups + group,
                        sample_index=sample,
                        prompt_id=f"0-{group}",
                        prompt="p",
                        response="r",
                        prompt_token_ids=prompt,
                        response_token_ids=response,
                        rollout_logprobs=[-3.0] * len(response),
                        loss_mask=None,
                        finish_reason="stop",
                        stop_reason="</answer>",
                        extracted_answer="1",
                        reference_answer="1",
                        reward=float((group + sample) % 2),
                        reward_status="ok",
                        weight_version=step,
                        engine="test",
                        seconds=0.1,
                    )
                )
        return rows

    return make


@pytest.fixture(scope="session")
def gang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """Four rank processes, started once for all tests."""
    with Gang(4, tmp_path_factory.mktemp("gang")) as gang:
        yield gang


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder
