"""What one look remembers, and what it asks for, whatever fails on the way."""

from __future__ import annotations

from typing import Any

import pytest
from kube_builders import NAME, NAMESPACE, UID, stamp
from one_run import World

from rz_api import names
from rz_operator.apiserver.cluster import ApiError

FULL = ApiError(403, "Forbidden", "exceeded quota: secrets")
BROKEN = ApiError(500, "InternalError", "etcd is out of space")


def refuse_secrets_and_break_at_pods(world: World) -> None:
    def answer(body: dict[str, Any]) -> ApiError | None:
        return {"Secret": FULL, "Pod": BROKEN}.get(body["kind"])

    world.cluster.answer = answer


def test_what_was_refused_is_remembered_although_the_look_fails_afterwards() -> None:
    world = World()
    refuse_secrets_and_break_at_pods(world)
    secret = names.token_secret(NAME, UID)
    for _ in range(2):
        with pytest.raises(ApiError, match=BROKEN.message):
            world.look()
    assert list(world.run["status"]["retries"]) == [f"Secret/{secret}"]
    assert world.cluster.asked("create", "Secret") == [secret], "its time has not come"


def test_the_first_failure_is_told_although_the_status_cannot_be_written_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    refuse_secrets_and_break_at_pods(world)
    refuse = world.cluster.answer

    def answer(body: dict[str, Any]) -> ApiError | None:
        if body["kind"] == "Pod":
            world.edit(world.run["spec"])  # from here on the look's own object is too old to be written
        return refuse(body)

    world.cluster.answer = answer
    with pytest.raises(ApiError, match=BROKEN.message):
        world.look()
    assert "what was refused could not be written to the status" in caplog.text


def test_events_are_listed_once_a_minute_while_an_autoscaler_brings_nodes() -> None:
    world = World()
    world.look(2)
    waiting = [pod["metadata"]["uid"] for pod in world.cluster.of("Pod")]
    world.now += 301
    for number, uid in enumerate(waiting):
        brings = {"involvedObject": {"uid": uid}, "reason": "TriggeredScaleUp", "lastTimestamp": stamp(300)}
        metadata = {"name": f"e-{number}", "namespace": NAMESPACE}
        world.cluster.add({"apiVersion": "v1", "kind": "Event", "metadata": metadata, **brings})
    world.look(3)
    assert world.run["status"]["gang"]["incarnation"] == 1
    assert len(world.cluster.asked("list", "Event")) == 1
