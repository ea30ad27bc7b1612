"""The operator is killed, upgraded, paused, or there twice, while runs go on; a real API server, real processes."""

from __future__ import annotations

import time
from collections.abc import Callable

from lifecycle_moves import both, fail, image_of, patch
from lifecycle_steps import EVERYBODY, NAME, ROLLOUTS, STARTED, Scene, Step, gang
from operator_process import WORKER_IMAGE, OperatorProcess

from rz_api import names


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
    scene.kubelet.fail(scene.namespace, "tiny-rollout-i1-1", exit_code=1)
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
            want_pods=(*gang(2), "rollout-i1-0", "rollout-i2-1"),
            want_running=(*gang(2), "rollout-i2-1"),
            want_same=("rollout-i1-0",),
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
    before = scene.settled()
    images = {f"RZ_IMAGE_{role}": "registry.test/newer:9" for role in ("LEDGER", "REWARD", "ROLLOUT", "TRAINER")}
    old = {name: scene.operator.env[name] for name in images}
    try:
        scene.operator.restart(**images)
        scene.hold(2.0)
        assert scene.versions() == before
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


def test_two_operators_at_once_make_nothing_twice_and_do_not_fight(
    scene: Scene, new_operator: Callable[[str], OperatorProcess]
) -> None:
    second = new_operator("lifecycle-2")
    try:
        scene.submit()
        scene.take(STARTED)
        scene.take(
            Step(
                "a failure is counted once",
                both(fail("trainer-i1-0"), fail("rollout-i1-0")),
                want_pods=(*gang(2), "rollout-i2-0", "rollout-i1-1"),
                want_running=(*gang(2), "rollout-i1-1"),
                want_new=("rollout-i2-0",),
                want_gang={"incarnation": 2, "restarts": 1, "failuresInARow": 1},
                want_restarts={"trainer": 1, "rollout": 1},
            )
        )
        before = scene.settled()
        scene.hold(2.0)
        assert scene.versions() == before
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
        second = new_operator("lifecycle-3")
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
