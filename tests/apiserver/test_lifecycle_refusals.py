"""The API server refuses what the operator creates: named steps on a real API server."""

from __future__ import annotations

import time

import pytest
from kube_api import Object
from lifecycle_steps import ROLLOUTS, Scene, Step, gang
from players import use_quota
from webhook_double import DenyingWebhook

from rz_api import names
from rz_operator.controller.apply import QUOTA_SECONDS

PODS_OF = ("ledger", "reward", "rollout", "trainer")
PODS_OF_CONDITIONS = {
    "LedgerReady": "ledger",
    "RewardReady": "reward",
    "RolloutsReady": "rollout",
    "TrainerReady": "trainer",
}


def refused(words: str) -> Step:
    return Step(
        "the condition has the server's words",
        want_pods=ROLLOUTS,
        want_gang={"incarnation": 1, "restarts": 0},
        want_restarts={},
        want_condition=("TrainerReady", "False", "CreateRefused", words),
    )


def check_that_it_is_not_tried_again(scene: Scene, words: str, seconds: float = 60, restart: bool = False) -> None:
    """One create was refused; it is not tried again for so many seconds, whatever happens meanwhile."""
    started = scene.operator.started
    scene.take(refused(words))
    seen = time.time()
    scene.patch({"failurePolicy": {"maxRestarts": 9}})
    scene.ledgers.set(scene.namespace, scene.name, step=1)
    scene.hold(1.0)
    if restart:
        scene.operator.kill()
        scene.operator.start()
        scene.hold(1.0)
    assert not scene.missing(refused(words), None)
    assert scene.refused_creates() == 1, "at most one create a minute"
    ((key, retry),) = scene.status["retries"].items()
    assert key == "Pod/tiny-trainer-i1-0"
    assert (retry["failures"], words in retry["message"]) == (1, True)
    assert started <= retry["notBefore"] - seconds <= seen


TRIED_AGAIN = Step(
    "it is tried again when its time has come, and the gang starts",
    Scene.forget_waits,
    want_running=gang(1),
    want_same=ROLLOUTS,
    want_condition=("TrainerReady", "True", "Ready", "2 of 2 pods ready, incarnation 1"),
    want=lambda scene: not scene.status.get("retries"),
)


def test_a_quota_that_is_exceeded_is_named_and_tried_again_within_a_minute(scene: Scene) -> None:
    api, namespace = scene.api, scene.namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}}
    api.create(quota | {"spec": {"hard": {"requests.nvidia.com/gpu": "2"}}}, namespace)
    use_quota(api, namespace, "gpus")
    scene.submit({"spec.trainer.gpusPerNode": 3})
    check_that_it_is_not_tried_again(scene, "exceeded quota: gpus", QUOTA_SECONDS, restart=True)
    assert "to change in the run: spec.trainer.gpusPerNode" in scene.condition("TrainerReady")["message"]

    second = time.time()
    scene.take(
        Step(
            "the second refusal waits no longer",
            Scene.forget_waits,
            want_pods=ROLLOUTS,
            want=lambda scene: (
                scene.refused_creates() == 2
                and scene.status["retries"]["Pod/tiny-trainer-i1-0"]["failures"] == 2
                and scene.status["retries"]["Pod/tiny-trainer-i1-0"]["notBefore"] - QUOTA_SECONDS >= second
            ),
        )
    )
    api.delete("ResourceQuota", namespace, "gpus")
    scene.take(TRIED_AGAIN)


def test_a_webhook_that_denies_pods_is_quoted(scene: Scene) -> None:
    words = "no trainers on a Monday"
    with DenyingWebhook(scene.api, scene.namespace, {names.LABEL_ROLE: "trainer"}, words):
        scene.submit()
        check_that_it_is_not_tried_again(scene, words)
    scene.take(TRIED_AGAIN)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"spec": {"nodeSelector": {"bad key!": "x"}}}, "spec.nodeSelector"),
        ({"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "lots"}}}]}}, "quantities must"),
        ({"spec": {"priority": "high"}}, "priority"),
    ],
    ids=["422, a bad name", "400, a bad quantity", "400, a wrong type"],
)
def test_a_pod_template_that_the_server_refuses_is_explained_and_can_be_mended(
    scene: Scene, template: Object, words: str
) -> None:
    scene.submit({"spec.trainer.podTemplate": template})
    check_that_it_is_not_tried_again(scene, words)

    def mend(scene: Scene) -> None:
        scene.patch({"trainer": {"podTemplate": None}})

    scene.take(
        Step(
            "a spec that was mended acts at once",
            mend,
            want_running=gang(1),
            want_same=ROLLOUTS,
            want_condition=("TrainerReady", "True", "Ready", "incarnation 1"),
            within=15,
        )
    )
    assert not scene.status.get("retries")


# ------------------------------------------------------------------------------- clusters that want or bring limits

EVERYBODY_LIMITED = {f"spec.{role}.resources.limits": {"cpu": "1", "memory": "2Gi"} for role in PODS_OF}
WANTS_LIMITS = {"kind": "ResourceQuota", "spec": {"hard": {"limits.memory": "100Gi"}}}
BRINGS_LIMITS = {"kind": "LimitRange", "spec": {"limits": [{"type": "Container", "default": {"memory": "512Mi"}}]}}


def rule(scene: Scene, body: Object) -> None:
    """A quota or a limit range of the namespace's."""
    scene.api.create({"apiVersion": "v1", "metadata": {"name": "memory"}, **body}, scene.namespace)
    if body["kind"] == "ResourceQuota":
        use_quota(scene.api, scene.namespace, "memory")


def named(*fields: str) -> str:
    return f"to change in the run: {', '.join(fields)}"


def test_a_quota_that_wants_limits_is_answered_with_the_field_of_every_role(scene: Scene) -> None:
    rule(scene, WANTS_LIMITS)
    scene.submit()
    for condition, role in PODS_OF_CONDITIONS.items():
        words = named(f"spec.{role}.resources.limits.memory")
        scene.wait(lambda kind=condition, words=words: words in scene.condition(kind).get("message", ""), what=words)


def test_a_limit_range_below_a_request_is_answered_with_the_limit_and_the_small_pods_run_under_it(
    scene: Scene,
) -> None:
    rule(scene, BRINGS_LIMITS)
    scene.submit()
    scene.take(
        Step(
            "the trainer's condition names its limit",
            want_condition=("TrainerReady", "False", "CreateRefused", named("spec.trainer.resources.limits.memory")),
        )
    )
    for condition in ("LedgerReady", "RewardReady"):
        scene.wait(lambda kind=condition: scene.condition(kind).get("status") == "True", what=condition)


@pytest.mark.parametrize("body", [WANTS_LIMITS, BRINGS_LIMITS], ids=["a quota wants limits", "a limit range of 512Mi"])
def test_a_run_that_says_its_limits_runs_there(scene: Scene, body: Object) -> None:
    rule(scene, body)
    scene.submit(EVERYBODY_LIMITED)
    scene.take(Step("everybody runs", want_running=(*gang(1), *ROLLOUTS)))


def test_no_pod_of_the_minimal_run_is_best_effort_and_a_lost_nodes_ledger_moves_after_30_seconds(scene: Scene) -> None:
    scene.submit()
    scene.take(Step("everybody runs", want_running=(*gang(1), *ROLLOUTS)))
    labels = {names.LABEL_RUN: scene.name}
    pods = {pod["metadata"]["labels"][names.LABEL_ROLE]: pod for pod in scene.api.list("Pod", scene.namespace, labels)}
    assert {role: pod["status"]["qosClass"] for role, pod in pods.items()} == dict.fromkeys(PODS_OF, "Burstable")

    def seconds(role: str) -> set[int]:
        return {
            each["tolerationSeconds"] for each in pods[role]["spec"]["tolerations"] if each["effect"] == "NoExecute"
        }

    assert {role: seconds(role) for role in PODS_OF} == {
        "ledger": {30},
        "reward": {30},
        "rollout": {300},
        "trainer": {300},
    }, "what nobody decides about is the server's own default"
