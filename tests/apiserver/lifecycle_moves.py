"""What may happen to a run, as the ``do`` of a ``Step``; the tables of ``test_lifecycle_*.py`` are made of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lifecycle_steps import ROLLOUTS, Do, Scene, Step, gang


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


def happened(reason: str) -> Do:
    """Go on once the operator has said so in an event."""

    def seen(scene: Scene) -> bool:
        return any(event["reason"] == reason for event in scene.api.list("Event", scene.namespace))

    return lambda scene: scene.wait(lambda: seen(scene), what=f"the operator says {reason}")


def both(*steps: Do) -> Do:
    def do(scene: Scene) -> None:
        for each in steps:
            each(scene)

    return do


def patch(**spec: Any) -> Do:
    return lambda scene: scene.patch(spec)


def ledger_says(**fields: Any) -> Do:
    return lambda scene: scene.ledgers.set(scene.namespace, scene.name, **fields)


def image_of(pod: str) -> Callable[[Scene], str]:
    def find(scene: Scene) -> str:
        image: str = scene.pods()[pod]["spec"]["containers"][0]["image"]
        return image

    return find


def second_gang_runs(says: str, do: Do, same: Sequence[str] = ROLLOUTS, **wants: Any) -> Step:
    """The whole gang is replaced by incarnation 2; of the others ``same`` are not touched."""
    return Step(says, do, want_pods=(*gang(2), *ROLLOUTS), want_running=gang(2), want_same=same, **wants)
