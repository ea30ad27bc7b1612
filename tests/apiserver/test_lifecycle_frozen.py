"""What a run was frozen to is lost, deleted, or from another version of the operator: a real API server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_api import Object
from lifecycle_moves import both, fail, image_of, patch
from lifecycle_steps import EVERYBODY, ROLLOUTS, STARTED, Scene, Step, gang
from next_version import NextVersion
from operator_process import WORKER_IMAGE

from rz_api import names

NEWER_IMAGES = {f"RZ_IMAGE_{role}": "registry.test/newer:9" for role in ("LEDGER", "REWARD", "ROLLOUT", "TRAINER")}


@pytest.fixture
def same_operator(scene: Scene) -> Iterator[None]:
    """The module's operator is as before when a test has changed its environment."""
    before = dict(scene.operator.env)
    yield
    scene.operator.close()
    scene.operator.env.clear()
    scene.operator.env.update(before)
    scene.operator.start()


def config_map(scene: Scene) -> Object:
    return scene.api.get("ConfigMap", scene.namespace, names.config_map(scene.name))


def secret(scene: Scene) -> str:
    return names.token_secret(scene.name, scene.run["metadata"]["uid"])


# ---------------------------------------------------------------------------------------------- nothing can be made

BAD_CHANGES = {
    "a volume whose name is an object": (
        {"trainer": {"podTemplate": {"spec": {"volumes": [{"name": {"a": 1}}]}}}},
        "spec.trainer.podTemplate.spec.volumes",
    ),
    "envFrom with valueFrom": (
        {"rollout": {"envFrom": [{"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}},
        "spec.rollout.envFrom[0]",
    ),
}


@pytest.mark.parametrize(("change", "words"), BAD_CHANGES.values(), ids=BAD_CHANGES)
def test_a_spec_of_which_nothing_can_be_made_is_refused_at_once_and_suspend_acts(
    scene: Scene, change: Object, words: str
) -> None:
    scene.submit()
    scene.take(STARTED)
    refused = ("Accepted", "False", "SpecInvalid", words)
    scene.take(Step("said when it is made", patch(**change), want_same=EVERYBODY, want_condition=refused))
    scene.take(
        Step("the brake works", patch(suspend=True), want_phase="Suspended", want_pods=(), want_condition=refused)
    )


# --------------------------------------------------------------------------------------------- deleted sources


def delete_sources(scene: Scene) -> None:
    scene.api.delete("ConfigMap", scene.namespace, names.config_map(scene.name))
    scene.api.delete("Secret", scene.namespace, secret(scene))


def test_a_deleted_config_map_and_token_are_there_again_before_the_next_pods(scene: Scene) -> None:
    scene.kubelet.mounts = True
    scene.submit()
    scene.take(STARTED)
    before = config_map(scene)["data"]
    scene.take(
        Step(
            "the next gang finds both",
            both(delete_sources, fail("trainer-i1-0")),
            want_running=gang(2),
            want_same=ROLLOUTS,
            want=lambda scene: config_map(scene)["data"] == before,
        )
    )
    assert "immutable" not in scene.api.get("Secret", scene.namespace, secret(scene))
    assert not scene.operator.denied(scene.namespace)


def test_a_pod_that_waits_for_a_secret_of_the_users_says_so_in_the_kubelets_words(scene: Scene) -> None:
    scene.kubelet.mounts = True
    scene.submit({"spec.storage.secretName": "bucket"})
    scene.take(
        Step(
            "it is named",
            want_pods=EVERYBODY,
            want_condition=(
                "TrainerReady",
                "False",
                "ContainerCreating",
                'FailedMount: MountVolume.SetUp failed for volume "secret-bucket" : secret "bucket" not found',
            ),
        )
    )
    assert not scene.operator.denied(scene.namespace), "it may list the events of a pod"


# ---------------------------------------------------------------------------------------------- a lost frozen run


def lose(scene: Scene) -> None:
    scene.api.delete("ConfigMap", scene.namespace, names.config_map(scene.name))


def garble(scene: Scene) -> None:
    scene.api.patch("ConfigMap", scene.namespace, names.config_map(scene.name), {"data": {"run.json": "{}"}})


LOSSES = {"deleted": (lose, "found no ConfigMap tiny-run"), "garbled": (garble, "ConfigMap tiny-run: found name")}


@pytest.mark.parametrize(("damage", "words"), LOSSES.values(), ids=LOSSES)
def test_a_run_whose_frozen_form_is_lost_is_not_frozen_anew_while_its_pods_live(
    scene: Scene, same_operator: None, damage: object, words: str
) -> None:
    scene.submit()
    scene.take(STARTED)
    scene.operator.kill()
    assert callable(damage)
    damage(scene)
    scene.take(
        Step(
            "an upgraded operator touches nothing, and says what is missing",
            lambda scene: scene.operator.start(**NEWER_IMAGES),
            want_same=EVERYBODY,
            want_condition=("Accepted", "False", "FrozenRunLost", words),
        )
    )
    scene.hold(1.0)
    found = scene.api.find("ConfigMap", scene.namespace, names.config_map(scene.name))
    assert found is None or found["data"]["run.json"] == "{}"
    scene.take(Step("the brake works", patch(suspend=True), want_phase="Suspended", want_pods=()))
    scene.take(
        Step(
            "without pods it is frozen anew",
            patch(suspend=False),
            want_running=gang(2),
            want_condition=("Accepted", "True", "SpecValid", "the spec is valid"),
            want=lambda scene: image_of("trainer-i2-0")(scene) == "registry.test/newer:9",
        )
    )


# ---------------------------------------------------------------------------------------------- up and down a version


def test_an_operator_goes_up_a_minor_version_and_down_again_during_a_run(
    scene: Scene, same_operator: None, tmp_path: Path
) -> None:
    upgraded = NextVersion(tmp_path)
    this = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    scene.submit()
    scene.take(STARTED)
    before = scene.settled()
    try:
        _up_and_down(scene, upgraded, this, before)
    finally:
        scene.plane.apply_crd()


def _up_and_down(scene: Scene, upgraded: NextVersion, this: dict[str, str], before: object) -> None:
    upgraded.apply_crd(scene.plane)
    scene.operator.restart(**upgraded.env, **NEWER_IMAGES)
    scene.wait(lambda: scene.condition("NextCondition").get("status") == "True", what="the next version is at work")
    assert {name: uid for name, (uid, _) in pods_of(scene).items()} == {
        name: uid for name, (uid, _) in _pods_in(before).items()
    }
    scene.take(
        Step(
            "the next version freezes what this one does not know, with the next gang",
            both(patch(trainer={"nextField": 7}), fail("trainer-i1-0")),
            want_running=gang(2),
            want_same=ROLLOUTS,
            want_gang={"restarts": 1, "nextCounter": 5},
            want=lambda scene: run_json(scene)["spec"]["trainer"]["nextField"] == 7,
        )
    )
    # A run that finishes under the next version.
    scene.submit(name="done")
    scene.name = "done"
    scene.take(STARTED)
    ends = both(*(lambda scene, pod=pod: scene.kubelet.succeed(scene.namespace, f"done-{pod}") for pod in gang(1)))
    scene.take(Step("it finishes", ends, want_phase="Succeeded"))
    scene.name = "tiny"
    frozen = config_map(scene)["data"]
    settled = _pods_in(scene.settled())
    scene.operator.restart(**this)
    scene.wait(
        lambda: "a newer operator has frozen spec.trainer.nextField" in scene.condition("Accepted")["message"],
        what="this version is at work again",
    )
    scene.hold(1.5)
    assert pods_of(scene) == settled, "the rollback touches no pod"
    assert config_map(scene)["data"] == frozen, "and freezes nothing anew"
    assert scene.api.get(names.KIND, scene.namespace, "done")["status"]["phase"] == "Succeeded"
    scene.take(
        Step(
            "the next gang is made from what was frozen",
            fail("trainer-i2-0"),
            want_running=gang(3),
            want_same=ROLLOUTS,
            want_gang={"restarts": 2},
            want=lambda scene: {image_of(pod)(scene) for pod in gang(3)} == {WORKER_IMAGE},
        )
    )
    scene.take(
        Step(
            "a change under this version keeps what the next one had frozen",
            both(patch(trainer={"terminationGraceSeconds": 60}), fail("trainer-i3-0")),
            want_running=gang(4),
            want=lambda scene: (
                run_json(scene)["spec"]["trainer"]["terminationGraceSeconds"] == 60
                and run_json(scene)["spec"]["trainer"]["nextField"] == 7
            ),
        )
    )
    settled = _pods_in(scene.settled())
    scene.operator.restart(**upgraded.env)
    scene.wait(
        lambda: scene.condition("Accepted").get("message") == "the spec is valid", what="up again, and all is known"
    )
    scene.hold(1.5)
    assert pods_of(scene) == settled
    assert scene.status["gang"]["restarts"] == 3


def run_json(scene: Scene) -> Object:
    found: Object = json.loads(config_map(scene)["data"]["run.json"])
    return found


def pods_of(scene: Scene) -> dict[tuple[str, str], tuple[str, str]]:
    return _pods_in(scene.versions())


def _pods_in(versions: object) -> dict[tuple[str, str], tuple[str, str]]:
    assert isinstance(versions, dict)
    return {key: value for key, value in versions.items() if key[0] == "Pod"}
