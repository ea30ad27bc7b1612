"""What cannot be known is absent, never 0: how fast a step was and who waited for whom, from its phases. Pure.

Who calls this: ``rz_workers.trainer.first_rank``, at each commit. Times are Unix seconds; generation is timed by the
ledger's clock and the rest by the first rank's, so that shares of overlap are as exact as the two machines' clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rz_api import gpus
from rz_api.shapes import ModelShape, forward_flops
from rz_api.spec import AlgorithmSpec
from rz_workers.intervals import Interval, share_covered
from rz_workers.storage.records import Phase

TIMED = ("wait", "values", "policy_update", "measure", "publish", "critic_update", "checkpoint")
"""Phases of the trainer that have a metric ``seconds_<name>``."""
PASSES = ("values", "policy_update", "critic_update")
"""Those in which the models compute on the step's tokens."""


def peak_flops(device_name: str | None, dtype: str) -> float | None:
    """Of a GPU by the name that its driver gives; None where it is not known, of a slice of one (MIG), and on the CPU
    (None)."""
    # Data sheets are read for bfloat16; in fp32 a share of that peak would say nothing.
    if device_name is None or dtype != "bfloat16":
        return None
    try:
        return gpus.find(device_name).gpu.flops
    except gpus.UnknownGpuError:
        return None


@dataclass(frozen=True)
class StepTimes:
    """One step by the clock."""

    began: float
    """End of the step before; of the first step of a gang, when the gang could have begun."""
    ended: float
    """When it was committed."""
    generation: Phase
    """From the first lease of the step's trajectories to the last completion."""
    phases: tuple[Phase, ...]
    """The first rank's, since ``began``."""

    def seconds(self, name: str) -> float:
        return math.fsum(phase.seconds for phase in self.phases if phase.name == name)


@dataclass(frozen=True)
class StepWork:
    """What was computed in a step."""

    tokens: int
    """Prompt and response tokens of the trajectories that it trained on."""
    response_tokens: int
    """Generated, those of masked trajectories included."""
    flops_per_rank: float
    """See ``step_flops``."""
    peak_flops: float | None
    """Floating-point operations a second that a rank's device can do in the dtype of the passes, by its data sheet."""


def step_flops(
    shape: ModelShape,
    algorithm: AlgorithmSpec,
    lengths: Sequence[int],
    response_tokens: int,
    world_size: int,
    *,
    updates_policy: bool = True,
) -> float:
    """Floating-point operations of a step's passes, of one rank.

    A forward pass of the critic for the values, of the reference model if there is one, and three forward passes'
    worth for each update; the output layer of policy and reference model on response tokens. Recomputed activations
    are not counted.

    Args:
        lengths: prompt and response tokens of each trajectory.
        updates_policy: False for a step that skips the policy's update.
    """
    scored, backbone = forward_flops(shape, lengths, response_tokens), forward_flops(shape, lengths, 0)
    # A backward pass is two forward passes' worth: one for the inputs' gradient, one for the weights'.
    critic = (1 + 3) * backbone if algorithm.name == "ppo" else 0.0
    reference = scored if algorithm.kl_coefficient > 0 else 0.0
    return ((3 * scored if updates_policy else 0.0) + critic + reference) / world_size


def speed_metrics(times: StepTimes, before: StepTimes | None, work: StepWork) -> dict[str, float]:
    """Seconds, rates and shares by the names and formulas of ``rz_api.step_metrics``.

    Args:
        before: the step before, None for the first one of a gang: what compares the two is then absent.
    """
    generation = times.generation
    found: dict[str, float | None] = {f"seconds_{name}": times.seconds(name) for name in TIMED}
    step, busy = times.ended - times.began, math.fsum(times.seconds(name) for name in PASSES)
    found |= {
        "seconds_step": step,
        "trainer_idle_fraction": _ratio(times.seconds("wait"), step),
        "tokens_generated": float(work.response_tokens),
        # A ledger that was restarted just before knows no duration.
        "tokens_per_second_generated": _ratio(work.response_tokens, generation.seconds),
        "tokens_per_second_trained": _ratio(work.tokens, busy),
        "flops_per_second_trained": _ratio(work.flops_per_rank, busy),
        "mfu": _ratio(work.flops_per_rank, busy * work.peak_flops) if work.peak_flops else None,
    }
    if before is not None:
        critic = [_interval(phase) for phase in before.phases if phase.name == "critic_update"]
        _, last_end = _interval(before.generation)
        start, end = _interval(generation)
        found["critic_hidden_fraction"] = share_covered(critic, [(start, end)])
        # At maxStaleness 1 this generation may begin before the last one ends: no negative idleness.
        found["rollout_idle_fraction"] = _ratio(max(0.0, start - last_end), end - last_end)
    return {name: value for name, value in found.items() if value is not None}


def _interval(phase: Phase) -> Interval:
    return phase.started, phase.started + phase.seconds


def _ratio(amount: float, whole: float) -> float | None:
    """None where there is nothing to divide by."""
    return amount / whole if whole > 0 else None
