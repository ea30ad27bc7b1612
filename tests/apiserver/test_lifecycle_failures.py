"""A pod of a run fails, or is lost, and the run goes on: tables of named steps on a real API server."""

from __future__ import annotations

import pytest
from lifecycle_moves import (
    both,
    fail,
    happened,
    kubelet_does,
    ledger_says,
    let_go,
    restart_deployed,
    restart_in_place,
    second_gang_runs,
    stick,
)
from lifecycle_steps import EVERYBODY, ROLLOUTS, STARTED, Case, Do, Scene, Step, gang


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


FAILURES = (
    Case(
        "a rollout dies: it is replaced alone",
        (
            STARTED,
            Step(
                "another pod of its number runs",
                fail("rollout-i1-0", exit_code=1, message="CUDA error: device-side assert"),
                want_pods=(*gang(1), "rollout-i2-0", "rollout-i1-1"),
                want_new=("rollout-i2-0",),
                want_same=(*gang(1), "rollout-i1-1"),
                want_gang={"incarnation": 1, "restarts": 0},
                want_restarts={"rollout": 1},
                want_event=("Error", "CUDA error: device-side assert; replaced in 1 s"),
            ),
            Step(
                "the next time it waits longer",
                fail("rollout-i2-0", exit_code=76),
                want_new=("rollout-i3-0",),
                want_same=(*gang(1), "rollout-i1-1"),
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
                restart_in_place("rollout-i1-1", exit_code=1),
                want_same=EVERYBODY,
                want_restarts={"rollout": 1},
                want_event=("Error", "the kubelet restarted it"),
            ),
            Step(
                "two, and it waits in its back-off",
                restart_in_place("rollout-i1-1", exit_code=1, up=False),
                want_same=EVERYBODY,
                want_restarts={"rollout": 2},
                want_condition=("RolloutsReady", "False", "PartlyReady", "rollout-i1-1: CrashLoopBackOff"),
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
            happened("PreemptionByScheduler"),  # the operator looks at what is there, not at what has been
            let_go,
        ),
        "PreemptionByScheduler",
    ),
    not_counted("a trainer pod is evicted by its kubelet", kubelet_does("evict", "trainer-i1-1"), "Evicted"),
    not_counted("a trainer pod vanishes", kubelet_does("vanish", "trainer-i1-1"), "Vanished"),
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


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.says)
def test_after_a_failure(case: Case, scene: Scene) -> None:
    scene.play(case)


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
