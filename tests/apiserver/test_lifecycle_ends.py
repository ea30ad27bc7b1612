"""How a run ends, well or badly: tables of named steps on a real API server."""

from __future__ import annotations

from typing import Any

import pytest
from lifecycle_moves import both, fail, kubelet_does, ledger_says, restart_deployed, restart_in_place, second_gang_runs
from lifecycle_steps import EVERYBODY, ROLLOUTS, STARTED, Case, Do, Scene, Step, gang

USER_ERROR: dict[str, Any] = {"exit_code": 64, "message": "found no model models/tiny: change spec.model.name"}


def ends_with_user_error(says: str, do: Do, left: tuple[str, ...] = ()) -> Case:
    words = USER_ERROR["message"]
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


ENDS = (
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
    ends_with_user_error(
        "exit 64 of a rollout, whose pod is restarted", restart_in_place("rollout-i1-1", **USER_ERROR)
    ),
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
                want=lambda scene: (
                    [scene.status["members"][name]["failures"] for name in ("rollout-0", "rollout-1")] == [0, 0]
                ),
            ),
            Step(
                "each once more",
                restart_in_place(*ROLLOUTS),
                want_same=EVERYBODY,
                want_restarts={"rollout": 4},
            ),
            Step(
                "and again, one of them for good",
                both(restart_in_place("rollout-i1-0"), fail("rollout-i1-1", message="no kernel image")),
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
)


@pytest.mark.parametrize("case", ENDS, ids=lambda case: case.says)
def test_how_a_run_ends(case: Case, scene: Scene) -> None:
    scene.play(case)
