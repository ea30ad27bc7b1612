"""``rz logs``: the logs of one role's pods, those of the newest incarnation. Called by ``cli``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_operator.apiserver.bodies import at
from rz_operator.apiserver.cluster import ApiError, Body
from rz_operator.commands.cluster.access import ClusterApi, RemoteError, Say, get_run
from rz_operator.commands.cluster.view import ROLES, pod_state
from rz_operator.controller.observe import is_pod_of
from rz_operator.errors import UserError

MAX_FOLLOWED = 50
"""Logs that are followed at once; each is a connection to the API server."""
TAIL_OF_MANY = 10
"""Lines of each of several pods, where the user says nothing."""


@dataclass(frozen=True)
class Query:
    """Which logs."""

    role: Role
    index: int | None = None
    follow: bool = False
    previous: bool = False
    tail: int | None = None


@dataclass(frozen=True)
class LogPod:
    """A pod whose log may be asked for."""

    name: str
    role: str
    index: int
    incarnation: int
    state: str = ""
    """``Running``, ``Unschedulable``, ``ImagePullBackOff``: why it may have said nothing."""

    @property
    def label(self) -> str:
        return f"{self.role}-{self.index}"


async def print_logs(api: ClusterApi, namespace: str, run: str, query: Query, say: Say, note: Say) -> None:
    """The lines go to ``say``, remarks about them to ``note``. Raises UserError where there is no such pod."""
    body = await get_run(api, namespace, run)
    uid = body["metadata"].get("uid", "")
    pods = log_pods(await api.list("Pod", namespace, names.selector_string(run)), uid)
    chosen = choose(pods, query, run, at(body, "spec", "rollout", "placement") or "separate", phase_of(body))
    if query.follow and len(chosen) > MAX_FOLLOWED:
        raise UserError(
            f"found {len(chosen)} pods of role {query.role}, at most {MAX_FOLLOWED} are followed at once: choose one "
            "with --index"
        )
    if len(chosen) == 1:
        await _one(api, namespace, chosen[0], query, query.tail, say, note)
        return
    tail = TAIL_OF_MANY if query.tail is None else query.tail
    if query.follow:
        await asyncio.gather(*(_prefixed(api, namespace, pod, query, tail, say, note) for pod in chosen))
    else:
        for pod in chosen:
            await _prefixed(api, namespace, pod, query, tail, say, note)


def phase_of(run: Mapping[str, Any]) -> str:
    return str(at(run, "status", "phase") or "Pending")


def log_pods(bodies: Sequence[Body], uid: str) -> list[LogPod]:
    """This run's pods, of each role those of the newest incarnation; pods of a Deployment, which have no number of
    their own, are numbered by age."""
    found: list[LogPod] = []
    by_age = sorted(bodies, key=lambda pod: (str(at(pod, "metadata", "creationTimestamp")), pod["metadata"]["name"]))
    deployed = {"ledger": 0, "reward": 0}
    for pod in by_age:
        labels = pod["metadata"].get("labels") or {}
        role, name = labels.get(names.LABEL_ROLE), pod["metadata"]["name"]
        if role not in ROLES or not is_pod_of(pod, uid):
            continue
        if role in deployed:
            found.append(LogPod(name, role, deployed[role], 1, pod_state(pod)))
            deployed[role] += 1
        else:
            index, incarnation = _number(labels, names.LABEL_INDEX), _number(labels, names.LABEL_INCARNATION)
            found.append(LogPod(name, role, index, incarnation, pod_state(pod)))
    newest: dict[tuple[str, int], int] = {}
    for each in found:
        number = -1 if each.role == "trainer" else each.index  # a gang has one incarnation, a rollout its own
        newest[each.role, number] = max(newest.get((each.role, number), 0), each.incarnation)
    current = [p for p in found if p.incarnation == newest[p.role, -1 if p.role == "trainer" else p.index]]
    return sorted(current, key=lambda pod: (pod.role, pod.index))


def _number(labels: Mapping[str, str], key: str) -> int:
    text = labels.get(key, "")
    return int(text) if text.isdigit() else 0


def choose(pods: Sequence[LogPod], query: Query, run: str, placement: str, phase: str) -> list[LogPod]:
    """The pods that are meant. Raises UserError that says which there are."""
    found = [pod for pod in pods if pod.role == query.role and query.index in (None, pod.index)]
    if found:
        return found
    if query.role == "rollout" and placement == "colocated":
        raise UserError(
            f"the rollouts of run {run} have no pods of their own, they run in the trainer's (rollout.placement is "
            "colocated): use --role trainer"
        )
    which = query.role if query.index is None else f"{query.role}-{query.index}"
    there = ", ".join(pod.label for pod in pods[:20]) + (", ..." if len(pods) > 20 else "")
    raise UserError(f"found no pod {which} of run {run}, which is {phase}; there are: {there or 'none'}")


async def _one(
    api: ClusterApi, namespace: str, pod: LogPod, query: Query, tail: int | None, say: Say, note: Say, prefix: str = ""
) -> None:
    silent = True
    try:
        async for line in api.pod_log(namespace, pod.name, names.MAIN_CONTAINER, query.follow, tail, query.previous):
            silent = False
            say(prefix + line)
    except ApiError as error:
        # A container that has not started answers 400, too; before it there is no other either way.
        if error.status == 400 and query.previous:
            raise UserError(
                f"pod {pod.name} has no earlier container: leave out --previous ({error.message})"
            ) from None
        if error.status == 400:
            raise RemoteError(f"pod {pod.name} has no log yet: {error.message}") from None
        if error.not_found and pod.name in error.message:
            raise RemoteError(f"pod {pod.name} is gone: another one may have taken its place, try again") from None
        if error.not_found:
            raise RemoteError(f"nobody can give the log of pod {pod.name}: {error.message}") from None
        raise
    if silent and tail != 0:
        note(f"{prefix}pod {pod.name} has said nothing yet; it is {pod.state}")


async def _prefixed(api: ClusterApi, namespace: str, pod: LogPod, query: Query, tail: int, say: Say, note: Say) -> None:
    """One of several: what is wrong with it is no reason not to show the others."""
    try:
        await _one(api, namespace, pod, query, tail, say, note, f"[{pod.label}] ")
    except (UserError, RemoteError) as error:
        note(f"[{pod.label}] {error}")
