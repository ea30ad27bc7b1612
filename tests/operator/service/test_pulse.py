"""What is heard of a watch, and what follows. Seconds of a watch of 60: 75 for the client, 150 until it is dead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from watch_fakes import FakeAnswer, opened, path_of, refused

from rz_operator.service.pulse import Limits, Pulse


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """One watch, of pods."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pulse = Pulse(["Pod"], Limits(60), self.clock)
        self.pulse.begin()

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds


def nothing(scene: Scene) -> None:
    scene.wait(149)


def nothing_for_longer(scene: Scene) -> None:
    scene.wait(151)


def quiet_cluster(scene: Scene) -> None:
    for _ in range(10):
        content = opened(scene.pulse)
        scene.wait(60)
        content.end()


def busy_cluster(scene: Scene) -> None:
    content = opened(scene.pulse)
    for _ in range(10):
        scene.wait(60)
        content.say()
        scene.pulse.listen()


def dead_connection(scene: Scene) -> None:
    opened(scene.pulse)
    scene.wait(76)


def dead_connection_for_longer(scene: Scene) -> None:
    opened(scene.pulse)
    scene.wait(151)


def answers_without_bytes(scene: Scene) -> None:
    for _ in range(3):
        opened(scene.pulse)
        scene.wait(75)


def lists_alone(scene: Scene) -> None:
    for _ in range(16):
        scene.pulse.answered(path_of("Pod"), {"limit": "500"}, FakeAnswer())
        scene.wait(10)


def a_moment_of_refusal(scene: Scene) -> None:
    opened(scene.pulse).end()
    refused(scene.pulse)
    scene.wait(9)


def refusal(scene: Scene) -> None:
    opened(scene.pulse).end()
    refused(scene.pulse)
    scene.wait(11)
    refused(scene.pulse)


def long_refusal(scene: Scene) -> None:
    for _ in range(60):
        refused(scene.pulse)
        scene.wait(10)


def no_answer(scene: Scene) -> None:
    for _ in range(60):
        scene.pulse.broke(path_of("Pod"), ConnectionRefusedError("refused"))
        scene.wait(10)


def refusal_that_is_over(scene: Scene) -> None:
    refusal(scene)
    opened(scene.pulse)


def gave_up_after_refusals(scene: Scene) -> None:
    refused(scene.pulse)
    scene.wait(151)


SILENT_76 = "the watch of pods has been silent for 76 s, at most 75 s is expected"
SILENT_151 = "the watch of pods has been silent for 151 s, at most 75 s is expected"


@pytest.mark.parametrize(
    ("history", "trouble", "is_dead"),
    [
        (nothing, ["pods are not watched for 149 s: not answered yet"], False),
        (nothing_for_longer, ["pods are not watched for 151 s: not answered yet"], True),
        (quiet_cluster, [], False),
        (busy_cluster, [], False),
        (dead_connection, [SILENT_76], False),
        (dead_connection_for_longer, [SILENT_151], True),
        (answers_without_bytes, ["the watch of pods has been silent for 225 s, at most 75 s is expected"], True),
        (lists_alone, ["pods are not watched for 160 s: not answered yet"], True),
        (a_moment_of_refusal, [], False),
        (refusal, ["pods are not watched for 11 s: 403 Forbidden"], False),
        (long_refusal, ["pods are not watched for 600 s: 403 Forbidden"], False),
        (no_answer, ["pods are not watched for 600 s: no answer (refused)"], False),
        (refusal_that_is_over, [], False),
        (gave_up_after_refusals, ["pods are not watched for 151 s: 403 Forbidden"], True),
    ],
    ids=[
        "nothing is asked: it may still come",
        "nothing was asked for too long",
        "no events: each watch ends at the server's word",
        "bytes are a sign of life",
        "the client must have given up by now",
        "and did not",
        "an answer without a byte is no sign of life",
        "nor is a list",
        "what is over in ten seconds is no trouble",
        "refused for longer",
        "refused for ten minutes: it tries by itself, starting anew is no use",
        "no answer for ten minutes",
        "answered again",
        "it does not even try any more",
    ],
)
def test_what_is_told_of_a_watch(history: Callable[[Scene], None], trouble: list[str], is_dead: bool) -> None:
    scene = Scene()
    history(scene)
    assert scene.pulse.troubles() == trouble
    assert scene.pulse.dead() == (["Pod"] if is_dead else [])


def test_silence_goes_on_over_a_restart_and_the_watch_gets_its_time_all_the_same() -> None:
    scene = Scene()
    scene.wait(151)
    scene.pulse.begin()
    opened(scene.pulse)
    assert scene.pulse.silent_seconds("Pod") == 151
    assert (scene.pulse.dead(), scene.pulse.lost()) == ([], ["Pod"])
    assert not scene.pulse.is_alive()


def test_one_that_is_refused_after_a_restart_is_not_lost_and_one_that_speaks_is_alive() -> None:
    scene = Scene()
    scene.wait(151)
    scene.pulse.begin()
    refused(scene.pulse)
    assert scene.pulse.lost() == []
    content = opened(scene.pulse)
    scene.wait(1)
    content.say()
    scene.pulse.listen()
    assert scene.pulse.lost() == []
    assert scene.pulse.is_alive()


def test_the_time_before_the_first_start_is_not_counted() -> None:
    """An API server that is away when the operator starts is waited for, for hours if need be."""
    clock = Clock()
    pulse = Pulse(["Pod"], Limits(60), clock)
    clock.now += 3600
    pulse.begin()
    assert pulse.silent_seconds("Pod") == 0
    assert pulse.troubles() == []


def test_requests_for_other_things_say_nothing() -> None:
    scene = Scene()
    scene.wait(20)
    for path in ("/api/v1", "/apis", "/apis/apps/v1/deployments"):
        scene.pulse.answered(path, {}, FakeAnswer(500, "Broken"))
    assert scene.pulse.troubles() == ["pods are not watched for 20 s: not answered yet"]
