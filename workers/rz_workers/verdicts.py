"""What was decided on a step's responses, by source, status and rule: counts for charts, of as many kinds at most as a
chart and a Prometheus can bear. Pure.

``trainer.first_rank`` puts them into the step's commit; the report and the trainer's metrics show them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rz_workers.protocol.messages import RewardStatus, is_masked
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage.records import VerdictCount

__all__ = ["MAX_RULES", "OTHER", "shares", "verdict_counts"]

MAX_RULES = 12
"""Rules of a step that are counted by themselves. A verifier of somebody's own may name one for each answer."""
MAX_RULE_LENGTH = 40
OTHER = "other"
"""The rarer ones together."""


def verdict_counts(trajectories: Sequence[Trajectory]) -> tuple[VerdictCount, ...]:
    """Sorted by source, status and rule."""
    rules = Counter(row.rule[:MAX_RULE_LENGTH] for row in trajectories)
    # The name breaks ties, so that a replay counts alike.
    known = set(sorted(rules, key=lambda rule: (-rules[rule], rule))[:MAX_RULES])
    counts: Counter[tuple[str, RewardStatus, str]] = Counter()
    rewards: defaultdict[tuple[str, RewardStatus, str], float] = defaultdict(float)
    for row in trajectories:
        rule = row.rule[:MAX_RULE_LENGTH]
        kind = (row.source, row.reward_status, rule if rule in known else OTHER)
        counts[kind] += 1
        rewards[kind] += 0.0 if is_masked(row.reward_status) else row.reward
    return tuple(
        VerdictCount(source=source, status=status, rule=rule, trajectories=counts[kind], reward_sum=rewards[kind])
        for kind in sorted(counts)
        for source, status, rule in [kind]
    )


def shares(counts: Iterable[VerdictCount], field: str) -> dict[str, float]:
    """Value of ``field`` (``source``, ``status`` or ``rule``) -> share of the trajectories, the largest first; those of
    which it is empty are left out of both."""
    found: Counter[str] = Counter()
    for count in counts:
        if value := str(getattr(count, field)):
            found[value] += count.trajectories
    return {value: number / found.total() for value, number in found.most_common()}
