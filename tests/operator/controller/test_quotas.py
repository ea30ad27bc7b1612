"""Which field a quota's refusal is about."""

from __future__ import annotations

import pytest

from rz_api.names import Role
from rz_operator.controller.quotas import advice, is_quota

EXCEEDED = 'pods "x" is forbidden: exceeded quota: {name}, requested: {asked}, used: {used}, limited: {limit}'


def exceeded(*resources: str) -> str:
    """As an API server writes it."""
    asked, used, limit = (",".join(f"{each}={amount}" for each in resources) for amount in (8, 0, 4))
    return EXCEEDED.format(name="gpus", asked=asked, used=used, limit=limit)


CASES: dict[str, tuple[str, Role, str]] = {
    "memory of the ledger": (
        exceeded("limits.memory"),
        "ledger",
        "lower spec.ledger.resources, or raise the quota",
    ),
    "two resources of one field": (
        exceeded("requests.cpu", "requests.memory"),
        "reward",
        "lower spec.reward.resources, or raise the quota",
    ),
    "GPUs of the trainer": (
        exceeded("requests.nvidia.com/gpu"),
        "trainer",
        "lower spec.trainer.gpusPerNode, or raise the quota",
    ),
    "GPUs of a rollout": (
        exceeded("requests.amd.com/gpu"),
        "rollout",
        "lower spec.rollout.tensorParallel, or raise the quota",
    ),
    "pods and memory": (
        exceeded("pods", "requests.memory"),
        "rollout",
        "lower spec.rollout.replicas and spec.rollout.resources, or raise the quota",
    ),
    "a number of objects that no field asks for": (exceeded("count/services"), "ledger", ""),
    "pods of the ledger, which has one": (exceeded("pods"), "ledger", ""),
    "limits that must be named": (
        'pods "x" is forbidden: failed quota: team: must specify limits.cpu for: main; limits.memory for: main',
        "ledger",
        "name them in spec.ledger.resources.limits",
    ),
    "both that must be named, in the words of 1.20": (
        'pods "x" is forbidden: failed quota: team: must specify limits.memory,requests.cpu',
        "reward",
        "name them in spec.reward.resources.requests and spec.reward.resources.limits",
    ),
    "a webhook": ('admission webhook "w" denied the request: no trainers today', "trainer", ""),
}


@pytest.mark.parametrize(("message", "role", "said"), CASES.values(), ids=CASES)
def test_the_field_is_named(message: str, role: Role, said: str) -> None:
    assert advice(message, role) == said
    assert is_quota(message) is ("quota: " in message)
