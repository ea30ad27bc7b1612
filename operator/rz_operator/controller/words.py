"""Every sentence says what was found and what to do about it, is no longer than its limit, and is the same as long as
nothing happens. Pure: from facts to words for people.

``accept`` and the report of the status (``status_report``, ``readiness``, ``refusals``) judge, and have said here what
they found. Times are points in time: a sentence that counts seconds would be a write to the API server at every look.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rz_api.problems import Problem
from rz_api.resource import SpecError
from rz_api.rules import Violation, show
from rz_api.status import RetryState
from rz_api.storage_uri import place_of
from rz_api.stored import show_path

MAX_VERDICT_LENGTH = 16_384
"""Characters of the condition Accepted: half of what the API allows, and more than anybody reads."""
MAX_PROBLEM_LENGTH = 1_000
"""Of one problem in it."""
MAX_FINDING_LENGTH = 2048
"""Of a condition about pods; the words of schedulers, registries and webhooks have no limit of their own."""

_ROOM_FOR_THE_REST = 500
"""Characters left for the name of the run, the count of problems, and how many more there are."""
_PATHS_SHOWN = 8

VALID = "the spec is valid"
NO_WORKLOADS = (
    f"{VALID}; found scheduling.gang workload, and this cluster does not serve PodGroups of scheduling.k8s.io "
    "(Kubernetes 1.37, off by default): the operator sees to the gang"
)
NOT_THERE_YET = "its Deployment is not there yet"
CREATED_AGAIN = "its Deployment was deleted and is created again when it is gone"
NO_ROLLOUTS = "spec.rollout.replicas is 0, so nothing is generated: raise it"
SUSPENDED = "the run is suspended"
FULLY_SUSPENDED = "no pod is left; set spec.suspend to false to go on"
BEING_SUSPENDED = "the run is being suspended"
HOW_IT_IS_SUSPENDED = "the trainer stops after a checkpoint, then everything else"
RESUMED = "the run was suspended and goes on"
FINISHED = "the run has finished"
MODEL_IS_LOADED = "the trainer loads the model and has not published weights yet"
FIRST_STEP = "the first step is under way"
STEPS_COME = "steps are being committed"
TOO_FEW_STEPS = "too few steps are committed to say whether there is anything to learn"
NO_LEDGER = "the ledger does not answer, so nobody knows how far the run is; see the condition LedgerReady"


def cut(text: str, length: int = MAX_FINDING_LENGTH) -> str:
    """At most this many characters, with dots at the end where something is missing."""
    return text if len(text) <= length else text[: length - 3] + "..."


def stamp(seconds: float) -> str:
    """Unix seconds as ``2025-01-31T12:00:00Z``."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ------------------------------------------------------------------------------------------------- acceptance


def problems(name: str, found: Sequence[Problem]) -> str:
    """As ``SpecError`` says it, as many whole problems as there is room for."""
    return SpecError(name, tuple(_shown(found))).args[0]  # type: ignore[no-any-return]


def _shown(found: Sequence[Problem]) -> Iterator[Problem]:
    room = MAX_VERDICT_LENGTH - _ROOM_FOR_THE_REST
    for index, problem in enumerate(found):
        short = Problem(cut(problem.path, 300), cut(problem.text, MAX_PROBLEM_LENGTH))
        room -= len(str(short)) + 5  # the indent and the line break that SpecError adds
        if room < 0:
            yield Problem("...", f"and {len(found) - index} more problems: repair the ones above first")
            return
        yield short


def broken(rules: Iterable[Violation]) -> tuple[Problem, ...]:
    """Rules that a spec breaks, as problems."""
    return tuple(Problem(each.path, f"found {each.found}; {each.message}") for each in rules)


def no_mapping(found: Any) -> Problem:
    """Of a spec that is none."""
    kind = "nothing" if found is None else f"a {type(found).__name__}"
    return Problem("spec", f"found {kind}, a mapping is required: write its fields below it, indented")


def no_text(path: str, found: Any) -> Problem:
    """Of metadata that the API server writes."""
    what = "nothing" if found is None else show(found)
    return Problem(path, f"found {what}, a text is required: the API server fills it in")


def taken(uri: str, claimed: str, run: str) -> Problem:
    """The folder ``uri`` is the folder ``claimed`` of another run of the namespace (``namespace/name``), lies inside it
    or around it."""
    where = "" if place_of(uri) == place_of(claimed) else f", and one of it and {claimed} lies inside the other"
    said = (
        f"found {uri}{where}, which the run {run} uses and has not finished with; a folder that no "
        "other run writes to is required: create this run with a storage.uri of its own, or delete the other one "
        "(storage.adopt takes over a folder only when nobody writes to it any more)"
    )
    return Problem("spec.storage.uri", said)


def too_large(size: int, most: int) -> Problem:
    """Of a frozen run, in bytes."""
    return Problem(
        "spec",
        f"found a spec that takes {size} bytes when it is frozen, at most {most} are allowed: shorten "
        "data.promptTemplate or a podTemplate, or put what is long into a ConfigMap of your own and name it in envFrom",
    )


def waiting(paths: Sequence[tuple[str, ...]], for_the_gang: bool) -> str:
    """Of changed fields that do not act yet: they wait for the next gang, or for all pods to start anew."""
    when = "with the next trainer incarnation" if for_the_gang else "with the next start of all pods"
    said = f"{VALID}; {_listed(paths)} changed and will act {when}: suspend and resume the run to have it act now"
    return cut(said, MAX_PROBLEM_LENGTH)


def with_unknown(said: str, paths: Sequence[tuple[str | int, ...]]) -> str:
    """Of a run that a newer operator has frozen."""
    fields = ", ".join(show_path(("spec", *path)) for path in paths[:_PATHS_SHOWN])
    more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
    found = f"a newer operator has frozen {fields}{more}, which this one does not know and does without"
    return cut(f"{said}; {found}: upgrade the operator to have it act again", MAX_PROBLEM_LENGTH)


def defect(error: Exception) -> str:
    """Of a spec over which the operator itself has stumbled."""
    said = cut(" ".join(str(error).split()), 300)
    return cut(
        f"found a spec of which the operator cannot make pods ({type(error).__name__}: {said}); one that it can is "
        "required: undo the newest change of podTemplate, env, envFrom, tolerations or resources. It should have been "
        "refused in better words: please report it",
        MAX_PROBLEM_LENGTH,
    )


def lost(problem: str, newer: bool) -> str:
    """Of a run that was accepted, and of which nobody can read any more what is to be made of it."""
    if newer:
        change = "upgrade the operator again; until then pods go on, none is started, and suspend works"
    else:
        change = (
            "restore the ConfigMap; or suspend the run, and resume it when its pods are gone: then it is frozen anew "
            "from its spec, with this operator's images. Until then pods go on, and none is started"
        )
    return cut(f"{cut(problem, 500)}; pods are made from the frozen run alone: {change}", MAX_PROBLEM_LENGTH)


def too_late(paths: Sequence[tuple[str, ...]]) -> str:
    """Of fields that were changed of a run that has finished."""
    said = f"{VALID}; {_listed(paths)} changed and will not act, because {FINISHED}: submit it as a new run"
    return cut(said, MAX_PROBLEM_LENGTH)


def _listed(paths: Sequence[tuple[str, ...]]) -> str:
    """``spec.a.b, spec.c and 3 more``"""
    shown = ", ".join("spec." + ".".join(path) for path in paths[:_PATHS_SHOWN])
    return f"{shown} and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else shown


# -------------------------------------------------------------------------------------------- conditions of roles


def ready(number: int, wanted: int) -> str:
    """``3 of 5 pods ready``"""
    return f"{number} of {wanted} pod{'' if wanted == 1 else 's'} ready"


def ready_gang(number: int, wanted: int, incarnation: int) -> str:
    return f"{ready(number, wanted)}, incarnation {incarnation}"


def gang(incarnation: int, number: int, wanted: int, restarts: int, max_restarts: int) -> str:
    """Of a gang that is not ready as a whole."""
    said = f"incarnation {incarnation}: {ready(number, wanted)}"
    if restarts:
        said += f", after {restarts} of {max_restarts} restarts (failurePolicy.maxRestarts)"
    return said


def not_before(seconds: float, who: str = "it") -> str:
    """``seconds`` is in Unix seconds."""
    return f"{who} is not started before {stamp(seconds)}"


def gives_way(run: str) -> str:
    return f"the older run {run} gets nodes first"


def still_stopping(count: int) -> str:
    return f"{count} of an earlier incarnation {'is' if count == 1 else 'are'} still stopping"


def waits_in_queue(pod: str, others: int, queue: str | None) -> str:
    """Of a pod that is kept from scheduling, and as many others with it."""
    return f"{pod}{_more(others)} waits for its turn in the queue{f' {queue}' if queue else ''}"


def trouble(pod: str, others: int, word: str, message: str) -> str:
    """``orz-rollout-1 (and 2 more): ImagePullBackOff: Back-off pulling image``"""
    return f"{pod}{_more(others)}: {word}{f': {message}' if message else ''}"


def held_up(since_seconds: float, cause: str) -> str:
    """Of a pod whose containers are not created; ``cause`` is what the kubelet said, empty where it said nothing."""
    said = f"its containers are not created since {stamp(since_seconds)}"
    return cut(
        f"{said}: {cause}" if cause else f"{said}, and no event of it says why: look at kubectl describe pod", 1000
    )


def colocated(trainer: str) -> str:
    """Of rollouts without pods of their own: what is said of the trainer."""
    return cut(f"rollouts run in the trainer pods: {trainer}")


NO_POD_QUEUES = (
    "Kueue let the pod through without queueing it: its integration of pods is off, or leaves this namespace out. Add "
    "pod to integrations.frameworks of Kueue's configuration (see managedJobsNamespaceSelector), or set "
    "spec.scheduling.gang to operator"
)


def refused_pods(message: str) -> str:
    return f"its pods are refused: {message}"


def refusals(keys: Iterable[str], retries: Mapping[str, RetryState]) -> str:
    """What the API server refused (``Kind/name``), the first by name in full; empty where there is nothing."""
    first, *others = sorted(keys) or [""]
    return f"{first} was refused{_more(len(others))}: {retries[first].message}" if first else ""


def _more(others: int) -> str:
    return f" (and {others} more)" if others else ""


# ------------------------------------------------------------------------------------------ conditions of the run


def not_started(why: str) -> str:
    return cut(f"nothing was started yet{f': {why}' if why else ''}")


def no_step_since(seconds: float, limit_seconds: float) -> str:
    """``seconds`` is in Unix seconds."""
    return f"no step was committed since {stamp(seconds)} (failurePolicy.stallSeconds is {limit_seconds:g})"


def trainer_is_not_ready(why: str) -> str:
    return f"the trainer is not ready: {why}"


def waits_for(role: str) -> str:
    return f"the run waits for: {role}"
