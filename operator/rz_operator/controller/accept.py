"""A run goes on as it was frozen, whatever its object says today; only what is good and may act changes it. Pure.

``accept`` is the verdict on a run's object: whether it is accepted, what is to be frozen of it, and what the run does
now. ``reconcile`` calls it at every look, before it decides anything. ``body`` is what the API server holds, so it may
be anything that JSON can say; nothing of it raises.

| the object                                     | Accepted                     | the run                              |
|------------------------------------------------|------------------------------|--------------------------------------|
| seen for the first time, good                  | SpecValid                    | is frozen, then started              |
| seen for the first time, bad                   | SpecInvalid, StorageRefused  | nothing is started                   |
| as it was when it was frozen, but for ``LIVE`` | SpecValid, not judged again  | frozen, with the live fields over it |
| written otherwise, with the same values        | SpecValid                    | frozen, with the live fields over it |
| changed, of a run that has finished            | SpecValid, says: too late    | frozen; only its TTL acts            |
| changed, good, no pod of the gang exists       | SpecValid                    | the changed fields are frozen anew   |
| changed, good, the gang exists                 | SpecValid, says what waits   | frozen, with the live fields over it |
| changed, and something immutable with it       | ImmutableFieldChanged        | frozen, with the live fields over it |
| changed, bad, or no pod can be made of it      | SpecInvalid                  | frozen, with the good live ones      |

So a field that nobody touched keeps its frozen value, also under an operator with other defaults, images or stricter
rules.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from rz_api.conditions import Reason
from rz_api.names import API_VERSION, KIND
from rz_api.problems import Problem, problems_of
from rz_api.resource import SpecError, load_run
from rz_api.rules import immutable_violations, violations
from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_api.status import FINAL_PHASES
from rz_operator.apiserver.bodies import at
from rz_operator.controller import words
from rz_operator.controller.completion import Completion
from rz_operator.controller.frozen import MAX_FROZEN_BYTES, Frozen
from rz_operator.controller.json_values import is_text, no_json
from rz_operator.controller.observe import unix_seconds
from rz_operator.controller.spec_changes import (
    LIVE,
    LIVE_AFTER_THE_END,
    Path,
    changes,
    is_below,
    is_live,
    is_of_the_gang,
    is_written,
    overlay,
    unlike,
    with_leaves,
)
from rz_operator.controller.storage_claims import StorageClaim, owner


@dataclass(frozen=True)
class Verdict:
    """What ``accept`` finds."""

    accepted: bool
    reason: str
    """Of the condition Accepted."""
    message: str
    """Of the condition Accepted."""
    run: ResolvedRun | None
    """What the run does now; None: nothing may be started."""
    freeze: Frozen | None
    """To be written to the run's ConfigMap before anything is started; None: nothing to write."""
    suspend: bool
    later: ResolvedRun | None = None
    """What the run becomes when a change acts that waits; None where none does."""
    may_start: bool = True
    """Whether anything may be started; without it the run is no more than kept and stopped (``stand_in``)."""


def accept(
    body: Mapping[str, Any],
    frozen: Frozen | None,
    completion: Completion,
    others: Iterable[StorageClaim],
    gang_exists: bool,
    others_exist: bool = False,
) -> Verdict:
    """The verdict on a run's object (see the module).

    ``frozen`` is what its ConfigMap holds, None where it was never accepted; ``completion`` is what the operator fills
    in; ``others`` are the other runs; ``gang_exists``: a pod of the current trainer incarnation is there;
    ``others_exist``: something of ledger, reward or rollout is there, which was rendered from what is frozen now.
    """
    if frozen is None:
        return _first(body, completion, others)
    verdict = _again(body, frozen, completion, gang_exists, others_exist)
    # What its user has written; a newer operator's defaults are nobody's concern.
    unknown = [path for path in frozen.unknown if is_written(frozen.submitted, path)]
    if not verdict.accepted or not unknown:
        return verdict
    return replace(verdict, message=words.with_unknown(verdict.message, unknown))


def unrenderable(body: Mapping[str, Any], frozen: Frozen | None, problem: str) -> Verdict:
    """The verdict on a spec that is good by itself but that nothing can be made from (``problem``: a podTemplate that
    breaks the rules): a run that was accepted before goes on as it was, a new one is refused."""
    spec = body.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    if frozen is None:
        suspend = spec.get("suspend") is True
        return Verdict(False, Reason.SPEC_INVALID, words.cut(problem, words.MAX_VERDICT_LENGTH), None, None, suspend)
    if no_json(spec, "spec") is not None:
        spec = {"suspend": spec.get("suspend") is True}
    spec = frozen.known_part(spec)
    run, _ = with_live(frozen, changes(frozen.known_part(frozen.submitted), spec), spec)
    return _go_on(run, Reason.SPEC_INVALID, words.cut(problem, words.MAX_VERDICT_LENGTH))


# ------------------------------------------------------------------------------------------------ the first time


def _first(body: Mapping[str, Any], completion: Completion, others: Iterable[StorageClaim]) -> Verdict:
    spec = body.get("spec")
    suspend = isinstance(spec, Mapping) and spec.get("suspend") is True
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}

    def refuse(name: str, reason: str, *problems: Problem) -> Verdict:
        return Verdict(False, reason, words.problems(name, problems), None, None, suspend)

    try:
        run = _resolved(body, metadata, completion)
    except SpecError as error:
        return refuse(_name(metadata), Reason.SPEC_INVALID, *error.problems)
    assert isinstance(spec, Mapping)  # a spec without model, data and storage is none
    holder = owner(run, unix_seconds(metadata.get("creationTimestamp")) or 0.0, others)
    if holder is not None:
        return refuse(run.name, Reason.STORAGE_REFUSED, words.taken(run.spec.storage.uri, holder.uri, holder.run))
    freeze = Frozen(run, dict(spec))
    problem = _too_large(freeze)
    if problem is not None:
        return refuse(run.name, Reason.SPEC_INVALID, problem)
    return Verdict(True, Reason.SPEC_VALID, _valid(run, spec), run, freeze, run.spec.suspend)


def _resolved(body: Mapping[str, Any], metadata: Mapping[str, Any], completion: Completion) -> ResolvedRun:
    """The run of a new object, complete. Raises SpecError."""
    name, uid, namespace = metadata.get("name"), metadata.get("uid"), metadata.get("namespace", "default")
    parts = {"metadata.uid": uid, "metadata.namespace": namespace, "metadata.name": name, "spec": body.get("spec")}
    for path, value in parts.items():
        problem = no_json(value, path)
        if problem is None and path in ("metadata.uid", "metadata.namespace"):
            problem = None if value and isinstance(value, str) else words.no_text(path, value)
        if problem is not None:
            raise SpecError(_name(metadata), (problem,))
    spec = _judge(name, body.get("spec"))
    return completion.first(ResolvedRun(name=str(name), namespace=str(namespace), uid=str(uid), spec=spec))


def _name(metadata: Mapping[str, Any]) -> str:
    name = metadata.get("name")
    return words.cut(name, 253) if isinstance(name, str) and name and is_text(name) else "the run"


def _judge(name: Any, spec: Any) -> ReasonerZeroRunSpec:
    """By all of today's rules. Raises SpecError. Only what the user writes is looked at: neither a status of another
    operator's nor odd labels refuse a run."""
    return load_run({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}).spec


def _valid(run: ResolvedRun, spec: Mapping[str, Any]) -> str:
    """What the condition says of a good spec: that it is one, and what its run has in place of a thing it asks for."""
    scheduling = spec.get("scheduling")
    asked = scheduling.get("gang") if isinstance(scheduling, Mapping) else None
    return words.NO_WORKLOADS if asked == "workload" and run.spec.scheduling.gang == "operator" else words.VALID


# ------------------------------------------------------------------------------------------------------ later


def _again(
    body: Mapping[str, Any], frozen: Frozen, completion: Completion, gang_exists: bool, others_exist: bool
) -> Verdict:
    """The verdict on a run that was accepted before: whatever its spec says now, the run goes on."""
    name, found = frozen.run.name, body.get("spec")
    problem = no_json(found, "spec") if isinstance(found, Mapping) else words.no_mapping(found)
    if problem is not None or not isinstance(found, Mapping):
        assert problem is not None
        suspend = found.get("suspend") if isinstance(found, Mapping) else None
        # The brake works also in a spec of which nothing else can be read.
        good = {**frozen.submitted, "suspend": suspend} if isinstance(suspend, bool) else frozen.submitted
        run, _ = with_live(frozen, changes(frozen.submitted, good), good)
        return _go_on(run, Reason.SPEC_INVALID, words.problems(name, (problem,)))
    # What only a newer operator knows is neither judged nor compared: it is kept as it was frozen.
    found = frozen.known_part(found)
    changed = changes(frozen.known_part(frozen.submitted), found)
    run, problems = with_live(frozen, changed, found)
    fixed = [path for path in changed if not is_live(path)]
    final = at(body, "status", "phase") in FINAL_PHASES
    if not fixed:
        return _as_it_is(name, run, problems, found, changed if final else ())
    try:
        # Both: the spec as its user wrote it, and over frozen values that may be another operator's defaults.
        _judge(name, found)
        spec = _judge(name, overlay(frozen.run.spec, changed, found))
    except SpecError as error:
        return _go_on(run, Reason.SPEC_INVALID, words.problems(name, error.problems))
    new = completion.again(frozen.run.model_copy(update={"spec": spec}))
    # What is only written otherwise (1 for 1.0, a default written out) is no change.
    fixed = unlike(frozen.run.spec, new.spec, fixed)
    if final or not fixed:
        acting = [path for path in changed if is_live(path)]
        return _as_it_is(name, run, problems, found, [*fixed, *acting] if final else ())
    broken = immutable_violations(frozen.run.spec, new.spec)
    if broken:
        return _go_on(run, Reason.SPEC_CHANGED, words.problems(name, words.broken(broken)))
    waiting = [path for path in fixed if gang_exists or (others_exist and not is_of_the_gang(path))]
    if waiting:
        acting = [path for path in changed if path not in waiting]
        try:
            spec = _judge(name, overlay(frozen.run.spec, acting, found))
        except SpecError:  # it is only good together with what waits
            waiting = fixed
        message = words.waiting(waiting, for_the_gang=all(map(is_of_the_gang, waiting)))
        if len(waiting) == len(fixed):
            return Verdict(True, Reason.SPEC_VALID, message, run, None, run.spec.suspend, later=new)
        later = new
        new = completion.again(frozen.run.model_copy(update={"spec": spec}))
        freeze = frozen.again(new, with_leaves(copy.deepcopy(dict(frozen.submitted)), acting, found))
        problem = _too_large(freeze)
        if problem is not None:
            return _go_on(run, Reason.SPEC_INVALID, words.problems(name, (problem,)))
        return Verdict(True, Reason.SPEC_VALID, message, new, freeze, new.spec.suspend, later=later)
    freeze = frozen.again(new, dict(body["spec"]))
    problem = _too_large(freeze)
    if problem is not None:
        return _go_on(run, Reason.SPEC_INVALID, words.problems(name, (problem,)))
    return Verdict(True, Reason.SPEC_VALID, _valid(new, found), new, freeze, new.spec.suspend)


def _as_it_is(
    name: str, run: ResolvedRun, problems: Sequence[Problem], spec: Mapping[str, Any], too_late: Sequence[Path]
) -> Verdict:
    """The verdict where at most live fields changed; ``too_late``: those that were changed of a run that finished."""
    if problems:
        return _go_on(run, Reason.SPEC_INVALID, words.problems(name, problems))
    late = [path for path in too_late if not any(is_below(path, field) for field in LIVE_AFTER_THE_END)]
    said = words.too_late(late) if late else _valid(run, spec)
    return Verdict(True, Reason.SPEC_VALID, said, run, None, run.spec.suspend)


def _too_large(freeze: Frozen) -> Problem | None:
    size = freeze.num_bytes()
    return words.too_large(size, MAX_FROZEN_BYTES) if size > MAX_FROZEN_BYTES else None


def _go_on(run: ResolvedRun, reason: str, message: str) -> Verdict:
    return Verdict(False, reason, message, run, None, run.spec.suspend)


def with_live(
    frozen: Frozen, changed: Sequence[Path], spec: Mapping[str, Any]
) -> tuple[ResolvedRun, tuple[Problem, ...]]:
    """The frozen run with those live fields of ``spec`` that are good by themselves, and what is wrong with the rest.

    They are judged one by one over what is known to be good, so that nothing else of a bad spec is in their way.
    """
    run, problems = frozen.run, list[Problem]()
    for live in LIVE:
        paths = [path for path in changed if is_below(path, live)]
        if not paths:
            continue
        document: Any = overlay(run.spec, paths, spec)
        try:
            # strict, as in ``load_run``: the API server does not take "5" for a number either.
            new = ReasonerZeroRunSpec.model_validate(document, strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            problems += problems_of(error, ReasonerZeroRunSpec, document, "spec")
            continue
        broken = [each for each in violations(new) if is_below(tuple(each.path.split(".")[1:]), live)]
        if broken:
            problems += words.broken(broken)
        else:
            run = run.model_copy(update={"spec": new})
    return run, tuple(problems)
