"""Services that a stranger puts under a ledger's name: the operator asks nobody whom the run does not own."""

from __future__ import annotations

import pytest
from kube_api import Object
from lifecycle_steps import NAME, Scene, Step, gang

from rz_api import names

LEDGER = names.ledger(NAME)


def service(scene: Scene, labels: dict[str, str], owners: list[Object]) -> Object:
    """It leads to the stranger's pods; ``FakeLedgers`` answers in their place, whoever is asked."""
    metadata = {"name": LEDGER, "labels": labels, "ownerReferences": owners}
    spec = {"selector": {"app": "stranger"}, "ports": [{"name": "status", "port": 9400}]}
    return scene.api.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}, scene.namespace
    )


def polls(scene: Scene) -> int:
    return scene.ledgers.requests[scene.namespace, NAME]


def looked_again(scene: Scene) -> None:
    """One look later: whatever it polls, it polls before it writes what it has observed."""
    scene.patch({"failurePolicy": {"maxRestarts": 100 + scene.run["metadata"]["generation"]}})
    generation = scene.run["metadata"]["generation"]
    scene.wait(lambda: scene.status["observedGeneration"] >= generation, what="the look after the change")


def test_a_service_that_was_there_before_the_run_is_named_and_never_polled(scene: Scene) -> None:
    service(scene, {}, [])
    scene.ledgers.set(scene.namespace, NAME, step=77, weight_version=77)
    scene.submit()
    words = f"Service/{LEDGER} was refused: found a Service {LEDGER} that is not this run's"
    scene.take(
        Step(
            "the run goes on, and says what is in the way",
            want_running=gang(1),
            want_condition=("LedgerReady", "False", "CreateRefused", words),
        )
    )
    looked_again(scene)
    looked_again(scene)
    assert polls(scene) == 0
    assert scene.status["progress"].get("step", 0) == 0

    scene.api.delete("Service", scene.namespace, LEDGER)
    scene.take(
        Step(
            "once the name is free its own Service is made, and asked",
            Scene.forget_waits,
            want=lambda scene: scene.status["progress"].get("step") == 77,
        )
    )
    assert polls(scene) > 0


@pytest.mark.parametrize(
    "owner",
    [None, {"controller": False}, {"kind": "ReplicaSet", "apiVersion": "apps/v1"}],
    ids=["without an owner", "with the run as an owner that does not control it", "with another kind's UID"],
)
def test_one_that_copies_every_label_is_not_polled_either(scene: Scene, owner: Object | None) -> None:
    """The run is paused before it starts, so that its UID is known, and the name is still free."""
    uid = scene.submit({"spec.suspend": True})["metadata"]["uid"]
    reference = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": NAME, "uid": uid, "controller": True}
    service(scene, names.labels(NAME, "ledger", uid=uid), [] if owner is None else [reference | owner])
    scene.ledgers.set(scene.namespace, NAME, step=77, weight_version=77)
    scene.patch({"suspend": False})
    scene.take(Step("the run starts", want_running=gang(1)))
    looked_again(scene)
    looked_again(scene)
    assert polls(scene) == 0


def test_its_own_service_that_somebody_bends_is_put_right_before_it_is_asked_again(scene: Scene) -> None:
    scene.ledgers.set(scene.namespace, NAME, step=1, weight_version=1)
    scene.submit()
    scene.take(Step("progress comes", want_running=gang(1), want=lambda scene: scene.status["progress"]["step"] == 1))
    bent = {"spec": {"type": "ExternalName", "externalName": "elsewhere.example.com", "clusterIP": None}}
    scene.api.patch("Service", scene.namespace, LEDGER, bent)
    scene.ledgers.set(scene.namespace, NAME, step=2, weight_version=2)
    scene.take(
        Step(
            "its spec is as it was rendered, and progress comes from there",
            want=lambda scene: (
                scene.api.get("Service", scene.namespace, LEDGER)["spec"]["type"] == "ClusterIP"
                and scene.status["progress"]["step"] == 2
            ),
        )
    )
