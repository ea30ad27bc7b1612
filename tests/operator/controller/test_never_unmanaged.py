"""Whatever becomes of a run's spec, its ConfigMap, its token or the operator: the run is decided about."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_builders import IMAGES, NAME, NAMESPACE, SPEC, UID, container, stamp
from one_run import World

from rz_api import names
from rz_api.run import ResolvedRun
from rz_operator.apiserver.cluster import ApiError
from rz_operator.controller import reconcile, rendering
from rz_operator.controller.holdups import ASK_SECONDS, CREATING_SECONDS, cause_of
from rz_operator.plan import plan

CONFIG_MAP, SECRET = names.config_map(NAME), names.token_secret(NAME, UID)
EVERYBODY = [*(f"rollout-i1-{index}" for index in range(3)), "trainer-i1-0", "trainer-i1-1"]
FULL = ApiError(403, "Forbidden", "exceeded quota: objects")
NEWER_IMAGES = {role: f"{image}-of-today" for role, image in IMAGES.items()}


def spec(**changes: Any) -> dict[str, Any]:
    """``SPEC`` with fields of sections replaced: ``spec(trainer={"nodes": 3})``."""
    found = copy.deepcopy(SPEC)
    for section, value in changes.items():
        found[section] = {**found.get(section, {}), **value} if isinstance(value, dict) else value
    return found


@pytest.fixture
def world() -> World:
    """A run that was accepted and whose pods run."""
    made = World()
    made.look(2)
    made.start_pods()
    made.look()
    assert made.pods == EVERYBODY
    assert made.condition("Accepted")[:2] == ("True", "SpecValid")
    return made


# ------------------------------------------------------------------------------- a spec that nothing can be made of

UNRENDERABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a volume whose name is an object": (
        {"trainer": {"podTemplate": {"spec": {"volumes": [{"name": {"a": 1}}]}}}},
        "spec.trainer.podTemplate.spec.volumes: found",
    ),
    "envFrom with valueFrom": (
        {"rollout": {"envFrom": [{"valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]}},
        "spec.rollout.envFrom[0]: found",
    ),
    "a number of CPUs that no computer has": (
        {"trainer": {"resources": {"requests": {"cpu": "9" * 400}}}},
        "spec.trainer.resources.requests.cpu: found",
    ),
    "a gang mode that the cluster lacks": ({"scheduling": {"gang": "volcano"}}, "spec.scheduling.gang: found volcano"),
}


@pytest.mark.parametrize(("change", "words"), UNRENDERABLE.values(), ids=UNRENDERABLE)
def test_a_change_that_waits_is_tried_when_it_is_made(world: World, change: dict[str, Any], words: str) -> None:
    world.edit(spec(**change))
    world.look()
    status, reason, message = world.condition("Accepted")
    assert (status, reason) == ("False", "SpecInvalid")
    assert words in message
    assert world.pods == EVERYBODY


@pytest.mark.parametrize(("change", "words"), UNRENDERABLE.values(), ids=UNRENDERABLE)
def test_suspend_acts_although_nothing_can_be_made_of_the_spec(
    world: World, change: dict[str, Any], words: str
) -> None:
    world.edit(spec(**change, suspend=True))
    world.look(4)
    assert world.pods == []
    assert words in world.condition("Accepted")[2]


@pytest.mark.parametrize(("change", "words"), UNRENDERABLE.values(), ids=UNRENDERABLE)
def test_a_new_run_of_which_nothing_can_be_made_is_refused(change: dict[str, Any], words: str) -> None:
    world = World(spec(**change))
    world.look()
    assert world.condition("Accepted")[:2] == ("False", "SpecInvalid")
    assert words in world.condition("Accepted")[2]
    assert world.cluster.names("ConfigMap") == []


def crash(*given: Any) -> Any:
    """Fails as a defect would; not for a stand-in, which has no spec of anybody's."""
    if isinstance(given[0], ResolvedRun) and given[0].spec.model.name == "-":
        return plan(given[0])
    raise TypeError("unhashable type: 'dict'")


DEFECTS: dict[str, tuple[Any, str]] = {
    "judging": (reconcile, "accept"),
    "going on as frozen": (reconcile, "unrenderable"),
    "planning": (rendering, "plan"),
    "rendering": (rendering.manifests, "check"),
}


@pytest.mark.parametrize(("module", "name"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_of_the_operator_is_said_and_leaves_the_run_managed(
    world: World, module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net: no input is known that needs it, so that the defect is put in."""
    monkeypatch.setattr(module, name, crash)
    monkeypatch.setattr(reconcile, "accept", crash if name == "unrenderable" else reconcile.accept)
    world.edit(spec(trainer={"nodes": 3}, suspend=True))
    world.look(4)
    assert world.pods == []
    status, _, message = world.condition("Accepted")
    assert status == "False"
    assert "TypeError: unhashable type: 'dict'" in message
    assert "please report it" in message


def test_a_frozen_run_that_this_operator_cannot_plan_can_be_suspended(world: World) -> None:
    """Frozen by an operator that was content with this CPU request."""
    config = world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    run = json.loads(config["data"]["run.json"])
    run["spec"]["trainer"]["resources"]["requests"] = {"cpu": "lots"}
    world.cluster.change(config, data=config["data"] | {"run.json": json.dumps(run)})
    world.restart()
    world.look()
    assert world.condition("Accepted")[:2] == ("False", "SpecInvalid")
    assert "a number of CPUs is required" in world.condition("Accepted")[2]
    assert world.pods == EVERYBODY
    world.edit(spec(suspend=True))
    world.look(4)
    assert world.pods == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "main", "x", "9" * 400]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "metadata", "spec", "volumes", "containers", "valueFrom"]), inner)
    ),
    max_leaves=6,
)
FREE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("podTemplate", "env", "envFrom", "tolerations", "resources", "nodeSelector"), JSON)
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["ledger", "reward", "rollout", "trainer"]), FREE)
def test_any_pod_options_of_a_running_run_leave_it_managed(role: str, options: dict[str, Any]) -> None:
    world = World()
    world.look(2)
    world.start_pods()
    world.edit(spec(**{role: options}))
    world.look()
    assert world.pods == EVERYBODY
    world.edit(spec(**{role: options}, suspend=True))
    world.look(4)
    assert world.pods == []


# ------------------------------------------------------------------------------------- ConfigMap and token deleted


def break_a_gang(world: World) -> None:
    """A rank fails, and the time to wait is over."""
    body = world.cluster.objects["Pod", NAMESPACE, f"{NAME}-trainer-i1-0"]
    ended = [container("main", ended={"exitCode": 1})]
    world.cluster.change(body, status={"phase": "Failed", "containerStatuses": ended})
    world.look(2)
    world.now += 60


def test_a_deleted_config_map_is_written_again_before_pods_start(world: World) -> None:
    before = world.cluster.objects.pop(("ConfigMap", NAMESPACE, CONFIG_MAP))
    break_a_gang(world)
    world.cluster.requests.clear()
    world.look()
    assert world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]["data"] == before["data"]
    created = [kind for verb, kind, _ in world.cluster.requests if verb == "create"]
    assert created.index("ConfigMap") < created.index("Pod")


def test_a_deleted_token_is_made_anew_before_pods_start_and_is_not_immutable(world: World) -> None:
    before = world.cluster.objects.pop(("Secret", NAMESPACE, SECRET))
    break_a_gang(world)
    world.cluster.requests.clear()
    world.look()
    again = world.cluster.objects["Secret", NAMESPACE, SECRET]
    assert again["stringData"] != before["stringData"], "the operator cannot read it, and must not remember it"
    # Of an immutable Secret kubelets never bring the new token to the pods that run.
    assert "immutable" not in again
    created = [kind for verb, kind, _ in world.cluster.requests if verb == "create"]
    assert created.index("Secret") < created.index("Pod")


def test_an_edited_config_map_is_put_right(world: World) -> None:
    config = copy.deepcopy(world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP])
    edited = json.loads(config["data"]["run.json"])
    edited["spec"]["trainer"]["image"] = "mine:1"
    world.cluster.change(config, data=config["data"] | {"run.json": json.dumps(edited)})
    break_a_gang(world)
    world.look()
    assert world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]["data"] == config["data"]


def test_a_config_map_that_is_refused_starts_no_pods(world: World) -> None:
    del world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    break_a_gang(world)
    world.cluster.refuse_with(FULL, "ConfigMap")
    world.look()
    assert not [name for name in world.pods if name.startswith("trainer-i2")]
    assert FULL.message in world.condition("TrainerReady")[2]
    world.cluster.admit_all()
    world.now += 61
    world.look(2)
    assert [name for name in world.pods if name.startswith("trainer")] == ["trainer-i2-0", "trainer-i2-1"]


def test_a_token_that_was_refused_is_tried_again_although_nothing_is_started() -> None:
    world = World()
    world.cluster.refuse_with(FULL, "Secret")
    world.look(2)
    assert FULL.message in world.condition("LedgerReady")[2]
    world.cluster.admit_all()
    world.now += 61
    world.look()
    assert world.cluster.names("Secret") == [SECRET]


def test_a_token_that_is_there_and_may_not_be_made_twice_is_no_trouble_of_pods_that_are_ready(world: World) -> None:
    world.cluster.refuse_with(FULL, "Secret")
    break_a_gang(world)
    world.look()
    world.start_pods()
    world.look()
    for condition in ("LedgerReady", "TrainerReady", "RolloutsReady", "RewardReady"):
        assert world.condition(condition)[0] == "True"


def test_nothing_is_asked_for_while_nothing_happens(world: World) -> None:
    world.cluster.requests.clear()
    world.look(20)
    assert world.cluster.requests == []


def test_a_config_map_is_missed_within_minutes_although_nothing_is_started(world: World) -> None:
    del world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    world.look()
    world.now += 601
    world.look()
    assert world.cluster.names("ConfigMap") == [CONFIG_MAP]


# ------------------------------------------------------------------------------------------ the frozen run is lost


def lose(world: World) -> None:
    del world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]


def garble(world: World) -> None:
    config = world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    world.cluster.change(config, data={"run.json": "{}"})


def from_the_future(world: World) -> None:
    config = world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    run = json.loads(config["data"]["run.json"]) | {"schemaVersion": 2}
    world.cluster.change(config, data=config["data"] | {"run.json": json.dumps(run)})


LOSSES: dict[str, tuple[Callable[[World], None], str]] = {
    "the ConfigMap was deleted": (lose, "found no ConfigMap orz-run"),
    "the ConfigMap was garbled": (garble, "ConfigMap orz-run: found name"),
    "only a newer operator can read it": (from_the_future, "found schemaVersion 2; this version reads up to 1"),
}


@pytest.mark.parametrize(("damage", "words"), LOSSES.values(), ids=LOSSES)
def test_a_run_is_never_frozen_anew_while_its_pods_live(
    world: World, damage: Callable[[World], None], words: str
) -> None:
    damage(world)
    data = copy.deepcopy(world.cluster.objects.get(("ConfigMap", NAMESPACE, CONFIG_MAP)))
    world.restart(images=NEWER_IMAGES)
    world.look(2)
    status, reason, message = world.condition("Accepted")
    assert (status, reason) == ("False", "FrozenRunLost")
    assert words in message
    assert world.pods == EVERYBODY
    break_a_gang(world)
    world.look(2)
    assert world.run["status"]["gang"]["restarts"] == 1, "what happens is still counted"
    assert world.pods == EVERYBODY[:3], "nothing is made from a guess, and the others are left alone"
    assert world.cluster.objects.get(("ConfigMap", NAMESPACE, CONFIG_MAP)) == data


@pytest.mark.parametrize(("damage", "words"), LOSSES.values(), ids=LOSSES)
def test_a_run_whose_frozen_form_is_lost_can_be_suspended(
    world: World, damage: Callable[[World], None], words: str
) -> None:
    damage(world)
    world.restart(images=NEWER_IMAGES)
    world.edit(spec(suspend=True))
    world.look(4)
    assert world.pods == []
    assert world.cluster.names("Deployment") == []
    assert world.run["status"]["phase"] == "Suspended"


@pytest.mark.parametrize(("damage", "words"), LOSSES.values(), ids=LOSSES)
def test_a_finished_run_whose_frozen_form_is_lost_goes_when_its_time_is_over(
    world: World, damage: Callable[[World], None], words: str
) -> None:
    world.cluster.change(world.run, status=world.run["status"] | {"phase": "Succeeded", "completionTime": stamp(0)})
    world.look(3)
    assert (world.pods, world.cluster.names("Deployment")) == ([], [])
    world.edit(spec() | {"ttlSecondsAfterFinished": 60})
    damage(world)
    world.restart(images=NEWER_IMAGES)
    world.look()
    assert world.cluster.names(names.KIND) == [NAME]
    world.now += 61
    world.look()
    assert world.cluster.names(names.KIND) == []


@pytest.mark.parametrize("damage", [lose, garble])
def test_without_pods_it_is_frozen_anew_and_goes_on(world: World, damage: Callable[[World], None]) -> None:
    damage(world)
    world.restart(images=NEWER_IMAGES)
    world.edit(spec(suspend=True))
    world.look(5)
    assert world.run["status"]["phase"] == "Suspended"
    world.edit(spec())
    world.look(3)
    assert world.condition("Accepted")[:2] == ("True", "SpecValid")
    assert [name for name in world.pods if name.startswith("trainer")] == ["trainer-i2-0", "trainer-i2-1"]
    pod = world.cluster.objects["Pod", NAMESPACE, f"{NAME}-trainer-i2-0"]
    assert pod["spec"]["containers"][0]["image"] == NEWER_IMAGES["trainer"]


def test_its_folder_stays_its_own(world: World) -> None:
    lose(world)
    world.restart()
    world.look()
    does = world.reconciler._renderer.what_it_does(UID)
    assert does is not None
    assert does.spec.storage.uri == SPEC["storage"]["uri"]


def test_a_restored_config_map_ends_it(world: World) -> None:
    config = world.cluster.objects.pop(("ConfigMap", NAMESPACE, CONFIG_MAP))
    world.restart(images=NEWER_IMAGES)
    world.look()
    assert world.condition("Accepted")[1] == "FrozenRunLost"
    world.cluster.add(config)
    world.look()
    assert world.condition("Accepted")[:2] == ("True", "SpecValid")


def test_what_was_frozen_is_remembered_when_the_api_server_fails(world: World) -> None:
    """A failed write has the ConfigMap read again; one that was deleted meanwhile is not lost."""
    lose(world)
    world.reconciler._frozen.read_again(UID)
    world.look()
    assert world.condition("Accepted")[:2] == ("True", "SpecValid")


# ------------------------------------------------------------------------------------------- an operator's rollback


def test_what_a_newer_operator_froze_is_used_and_written_back(world: World) -> None:
    config = world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    run = json.loads(config["data"]["run.json"])
    run["spec"]["trainer"]["nextField"] = 7
    run["spec"]["data"]["train"][0]["nextField"] = 8
    run["nextSection"] = {"a": 1}
    submitted = spec(trainer={**SPEC["trainer"], "nextField": 7})
    data = {"run.json": json.dumps(run), "submitted.json": json.dumps(submitted)}
    world.cluster.change(config, data=data)
    world.edit(submitted)
    world.restart(images=NEWER_IMAGES)
    world.look(2)
    status, reason, message = world.condition("Accepted")
    assert (status, reason) == ("True", "SpecValid")
    assert "a newer operator has frozen spec.trainer.nextField, which" in message
    assert world.pods == EVERYBODY

    world.edit(spec(trainer={**SPEC["trainer"], "nextField": 7, "nodes": 3}))
    break_a_gang(world)
    world.look(2)
    again = json.loads(world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]["data"]["run.json"])
    assert again["spec"]["trainer"]["nodes"] == 3
    assert again["spec"]["trainer"]["nextField"] == 7
    assert again["spec"]["data"]["train"][0]["nextField"] == 8
    assert again["nextSection"] == {"a": 1}
    pod = world.cluster.objects["Pod", NAMESPACE, f"{NAME}-trainer-i2-0"]
    assert pod["spec"]["containers"][0]["image"] == IMAGES["trainer"], "the frozen image, not today's"


def test_a_finished_run_of_a_newer_operator_is_not_started_again(world: World) -> None:
    status = world.run["status"] | {"phase": "Succeeded", "completionTime": stamp(9)}
    status["conditions"] = [*status["conditions"], {**status["conditions"][0], "type": "NextCondition"}]
    for name in world.cluster.names("Pod"):
        del world.cluster.objects["Pod", NAMESPACE, name]
    world.cluster.change(world.run, status=status)
    world.restart()
    world.look(2)
    assert world.run["status"]["phase"] == "Succeeded"
    assert world.pods == []


# --------------------------------------------------------------------------------------- pods that are never created

MISSING = 'MountVolume.SetUp failed for volume "secret-bucket" : secret "bucket" not found'


def hang(world: World) -> str:
    """A rollout has a node and no container; its UID."""
    name = next(name for name in world.cluster.names("Pod") if "rollout" in name)
    body = world.cluster.objects["Pod", NAMESPACE, name]
    waiting = [container("main", waiting="ContainerCreating")]
    scheduled = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(0)}]
    world.cluster.change(body, status={"phase": "Pending", "containerStatuses": waiting, "conditions": scheduled})
    return str(body["metadata"]["uid"])


def event(reason: str, message: str, seconds: float = 0, kind: str = "Warning") -> dict[str, Any]:
    return {"type": kind, "reason": reason, "message": message, "lastTimestamp": stamp(seconds)}


def test_a_pod_that_is_not_created_names_the_cause_in_the_kubelets_words(world: World) -> None:
    world.cluster.events[hang(world)] = [event("FailedMount", MISSING)]
    world.now += CREATING_SECONDS - 1
    world.look()
    assert MISSING not in world.condition("RolloutsReady")[2], "most pods take a moment"
    world.now += 1
    world.look()
    status, _, message = world.condition("RolloutsReady")
    assert status == "False"
    assert f"ContainerCreating: its containers are not created since {stamp(0)}: FailedMount: {MISSING}" in message


def test_the_events_of_a_pod_are_asked_for_once_a_minute(world: World) -> None:
    hang(world)
    world.now += CREATING_SECONDS
    world.look(5)
    assert "no event of it says why: look at kubectl describe pod" in world.condition("RolloutsReady")[2]
    world.now += ASK_SECONDS
    world.look()
    assert sum(kind == "Event" for _, kind, _ in world.cluster.requests) == 2


def test_a_pod_that_hangs_for_want_of_config_map_or_token_gets_them(world: World) -> None:
    hang(world)
    del world.cluster.objects["ConfigMap", NAMESPACE, CONFIG_MAP]
    del world.cluster.objects["Secret", NAMESPACE, SECRET]
    world.now += CREATING_SECONDS
    world.look()
    assert (world.cluster.names("ConfigMap"), world.cluster.names("Secret")) == ([CONFIG_MAP], [SECRET])


SUM = "Unable to attach or mount volumes: unmounted volumes=[secret-bucket]: timed out waiting for the condition"
CAUSES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "none": ([], ""),
    "only good news": ([event("Scheduled", "assigned", kind="Normal")], ""),
    "an image is being pulled": ([event("Pulling", "Pulling image x", kind="Normal")], "Pulling: Pulling image x"),
    "a warning goes before news": (
        [event("Pulling", "x", 9, kind="Normal"), event("FailedMount", MISSING)],
        f"FailedMount: {MISSING}",
    ),
    "the volume goes before the sum": (
        [event("FailedMount", SUM, 9), event("FailedMount", MISSING, 1)],
        f"FailedMount: {MISSING}",
    ),
    "the sum alone": ([event("FailedMount", SUM)], f"FailedMount: {SUM}"),
    "of two warnings the newest": (
        [event("FailedAttachVolume", "busy", 5), event("FailedCreatePodSandBox", "no address", 6)],
        "FailedCreatePodSandBox: no address",
    ),
    "an event of the newer API": (
        [{"type": "Warning", "reason": "A", "message": "b\n c", "eventTime": stamp(1)}],
        "A: b c",
    ),
}


@pytest.mark.parametrize(("events", "said"), CAUSES.values(), ids=CAUSES)
def test_causes(events: list[dict[str, Any]], said: str) -> None:
    assert cause_of(events) == said
