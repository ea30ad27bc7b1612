"""``rz status``, ``rz suspend`` and ``rz resume`` on a cluster: fetch, show, change ``spec.suspend``, wait.

Called by ``cli``; what is shown is made by ``view``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rz_api import names
from rz_api.status import FINAL_PHASES
from rz_operator.apiserver.bodies import at
from rz_operator.apiserver.cluster import Body
from rz_operator.commands.cluster.access import ClusterApi, RemoteError, Say, get_run, list_or_nothing
from rz_operator.commands.cluster.view import is_current, run_lines, status_of, table_lines
from rz_operator.controller.observe import is_pod_of
from rz_operator.errors import UserError

WATCH_SECONDS = 2.0
WAIT_SECONDS = 1.0
NO_OPERATOR_SECONDS = 30.0
"""Without a look of the operator's at the change, until the user is told that there may be none."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


async def show_run(
    api: ClusterApi, namespace: str, name: str, now: float, width: int | None = None
) -> tuple[list[str], bool]:
    """The lines about one run, and whether it has finished. ``width`` is the terminal's, None without one."""
    run = await get_run(api, namespace, name)
    pods = await list_or_nothing(api, "Pod", namespace, names.selector_string(name))
    events = await list_or_nothing(api, "Event", namespace)
    uid = run["metadata"].get("uid")
    about = [event for event in events if at(event, "involvedObject", "uid") == uid]
    mine = [pod for pod in pods if is_pod_of(pod, uid)]
    return run_lines(run, mine, about, now, width), status_of(run).phase in FINAL_PHASES


async def show_runs(api: ClusterApi, namespace: str, now: float) -> list[str]:
    """A table of the runs of a namespace; of all of them where it is empty."""
    runs = await api.list(names.KIND, namespace)
    where = f"in namespace {namespace}" if namespace else "on this cluster"
    return table_lines(runs, now, with_namespace=not namespace) if runs else [f"found no run {where}"]


async def watch(
    look: Callable[[], Awaitable[tuple[list[str], bool]]],
    show: Callable[[list[str]], None],
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Show what ``look`` gives, again and again, until it says that nothing more will come."""
    while True:
        lines, finished = await look()
        show(lines)
        if finished:
            return
        await sleep(WATCH_SECONDS)


# ------------------------------------------------------------------------------------------- suspend and resume


async def set_suspend(api: ClusterApi, namespace: str, name: str, suspend: bool) -> str:
    """Ask for it; what is said about it. Raises UserError for a run that has finished."""
    run = await get_run(api, namespace, name)
    phase = status_of(run).phase
    label = f"run {namespace}/{name}"
    if phase in FINAL_PHASES:
        raise UserError(f"{label} has finished ({phase}): there is nothing to {'suspend' if suspend else 'resume'}")
    if (at(run, "spec", "suspend") is True) == suspend:
        return f"{label} {'is suspended already' if suspend else 'is not suspended'} ({phase})"
    await api.patch(names.KIND, namespace, name, {"spec": {"suspend": suspend}})
    return f"{label}: spec.suspend is {str(suspend).lower()} now"


async def wait_for_suspend(
    api: ClusterApi,
    namespace: str,
    name: str,
    suspend: bool,
    say: Say,
    timeout_seconds: float | None = None,
    clock: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Until the run is Suspended, or Running. Raises RemoteError when the time is up or the run ends otherwise."""
    wanted, began, said, warned = "Suspended" if suspend else "Running", clock(), "", False
    while True:
        run = await get_run(api, namespace, name)
        phase, current = status_of(run).phase, is_current(run)
        if current and phase == wanted:
            say(f"run {namespace}/{name} is {phase}")
            return
        if phase in FINAL_PHASES:
            raise RemoteError(f"run {namespace}/{name} has finished: {phase}. {status_of(run).message}".rstrip(". "))
        if current and not suspend and phase == "Pending" and _refusal(run):
            raise RemoteError(f"run {namespace}/{name} is not accepted: {_refusal(run)}")
        line = await _progress_line(api, namespace, name, run)
        if line != said:
            say(line)
            said = line
        waited = clock() - began
        if not current and waited >= NO_OPERATOR_SECONDS and not warned:
            warned = True
            say("no operator has looked at the change yet: is one running, and does it serve this namespace?")
        if timeout_seconds is not None and waited >= timeout_seconds:
            raise RemoteError(f"run {namespace}/{name} is still {phase} after {waited:.0f} s; it goes on by itself")
        await sleep(WAIT_SECONDS)


def _refusal(run: Mapping[str, Any]) -> str:
    for condition in status_of(run).conditions:
        if condition.type == "Accepted" and condition.status == "False":
            return condition.message
    return ""


async def _progress_line(api: ClusterApi, namespace: str, name: str, run: Body) -> str:
    """``Suspending: 5 trainer, 24 rollout pods``"""
    pods = await list_or_nothing(api, "Pod", namespace, names.selector_string(name))
    mine = [pod for pod in pods if is_pod_of(pod, run["metadata"].get("uid"))]
    counts = Counter(str(at(pod, "metadata", "labels", names.LABEL_ROLE)) for pod in mine)
    shown = ", ".join(f"{count} {role}" for role, count in sorted(counts.items(), reverse=True))
    return f"{status_of(run).phase}: {shown or 'no'} pod{'' if sum(counts.values()) == 1 else 's'}"
