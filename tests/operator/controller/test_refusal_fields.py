"""Which field of the run a refusal of the cluster's is about: sentences of servers from 1.20 to 1.36."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_api.names import Role
from rz_operator.controller.refusal_fields import with_fields

GPU = "nvidia.com/gpu"
REFUSALS: dict[str, tuple[Role, str, str]] = {
    "a quota that wants a limit": (
        "ledger",
        'pods "tiny-ledger-5d9-x" is forbidden: failed quota: memory: must specify limits.memory for: main',
        "spec.ledger.resources.limits.memory",
    ),
    "a quota that wants several": (
        "trainer",
        'pods "t" is forbidden: failed quota: q: must specify limits.cpu for: main; limits.memory for: main; '
        "requests.cpu for: main",
        "spec.trainer.resources.limits.cpu, spec.trainer.resources.limits.memory, spec.trainer.resources.requests.cpu",
    ),
    "an older server's words": (
        "rollout",
        'pods "r" is forbidden: failed quota: q: must specify limits.cpu,memory',
        "spec.rollout.resources.limits.cpu, spec.rollout.resources.requests.memory",
    ),
    "a quota that is used up": (
        "rollout",
        'pods "r" is forbidden: exceeded quota: q, requested: requests.cpu=8,memory=16Gi, used: requests.cpu=4,'
        "memory=1Gi, limited: requests.cpu=10,memory=8Gi",
        "spec.rollout.resources.requests.cpu, spec.rollout.resources.requests.memory",
    ),
    "GPUs of a trainer": (
        "trainer",
        f'pods "t" is forbidden: exceeded quota: gpus, requested: requests.{GPU}=3, used: requests.{GPU}=0, limited: '
        f"requests.{GPU}=2",
        "spec.trainer.gpusPerNode",
    ),
    "GPUs of a rollout": (
        "rollout",
        f'pods "r" is forbidden: exceeded quota: gpus, requested: requests.{GPU}=2, used: requests.{GPU}=0, limited: '
        f"requests.{GPU}=1",
        "spec.rollout.tensorParallel",
    ),
    "the number of pods": (
        "rollout",
        'pods "r" is forbidden: exceeded quota: q, requested: pods=1, used: pods=9, limited: pods=9',
        "spec.rollout.replicas",
    ),
    "more than a limit range allows": (
        "trainer",
        'pods "t" is forbidden: maximum memory usage per Container is 512Mi, but limit is 1Gi',
        "spec.trainer.resources.limits.memory",
    ),
    "less than it allows, and more": (
        "reward",
        'pods "r" is forbidden: [minimum cpu usage per Container is 1, but request is 100m, maximum memory usage per '
        "Pod is 512Mi. No limit is specified]",
        "spec.reward.resources.requests.cpu, spec.reward.resources.limits.memory",
    ),
    "a ratio that it allows": (
        "trainer",
        'pods "t" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000',
        "spec.trainer.resources.requests.cpu, spec.trainer.resources.limits.cpu",
    ),
    "a limit that it brings": (
        "trainer",
        'Pod "t" is invalid: spec.containers[0].resources.requests: Invalid value: "23Gi": must be less than or equal '
        "to memory limit of 512Mi",
        "spec.trainer.resources.limits.memory",
    ),
}


@pytest.mark.parametrize(("role", "message", "fields"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_the_fields(role: Role, message: str, fields: str) -> None:
    assert with_fields(message, role, GPU) == f"{message}; to change in the run: {fields}"


@pytest.mark.parametrize(
    "message",
    ["admission webhook denied the request: no trainers on a Monday", "", "must specify", "exceeded quota: q"],
    ids=["a webhook", "nothing", "half a sentence", "a quota of nothing"],
)
def test_what_is_about_no_field_stays_as_it_is(message: str) -> None:
    assert with_fields(message, "trainer", GPU) == message


@given(
    st.lists(
        st.sampled_from(
            [
                "must specify ",
                "requests.",
                "limits.",
                "exceeded quota: q, requested: ",
                "a=1",
                ",",
                "maximum ",
                " usage per Container is",
                "cpu",
                "/",
                ".",
                ";",
                "\n",
                "é",
            ]
        )
    ).map("".join)
)
def test_any_sentence_is_kept_whole(message: str) -> None:
    assert with_fields(message, "ledger", "").startswith(message)
