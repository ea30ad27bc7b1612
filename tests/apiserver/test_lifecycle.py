"""What becomes of a run when things happen to it: tables of named steps on a real API server, the operator a process.

The language of the tables is in ``lifecycle_steps.py``. One operator serves the whole module; a test that stops or
kills it starts it again. Nowhere may a finalizer or an annotation of kopf's appear (looked at after every step).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from control_plane import ControlPlane
from fake_ledgers import FakeLedgers
from kube_api import Api, Object
from kubelet_double import Kubelet
from lifecycle_steps import NAME, POLL_SECONDS, ROLLOUTS, STARTED, Case, Do, Scene, Step, gang
from operator_process import OperatorProcess, revoke
from players import Players, use_quota
from webhook_double import DenyingWebhook

from rz_api import names

ACCOUNT = "lifecycle"
WORKER_IMAGE = "registry.test/worker:1"
EVERYBODY = (*gang(1), *ROLLOUTS)
OLDEST_WITH_CEL = 25


@pytest.fixture(scope="module")
def ledgers() -> Iterator[FakeLedgers]:
    """For the whole module, as the operator is."""
    made = FakeLedgers()
    yield made
    made.close()


@pytest.fixture(scope="module")
def new_operator(control_plane: ControlPlane, ledgers: FakeLedgers) -> Iterator[Callable[[str], OperatorProcess]]:
    """``new_operator(account)``: for all namespaces, started."""
    made: list[OperatorProcess] = []

    def start(account: str) -> OperatorProcess:
        env = {"RZ_POLL_SECONDS": str(POLL_SECONDS)}
        process = OperatorProcess(control_plane, ledger_status_url=ledgers.url_template, env=env, account=account)
        made.append(process)
        return process.start()

    yield start
    for process in made:
        process.close()
        revoke(control_plane.api, process.account, "")


@pytest.fixture(scope="module")
def one_operator(new_operator: Callable[[str], OperatorProcess]) -> OperatorProcess:
    return new_operator(ACCOUNT)


@pytest.fixture
def scene(
    api: Api,
    control_plane: ControlPlane,
    namespace: str,
    one_operator: OperatorProcess,
    kubelet: Kubelet,
    players: Players,
    ledgers: FakeLedgers,
    wait_for: Callable[..., Any],
) -> Iterator[Scene]:
    if not one_operator.running:
        one_operator.start()
    made = Scene(api, control_plane, namespace, one_operator, kubelet, players, ledgers, wait_for)
    yield made
    print(made.operator.log(40) if made.operator.running else "the operator does not run")
    print([run.get("status") for run in api.list(names.KIND, namespace)])
    made.check_marks()


# ------------------------------------------------------------------------------------------------- what may happen


def fail(pod: str, **how: Any) -> Do:
    return lambda scene: scene.kubelet.fail(scene.namespace, scene.pod_name(pod), **how)


def restart_in_place(*pods: str, **how: Any) -> Do:
    def do(scene: Scene) -> None:
        for pod in pods:
            scene.kubelet.restart_container(scene.namespace, scene.pod_name(pod), **how)

    return do


def restart_deployed(role: str, **how: Any) -> Do:
    return lambda scene: scene.kubelet.restart_container(scene.namespace, scene.deployed_pod(role), **how)


def stick(*pods: str) -> Do:
    def do(scene: Scene) -> None:
        for pod in pods:
            scene.kubelet.stick(scene.namespace, scene.pod_name(pod))

    return do


def let_go(scene: Scene) -> None:
    scene.kubelet.stuck.clear()


def let_go_of(*pods: str) -> Do:
    def do(scene: Scene) -> None:
        for pod in pods:
            scene.kubelet.stuck.discard(scene.pods()[pod]["metadata"]["uid"])

    return do


def kubelet_does(what: str, pod: str) -> Do:
    return lambda scene: getattr(scene.kubelet, what)(scene.namespace, scene.pod_name(pod))


def both(*steps: Do) -> Do:
    def do(scene: Scene) -> None:
        for each in steps:
            each(scene)

    return do


def patch(**spec: Any) -> Do:
    return lambda scene: scene.patch(spec)


def ledger_says(**fields: Any) -> Do:
    return lambda scene: scene.ledgers.set(scene.namespace, scene.name, **fields)


def forget_waits(scene: Scene) -> None:
    scene.forget_waits()


def image_of(pod: str) -> Callable[[Scene], str]:
    def find(scene: Scene) -> str:
        image: str = scene.pods()[pod]["spec"]["containers"][0]["image"]
        return image

    return find


def second_gang_runs(says: str, do: Do, **wants: Any) -> Step:
    """The whole gang is replaced by incarnation 2; nobody else is touched."""
    return Step(
        says, do, want_pods=(*gang(2), *ROLLOUTS), want_running=gang(2), want_same=wants.pop("same", ROLLOUTS), **wants
    )


def not_counted(says: str, do: Do, reason: str) -> Case:
    """The gang goes for a reason that nobody is to blame for; again, and the wait has doubled."""
    return Case(
        says,
        (
            STARTED,
            second_gang_runs(
                "the gang is replaced, and not blamed",
                do,
                want_gang={"incarnation": 2, "restarts": 0, "failuresInARow": 1},
                want_restarts={},
                want_event=(reason, "not counted, trainer incarnation 2 starts in 1 s"),
            ),
            Step(
                "a failure after it waits twice as long",
                both(let_go, fail("trainer-i2-1")),
                want_running=gang(3),
                want_gang={"incarnation": 3, "restarts": 1, "failuresInARow": 2},
                want_event=("Error", "trainer incarnation 3 starts in 2 s"),
            ),
        ),
    )


def ends_with_user_error(says: str, do: Do, left: tuple[str, ...] = ()) -> Case:
    words = "found no model models/tiny: change spec.model.name"
    return Case(
        says,
        (
            STARTED,
            Step(
                "the run has failed and nothing is left",
                do,
                want_phase="Failed",
                want_pods=left,
                want_condition=("Failed", "True", "UserError", words),
                want_event=("UserError", words),
                want=lambda scene: scene.deployments() == [] and scene.status["exitCode"] == 64,
            ),
        ),
    )


USER_ERROR: dict[str, Any] = {"exit_code": 64, "message": "found no model models/tiny: change spec.model.name"}

FAILURES = (
    Case(
        "a rollout dies: it is replaced alone",
        (
            STARTED,
            Step(
                "another pod of its name runs",
                fail("rollout-0", exit_code=1, message="CUDA error: device-side assert"),
                want_pods=EVERYBODY,
                want_new=("rollout-0",),
                want_same=(*gang(1), "rollout-1"),
                want_gang={"incarnation": 1, "restarts": 0},
                want_restarts={"rollout": 1},
                want_event=("Error", "CUDA error: device-side assert; replaced in 1 s"),
            ),
            Step(
                "the next time it waits longer",
                fail("rollout-0", exit_code=76),
                want_new=("rollout-0",),
                want_same=(*gang(1), "rollout-1"),
                want_restarts={"rollout": 2},
                want_event=("Watchdog", "replaced in 2 s"),
            ),
        ),
    ),
    Case(
        "a rollout is restarted by its kubelet: it is counted and left alone",
        (
            STARTED,
            Step(
                "one restart",
                restart_in_place("rollout-1", exit_code=1),
                want_same=EVERYBODY,
                want_restarts={"rollout": 1},
                want_event=("Error", "the kubelet restarted it"),
            ),
            Step(
                "two, and it waits in its back-off",
                restart_in_place("rollout-1", exit_code=1, up=False),
                want_same=EVERYBODY,
                want_restarts={"rollout": 2},
                want_condition=("RolloutsReady", "False", "PartlyReady", "rollout-1: CrashLoopBackOff"),
            ),
        ),
    ),
    Case(
        "a ledger that restarts is its Deployment's business: only counted for people",
        (
            STARTED,
            Step(
                "one restart",
                restart_deployed("ledger", exit_code=1),
                want_same=EVERYBODY,
                want_restarts={"ledger": 1},
                want_gang={"incarnation": 1},
            ),
        ),
    ),
    Case(
        "a trainer rank dies: the whole gang goes on in a new incarnation, and waits longer each time",
        (
            STARTED,
            second_gang_runs(
                "the first failure",
                both(ledger_says(step=3), fail("trainer-i1-1", exit_code=70, message="NCCL error")),
                want_gang={"incarnation": 2, "restarts": 1, "failuresInARow": 1},
                want_restarts={"trainer": 1},
                want_event=("InternalError", "NCCL error; failure 1 of 10, trainer incarnation 2 starts in 1 s"),
            ),
            Step(
                "the second, of both ranks at once, is counted once",
                both(fail("trainer-i2-0"), fail("trainer-i2-1", signal=9)),
                want_pods=(*gang(3), *ROLLOUTS),
                want_running=gang(3),
                want_same=ROLLOUTS,
                want_gang={"incarnation": 3, "restarts": 2, "failuresInARow": 2},
                want_restarts={"trainer": 2},
                want_event=("Error", "failure 2 of 10, trainer incarnation 3 starts in 2 s"),
            ),
            Step(
                "a step is committed: the waits begin again, the count stays",
                ledger_says(step=4),
                want_same=(*gang(3), *ROLLOUTS),
                want_gang={"incarnation": 3, "restarts": 2, "failuresInARow": 0},
            ),
            Step(
                "the third",
                fail("trainer-i3-0"),
                want_pods=(*gang(4), *ROLLOUTS),
                want_running=gang(4),
                want_gang={"incarnation": 4, "restarts": 3, "failuresInARow": 1},
                want_event=("Error", "failure 3 of 10, trainer incarnation 4 starts in 1 s"),
            ),
        ),
    ),
    Case(
        "while a gang waits for its time the conditions say so",
        (
            STARTED,
            Step(
                "nothing of the gang is there",
                fail("trainer-i1-0"),
                want_pods=ROLLOUTS,
                want_same=ROLLOUTS,
                want_condition=("TrainerReady", "False", "BackingOff", "it is not started before 20"),
            ),
        ),
        {"spec.failurePolicy.backoffSeconds": 600, "spec.failurePolicy.maxBackoffSeconds": 600},
    ),
    not_counted(
        "a trainer pod is preempted",
        both(
            stick("trainer-i1-0"),
            kubelet_does("preempt", "trainer-i1-0"),
            fail("trainer-i1-0", exit_code=143),
            lambda scene: scene.hold(0.3),
            let_go,
        ),
        "PreemptionByScheduler",
    ),
    not_counted("a trainer pod is evicted by its kubelet", kubelet_does("evict", "trainer-i1-1"), "Evicted"),
    not_counted("a trainer pod vanishes", kubelet_does("vanish", "trainer-i1-1"), "Vanished"),
    Case(
        "a trainer pod runs out of memory: named, and counted",
        (
            STARTED,
            second_gang_runs(
                "the event names it",
                kubelet_does("out_of_memory", "trainer-i1-0"),
                want_gang={"incarnation": 2, "restarts": 1},
                want_event=("OOMKilled", "trainer-0 ended (OOMKilled, signal SIGKILL); failure 1 of 1"),
            ),
            Step(
                "and so does the condition when that was once too often",
                kubelet_does("out_of_memory", "trainer-i2-1"),
                want_phase="Failed",
                want_condition=("Failed", "True", "BackoffLimitExceeded", "trainer-1 ended (OOMKilled"),
                want_event=("BackoffLimitExceeded", "OOMKilled"),
                want_restarts={"trainer": 2},
                want=lambda scene: scene.deployments() == [],
            ),
        ),
        {"spec.failurePolicy.maxRestarts": 1},
    ),
    Case(
        "without restarts the first failure is the last",
        (
            STARTED,
            Step(
                "failed",
                fail("trainer-i1-0", exit_code=70),
                want_phase="Failed",
                want_condition=("Failed", "True", "BackoffLimitExceeded", "failurePolicy.maxRestarts is 0"),
                want_restarts={"trainer": 1},
                want_pods=("trainer-i1-0",),
            ),
        ),
        {"spec.failurePolicy.maxRestarts": 0},
    ),
    ends_with_user_error("exit 64 of a trainer", fail("trainer-i1-1", **USER_ERROR), left=("trainer-i1-1",)),
    ends_with_user_error("exit 64 of a rollout, whose pod is restarted", restart_in_place("rollout-1", **USER_ERROR)),
    ends_with_user_error("exit 64 of the ledger, of a Deployment", restart_deployed("ledger", **USER_ERROR)),
    ends_with_user_error(
        "exit 64 of a reward pod in CrashLoopBackOff", restart_deployed("reward", up=False, **USER_ERROR)
    ),
    Case(
        "every rollout fails twice with nothing completed in between: the run is hopeless",
        (
            STARTED,
            Step(
                "each once, by its kubelet",
                both(ledger_says(step=1, units_done=1), restart_in_place(*ROLLOUTS)),
                want_same=EVERYBODY,
                want_restarts={"rollout": 2},
            ),
            Step(
                "a unit is completed, which forgives both",
                ledger_says(step=1, units_done=2),
                want_same=EVERYBODY,
                want=lambda scene: [scene.status["members"][name]["failures"] for name in ROLLOUTS] == [0, 0],
            ),
            Step(
                "each once more",
                restart_in_place(*ROLLOUTS),
                want_same=EVERYBODY,
                want_restarts={"rollout": 4},
            ),
            Step(
                "and again, one of them for good",
                both(restart_in_place("rollout-0"), fail("rollout-1", message="no kernel image")),
                want_phase="Failed",
                want_pods=(),
                want_condition=("Failed", "True", "RolloutsFailing", "every rollout failed 2 times"),
                want_event=("RolloutsFailing", "no unit was completed"),
            ),
        ),
        {"spec.failurePolicy.rolloutFailures": 2},
    ),
    Case(
        "all ranks succeed: the run has, and everything else goes",
        (
            STARTED,
            Step(
                "one rank is first",
                kubelet_does("succeed", "trainer-i1-0"),
                want_same=(*gang(1), *ROLLOUTS),
                want_gang={"incarnation": 1, "restarts": 0},
            ),
            Step(
                "then the other",
                kubelet_does("succeed", "trainer-i1-1"),
                want_phase="Succeeded",
                want_pods=gang(1),
                want_same=gang(1),
                want_condition=("Succeeded", "True", "TrainerSucceeded", "all trainer ranks succeeded"),
                want=lambda scene: scene.deployments() == [],
            ),
        ),
    ),
    Case(
        "a trainer pod stuck in Terminating does not hold up the next gang",
        (
            STARTED,
            Step(
                "the next one runs within a minute, beside it",
                both(stick("trainer-i1-0"), fail("trainer-i1-1")),
                want_pods=("trainer-i1-0", *gang(2), *ROLLOUTS),
                want_running=gang(2),
                want_same=ROLLOUTS,
                want_gang={"incarnation": 2, "restarts": 1},
                within=60,
            ),
            Step("it goes at last", let_go, want_pods=(*gang(2), *ROLLOUTS), want_same=(*gang(2), *ROLLOUTS)),
        ),
    ),
)

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
                want_running=(*EVERYBODY, "rollout-2"),
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
                want_pods=(*gang(1), "rollout-0"),
                want_same=(*gang(1), "rollout-0"),
                want=lambda scene: (
                    scene.api.get(names.KIND, scene.namespace, NAME, subresource="scale")["status"]
                    == {"replicas": 1, "selector": f"{names.LABEL_RUN}={NAME},{names.LABEL_ROLE}=rollout"}
                ),
            ),
            Step(
                "two reward pods",
                patch(reward={"replicas": 2}),
                want_same=(*gang(1), "rollout-0"),
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


@pytest.mark.parametrize("case", [*FAILURES, *SPEC_CHANGES], ids=lambda case: case.says)
def test_lifecycle(case: Case, scene: Scene) -> None:
    scene.play(case)
    denied = scene.operator.denied(scene.namespace)
    assert not denied, "the rules lack something"


def test_a_lost_node_takes_its_pods_gang_with_it(scene: Scene) -> None:
    """Its pods never go away while the node is silent; the next gang does not wait for them."""
    scene.kubelet.nodes = {"cpu": 0, **{f"gpu-{number}": 1 for number in range(6)}}
    scene.submit({"spec.rollout.resources": {"limits": {"nvidia.com/gpu": "1"}}})
    scene.take(STARTED)
    node = scene.pods()["trainer-i1-1"]["spec"]["nodeName"]
    assert node.startswith("gpu-")
    scene.take(
        Step(
            "the next gang starts beside it",
            lambda scene: scene.kubelet.lose_node(node),
            want_pods=("trainer-i1-1", *gang(2), *ROLLOUTS),
            want_running=gang(2),
            want_same=ROLLOUTS,
            want_gang={"incarnation": 2, "restarts": 0, "failuresInARow": 1},
            want_restarts={},
            want_event=("NodeLost", "not counted"),
        )
    )
    scene.take(
        Step(
            "the node comes back, and its pod goes",
            lambda scene: scene.kubelet.lost.clear(),
            want_pods=(*gang(2), *ROLLOUTS),
            want_same=(*gang(2), *ROLLOUTS),
            want_gang={"incarnation": 2},
        )
    )


def test_an_image_that_cannot_be_pulled_is_named_and_waited_for(scene: Scene) -> None:
    image = "registry.test/typo:1"
    scene.kubelet.not_pulled.add(image)
    scene.submit({"spec.trainer.image": image})
    words = f'trainer-i1-0 (and 1 more): ImagePullBackOff: Back-off pulling image "{image}"'
    waits = Step(
        "the condition has the kubelet's words",
        want_pods=(*gang(1), *ROLLOUTS),
        want_running=ROLLOUTS,
        want_gang={"incarnation": 1, "restarts": 0},
        want_restarts={},
        want_condition=("TrainerReady", "False", "ImagePullBackOff", words),
    )
    scene.take(waits)
    before = scene.pods()
    scene.hold(1.5)
    assert not scene.missing(waits, before)

    def push_the_image(scene: Scene) -> None:
        scene.kubelet.not_pulled.clear()

    scene.take(Step("it is there now", push_the_image, want_running=gang(1), want_same=EVERYBODY))
    scene.take(STARTED)


# ------------------------------------------------------------------------------------------------------ refusals


def refused(words: str) -> Step:
    return Step(
        "the condition has the server's words",
        want_pods=ROLLOUTS,
        want_gang={"incarnation": 1, "restarts": 0},
        want_restarts={},
        want_condition=("TrainerReady", "False", "CreateRefused", words),
    )


def check_that_it_is_not_tried_again(scene: Scene, words: str, restart: bool = False) -> None:
    """One create was refused; it is not tried again for a minute, whatever happens meanwhile."""
    scene.take(refused(words))
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
    assert 50 < retry["notBefore"] - time.time() < 60


TRIED_AGAIN = Step(
    "it is tried again when its time has come, and the gang starts",
    forget_waits,
    want_running=gang(1),
    want_same=ROLLOUTS,
    want_condition=("TrainerReady", "True", "Ready", "2 of 2 pods ready, incarnation 1"),
    want=lambda scene: not scene.status.get("retries"),
)


def test_a_quota_that_is_exceeded_is_named_and_tried_again_after_a_minute(scene: Scene) -> None:
    api, namespace = scene.api, scene.namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}}
    api.create(quota | {"spec": {"hard": {"requests.nvidia.com/gpu": "2"}}}, namespace)
    use_quota(api, namespace, "gpus")
    scene.submit({"spec.trainer.gpusPerNode": 3})
    check_that_it_is_not_tried_again(scene, "exceeded quota: gpus", restart=True)

    scene.take(
        Step(
            "the second refusal waits twice as long",
            forget_waits,
            want_pods=ROLLOUTS,
            want=lambda scene: (
                scene.refused_creates() == 2
                and scene.status["retries"]["Pod/tiny-trainer-i1-0"]["failures"] == 2
                and scene.status["retries"]["Pod/tiny-trainer-i1-0"]["notBefore"] - time.time() > 100
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


# -------------------------------------------------------------------------------------------- specs, two runs


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
            want_pods=(*gang(2), "rollout-0"),
            want_running=gang(2),
            want_condition=("Accepted", "False", "ImmutableFieldChanged", words),
        )
    )
    scene.take(
        Step(
            "the change is undone",
            patch(algorithm=None),
            want_same=(*gang(2), "rollout-0"),
            want_condition=("Accepted", "True", "SpecValid", "the spec is valid"),
        )
    )


def test_two_runs_on_one_storage_uri_the_second_is_refused_until_the_first_is_gone(scene: Scene) -> None:
    uri = f"s3://bucket/{scene.namespace}/shared"
    scene.submit({"spec.storage.uri": uri})
    scene.take(STARTED)
    scene.submit({"spec.storage.uri": uri + "/"}, name="late")

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


# -------------------------------------------------------------------------------------- the operator comes and goes


def test_an_operator_that_is_killed_while_a_run_starts_goes_on_where_it_was(scene: Scene) -> None:
    scene.submit()
    for seconds in (0.1, 0.25, 0.4, 0.6):
        time.sleep(seconds)
        scene.operator.kill()
        scene.operator.start()
    scene.take(STARTED)
    assert scene.status["gang"]["restarts"] == 0


def test_a_failure_that_happens_while_the_operator_is_killed_is_counted_once(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    scene.operator.kill()
    scene.kubelet.fail(scene.namespace, "tiny-trainer-i1-0", exit_code=1)
    scene.kubelet.fail(scene.namespace, "tiny-rollout-1", exit_code=1)
    scene.players.settle()
    for seconds in (0.0, 0.2, 0.4):
        scene.operator.start()
        time.sleep(seconds)
        scene.operator.kill()
        scene.players.tick()
    scene.take(
        Step(
            "once",
            lambda scene: scene.operator.start(),
            want_pods=(*gang(2), *ROLLOUTS),
            want_running=(*gang(2), *ROLLOUTS),
            want_same=("rollout-0",),
            want_gang={"incarnation": 2, "restarts": 1, "failuresInARow": 1},
            want_restarts={"trainer": 1, "rollout": 1},
        )
    )


def test_what_was_changed_while_the_operator_was_away_is_seen_when_it_is_back(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    scene.operator.kill()
    scene.patch({"suspend": True})
    scene.take(
        Step("it suspends", lambda scene: scene.operator.start(), want_phase="Suspended", want_pods=()),
    )


def test_an_upgrade_touches_no_pod_and_the_next_gang_has_the_frozen_image(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    scene.hold()
    before = {(item["kind"], item["metadata"]["name"]): version(item) for item in scene.objects()}
    images = {f"RZ_IMAGE_{role}": "registry.test/newer:9" for role in ("LEDGER", "REWARD", "ROLLOUT", "TRAINER")}
    old = {name: scene.operator.env[name] for name in images}
    try:
        scene.operator.restart(**images)
        scene.hold(2.0)
        assert {(item["kind"], item["metadata"]["name"]): version(item) for item in scene.objects()} == before
        scene.take(
            Step(
                "the next gang",
                fail("trainer-i1-0"),
                want_running=gang(2),
                want_same=ROLLOUTS,
                want=lambda scene: {image_of(pod)(scene) for pod in gang(2)} == {WORKER_IMAGE},
                want_condition=("Accepted", "True", "SpecValid", "the spec is valid"),
            )
        )
        scene.submit(name="new")
        scene.name = "new"
        scene.take(STARTED)
        assert {image_of(pod)(scene) for pod in EVERYBODY} == {"registry.test/newer:9"}
    finally:
        scene.operator.kill()
        scene.operator.env |= old
        scene.operator.start()


def test_a_frozen_run_that_cannot_be_read_is_written_anew(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    scene.operator.kill()
    scene.api.patch("ConfigMap", scene.namespace, f"{scene.name}-run", {"data": {"run.json": "{}"}})
    scene.take(
        Step(
            "the operator starts again",
            lambda scene: scene.operator.start(),
            want=lambda scene: (
                "tiny" in scene.api.get("ConfigMap", scene.namespace, f"{scene.name}-run")["data"]["run.json"]
            ),
            want_same=EVERYBODY,
        )
    )


def version(item: Object) -> tuple[str, str]:
    return item["metadata"]["uid"], item["metadata"]["resourceVersion"]


def test_two_operators_at_once_make_nothing_twice_and_do_not_fight(
    scene: Scene, new_operator: Callable[[str], OperatorProcess]
) -> None:
    second = new_operator(f"{ACCOUNT}-2")
    try:
        scene.submit()
        scene.take(STARTED)
        scene.take(
            Step(
                "a failure is counted once",
                both(fail("trainer-i1-0"), fail("rollout-0")),
                want_pods=(*gang(2), *ROLLOUTS),
                want_running=(*gang(2), "rollout-1"),
                want_new=("rollout-0",),
                want_gang={"incarnation": 2, "restarts": 1, "failuresInARow": 1},
                want_restarts={"trainer": 1, "rollout": 1},
            )
        )
        scene.hold(1.0)
        before = {(item["kind"], item["metadata"]["name"]): version(item) for item in scene.objects()}
        scene.hold(2.0)
        assert {(item["kind"], item["metadata"]["name"]): version(item) for item in scene.objects()} == before
        scene.take(Step("suspended by either", patch(suspend=True), want_phase="Suspended", want_pods=()))
    finally:
        second.kill()


def test_a_paused_operator_with_an_old_picture_does_no_harm(
    scene: Scene, new_operator: Callable[[str], OperatorProcess]
) -> None:
    """As after a long pause of its node: a second one has done the work meanwhile."""
    scene.submit()
    scene.take(STARTED)
    scene.operator.pause()
    try:
        second = new_operator(f"{ACCOUNT}-3")
        scene.take(
            Step("the other one restarts the gang", fail("trainer-i1-0"), want_running=gang(2), want_same=ROLLOUTS)
        )
        second.kill()
    finally:
        scene.operator.resume()
    settled = Step(
        "nothing more happens",
        want_pods=(*gang(2), *ROLLOUTS),
        want_same=(*gang(2), *ROLLOUTS),
        want_gang={"incarnation": 2, "restarts": 1},
        want_restarts={"trainer": 1},
    )
    before = scene.pods()
    scene.hold(1.5)
    assert not scene.missing(settled, before)


def test_a_run_that_is_deleted_while_the_operator_is_down_leaves_nothing(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    scene.operator.kill()
    scene.api.delete(names.KIND, scene.namespace, NAME)
    scene.wait(lambda: list(scene.objects()) == [], what="everything is collected")
    scene.operator.start()
    scene.hold(1.5)
    assert list(scene.objects()) == []


def test_a_run_of_the_same_name_as_one_that_was_deleted_a_moment_ago_starts(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    before = scene.pods()
    scene.api.delete(names.KIND, scene.namespace, NAME)
    scene.submit()
    scene.take(STARTED)
    assert all(before[name]["metadata"]["uid"] != pod["metadata"]["uid"] for name, pod in scene.pods().items())
