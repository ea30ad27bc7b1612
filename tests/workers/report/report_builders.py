"""A run's folder as the roles would leave it, without a model: curves that grow, phases that overlap, a few shards.

Written through RunFolder and ``write_shard`` alone, so that the report is tested on the real layout. Everything follows
from the arguments.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.messages import ShardRef, WeightsInfo
from rz_workers.protocol.schedule import train_units
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import EvalSummary, Phase, Recovery, StepCommit, VerdictCount
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import write_shard

START = 1_700_000_000.0


def a_run(*, steps: int = 3, eval_sets: Sequence[str] = ("heldout",)) -> ResolvedRun:
    """2 prompts of 2 samples a step, one lease unit per prompt."""
    spec = ReasonerZeroRunSpec.model_validate(
        {
            "model": {"name": "models/tiny"},
            "data": {
                "train": [{"uri": "train.jsonl"}],
                "eval": [{"name": name, "uri": f"{name}.jsonl"} for name in eval_sets],
                "promptTemplate": "User: {question}\nAssistant: <think>",
            },
            "storage": {"uri": "unused"},
            "algorithm": {"seed": 7, "totalSteps": steps, "promptsPerStep": 2, "samplesPerPrompt": 2},
            "rollout": {"samplesPerLease": 2, "sampling": {"maxNewTokens": 96}},
            "evaluation": {"interval": 10, "samples": 4},
        }
    )
    return ResolvedRun(name="tiny", namespace="local", uid="uid-1", spec=spec)


def a_trajectory(
    *,
    group_id: int = 0,
    sample_index: int = 0,
    reward: float = 1.0,
    tokens: int = 3,
    prompt_tokens: int = 5,
    response: str = " 1+1=2 </think> <answer> \\boxed{2} </answer>",
    question: str = "1+1",
    step: int = 0,
) -> Trajectory:
    return Trajectory(
        run="tiny",
        step=step,
        group_id=group_id,
        sample_index=sample_index,
        prompt_id=f"train:{group_id}",
        prompt=f"User: {question}\nAssistant: <think>",
        response=response,
        prompt_token_ids=tuple(range(prompt_tokens)),
        response_token_ids=tuple(range(tokens)),
        rollout_logprobs=(-0.5,) * tokens,
        finish_reason="stop",
        stop_reason="</answer>",
        extracted_answer="2",
        reference_answer="2",
        reward=reward,
        reward_status="ok",
        weight_version=step,
        engine="transformers",
        seconds=0.1,
    )


def weights(version: int, incarnation: int = 1) -> WeightsInfo:
    prefix = f"weights/v{version:06d}-i{incarnation}"
    return WeightsInfo(version=version, digest=f"{version:064x}", incarnation=incarnation, prefix=prefix)


VERDICTS = (
    VerdictCount(source="math", status="ok", rule="number", trajectories=50, reward_sum=30.0),
    VerdictCount(source="math", status="crashed", rule="", trajectories=2, reward_sum=0.0),
    VerdictCount(source="<quiz>", status="ok", rule="choice$", trajectories=20, reward_sum=5.0),
    VerdictCount(source="<quiz>", status="truncated", rule="", trajectories=30, reward_sum=0.0),
)


def growing_metrics(step: int, noise: random.Random) -> dict[str, float]:
    """Roughly what the tiny run does: reward .2 to .8, length 17 to 33, fewer truncations, some reflection, a critic
    that learns."""
    grown = 1 - math.exp(-step / 14)
    reward = 0.2 + 0.62 * grown + noise.gauss(0, 0.025)
    length = 17 + 16 * grown + noise.gauss(0, 0.7)
    return {
        "reward_mean": reward,
        "response_length_mean": length,
        "response_length_correct_mean": length + 4 - 3 * grown,
        "response_length_incorrect_mean": length - 2 + 6 * grown,
        "truncated_fraction": max(0.0, 0.021 - 0.02 * grown + noise.gauss(0, 0.002)),
        "reflection_fraction": max(0.0, 0.06 + 0.1 * grown + noise.gauss(0, 0.01)),
        "mismatch_abs_mean": 1e-7 * (1.6 - grown),
        "sampler_ess_fraction": 1.0 - 1e-6 * grown,
        "response_length_p10": length - 9,
        "response_length_p50": length - 1,
        "response_length_p90": length + 11,
        "response_length_p99": length + 30,
        "response_length_max": 96.0,
        "stop_eos_fraction": 0.01,
        "stop_length_fraction": 0.02,
        "stop_string_3_fraction": 0.97,
        "reward_status_ok_fraction": 0.95,
        "reward_status_truncated_fraction": 0.05,
        "policy_entropy": 1.7 - 0.6 * grown,
        "policy_update_kl": 1e-3 * (1.2 - grown),
        "weights_changed_fraction": 0.08,
        "policy_grad_norm": 0.6,
        "critic_grad_norm": 0.3,
        "critic_loss_before": 0.1 * (1.3 - grown),
        "critic_loss_after": 0.09 * (1.2 - grown),
        "explained_variance": grown - 0.3,
        "advantage_std": 0.4,
        **{f"value_decile_{i}_mean": grown * i / 10 for i in range(1, 11)},
        "critic_hidden_fraction": 0.6,
        "trainer_idle_fraction": 0.1,
        "rollout_idle_fraction": 0.7,
    }


def phases_of(step: int, noise: random.Random) -> tuple[Phase, ...]:
    """1.15 s a step; the critic's 0.45 s reach past the 0.25 s of the next generation."""
    start = START + 1.15 * step
    generation = 0.25 + 0.05 * noise.random()

    def phase(name: str, role: str, after: float, seconds: float) -> Phase:
        return Phase(name=name, role=role, started=start + after, seconds=seconds)

    found = [
        phase("generate", "rollout", 0.0, generation),
        phase("wait", "trainer", 0.47, 0.01),
        phase("values", "trainer", 0.48, 0.12),
        phase("policy_update", "trainer", 0.60, 0.46),
        phase("publish", "trainer", 1.06, 0.09),
        phase("critic_update", "trainer", 1.15, 0.45),
    ]
    if step and step % 5 == 0:  # of the step before, timed by the trainer with this one
        found.append(phase("checkpoint", "trainer", 0.45, 0.02))
    if step % 10 == 0:
        found.append(phase("evaluate", "rollout", generation, 0.4))
    return tuple(found)


def a_folder(
    path: Path, *, steps: int = 3, committed: int | None = None, eval_sets: Sequence[str] = ("heldout",), seed: int = 0
) -> RunFolder:
    """A run of ``steps`` steps of which ``committed`` (default all) are done; every tenth version and the last one are
    evaluated."""
    noise = random.Random(seed)
    run = a_run(steps=steps, eval_sets=eval_sets)
    folder = RunFolder.claim(ObjectStore(str(path)), run)
    folder.claim_incarnation(1)
    done = steps if committed is None else committed
    for step in range(done):
        folder.commit_step(
            StepCommit(
                step=step,
                incarnation=1,
                shards=shards_of(folder, step),
                weights=weights(step + 1),
                metrics=growing_metrics(step, noise),
                verdicts=VERDICTS,
                phases=phases_of(step, noise),
            )
        )
    for version in range(done + 1):
        if eval_sets and done and (version % 10 == 0 or version == steps):
            folder.write_eval_summary(an_evaluation(version, eval_sets))
    return folder


def shards_of(folder: RunFolder, step: int) -> tuple[ShardRef, ...]:
    """The step's two shards, each with a correct response and a wrong, hostile one."""
    found = []
    for unit in train_units(folder.run.spec, num_prompts=4, step=step):
        rows = [
            a_trajectory(
                group_id=group,
                sample_index=sample,
                step=step,
                reward=1.0 - sample,
                tokens=3 + step,
                response=" <script>alert(1)</script>" if sample else " 1+1=2 </think> <answer> \\boxed{2} </answer>",
            )
            for group, _, sample in unit.rows()
        ]
        found.append(write_shard(folder.store, unit, 1, rows, step))
    return tuple(found)


def a_recovery(incarnation: int, **fields: Any) -> Recovery:
    """Two steps computed again in 2 s, 75 s of generation saved."""
    found: dict[str, Any] = {
        "incarnation": incarnation,
        "resumed_step": 0,
        "replayed_steps": 2,
        "trajectories_reused": 8,
        "tokens_reused": 1000,
        "generation_seconds_saved": 75.0,
        "replay_seconds": 2.0,
        "world_size": 1,
        "weights_equal": True,
        "canary_difference_max": 0.0,
    }
    return Recovery(**found | fields)


def an_evaluation(version: int, eval_sets: Sequence[str]) -> EvalSummary:
    grown = 1 - math.exp(-version / 14)
    return EvalSummary(
        version=version,
        accuracy={name: 0.21 / (i + 1) + 0.6 * grown / (i + 1) for i, name in enumerate(eval_sets)},
        response_length_mean=dict.fromkeys(eval_sets, 18 + 15 * grown),
        truncated_fraction=dict.fromkeys(eval_sets, 0.0),
        num_trajectories=dict.fromkeys(eval_sets, 200),
        files={},
    )
