"""Whatever an API server of any version stores can be observed: what is not as it should be is not there. Pure.

Objects are reduced to what decisions and status need. ``cache`` calls ``seen_*`` for every event and every listed
object, ``reconcile`` calls ``observation`` for ``decide``. An object may have half a status or none; nothing raises.

How a pod becomes an ``Observed``:

| the pod                                              | phase     | reason, exit code, signal                         |
|------------------------------------------------------|-----------|---------------------------------------------------|
| status.phase Pending, or none                        | pending   | of the pod, if it has one                         |
| Running, or Unknown (a lost node in 1.20)            | running   | of the main container's last end, if any          |
| Running, main container ended, restartPolicy Never   | by exit   | of that end (the pod's phase follows a moment on) |
| Succeeded, Failed                                    | the same  | of the pod's disruption, else the container's end |
| Failed with a reason, and no container ever began    | failed    | of the kubelet that turned it away                |
| Failed, Evicted over a limit of its own              | failed    | LocalStorageExceeded, which is the run's fault    |

What old and new servers do differently, all of it understood here:

- From 1.26 on a disruption (preemption, eviction, taint, garbage collection) is a condition ``DisruptionTarget`` with a
  reason. 1.20 has no such thing: a preempted pod is only deleted (and vanishes), an evicted one is Failed with the
  kubelet's ``status.reason``; where the node controller says anything about a lost node, it is the reason ``NodeLost``.
- A kubelet that is short of something evicts with that condition (from 1.26 on), and says "the node was low on
  resource". One that evicts a pod over its own limit (an emptyDir's ``sizeLimit``, ``ephemeral-storage``) never sets
  it, and names the limit in all versions.
- A pod that a kubelet does not admit is Failed with the reason ``OutOfcpu``, ``TopologyAffinityError`` and the like.
  New versions bring new words, so whichever it is, a pod that failed before any container began was turned away. A node
  that shuts down writes ``Shutdown`` in 1.20 and ``Terminated`` since 1.22.
- From 1.27 on a pod may be kept from scheduling (``SchedulingGated``, which is how Kueue does it).
- From 1.29 on an init container may be a sidecar that keeps running: init containers are trouble only while they wait
  for something, or after an end other than exit 0.
- From 1.27 on a deleted pod is Failed or Succeeded before it goes; in 1.20 it may go as it was.
- Container runtimes report an end by signal as exit code 128 + n in all of them; ``signal`` is hardly ever set.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from rz_api import exit_codes, names
from rz_api.names import Role
from rz_operator.apiserver.bodies import Body, at, controller_of, is_controlled_by_run
from rz_operator.controller.seen import Children, RunKey, SeenDeployment, SeenOther, SeenPod, SeenService
from rz_operator.controller.specs import spec_digest
from rz_operator.decisions.failures import LOCAL_STORAGE_EXCEEDED
from rz_operator.decisions.look import is_given_up
from rz_operator.decisions.members import DEPLOYED, MemberPhase, Observation, Observed, Reached

MAX_MESSAGE_LENGTH = 4096
"""Characters kept of a message; a termination message has at most 4096 bytes."""

POD_TEMPLATE_HASH = "pod-template-hash"
"""Label of a Deployment's pods; the end of their ReplicaSet's name."""

_STARTING_WELL = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons for which a container waits although nothing is wrong."""

_CONTAINERS = ("initContainerStatuses", "containerStatuses")

_OWN_LIMIT = re.compile(r"\bexceed(s|ed) (the|its) [a-z ]*\blimit\b")
"""What a kubelet says of a pod that it evicts over the pod's own limit (kubernetes/pkg/kubelet/eviction):
``Usage of EmptyDir volume "x" exceeds the limit "1Gi".``, ``Pod ephemeral local storage usage exceeds the total limit
of containers 1Gi.``, ``Container x exceeded its local ephemeral storage limit "1Gi".`` Where the node is short of
something, 1.20 says ``which exceeds its request of 0``."""

_PHASES: Mapping[str, MemberPhase] = {
    "Running": "running",
    "Unknown": "running",
    "Succeeded": "succeeded",
    "Failed": "failed",
}


# ------------------------------------------------------------------------------------------------------- objects


def seen_pod(body: Body) -> SeenPod | None:
    """A pod of a run, those of its Deployments included; None where it is none: by controller, labels and name."""
    role = _role(_labels(body))
    owner = _owner(body, by_replica_set=role in DEPLOYED)
    if owner is None or role is None:
        return None
    numbers = _numbers(_labels(body), role)
    if numbers is None or not _is_name_of(owner, role, *numbers):
        return None
    metadata, status = _dict(body, "metadata"), _dict(body, "status")
    created = unix_seconds(metadata.get("creationTimestamp")) or 0.0
    main = _main_container(status)
    conditions = _conditions(status)
    node = _text(_dict(body, "spec"), "nodeName")
    bound = bool(node) or conditions.get("PodScheduled", {}).get("status") == "True"
    index, incarnation = numbers
    end = _end(body, main, conditions)
    member = Observed(
        role=role,
        index=index,
        incarnation=incarnation,
        phase=end.phase,
        exit_code=end.exit_code,
        signal=end.signal,
        reason=end.reason,
        disrupted=end.disrupted,
        message=end.message,
        uid=_text(metadata, "uid"),
        started_at=(_started(main) if bound else None) or created,
        deleting=metadata.get("deletionTimestamp") is not None,
        restarts=_count(main.get("restartCount")),
        over=_text(status, "phase") in ("Succeeded", "Failed"),
        bound=bound,
        gang=_whole(_labels(body).get(names.LABEL_GANG)) or 0,
        gang_rollouts=_whole(_labels(body).get(names.LABEL_GANG_ROLLOUTS)) or 0,
        gone_by=unix_seconds(metadata.get("deletionTimestamp")),
    )
    trouble, trouble_message = _trouble(status, conditions, bound) if member.live else ("", "")
    return SeenPod(
        key=owner.key,
        run_uid=owner.run_uid,
        name=owner.name,
        resource_version=owner.version,
        member=member,
        created=created,
        # A pod that is deleted may keep the condition until it is gone.
        ready=conditions.get("Ready", {}).get("status") == "True" and member.live and not member.deleting,
        node=node,
        creating_since=_creating_since(status, conditions, created) if bound and member.live else None,
        trouble=trouble,
        trouble_message=trouble_message,
    )


def is_pod_of(body: Body, run_uid: object) -> bool:
    """Whether a pod is a run's, those of its Deployments included."""
    seen = seen_pod(body)
    return seen is not None and seen.run_uid == run_uid


def seen_deployment(body: Body) -> SeenDeployment | None:
    """The Deployment of the ledger or the reward role; None where it is none."""
    owner, role = _owner(body), _role(_labels(body))
    if owner is None or role not in DEPLOYED or owner.name != f"{owner.key.name}-{role}":
        return None
    metadata, status, replicas = _dict(body, "metadata"), _dict(body, "status"), _dict(body, "spec").get("replicas")
    failure = _conditions(status).get("ReplicaFailure", {})
    return SeenDeployment(
        key=owner.key,
        run_uid=owner.run_uid,
        name=owner.name,
        resource_version=owner.version,
        role=role,
        uid=_text(metadata, "uid"),
        # 1 is what the API server fills in.
        replicas=1 if replicas is None else _count(replicas),
        ready_replicas=_count(status.get("readyReplicas")),
        deleting=metadata.get("deletionTimestamp") is not None,
        gone_by=unix_seconds(metadata.get("deletionTimestamp")),
        refusal=(_text(failure, "message") or _text(failure, "reason")) if failure.get("status") == "True" else "",
        refused_since=unix_seconds(failure.get("lastTransitionTime")) or 0.0,
        nudged=unix_seconds(_dict(metadata, "annotations").get(names.ANNOTATION_TRY_AGAIN)) or 0.0,
    )


def seen_service(body: Body) -> SeenService | None:
    """A Service of a run; None where it is none."""
    owner = _owner(body)
    if owner is None:
        return None
    return SeenService(
        key=owner.key,
        run_uid=owner.run_uid,
        name=owner.name,
        resource_version=owner.version,
        uid=_text(_dict(body, "metadata"), "uid"),
        leads_to=_leads_to(body, owner),
        digest=spec_digest({**body, "kind": "Service"}),
    )


def _leads_to(body: Body, owner: _Owner) -> Role | None:
    """See ``SeenService.leads_to``. An ExternalName, a selector that lacks the run's UID, or none at all (whose
    endpoints anybody writes): none of them is to be asked for a run's progress."""
    spec = _dict(body, "spec")
    if _text(spec, "type") == "ExternalName":
        return None
    selector = _dict(spec, "selector")
    own = {names.LABEL_RUN_UID: owner.run_uid}
    return next((role for role in get_args(Role) if selector == names.selector(owner.key.name, role) | own), None)


def seen_other(body: Body) -> SeenOther | None:
    """A child of which nothing matters but that it is there, and as it was rendered; None where it is none."""
    owner = _owner(body)
    if owner is None:
        return None
    return SeenOther(
        key=owner.key,
        run_uid=owner.run_uid,
        name=owner.name,
        resource_version=owner.version,
        uid=_text(_dict(body, "metadata"), "uid"),
        digest=spec_digest(body),
    )


# --------------------------------------------------------------------------------------------------- observation


def observation(
    children: Children, run_uid: str, reached: Reached | None, give_way_to: str = "", now: float | None = None
) -> Observation:
    """What ``decide`` is shown of a run: its trainer and rollout pods, and ledger and reward as one member each.

    Children of another run (of the same name) are left out. ``now`` (Unix seconds) tells which leftover pods of a
    deleted Deployment nobody need wait for any more; without it only a lost node does.
    """
    pods = [pod for pod in children.pods if pod.run_uid == run_uid]
    members = [pod.member for pod in pods if pod.member.role not in DEPLOYED]
    for role in DEPLOYED:
        mine = [pod.member for pod in pods if pod.member.role == role]
        deployments = [each for each in children.deployments if each.run_uid == run_uid and each.role == role]
        if deployments:
            members += [_deployed(each, mine) for each in deployments]
        else:
            members += _leftovers(role, mine, now)
    return Observation(tuple(members), reached, give_way_to)


def _deployed(deployment: SeenDeployment, pods: list[Observed]) -> Observed:
    """A Deployment as a member: always running, since it repairs itself. An exit 64 of one of its pods is shown as a
    restart, whatever the pod did afterwards; every other end is the Deployment's own business."""
    end = next((pod for pod in pods if pod.exit_code == exit_codes.USER_ERROR), None)
    member = Observed(
        role=deployment.role,
        index=0,
        incarnation=1,
        phase="running",
        uid=deployment.uid,
        deleting=deployment.deleting,
        gone_by=deployment.gone_by,
    )
    if end is None:
        return member
    return replace(member, exit_code=end.exit_code, reason=end.reason, message=end.message, restarts=1)


def _leftovers(role: Role, pods: list[Observed], now: float | None) -> list[Observed]:
    """What a deleted Deployment leaves: pods that the garbage collector removes. It counts as still there while one of
    them is, so that two ledgers never run side by side; one on a lost node does not keep the next one from starting
    (index 1 is in nobody's way), but the run is not suspended before it is gone."""
    if not pods:
        return []
    given_up = [pod for pod in pods if is_given_up(pod, now)]
    waited_for = [pod for pod in pods if pod not in given_up]
    found = []
    for index, group in enumerate((waited_for, given_up)):
        if group:
            times = [pod.gone_by for pod in group]
            gone_by = None if None in times else max(time for time in times if time is not None)
            reason = next((pod.reason for pod in group if pod.reason), "")
            found.append(
                Observed(role, index, 1, "running", reason=reason, uid=group[0].uid, deleting=True, gone_by=gone_by)
            )
    return found


# ---------------------------------------------------------------------------------------------------- a pod's end


@dataclass(frozen=True)
class _End:
    phase: MemberPhase
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    disrupted: bool = False


def _end(body: Body, main: Body, conditions: Mapping[str, Body]) -> _End:
    """The pod's phase and its end; of one that was restarted in place, its last end."""
    status, spec = _dict(body, "status"), _dict(body, "spec")
    phase = _PHASES.get(_text(status, "phase"), "pending")
    now_ended, before = _terminated(main, "state"), _terminated(main, "lastState")
    ended = now_ended or before
    exit_code, signal = _exit(ended)
    if phase in ("pending", "running") and now_ended and spec.get("restartPolicy") == "Never":
        # The kubelet writes the pod's phase later, when every container has ended: a sidecar would hide the end.
        phase = "succeeded" if exit_code == exit_codes.OK else "failed"
    words = _text(ended, "message")
    if phase == "succeeded":
        return _End(phase, exit_codes.OK if exit_code is None else exit_code, None, "", words)
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = _text(disruption, "reason") or "DisruptionTarget" if disruption.get("status") == "True" else ""
    done_to_it = _text(status, "reason") or disrupted
    if done_to_it:
        why = _text(status, "message") or _text(disruption, "message")
        words = words or why if exit_code == exit_codes.USER_ERROR else why or words
        if not disrupted and done_to_it == "Evicted" and _OWN_LIMIT.search(why):
            return _End(phase, exit_code, signal, LOCAL_STORAGE_EXCEEDED, words)
        turned_away = phase == "failed" and done_to_it != "DeadlineExceeded" and not _ever_began(status)
        return _End(phase, exit_code, signal, done_to_it, words, bool(disrupted) or turned_away)
    failed_init = _failed_init(status)
    if phase == "failed" and not ended and failed_init:
        return _End(phase, reason="InitContainerFailed", message=failed_init)
    own_reason = _text(ended, "reason")
    own_reason = "" if own_reason in ("Completed", "Error") else own_reason  # no more than what the exit code says
    return _End(phase, exit_code, signal, own_reason, words or _text(status, "message"))


def _ever_began(status: Body) -> bool:
    """Whether any container of the pod has ever been started."""
    of_pod = [each for kind in _CONTAINERS for each in _dicts(status, kind)]
    ran = (_dict(each, state).keys() & {"running", "terminated"} for each in of_pod for state in ("state", "lastState"))
    return any(ran)


def _failed_init(status: Body) -> str:
    """Which init container failed, as a sentence; empty where none did."""
    for container in _dicts(status, "initContainerStatuses"):
        ended = _terminated(container, "state")
        if ended and ended.get("exitCode") != 0:
            words = _text(ended, "message")
            found = f"init container {_text(container, 'name')} ended with exit code {ended.get('exitCode')}"
            return f"{found}: {words}" if words else found
    return ""


def _terminated(main: Body, state: str) -> Body:
    return _dict(_dict(main, state), "terminated")


def _exit(terminated: Body) -> tuple[int | None, int | None]:
    """(exit code, signal) of an end: 137 is how a runtime writes SIGKILL, a Python process says -9."""
    code, signal = terminated.get("exitCode"), terminated.get("signal")
    if isinstance(signal, int) and not isinstance(signal, bool) and 0 < signal < 128:
        return None, signal
    if not isinstance(code, int) or isinstance(code, bool):
        return None, None
    if _text(terminated, "reason") == "ContainerStatusUnknown":
        return None, None  # the kubelet lost the container, and made the code up
    # Linux has 64 signals; above them it is an exit code like any other.
    return (None, code - 128) if 128 < code <= 128 + 64 else (code, None)


def _main_container(status: Body) -> Body:
    """The status of the container that holds the role."""
    return next((each for each in _dicts(status, "containerStatuses") if each.get("name") == names.MAIN_CONTAINER), {})


def _started(main: Body) -> float | None:
    state = _dict(main, "state")
    running, ended = _dict(state, "running"), _dict(state, "terminated")
    return unix_seconds(running.get("startedAt")) or unix_seconds(ended.get("startedAt"))


# -------------------------------------------------------------------------------------------------------- trouble


def _trouble(status: Body, conditions: Mapping[str, Body], bound: bool) -> tuple[str, str]:
    """(word, message) for why a live pod does not get going; empty where nothing is wrong."""
    scheduled = conditions.get("PodScheduled", {})
    if not bound and scheduled.get("status") == "False":
        return _text(scheduled, "reason") or "Unschedulable", _text(scheduled, "message")
    for kind in _CONTAINERS:
        for container in _dicts(status, kind):
            waiting = _dict(_dict(container, "state"), "waiting")
            reason = _text(waiting, "reason")
            if reason not in _STARTING_WELL:
                return reason, _text(waiting, "message")
    failed_init = _failed_init(status)
    return ("InitContainerFailed", failed_init) if failed_init else ("", "")


def _creating_since(status: Body, conditions: Mapping[str, Body], created: float) -> float | None:
    """Since when a pod with a node waits for its first container; None where there is one, or was."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in _dicts(status, kind):
            state = _dict(container, "state")
            # The kubelet says which of both at the start: with init containers it is PodInitializing.
            if _text(_dict(state, "waiting"), "reason") not in _STARTING_WELL or state.keys() - {"waiting"}:
                return None
            if _count(container.get("restartCount")) or _dict(container, "lastState"):
                return None
    return unix_seconds(conditions.get("PodScheduled", {}).get("lastTransitionTime")) or created


# ---------------------------------------------------------------------------------------- reading what may be odd


@dataclass(frozen=True)
class _Owner:
    key: RunKey
    run_uid: str
    name: str
    version: str


def _owner(body: Body, *, by_replica_set: bool = False) -> _Owner | None:
    """Whose child an object is, by its controller; None where it is nobody's. Pods of a Deployment
    (``by_replica_set``) have a ReplicaSet for a controller, which has to have the name that the Deployment gives it."""
    metadata, labels = _dict(body, "metadata"), _labels(body)
    run, uid = labels.get(names.LABEL_RUN), labels.get(names.LABEL_RUN_UID)
    if not run or not uid or not isinstance(run, str) or not isinstance(uid, str):
        return None
    name, version = _text(metadata, "name"), _text(metadata, "resourceVersion")
    if by_replica_set:
        controller, made = controller_of(body), f"{run}-{labels.get(names.LABEL_ROLE)}-{labels.get(POD_TEMPLATE_HASH)}"
        mine = (controller.get("kind"), controller.get("name")) == ("ReplicaSet", made) and name.startswith(f"{made}-")
    else:
        mine = is_controlled_by_run(body, run, uid)
    return _Owner(RunKey(_text(metadata, "namespace"), run), uid, name, version) if mine else None


def _labels(body: Body) -> Body:
    return _dict(_dict(body, "metadata"), "labels")


def _role(labels: Body) -> Role | None:
    found = labels.get(names.LABEL_ROLE)
    return next((role for role in get_args(Role) if role == found), None)


def _numbers(labels: Body, role: Role) -> tuple[int, int] | None:
    """(index, incarnation); None where a pod that ``decide`` must know has none that can be read. Deployments give
    their pods no numbers."""
    if role in DEPLOYED:
        return 0, 1
    index, incarnation = (_whole(labels.get(label)) for label in (names.LABEL_INDEX, names.LABEL_INCARNATION))
    highest = names.MAX_NODE_INDEX if role == "trainer" else names.MAX_ROLLOUT_INDEX
    if index is None or incarnation is None or index > highest or not 1 <= incarnation <= names.MAX_INCARNATION:
        return None
    return index, incarnation


def _is_name_of(owner: _Owner, role: Role, index: int, incarnation: int) -> bool:
    """Whether a pod has the name that its labels imply: no two pods of a namespace can say that they are the same."""
    run = owner.key.name
    match role:
        case "trainer":
            return owner.name == names.trainer_pod(run, incarnation, index)
        case "rollout":
            found = names.parse_rollout_pod(run, owner.name)
            return found is not None and found[1] == index and found[0] in (incarnation, None)
        case _:
            return True  # Kubernetes makes their names; `_owner` has compared them with the ReplicaSet's


def _whole(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else None


def _dict(body: object, key: str) -> Body:
    found = body.get(key) if isinstance(body, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _dicts(body: Body, key: str) -> Iterator[Body]:
    found = body.get(key)
    yield from (each for each in found if isinstance(each, Mapping)) if isinstance(found, list) else ()


def _conditions(status: Body) -> dict[str, Body]:
    return {_text(condition, "type"): condition for condition in _dicts(status, "conditions")}


def _text(body: Body, key: str) -> str:
    found = body.get(key)
    return found[:MAX_MESSAGE_LENGTH] if isinstance(found, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def unix_seconds(time: object) -> float | None:
    """Unix seconds of the API's RFC 3339 times, with or without fractions; None where it is none."""
    if not isinstance(time, str):
        return None
    try:
        found = datetime.datetime.fromisoformat(time)
        seconds = found.timestamp() if found.tzinfo else found.replace(tzinfo=datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


def last_seen(event: Body) -> float:
    """Unix seconds of an Event's last occurrence; 0 where it says none."""
    times = (("lastTimestamp",), ("series", "lastObservedTime"), ("eventTime",), ("metadata", "creationTimestamp"))
    return max(unix_seconds(at(event, *path)) or 0.0 for path in times)


def api_time(seconds: float) -> datetime.datetime:
    """Unix seconds as the API's times are: of whole seconds."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(microsecond=0)
