"""Somebody in another namespace, or a copy of a pod in the run's own, says that it belongs to a run. Nothing follows.

On a real API server with a real operator: what is the run's stays as it is, and goes on when it must.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from api_builders import document
from kube_api import Object
from lifecycle_moves import fail
from lifecycle_steps import BASE, ROLLOUTS, STARTED, Scene, Step, gang

from rz_api import names

Change = Callable[[Object], None]


def copy_of(pod: Object, change: Change = lambda pod: None) -> Object:
    """As a backup restores it or kubectl debug copies it: what the server gave it is left out."""
    kept = ("name", "labels", "annotations", "ownerReferences")
    body: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: copy.deepcopy(pod["metadata"][key]) for key in kept if key in pod["metadata"]},
        "spec": copy.deepcopy(pod["spec"]),
    }
    body["spec"].pop("nodeName", None)
    change(body)
    return body


def relabel(**labels: str) -> Change:
    return lambda pod: pod["metadata"]["labels"].update(labels)


def no_owner_and_another_name(pod: Object) -> None:
    del pod["metadata"]["ownerReferences"]
    pod["metadata"]["name"] += "-debug"


def test_a_strangers_pods_decide_nothing(scene: Scene, strangers: str) -> None:
    scene.submit()
    scene.take(STARTED)
    before, pods = scene.settled(), scene.pods()
    pretenders = [
        copy_of(pods["trainer-i1-0"]),
        copy_of(pods["trainer-i1-1"], lambda pod: pod["metadata"].pop("ownerReferences")),
        copy_of(pods["rollout-i1-0"], relabel(**{names.LABEL_INCARNATION: "999999999"})),
        copy_of(pods["rollout-i1-1"]),
    ]
    for body in pretenders:
        scene.api.create(body, strangers)
    scene.players.settle()
    for number, body in enumerate(pretenders):
        scene.kubelet.fail(strangers, body["metadata"]["name"], exit_code=64 if number < 3 else 0, message="strange")
    scene.hold(2.0)
    assert scene.versions() == before
    assert "strange" not in str(scene.run)
    assert len(scene.api.list("Pod", strangers)) == len(pretenders), "nobody deleted them either"


@pytest.mark.parametrize("written", ["{}", "{}/", "s3a://bucket"], ids=["the same", "with a slash", "around it"])
def test_a_strangers_run_with_the_same_storage_refuses_nothing_and_is_not_named(
    scene: Scene, strangers: str, written: str
) -> None:
    """It is free to write a URI into a spec, and a suspended run takes nothing else."""
    uri = f"s3://bucket/{scene.namespace}/shared"
    squatter = {**BASE, "metadata.name": "squatter", "spec.suspend": True, "spec.storage.uri": written.format(uri)}
    scene.api.create(document(squatter), strangers)

    def of_the_stranger() -> Object:
        status: Object = scene.api.get(names.KIND, strangers, "squatter").get("status") or {}
        return status

    scene.wait(lambda: of_the_stranger().get("frozen") is True)
    scene.submit({"spec.storage.uri": uri})
    scene.take(STARTED)
    accepted = scene.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("True", "SpecValid")
    events = scene.api.list("Event", scene.namespace)
    for word in (strangers, "squatter"):
        assert word not in str(scene.run)
        assert word not in str(events)
    assert f"{scene.namespace}/" not in str(of_the_stranger())


def test_a_copy_in_the_runs_own_namespace_decides_nothing(scene: Scene) -> None:
    """``kubectl debug --copy-to --keep-labels``."""
    scene.submit()
    scene.take(STARTED)
    scene.settled()
    pods = scene.pods()
    status = scene.status
    debugger = copy_of(pods["trainer-i1-0"], no_owner_and_another_name)
    scene.api.create(debugger, scene.namespace)
    scene.players.settle()
    scene.kubelet.fail(scene.namespace, debugger["metadata"]["name"], exit_code=64, message="strange")
    scene.hold(2.0)
    assert {**scene.status, "progress": None} == {**status, "progress": None}
    scene.take(
        Step(
            "the run's own pods decide as ever",
            fail("trainer-i1-1"),
            want_pods=(*gang(2), *ROLLOUTS, "trainer-i1-0-debug"),
            want_running=gang(2),
            want_gang={"incarnation": 2, "restarts": 1},
        )
    )


def test_a_name_that_somebody_took_is_said_and_not_taken_for_the_runs_own(scene: Scene) -> None:
    """A pod under the name of the next gang's, with the run's labels: the run waits and says why, and goes on after."""
    scene.submit()
    scene.take(STARTED)
    squatter: dict[str, Any] = copy_of(scene.pods()["trainer-i1-0"], relabel(**{names.LABEL_INCARNATION: "2"}))
    del squatter["metadata"]["ownerReferences"]
    squatter["metadata"]["name"] = scene.pod_name("trainer-i2-0")
    squatter["spec"]["hostname"] = squatter["metadata"]["name"]
    scene.api.create(squatter, scene.namespace)
    scene.take(
        Step(
            "it is named",
            fail("trainer-i1-1"),
            want_gang={"incarnation": 2},
            want_condition=("TrainerReady", "False", "CreateRefused", "that is not this run's; the name must be free"),
        )
    )

    def make_room(scene: Scene) -> None:
        scene.api.delete("Pod", scene.namespace, squatter["metadata"]["name"], grace=0)
        scene.forget_waits()

    scene.take(Step("it goes on", make_room, want_running=gang(2), want_gang={"incarnation": 2}))


def test_a_rollout_on_a_lost_node_is_replaced_on_another(scene: Scene) -> None:
    """Its pod stays Terminating for as long as the node is lost, and has its name for as long."""
    scene.kubelet.nodes = {"cpu": 0, **{f"gpu-{number}": 1 for number in range(6)}}
    scene.submit({"spec.rollout.resources": {"limits": {"nvidia.com/gpu": "1"}}, "spec.rollout.replicas": 1})
    alone = ("rollout-i1-0",)
    scene.take(Step("it runs", want_pods=(*gang(1), *alone), want_running=(*gang(1), *alone)))
    node = scene.pods()["rollout-i1-0"]["spec"]["nodeName"]
    scene.take(
        Step(
            "the next one runs beside it",
            lambda scene: scene.kubelet.lose_node(node),
            want_pods=(*gang(1), "rollout-i1-0", "rollout-i2-0"),
            want_running=("rollout-i2-0",),
            want_same=gang(1),
            want_restarts={},
            within=60,
        )
    )
