from typing import Any

import pytest
from operator_builders import member

from rz_operator.decisions.backoff import backoff_seconds
from rz_operator.decisions.failures import judge, root_cause


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 0), (1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (10_000, 300)],
    ids=["none yet", "first", "doubled", "doubled again", "fifth", "capped", "no overflow"],
)
def test_waits_double_up_to_the_cap(failures: int, seconds: float) -> None:
    assert backoff_seconds(failures, 10, 300) == seconds


TABLE: list[tuple[str, dict[str, Any], str, str]] = [
    ("success is done", {"phase": "succeeded", "exit_code": 0}, "done", "Completed"),
    ("a user error is terminal", {"exit_code": 64}, "terminal", "UserError"),
    ("a user error is terminal also while being deleted", {"exit_code": 64, "deleting": True}, "terminal", "UserError"),
    ("an evicted pod is not counted", {"reason": "Evicted"}, "not_counted", "Evicted"),
    (
        "preemption is not counted, whatever the exit code",
        {"reason": "Preempted", "exit_code": 137},
        "not_counted",
        "Preempted",
    ),
    ("a lost node is not counted", {"reason": "NodeLost"}, "not_counted", "NodeLost"),
    (
        "a node short of any resource is not the run's fault",
        {"reason": "OutOfamd.com/gpu"},
        "not_counted",
        "OutOfamd.com/gpu",
    ),
    *(
        (f"a kubelet that turns the pod away is not its fault: {reason}", {"reason": reason}, "not_counted", reason)
        for reason in (
            "OutOfephemeral-storage",
            "TopologyAffinityError",
            "SMTAlignmentError",
            "NodePorts",
            "PodOSNotSupported",
            "PodOSSelectorNodeLabelDoesNotMatch",
            "InvalidNodeInfo",
            "UnexpectedAdmissionError",
            "NodeAffinity",
            "TaintToleration",
        )
    ),
    (
        "a disruption of a kind that nobody has heard of is not counted",
        {"reason": "ReclaimedByTheFuture", "disrupted": True, "exit_code": 143},
        "not_counted",
        "ReclaimedByTheFuture",
    ),
    (
        "too much local storage is the run's own fault",
        {"reason": "LocalStorageExceeded", "exit_code": 137},
        "counted",
        "LocalStorageExceeded",
    ),
    (
        "too much local storage is, also of a trainer that drained when it was evicted for it",
        {"reason": "LocalStorageExceeded", "exit_code": 75},
        "counted",
        "LocalStorageExceeded",
    ),
    ("a vanished member is not counted", {"reason": "Vanished"}, "not_counted", "Vanished"),
    ("drained is not counted", {"exit_code": 75}, "not_counted", "Drained"),
    ("superseded is not counted", {"exit_code": 65}, "not_counted", "Superseded"),
    ("killed while being deleted is not counted", {"signal": 9, "deleting": True}, "not_counted", "Deleted"),
    ("out of memory is counted and named", {"exit_code": 137, "reason": "OOMKilled"}, "counted", "OOMKilled"),
    ("a signal is counted", {"signal": 9}, "counted", "Killed"),
    ("an exception is counted", {"exit_code": 70}, "counted", "InternalError"),
    ("the watchdog is counted", {"exit_code": 76}, "counted", "Watchdog"),
    ("any other code is counted", {"exit_code": 3}, "counted", "Error"),
    ("an end that nobody can explain is counted", {}, "counted", "Unknown"),
    ("a process that cannot be started is counted", {"reason": "CannotStart"}, "counted", "CannotStart"),
]


@pytest.mark.parametrize(("fields", "verdict", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_failure_table(fields: dict[str, Any], verdict: str, reason: str) -> None:
    failure = judge(member("trainer-0", **{"phase": "failed", **fields}))
    assert (failure.verdict, failure.reason) == (verdict, reason)


def test_the_text_names_member_signal_and_last_words() -> None:
    failure = judge(member("rollout-3", phase="failed", signal=9, message=" CUDA error \n"))
    assert failure.text == "rollout-3 ended (Killed, signal SIGKILL): CUDA error"


def test_a_lost_node_explains_the_ranks_that_failed_with_it() -> None:
    ends = [member("trainer-0", phase="failed", exit_code=70), member("trainer-1", phase="failed", reason="NodeLost")]
    assert root_cause([judge(end) for end in ends]).reason == "NodeLost"


def test_a_user_error_explains_everything_else() -> None:
    ends = [member("trainer-0", phase="failed", reason="Evicted"), member("trainer-1", phase="failed", exit_code=64)]
    assert root_cause([judge(end) for end in ends]).verdict == "terminal"
