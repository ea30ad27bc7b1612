"""The spec of a running run is changed, and two runs want one folder: named steps on a real API server."""

from __future__ import annotations

import pytest
from lifecycle_moves import both, fail, image_of, ledger_says, let_go, let_go_of, patch, second_gang_runs, stick
from lifecycle_steps import EVERYBODY, NAME, ROLLOUTS, STARTED, Case, Scene, Step, gang
from operator_process import WORKER_IMAGE

from rz_api import names

OLDEST_WITH_CEL = 25

SPEC_CHANGES = (
    Case(
        "suspended in mid-step and resumed: trainers go first, and come back as the next incarnation",
        (
            STARTED,
            Step(
                "the trainers are told to stop, and need the others until then",
                both(stick(*gang(1)), ledger_says(step=2), patch(suspend=True)),
                want_phase="Suspending",
                want_pods=EVERYBODY,
                want_same=ROLLOUTS,
                want_condition=("Suspended", "False", "Suspending", "the trainer stops after a checkpoint"),
                want=lambda scene: (
                    all("deletionTimestamp" in scene.pods()[name]["metadata"] for name in gang(1))
                    and scene.deployments() == ["tiny-ledger", "tiny-reward"]
                ),
            ),
            Step(
                "they have stopped: the rollouts are next, what they ask stays",
                both(
                    stick(*ROLLOUTS),
                    fail("trainer-i1-0", exit_code=75),
                    fail("trainer-i1-1", exit_code=75),
                    let_go_of(*gang(1)),
                ),
                want_phase="Suspending",
                want_pods=ROLLOUTS,
                want=lambda scene: (
                    all("deletionTimestamp" in scene.pods()[name]["metadata"] for name in ROLLOUTS)
                    and scene.deployments() == ["tiny-ledger", "tiny-reward"]
                ),
            ),
            Step(
                "suspended when nothing is left",
                let_go,
                want_phase="Suspended",
                want_pods=(),
                want_condition=("Suspended", "True", "SuspendRequested", "set spec.suspend to false"),
                want_event=("SuspendRequested", "nothing runs any more"),
                want=lambda scene: scene.deployments() == [] and scene.api.list("Pod", scene.namespace) == [],
            ),
            second_gang_runs(
                "resumed",
                patch(suspend=False),
                same=(),
                want_gang={"incarnation": 2, "restarts": 0, "failuresInARow": 0},
                want_restarts={},
                want_condition=("Suspended", "False", "Resumed", "goes on"),
                want_event=("Resumed", "going on with trainer incarnation 2"),
            ),
        ),
    ),
    Case(
        "replicas act at once",
        (
            STARTED,
            Step(
                "a third rollout",
                patch(rollout={"replicas": 3}),
                want_running=(*EVERYBODY, "rollout-i1-2"),
                want_same=EVERYBODY,
                want=lambda scene: (
                    scene.status["rollout"] | {"selector": ""} == {"replicas": 3, "readyReplicas": 3, "selector": ""}
                ),
            ),
            Step(
                "kubectl scale to one",
                lambda scene: scene.api.patch(
                    names.KIND, scene.namespace, NAME, {"spec": {"replicas": 1}}, subresource="scale"
                ),
                want_pods=(*gang(1), "rollout-i1-0"),
                want_same=(*gang(1), "rollout-i1-0"),
                want=lambda scene: (
                    scene.api.get(names.KIND, scene.namespace, NAME, subresource="scale")["status"]
                    == {"replicas": 1, "selector": f"{names.LABEL_RUN}={NAME},{names.LABEL_ROLE}=rollout"}
                ),
            ),
            Step(
                "two reward pods",
                patch(reward={"replicas": 2}),
                want_same=(*gang(1), "rollout-i1-0"),
                want_condition=("RewardReady", "True", "Ready", "2 of 2 pods ready"),
            ),
        ),
    ),
    Case(
        "an image acts with the next incarnation",
        (
            STARTED,
            Step(
                "nothing is touched, and the condition says when it will act",
                patch(trainer={"image": "registry.test/worker:2"}),
                want_same=EVERYBODY,
                want_condition=(
                    "Accepted",
                    "True",
                    "SpecValid",
                    "spec.trainer.image changed and will act",
                ),
            ),
            second_gang_runs(
                "a failure brings it",
                fail("trainer-i1-0"),
                want_condition=("Accepted", "True", "SpecValid", "the spec is valid"),
                want=lambda scene: (
                    [image_of(pod)(scene) for pod in (*gang(2), *ROLLOUTS)]
                    == ["registry.test/worker:2"] * 2 + [WORKER_IMAGE] * 2
                ),
            ),
        ),
    ),
)


@pytest.mark.parametrize("case", SPEC_CHANGES, ids=lambda case: case.says)
def test_after_a_change_of_the_spec(case: Case, scene: Scene) -> None:
    scene.play(case)


def test_what_can_not_change_is_refused_in_words_and_the_run_goes_on(scene: Scene) -> None:
    if scene.plane.minor >= OLDEST_WITH_CEL:
        pytest.skip("this server refuses the change itself, in the same words: test_cel.py")
    scene.submit()
    scene.take(STARTED)
    words = "spec.algorithm can't change once the run has started"
    refused = Step(
        "the condition says what was found and what to change",
        patch(algorithm={"promptsPerStep": 7}),
        want_same=EVERYBODY,
        want_condition=("Accepted", "False", "ImmutableFieldChanged", words),
    )
    scene.take(refused)
    assert "found algorithm.promptsPerStep 7 in place of 128" in scene.condition("Accepted")["message"]
    scene.take(
        Step(
            "the run goes on as it was: a gang is replaced, replicas act",
            both(fail("trainer-i1-0"), patch(rollout={"replicas": 1})),
            want_pods=(*gang(2), "rollout-i1-0"),
            want_running=gang(2),
            want_condition=("Accepted", "False", "ImmutableFieldChanged", words),
        )
    )
    scene.take(
        Step(
            "the change is undone",
            patch(algorithm=None),
            want_same=(*gang(2), "rollout-i1-0"),
            want_condition=("Accepted", "True", "SpecValid", "the spec is valid"),
        )
    )


@pytest.mark.parametrize(
    "late",
    [
        pytest.param("s3://bucket/{}/shared/", id="with a slash"),
        pytest.param("s3a://bucket//{}/./shared", id="written otherwise"),
        pytest.param("s3://bucket/{}/shared/x", id="a folder inside it"),
        pytest.param("s3://bucket/{}", id="a folder around it"),
    ],
)
def test_two_runs_on_one_storage_uri_the_second_is_refused_until_the_first_is_gone(scene: Scene, late: str) -> None:
    scene.submit({"spec.storage.uri": f"s3://bucket/{scene.namespace}/shared"})
    scene.take(STARTED)
    scene.submit({"spec.storage.uri": late.format(scene.namespace)}, name="late")

    def accepted() -> tuple[str | None, str | None]:
        found = scene.condition("Accepted", "late")
        return found.get("status"), found.get("reason")

    scene.wait(lambda: accepted() == ("False", "StorageRefused"))
    message = scene.condition("Accepted", "late")["message"]
    assert f"{scene.namespace}/{NAME} uses" in message
    scene.hold(1.5)
    made = [item["metadata"]["name"] for item in scene.objects() if item["metadata"]["name"].startswith("late-")]
    assert made == []
    assert scene.api.get(names.KIND, scene.namespace, "late")["status"]["phase"] == "Pending"

    scene.api.delete(names.KIND, scene.namespace, NAME)
    scene.wait(lambda: accepted() == ("True", "SpecValid"))
    scene.name = "late"
    scene.take(STARTED)
    assert scene.api.find("ConfigMap", scene.namespace, f"{NAME}-run") is None
