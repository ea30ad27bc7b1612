"""Each end of a member has one verdict, the same for a process and a pod: the failure table. Pure; ``decide`` asks it.

| end                                             | verdict     | why                                                |
|-------------------------------------------------|-------------|----------------------------------------------------|
| exit 0                                          | done        | a trainer's work is complete                       |
| exit 64                                         | terminal    | only the user can help; another try is the same    |
| evicted, preempted, node lost, vanished, ...    | not counted | the cluster's doing; backed off all the same       |
| turned away by a kubelet before it began        | not counted | the scheduler and the node did not agree           |
| evicted for more local storage than its limit   | counted     | it filled its own volume; the node had room        |
| exit 65 (superseded), exit 75 (drained)         | not counted | the member did what it should                      |
| told to stop, and no longer waited for          | not counted | someone asked for it (`removal`)                   |
| any of the below while it was being deleted     | not counted | someone asked for it                               |
| OOMKilled, any signal, every other exit code    | counted     | retriable, and evidence against the run            |

What is not counted has a limit of its own (``failurePolicy.maxDisruptions``), because the table may be wrong about a
cluster, and a run that comes no further should not take its nodes for ever.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from rz_api import exit_codes
from rz_operator.decisions.members import Observed

Verdict = Literal["done", "terminal", "not_counted", "counted"]

NOT_OUR_FAULT = frozenset(
    {
        "Vanished",  # it was there and is not
        "Evicted",  # kubelet, node pressure
        "Preempted",
        "Preempting",
        "PreemptionByScheduler",
        "PreemptionByKubeScheduler",
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",  # kubelet, graceful node shutdown
        "TerminationByKubelet",
        "DeletionByTaintManager",
        "DeletionByPodGC",
        "EvictionByEvictionAPI",
        "DisruptionTarget",
        "ContainerStatusUnknown",  # the node was started anew and knows nothing of the container
    }
)
"""Reasons (of a pod, its DisruptionTarget condition, or the local executor) for which a member is not to blame."""

TURNED_AWAY = frozenset(
    {
        "AppArmor",
        "InitContainerRestartPolicyForbidden",
        "InvalidNodeInfo",
        "MatchNodeSelector",  # NodeAffinity before 1.18
        "NodeAffinity",  # also of a pod that ran, when its kubelet starts anew and the node's labels have changed
        "NodeName",
        "NodePorts",
        "PodFeatureUnsupported",
        "PodLevelResourcesNotSupported",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SMTAlignmentError",
        "SupplementalGroupsPolicyNotSupported",
        "SysctlForbidden",
        "SysctlUnsupported",
        "TaintToleration",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
        "VolumeAttachmentLimitExceeded",
    }
)
"""Reasons of a kubelet that does not admit a pod (kubernetes/pkg/kubelet: lifecycle, cm, sysctl, nodeshutdown)."""

SHORT_OF = "OutOf"
"""With the resource behind it (``OutOfcpu``, ``OutOfamd.com/gpu``): the node had less of it than the scheduler thought,
because a device failed or another scheduler bound a pod there."""

LOCAL_STORAGE_EXCEEDED = "LocalStorageExceeded"
"""In place of ``Evicted`` where a pod exceeded a limit of its own (``controller.observe``)."""

NODE_LOST = frozenset({"NodeLost", "DeletionByTaintManager", "DeletionByPodGC"})
"""Those of a member whose node does not answer (or must be left at once): it will not be seen to end."""

_NAMES = {
    exit_codes.USER_ERROR: "UserError",
    exit_codes.SUPERSEDED: "Superseded",
    exit_codes.INTERNAL_ERROR: "InternalError",
    exit_codes.DRAINED: "Drained",
    exit_codes.WATCHDOG: "Watchdog",
}


@dataclass(frozen=True)
class Failure:
    """The end of one member, judged."""

    member: str
    verdict: Verdict
    reason: str
    """CamelCase, e.g. OOMKilled, Watchdog, Killed."""
    text: str
    """For people: who, how, and its last words."""
    last_words: str
    superseded: bool = False


def judge(end: Observed) -> Failure:
    """The verdict on a member that ended (or, where the kubelet restarted it, on its last end)."""
    verdict, reason = _verdict(end)
    if verdict == "counted" and end.deleting:
        verdict, reason = "not_counted", "Deleted"
    how = [reason]
    if end.signal:
        how.append(f"signal {_signal_name(end.signal)}")
    elif end.exit_code is not None:
        how.append(f"exit code {end.exit_code}")
    words = end.message.strip()
    text = f"{end.key} ended ({', '.join(how)})" + (f": {words}" if words else "")
    return Failure(end.key, verdict, reason, text, words, superseded=reason == "Superseded")


def removal(member: Observed) -> Failure:
    """The verdict on a live member that someone else deletes, when it is no longer waited for. Never counted."""
    words = member.message or "someone deleted it"
    return judge(replace(member, phase="failed", exit_code=None, signal=None, deleting=True, message=words))


def root_cause(ends: Iterable[Failure]) -> Failure:
    """Which end of several at once explains the others: a terminal one, else one that nobody is to blame for (a lost
    node makes the other ranks fail), else the first counted one."""
    order: dict[Verdict, int] = {"terminal": 0, "not_counted": 1, "counted": 2, "done": 3}
    return min(ends, key=lambda end: order[end.verdict])


def _verdict(end: Observed) -> tuple[Verdict, str]:
    # An evicted pod is Failed also where its container ended well.
    if end.exit_code == exit_codes.OK and end.phase != "failed":
        return "done", "Completed"
    # Before the reasons: an eviction at the same time does not make the error go away.
    if end.exit_code == exit_codes.USER_ERROR:
        return "terminal", _NAMES[exit_codes.USER_ERROR]
    if end.disrupted or end.reason in NOT_OUR_FAULT | TURNED_AWAY or end.reason.startswith(SHORT_OF):
        return "not_counted", end.reason or "Disrupted"
    # Whatever the exit code: a trainer that is evicted is told to stop, and drains.
    if end.reason in ("OOMKilled", LOCAL_STORAGE_EXCEEDED):
        return "counted", end.reason
    if end.exit_code in (exit_codes.SUPERSEDED, exit_codes.DRAINED):
        return "not_counted", _NAMES[end.exit_code]
    if end.signal:
        return "counted", "Killed"
    if end.exit_code is not None:
        return "counted", _NAMES.get(end.exit_code, "Error")
    return "counted", end.reason or "Unknown"


def _signal_name(number: int | None) -> str:
    try:
        return signals.Signals(number or 0).name
    except ValueError:
        return str(number)
