"""What a look does to a cluster: within limits, again where it was refused, and nothing to what is not the run's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from cluster_in_memory import merged
from kube_builders import IMAGES, NAME, NAMESPACE, SPEC, START, UID, owned_by_run, run_body, stamp
from recording_cluster import RecordingCluster

from rz_api import names
from rz_api.names import Role
from rz_api.status import RetryState
from rz_operator import manifests
from rz_operator.apiserver.cluster import ApiError, Page
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.accept import accept
from rz_operator.controller.apply import ACTIONS_A_LOOK, QUOTA_SECONDS, Applier, TransientError, nudge_due
from rz_operator.controller.cache import Cache
from rz_operator.controller.completion import Completion
from rz_operator.controller.observe import seen_deployment
from rz_operator.controller.slow_start import AT_ONCE
from rz_operator.decisions.members import Action, Start, Stop
from rz_operator.plan import plan

QUOTA = ApiError(403, "Forbidden", 'pods "x" is forbidden: exceeded quota: gpus, requested: pods=1, used: ...')
DENIED = ApiError(403, "Forbidden", 'admission webhook "w" denied the request: not today')
GROUPS = Capabilities(minor=28, pod_groups={"volcano": "scheduling.volcano.sh/v1beta1"})


class World:
    """A run and a cluster; ``look`` makes an Applier as ``reconcile`` does."""

    def __init__(self, rollouts: int = 3, capabilities: Capabilities = GROUPS, **scheduling: Any) -> None:
        spec = merged(SPEC, {"rollout": {"replicas": rollouts}, "scheduling": scheduling})
        verdict = accept(run_body(spec), None, Completion(IMAGES), (), False)
        assert verdict.run is not None, verdict.message
        self.context = manifests.Context(plan(verdict.run), NAMESPACE, UID, capabilities)
        self.cluster, self.cache, self.now, self.seconds = RecordingCluster(), Cache(), START, 0.0
        self.retries: Mapping[str, RetryState] = {}
        self.refusals: list[str] = []

    def look(self) -> Applier:
        children = self.cache.children(NAMESPACE, UID)
        return Applier(
            self.cluster,  # type: ignore[arg-type]
            self.cache,
            self.context,
            children,
            self.retries,
            self.now,
            lambda: "token",
            self.refusals.append,
            lambda: self.seconds,
        )

    def act(self, *actions: Action) -> bool:
        applier = self.look()
        try:
            return asyncio.run(applier.act(actions, 0))
        finally:
            self.retries = applier.retries


def rollouts(count: int, first: int = 0) -> list[Start]:
    return [Start("rollout", index, 1) for index in range(first, first + count)]


# ------------------------------------------------------------------------------------------------------- limits


def test_one_look_starts_a_few_hundred_and_the_next_ones_the_rest() -> None:
    world, wanted = World(rollouts=1000), rollouts(1000)
    assert world.act(*wanted) is False
    assert len(world.cluster.names("Pod")) == ACTIONS_A_LOOK
    assert world.cluster.most_at_once == AT_ONCE
    looks = 1
    while not world.act(*(start for start in wanted if names.rollout_pod(NAME, start.index, 1) not in there(world))):
        looks += 1
    assert (len(world.cluster.names("Pod")), looks + 1) == (1000, 4)


def there(world: World) -> set[str]:
    return set(world.cluster.names("Pod"))


def test_a_long_line_of_starts_keeps_no_stop_and_no_other_role_waiting() -> None:
    world = World(rollouts=1000)
    ended = world.cluster.add(manifests.for_start(world.context, Start("rollout", 999, 1), 0)[0])
    world.cache.see_child("Pod", ended)
    stop = Stop("rollout", 999, 1, ended["metadata"]["uid"], 5.0)
    world.act(*rollouts(999), stop, Start("trainer", 0, 1))
    assert names.rollout_pod(NAME, 999, 1) not in there(world)
    assert names.trainer_pod(NAME, 1, 0) in there(world)


def test_a_name_that_is_not_free_yet_keeps_no_other_role_waiting() -> None:
    world = World()
    name = names.rollout_pod(NAME, 0, 1)
    left = manifests.for_start(world.context, Start("rollout", 0, 1), 0)[0]
    left["metadata"]["ownerReferences"] = owned_by_run(NAME, "u-0")
    world.cluster.add(left)
    with pytest.raises(TransientError, match=f"Pod/{name} of an earlier run is not gone yet"):
        world.act(*rollouts(1), Start("trainer", 0, 1))
    assert names.trainer_pod(NAME, 1, 0) in there(world)


def test_an_api_server_that_takes_its_time_ends_a_look_early() -> None:
    world = World(rollouts=300)

    def slow(body: dict[str, Any]) -> None:
        world.seconds += 1.0

    world.cluster.answer = slow
    assert world.act(*rollouts(300)) is False
    assert len(there(world)) == 63, "1 + 2 + 4 + 8 + 16 + 16 + 16"


# ------------------------------------------------------------------------------------------------------ refusals


def test_a_quota_costs_a_few_requests_a_look_and_one_entry_of_the_status() -> None:
    world = World(rollouts=1000)
    world.cluster.refuse_with(QUOTA, "Pod", after=20)
    world.act(*rollouts(1000))
    assert len(world.cluster.asked("create", "Pod")) == 1 + 2 + 4 + 8 + 16
    assert list(world.retries) == [f"Pod/{names.rollout_pod(NAME, 20, 1)}"]
    assert world.refusals == ["Pod"]

    world.now += QUOTA_SECONDS - 1
    world.act(*rollouts(980, first=20))
    assert len(world.cluster.asked("create", "Pod")) == 31, "its time has not come"
    world.now += 1
    world.act(*rollouts(980, first=20))
    assert len(world.cluster.asked("create", "Pod")) == 32, "one try"


def test_a_quota_is_asked_again_as_soon_after_the_tenth_refusal_as_after_the_first() -> None:
    world = World()
    world.cluster.refuse_with(QUOTA, "Pod")
    waits = []
    for _ in range(10):
        world.act(*rollouts(3))
        (retry,) = world.retries.values()
        waits.append(retry.not_before - world.now)
        world.now = retry.not_before
    assert waits == [QUOTA_SECONDS] * 10
    assert retry.failures == 10
    assert max(waits) + 15 < 60, "with a poll on top it is less than a minute"


def test_whatever_else_refuses_is_left_alone_for_longer_each_time() -> None:
    world = World()
    world.cluster.refuse_with(DENIED, "Pod")
    waits = []
    for _ in range(5):
        world.act(*rollouts(3))
        (retry,) = world.retries.values()
        waits.append(retry.not_before - world.now)
        world.now = retry.not_before
    assert waits == [60, 120, 240, 480, 600]


def test_a_pod_that_goes_where_a_later_one_is_refused_is_tried_at_once() -> None:
    world = World()
    world.cluster.refuse_with(QUOTA, "Pod", after=2)
    world.act(*rollouts(3))
    assert list(world.retries) == [f"Pod/{names.rollout_pod(NAME, 2, 1)}"]
    world.cluster.forget(world.cluster.object("Pod", names.rollout_pod(NAME, 0, 1)))
    world.act(Start("rollout", 0, 2), Start("rollout", 2, 1))
    assert there(world) == {names.rollout_pod(NAME, 0, 2), names.rollout_pod(NAME, 1, 1)}


HOLDS_UP: list[tuple[str, Role, bool]] = [
    ("Start/trainer", "trainer", True),
    ("Start/trainer", "rollout", False),
    ("Deployment/orz-ledger", "ledger", True),
    ("Deployment/orz-ledger", "reward", False),
    ("Pod/orz-rollout-i2-7", "rollout", True),
    ("Pod/orz-trainer-i2-0", "trainer", True),
    ("PodGroup/orz-trainer-i2", "trainer", True),
    ("PodDisruptionBudget/orz-trainer-i2", "trainer", False),
    ("Service/orz-trainer", "trainer", False),
    ("NetworkPolicy/orz-run", "ledger", False),
]


@pytest.mark.parametrize(("key", "role", "held"), HOLDS_UP, ids=[f"{key} and {role}" for key, role, _ in HOLDS_UP])
def test_a_start_is_held_by_the_refusal_of_what_it_makes(key: str, role: Role, held: bool) -> None:
    world = World()
    world.retries = {key: RetryState(failures=1, not_before=world.now + 1)}
    assert world.look().is_held(Start(role, 0, 2)) == held
    world.now += 1
    assert not world.look().is_held(Start(role, 0, 2))


# -------------------------------------------------------------------------------------------- what a gang has


def test_a_refused_budget_holds_no_gang_back_and_comes_later() -> None:
    """It keeps evictions away, and nothing else: the condition of the trainer mentions it, and the gang trains."""
    world = World(disruptionBudget=True)
    world.cluster.refuse_with(DENIED, "PodDisruptionBudget")
    world.act(Start("trainer", 0, 1), Start("trainer", 1, 1))
    assert there(world) == {names.trainer_pod(NAME, 1, index) for index in (0, 1)}
    key = f"PodDisruptionBudget/{names.trainer_pod_group(NAME, 1)}"
    assert list(world.retries) == [key]

    world.cluster.admit_all()
    for seconds, budgets in ((59, 0), (1, 1)):
        world.now += seconds
        applier = world.look()
        asyncio.run(applier.keep_budget(1, known=True))
        world.retries = applier.retries
        assert len(world.cluster.names("PodDisruptionBudget")) == budgets
    assert not world.retries


def test_a_refused_pod_group_does_hold_it_back() -> None:
    world = World(gang="volcano")
    world.cluster.refuse_with(DENIED, "PodGroup")
    world.act(Start("trainer", 0, 1), Start("trainer", 1, 1))
    assert there(world) == set()


@pytest.mark.parametrize(("keep", "left"), [(7, [7]), (None, [])], ids=["the newest gang's stay", "nothing stays"])
def test_leftovers_of_skipped_and_ended_gangs_go(keep: int | None, left: list[int]) -> None:
    world = World(gang="volcano", disruptionBudget=True)
    for number in (1, 2, 5, 7):
        for body in manifests.for_start(world.context, Start("trainer", 0, number), 0)[:-1]:
            world.cluster.add(body)
    assert asyncio.run(world.look().sweep(keep)) is True
    expected = [names.trainer_pod_group(NAME, number) for number in left]
    assert world.cluster.names("PodGroup") == world.cluster.names("PodDisruptionBudget") == expected
    assert len([verb for verb, _, _ in world.cluster.requests if verb == "list"]) == 2


def test_an_operator_whose_role_is_older_leaves_leftovers_and_goes_on() -> None:
    world = World()

    class Older(RecordingCluster):
        async def snapshot(self, kind: str, *args: Any, **options: Any) -> Page:
            raise ApiError(403, "Forbidden", f"cannot list {kind}")

    world.cluster = Older()
    assert asyncio.run(world.look().sweep(None)) is True


STRANGERS: dict[str, dict[str, Any]] = {
    "nobody's": {"ownerReferences": []},
    "another run's of the same name": {"ownerReferences": owned_by_run(NAME, "u-0")},
    "another run's": {"labels": {names.LABEL_RUN_UID: "u-0"}},
}


@pytest.mark.parametrize("metadata", STRANGERS.values(), ids=STRANGERS)
def test_what_only_looks_like_a_leftover_stays(metadata: dict[str, Any]) -> None:
    world = World(disruptionBudget=True)
    body = manifests.for_start(world.context, Start("trainer", 0, 1), 0)[0]
    body["metadata"] |= metadata
    world.cluster.add(body)
    asyncio.run(world.look().sweep(None))
    assert world.cluster.names("PodDisruptionBudget") == [names.trainer_pod_group(NAME, 1)]


# --------------------------------------------------------------------------------------------------- what is kept


def keep(world: World, incarnation: int = 1) -> list[str]:
    """One look at Services and NetworkPolicy; what it wrote."""
    before, applier = len(world.cluster.requests), world.look()
    asyncio.run(applier.keep_statics(incarnation))
    world.retries = applier.retries
    return [f"{verb} {name}" for verb, _, name in world.cluster.requests[before:] if verb != "get"]


def see(world: World) -> None:
    """The watches show what there is."""
    for (kind, _, _), body in world.cluster.objects.items():
        world.cache.see_child(kind, body)  # type: ignore[arg-type]


def test_statics_are_made_once() -> None:
    world = World()
    made = ["create orz-ledger", "create orz-reward", "create orz-trainer", "create orz-run"]
    assert keep(world) == made
    assert keep(world) == []


def test_the_rendezvous_service_selects_the_newest_gang() -> None:
    world = World()
    keep(world, 1)
    assert keep(world, 2) == ["patch orz-trainer"]
    selector = world.cluster.object("Service", "orz-trainer")["spec"]["selector"]
    assert selector[names.LABEL_INCARNATION] == "2"


def test_a_policy_that_somebody_opens_is_closed_at_the_next_look() -> None:
    world = World()
    keep(world)
    policy = world.cluster.object("NetworkPolicy", "orz-run")
    rendered = policy["spec"]
    world.cluster.overwrite(policy | {"spec": rendered | {"ingress": [{}]}})
    see(world)
    assert keep(world) == ["patch orz-run"]
    assert world.cluster.object("NetworkPolicy", "orz-run")["spec"] == rendered
    assert keep(world) == []


def test_a_service_whose_labels_were_taken_away_gets_them_back() -> None:
    world = World()
    keep(world)
    service = world.cluster.object("Service", "orz-reward")
    bare = service | {"metadata": {key: value for key, value in service["metadata"].items() if key != "labels"}}
    world.cache.see_child("Service", world.cluster.overwrite(bare))
    assert keep(world) == ["create orz-reward", "patch orz-reward"]
    assert world.cluster.object("Service", "orz-reward")["metadata"]["labels"][names.LABEL_RUN_UID] == UID
    assert keep(world) == []


def test_a_webhook_that_always_writes_otherwise_is_not_fought_at_every_look() -> None:
    world = World()
    keep(world)

    class Stubborn(RecordingCluster):
        async def patch(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
            answer = await super().patch(kind, namespace, name, body)
            return self.overwrite(answer | {"spec": answer["spec"] | {"egress": [{}]}})

    stubborn = Stubborn()
    stubborn.objects, stubborn._version = world.cluster.objects, world.cluster._version
    world.cluster = stubborn
    policy = world.cluster.object("NetworkPolicy", "orz-run")
    world.cluster.overwrite(policy | {"spec": policy["spec"] | {"egress": [{}]}})
    see(world)
    assert keep(world) == ["patch orz-run"]
    assert keep(world) == []
    world.now += 60
    assert keep(world) == ["patch orz-run"]


def test_what_belongs_to_somebody_else_by_now_is_not_corrected() -> None:
    world = World()
    keep(world)
    service = world.cluster.object("Service", "orz-reward")
    world.cluster.overwrite(
        service | {"metadata": service["metadata"] | {"ownerReferences": []}, "spec": {"ports": []}}
    )
    children = world.cache.children(NAMESPACE, UID)
    old = next(each for each in children.services if each.name == "orz-reward")
    world.cache._drop("Service", old)
    world.cache._children["Service"].setdefault((NAMESPACE, UID), {})[old.name] = dataclasses.replace(old, digest="x")
    assert keep(world) == []


# ------------------------------------------------------------------------------------- refused pods of Deployments


def refused_deployment(since: float, nudged: float | None = None) -> dict[str, Any]:
    at = {names.ANNOTATION_TRY_AGAIN: stamp(nudged)} if nudged is not None else {}
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "lastTransitionTime": stamp(since),
        "message": QUOTA.message,
    }
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {
            "name": f"{NAME}-ledger",
            "namespace": NAMESPACE,
            "uid": "d-1",
            "labels": names.labels(NAME, "ledger", uid=UID),
            "annotations": at,
            "ownerReferences": owned_by_run(NAME, UID),
        },
        "spec": {"replicas": 1},
        "status": {"conditions": [condition]},
    }


@pytest.mark.parametrize(
    ("since", "nudged", "now", "is_nudged"),
    [
        (0, None, QUOTA_SECONDS - 1, False),
        (0, None, QUOTA_SECONDS, True),
        (0, QUOTA_SECONDS, 2 * QUOTA_SECONDS - 1, False),
        (0, QUOTA_SECONDS, 2 * QUOTA_SECONDS, True),
    ],
    ids=["just now", "for a while", "nudged a moment ago", "nudged a while ago"],
)
def test_a_controller_is_asked_to_try_refused_pods_again(
    since: float, nudged: float | None, now: float, is_nudged: bool
) -> None:
    """Its own back-off reaches 1000 s. Its Deployment's annotations are copied to the ReplicaSet, which is looked at
    when it changes; the pod template stays."""
    world = World()
    body = world.cluster.add(refused_deployment(since, nudged))
    world.cache.see_child("Deployment", body)
    world.now = START + now
    asyncio.run(world.look().nudge_refused())
    assert world.cluster.asked("patch", "Deployment") == ([f"{NAME}-ledger"] if is_nudged else [])
    after = world.cluster.object("Deployment", f"{NAME}-ledger")
    assert after["spec"] == body["spec"]
    seen = seen_deployment(after)
    assert seen is not None
    assert nudge_due(seen) > world.now
