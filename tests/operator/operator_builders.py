"""Small builders for the operator's tests: specs, runs, members, and a world for ``decide`` to work on."""

from __future__ import annotations

from typing import Any

from rz_api.run import ResolvedRun
from rz_api.spec import FailurePolicy, ReasonerZeroRunSpec
from rz_operator.decisions.members import Observed, Role, Wanted, WantedRole

MINIMAL: dict[str, Any] = {
    "model": {"name": "base"},
    "data": {"train": [{"uri": "train.jsonl"}]},
    "storage": {"uri": "/tmp/store"},
}


def spec(**sections: Any) -> ReasonerZeroRunSpec:
    """The smallest spec, on the CPU, with these sections in camelCase."""
    return ReasonerZeroRunSpec.model_validate({**MINIMAL, "trainer": {"gpusPerNode": 0}, **sections})


def run(**sections: Any) -> ResolvedRun:
    return ResolvedRun(name="tiny", uid="u-1", spec=spec(**sections))


def wanted(ranks: int = 2, rollouts: int = 2, rewards: int = 1, suspend: bool = False, **policy: Any) -> Wanted:
    """What ``decide`` is to keep up; by default two ranks, two rollouts, back-off 10 s up to 300 s, 10 restarts."""
    return Wanted(
        (
            WantedRole("ledger", 1, "individual", 10.0),
            WantedRole("reward", rewards, "individual", 10.0),
            WantedRole("rollout", rollouts, "individual", 30.0),
            WantedRole("trainer", ranks, "gang", 600.0),
        ),
        FailurePolicy.model_validate(policy),
        suspend,
    )


def member(key: str, incarnation: int = 1, phase: str = "running", **fields: Any) -> Observed:
    """``member("trainer-0", 3, "failed", signal=9)``; the uid follows from name and incarnation."""
    role, _, index = key.rpartition("-")
    fields.setdefault("uid", f"{key}-i{incarnation}")
    return Observed(role, int(index), incarnation, phase, **fields)  # type: ignore[arg-type]


ROLES: tuple[Role, ...] = ("ledger", "reward", "rollout", "trainer")
