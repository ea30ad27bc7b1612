"""Which pods start together, as each gang mode is told."""

from __future__ import annotations

from typing import Any

import pytest
from manifest_builders import VARIANTS, context

from rz_api import names
from rz_operator.controller.observe import seen_pod
from rz_operator.decisions.members import Start
from rz_operator.manifests import all_of, for_start

MODES = ("kueue", "coscheduling", "volcano", "kai", "workload")


def group_of(mode: str, pod: dict[str, Any]) -> str | None:
    """The group that a pod says it is in; None where it is in none."""
    metadata = pod["metadata"]
    found: str | None = {
        "kueue": metadata["labels"].get("kueue.x-k8s.io/pod-group-name"),
        "coscheduling": metadata["labels"].get("scheduling.x-k8s.io/pod-group"),
        "volcano": metadata["annotations"].get("scheduling.k8s.io/group-name"),
        "kai": metadata["annotations"].get("pod-group-name"),
        "workload": pod["spec"].get("schedulingGroup", {}).get("podGroupName"),
    }[mode]
    return found


def sizes(mode: str, objects: tuple[dict[str, Any], ...]) -> set[int]:
    """All that the group is told of its size."""
    if mode == "kueue":
        pods = (each for each in objects if each["kind"] == "Pod" and group_of(mode, each))
        return {int(pod["metadata"]["annotations"]["kueue.x-k8s.io/pod-group-total-count"]) for pod in pods}
    specs = [each["spec"] for each in objects if each["kind"] == "PodGroup"]
    if mode == "workload":
        return {each["schedulingPolicy"]["gang"]["minCount"] for each in specs}
    return {each["minMember"] for each in specs}


def objects_of(mode: str, **sections: Any) -> tuple[dict[str, Any], ...]:
    scheduling = VARIANTS[mode]["scheduling"] | sections.pop("scheduling", {})
    return all_of(context(scheduling=scheduling, **sections), incarnation=3)


TABLE: list[tuple[str, dict[str, Any], int]] = [
    ("one rollout by default", {"rollout": {"replicas": 3}}, 1),
    ("as many as it says", {"rollout": {"replicas": 3}, "scheduling": {"minRollouts": 2}}, 2),
    ("no more than there are", {"rollout": {"replicas": 2}, "scheduling": {"minRollouts": 7}}, 2),
    ("none", {"rollout": {"replicas": 3}, "scheduling": {"minRollouts": 0}}, 0),
    ("none where they are colocated", {"rollout": {"placement": "colocated"}}, 0),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("sections", "rollouts"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_group_is_of_all_trainers_and_the_first_rollouts(mode: str, sections: dict[str, Any], rollouts: int) -> None:
    objects = objects_of(mode, **sections)
    pods = [each for each in objects if each["kind"] == "Pod"]
    inside = {each["metadata"]["name"] for each in pods if group_of(mode, each) == "small-trainer-i3"}
    trainers = {names.trainer_pod("small", 3, index) for index in (0, 1)}
    assert inside == trainers | {names.rollout_pod("small", index, 1) for index in range(rollouts)}
    assert sizes(mode, objects) == {len(inside)}
    assert {group_of(mode, each) for each in pods} <= {"small-trainer-i3", None}


def test_volcano_is_told_what_the_whole_group_asks_for() -> None:
    objects = objects_of("volcano", rollout={"replicas": 3, "tensorParallel": 2}, scheduling={"minRollouts": 2})
    group = next(each for each in objects if each["kind"] == "PodGroup")
    assert group["spec"]["minResources"]["nvidia.com/gpu"] == "6"


def test_a_rollout_that_comes_later_is_queued_on_its_own() -> None:
    made = context(**VARIANTS["kueue"])
    (pod,) = for_start(made, Start("rollout", 0, 4), 0)
    assert group_of("kueue", pod) is None
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"


def test_a_pod_says_to_which_gang_it_belongs_and_is_read_so() -> None:
    made = context(scheduling={**VARIANTS["kueue"]["scheduling"], "minRollouts": 2}, rollout={"replicas": 3})
    (pod,) = for_start(made, Start("rollout", 1, 4, gang=3, gang_rollouts=2), 0)
    seen = seen_pod(pod)
    assert seen is not None
    assert (seen.member.incarnation, seen.member.gang, seen.member.gang_rollouts) == (4, 3, 2)
    trainer = seen_pod(for_start(made, Start("trainer", 1, 3, gang_rollouts=2), 0)[0])
    assert trainer is not None
    assert (trainer.member.gang, trainer.member.gang_rollouts) == (0, 2)
