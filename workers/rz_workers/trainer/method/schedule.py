"""A replay has the same learning rates and the same mini-batches of the critic: both are pure functions of the spec and
a counter.
"""

from __future__ import annotations

import hashlib
import itertools

from rz_api.spec import OptimizerSpec


def learning_rate(spec: OptimizerSpec, optimizer_step: int) -> float:
    """Rate of this model's ``optimizer_step``-th own step, counted from 1 (so that the first step is not wasted at
    rate 0).

    Warm-up is linear: step k of ``warmup_steps`` has k/warmup_steps of the peak. After it, ``constant`` stays,
    ``linear`` reaches ``final_learning_rate`` after ``decay_steps`` more and stays there.

    Example: peak 1e-6, 50 warm-up steps: step 1 has 2e-8, step 50 and all later ones 1e-6.
    """
    assert optimizer_step >= 1, optimizer_step
    # The published code counts from 0, so that its first step has rate 0 (RECIPE.md, PPO).
    if optimizer_step < spec.warmup_steps:
        return spec.learning_rate * optimizer_step / spec.warmup_steps
    if spec.lr_schedule == "constant":
        return spec.learning_rate
    progress = min(1.0, (optimizer_step - spec.warmup_steps) / spec.decay_steps)
    return spec.learning_rate + progress * (spec.final_learning_rate - spec.learning_rate)


def mini_batches(num_trajectories: int, num_mini_batches: int, seed: int, step: int) -> list[list[int]]:
    """Split the step's trajectories into the critic's mini-batches: a seeded permutation cut into nearly equal parts,
    nothing dropped; each part in canonical (ascending) order.

    Trajectories are ordered by sha256 of (seed, step, index): the same on every platform and version. With fewer
    trajectories than mini-batches, the empty ones are left out.
    """

    def key(index: int) -> bytes:
        # No library's generator promises the same permutation for ever (docs/decisions/0003).
        return hashlib.sha256(f"mini-batch:{seed}:{step}:{index}".encode()).digest()

    order = sorted(range(num_trajectories), key=key)
    bounds = [num_trajectories * i // num_mini_batches for i in range(num_mini_batches + 1)]
    # Ascending within a part: packing breaks ties by index, so that the order of the sums is canonical.
    parts = [sorted(order[a:b]) for a, b in itertools.pairwise(bounds)]
    return [part for part in parts if part]
