"""What a run's object means: whether it is accepted, what is frozen of it, and what the run does now. Pure.

``reconcile`` calls ``accept`` at every look, before it decides anything. ``body`` is what the API server holds, so it
may be anything that JSON can say; nothing of it raises.

| the object                                     | Accepted                     | the run                              |
|------------------------------------------------|------------------------------|--------------------------------------|
| seen for the first time, good                  | SpecValid                    | is frozen, then started              |
| seen for the first time, bad                   | SpecInvalid, StorageRefused  | nothing is started                   |
| as it was when it was frozen, but for ``LIVE`` | SpecValid, not judged again  | frozen, with the live fields over it |
| changed, good, no pod of the gang exists       | SpecValid                    | the changed fields are frozen anew   |
| changed, good, the gang exists                 | SpecValid, says what waits   | frozen, with the live fields over it |
| changed, and something immutable with it       | ImmutableFieldChanged        | frozen, with the live fields over it |
| changed, bad                                   | SpecInvalid                  | frozen, with the good live ones      |

A change is a difference between two specs that the user wrote. So a field that nobody touched keeps its frozen value,
also under an operator with other defaults, images or stricter rules.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rz_api.conditions import Reason
from rz_api.names import API_VERSION, KIND, Role
from rz_api.problems import Problem, problems_of
from rz_api.resource import SpecError, load_run
from rz_api.rules import immutable_violations, show, violations
from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.controller.observe import unix_seconds
from rz_operator.plan import resolve

LIVE: tuple[str, ...] = (
    "suspend",
    "rollout.replicas",
    "reward.replicas",
    "failurePolicy",
    "ttlSecondsAfterFinished",
    "scheduling.gangTimeoutSeconds",
)
"""Paths below spec that act at once, from the newest spec in which they are good."""

MAX_FROZEN_BYTES = 512 * 1024
"""Of a run's ConfigMap. The API server's own limit (1 MiB with everything around it) would come as a refusal at an
awkward moment."""

MAX_MESSAGE_LENGTH = 16_384
"""Characters of a condition's message: half of what the API allows, and more than anybody reads."""
MAX_LINE_LENGTH = 1_000
MAX_DEPTH = 100
"""Levels of nesting of a spec; a real pod template has about 12. Serializers give up at some 250."""

RUN_KEY, SUBMITTED_KEY = "run.json", "submitted.json"

Path = tuple[str, ...]
_GONE = object()
"""In place of a value where there is none (null is a value)."""


@dataclass(frozen=True)
class Frozen:
    """What the run's ConfigMap holds."""

    run: ResolvedRun
    """``run.json``, exactly what the workers read."""
    submitted: Mapping[str, Any]
    """``submitted.json``: the user's spec from which it was made."""

    def to_data(self) -> dict[str, str]:
        """As the ConfigMap's ``data``."""
        return {
            RUN_KEY: self.run.model_dump_json(by_alias=True, indent=2),
            SUBMITTED_KEY: json.dumps(self.submitted, sort_keys=True),
        }

    @staticmethod
    def from_data(data: Mapping[str, str]) -> Frozen:
        """The inverse of ``to_data``. Raises ValueError where somebody has changed it into something else."""
        change = "restore it, or delete the ConfigMap and have the run frozen anew from its spec"
        try:
            run = ResolvedRun.model_validate_json(data[RUN_KEY])
            submitted = json.loads(data[SUBMITTED_KEY])
        except KeyError as error:
            raise ValueError(f"found no {error} in the run's ConfigMap, the frozen run is required: {change}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(key) for key in first["loc"]) or RUN_KEY
            raise ValueError(f"found {where}: {first['msg']}; {RUN_KEY} must be a resolved run: {change}") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"found {error}; {SUBMITTED_KEY} must be a spec in JSON: {change}") from None
        if not isinstance(submitted, dict) or _no_json(submitted, "spec") is not None:
            found = type(submitted).__name__
            raise ValueError(f"found a {found}; {SUBMITTED_KEY} must be a spec (an object) in JSON: {change}")
        return Frozen(run, submitted)


@dataclass(frozen=True)
class StorageClaim:
    """Another run that the operator knows, and its folder."""

    run: str
    """``namespace/name``."""
    uid: str
    created: float
    """Unix seconds."""
    uri: str
    """As its spec says it."""
    final: bool
    """It succeeded or failed, and writes nothing more."""
    holds: bool = False
    """It was accepted: then the folder is its, whoever is older."""


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


def accept(
    body: Mapping[str, Any],
    frozen: Frozen | None,
    images: Mapping[Role, str],
    others: Iterable[StorageClaim],
    gang_exists: bool,
    others_exist: bool = False,
) -> Verdict:
    """The verdict on a run's object (see the module).

    ``frozen`` is what its ConfigMap holds, None where it was never accepted; ``images`` are the operator's defaults;
    ``others`` are the other runs; ``gang_exists``: a pod of the current trainer incarnation is there;
    ``others_exist``: something of ledger, reward or rollout is there, which was rendered from what is frozen now.
    """
    if frozen is None:
        return _first(body, images, others)
    return _again(body, frozen, images, gang_exists, others_exist)


def unrenderable(body: Mapping[str, Any], frozen: Frozen | None, problem: str) -> Verdict:
    """The verdict on a spec that is good by itself but that nothing can be made from (``problem``: a podTemplate that
    breaks the rules): a run that was accepted before goes on as it was, a new one is refused."""
    spec = body.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    if frozen is None:
        return Verdict(False, Reason.SPEC_INVALID, _cut(problem, MAX_MESSAGE_LENGTH), None, None, False)
    run, _ = _with_live(frozen, _changes(frozen.submitted, spec), spec)
    return _go_on(run, Reason.SPEC_INVALID, _cut(problem, MAX_MESSAGE_LENGTH))


# ------------------------------------------------------------------------------------------------ the first time


def _first(body: Mapping[str, Any], images: Mapping[Role, str], others: Iterable[StorageClaim]) -> Verdict:
    spec = body.get("spec")
    suspend = isinstance(spec, Mapping) and spec.get("suspend") is True
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    try:
        run = _resolved(body, metadata, images)
    except SpecError as error:
        return Verdict(False, Reason.SPEC_INVALID, _words(_name(metadata), error.problems), None, None, suspend)
    assert isinstance(spec, Mapping)  # a spec without model, data and storage is none
    owner = _owner(run, _created(metadata), others)
    if owner is not None:
        return Verdict(False, Reason.STORAGE_REFUSED, _storage_words(run, owner), None, None, suspend)
    freeze = Frozen(run, dict(spec))
    problem = _too_large(freeze)
    if problem is not None:
        return Verdict(False, Reason.SPEC_INVALID, _words(run.name, (problem,)), None, None, suspend)
    return Verdict(True, Reason.SPEC_VALID, "the spec is valid", run, freeze, run.spec.suspend)


def _resolved(body: Mapping[str, Any], metadata: Mapping[str, Any], images: Mapping[Role, str]) -> ResolvedRun:
    """The run of a new object, complete. Raises SpecError."""
    name, uid, namespace = metadata.get("name"), metadata.get("uid"), metadata.get("namespace", "default")
    parts = {"metadata.uid": uid, "metadata.namespace": namespace, "metadata.name": name, "spec": body.get("spec")}
    for path, value in parts.items():
        problem = _no_json(value, path)
        if (
            problem is None
            and path in ("metadata.uid", "metadata.namespace")
            and not (value and isinstance(value, str))
        ):
            found = "nothing" if value is None else show(value)
            problem = Problem(path, f"found {found}, a text is required: the API server fills it in")
        if problem is not None:
            raise SpecError(_name(metadata), (problem,))
    spec = _judge(name, body.get("spec"))
    return _complete(ResolvedRun(name=str(name), namespace=str(namespace), uid=str(uid), spec=spec), images)


def _judge(name: Any, spec: Any) -> ReasonerZeroRunSpec:
    """By all of today's rules. Raises SpecError. Only what the user writes is looked at: neither a status of another
    operator's nor odd labels refuse a run."""
    return load_run({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}).spec


def _complete(run: ResolvedRun, images: Mapping[Role, str]) -> ResolvedRun:
    """With an image for every role that names none, and the engine that ``auto`` means."""
    sections: dict[str, Any] = {}
    for role in images:
        options = getattr(run.spec, role)
        if options.image is None:
            sections[role] = options.model_copy(update={"image": images[role]})
    return resolve(run.model_copy(update={"spec": run.spec.model_copy(update=sections)}) if sections else run)


def _created(metadata: Mapping[str, Any]) -> float:
    return unix_seconds(metadata.get("creationTimestamp")) or 0.0


def _owner(run: ResolvedRun, created: float, others: Iterable[StorageClaim]) -> StorageClaim | None:
    """The run that has this folder already: one that was accepted, or the oldest of those that ask for it."""
    uri = _folder(run.spec.storage.uri, run.namespace)
    rivals = [
        other
        for other in others
        if other.uid != run.uid and not other.final and _folder(other.uri, other.run.partition("/")[0]) == uri
        if other.holds or (other.created, other.uid) < (created, run.uid)
    ]
    return min(rivals, key=lambda other: (not other.holds, other.created, other.uid), default=None)


def _folder(uri: str, namespace: str) -> tuple[str, str]:
    """What a storage URI names. A path is in a volume, and volumes belong to a namespace; a bucket is everybody's."""
    local = "://" not in uri or uri.startswith("file://")
    path = uri.removeprefix("file://") if local else uri
    return (namespace if local else "", path.rstrip("/"))


def _storage_words(run: ResolvedRun, owner: StorageClaim) -> str:
    words = (
        f"found {run.spec.storage.uri}, which the run {owner.run} uses and has not finished with; a folder that no "
        "other run writes to is required: create this run with a storage.uri of its own, or delete the other one "
        "(storage.adopt takes over a folder only when nobody writes to it any more)"
    )
    return _words(run.name, (Problem("spec.storage.uri", words),))


def _too_large(frozen: Frozen) -> Problem | None:
    data = frozen.to_data()
    size = sum(len(key.encode()) + len(text.encode()) for key, text in data.items())
    if size <= MAX_FROZEN_BYTES:
        return None
    return Problem(
        "spec",
        f"found a spec that takes {size} bytes when it is frozen, at most {MAX_FROZEN_BYTES} are allowed: shorten "
        "data.promptTemplate or a podTemplate, or put what is long into a ConfigMap of your own and name it in envFrom",
    )


# ------------------------------------------------------------------------------------------------------ later


def _again(
    body: Mapping[str, Any], frozen: Frozen, images: Mapping[Role, str], gang_exists: bool, others_exist: bool
) -> Verdict:
    """The verdict on a run that was accepted before: whatever its spec says now, the run goes on."""
    name, found = frozen.run.name, body.get("spec")
    problem = _no_json(found, "spec") if isinstance(found, Mapping) else _no_mapping(found)
    if problem is not None or not isinstance(found, Mapping):
        assert problem is not None
        suspend = found.get("suspend") if isinstance(found, Mapping) else None
        good = {**frozen.submitted, "suspend": suspend} if isinstance(suspend, bool) else frozen.submitted
        run, _ = _with_live(frozen, _changes(frozen.submitted, good), good)
        return _go_on(run, Reason.SPEC_INVALID, _words(name, (problem,)))
    changes = _changes(frozen.submitted, found)
    run, problems = _with_live(frozen, changes, found)
    fixed = [path for path in changes if not _is_live(path)]
    if not fixed:
        if problems:
            return _go_on(run, Reason.SPEC_INVALID, _words(name, problems))
        return Verdict(True, Reason.SPEC_VALID, "the spec is valid", run, None, run.spec.suspend)
    try:
        _judge(name, found)
        spec = _judge(name, _overlay(frozen.run.spec, changes, found))
    except SpecError as error:
        return _go_on(run, Reason.SPEC_INVALID, _words(name, error.problems))
    new = _complete(frozen.run.model_copy(update={"spec": spec}), images)
    broken = immutable_violations(frozen.run.spec, new.spec)
    if broken:
        found_words = tuple(Problem(each.path, f"found {each.found}; {each.message}") for each in broken)
        return _go_on(run, Reason.SPEC_CHANGED, _words(name, found_words))
    waiting = [path for path in fixed if gang_exists or (others_exist and not _is_of_the_gang(path))]
    if waiting:
        acting = [path for path in changes if path not in waiting]
        try:
            spec = _judge(name, _overlay(frozen.run.spec, acting, found))
        except SpecError:  # it is only good together with what waits
            waiting = fixed
        if len(waiting) == len(fixed):
            return Verdict(True, Reason.SPEC_VALID, _waiting_words(fixed), run, None, run.spec.suspend)
        new = _complete(frozen.run.model_copy(update={"spec": spec}), images)
        freeze = Frozen(new, _with_leaves(copy.deepcopy(dict(frozen.submitted)), acting, found))
        return Verdict(True, Reason.SPEC_VALID, _waiting_words(waiting), new, freeze, new.spec.suspend)
    freeze = Frozen(new, dict(found))
    problem = _too_large(freeze)
    if problem is not None:
        return _go_on(run, Reason.SPEC_INVALID, _words(name, (problem,)))
    return Verdict(True, Reason.SPEC_VALID, "the spec is valid", new, freeze, new.spec.suspend)


def _no_mapping(found: Any) -> Problem:
    kind = "nothing" if found is None else f"a {type(found).__name__}"
    return Problem("spec", f"found {kind}, a mapping is required: write its fields below it, indented")


def _go_on(run: ResolvedRun, reason: str, message: str) -> Verdict:
    return Verdict(False, reason, message, run, None, run.spec.suspend)


def _waiting_words(paths: Sequence[Path]) -> str:
    shown = ", ".join("spec." + ".".join(path) for path in paths[:8])
    more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
    when = (
        "with the next trainer incarnation" if all(map(_is_of_the_gang, paths)) else "with the next start of all pods"
    )
    words = f"the spec is valid; {shown}{more} changed and will act {when}: suspend and "
    return _cut(words + "resume the run to have it act now", MAX_LINE_LENGTH)


def _with_live(
    frozen: Frozen, changes: Sequence[Path], spec: Mapping[str, Any]
) -> tuple[ResolvedRun, tuple[Problem, ...]]:
    """The frozen run with those live fields of ``spec`` that are good by themselves, and what is wrong with the rest.

    They are judged one by one over what is known to be good, so that nothing else of a bad spec is in their way.
    """
    run, problems = frozen.run, list[Problem]()
    for live in LIVE:
        paths = [path for path in changes if _below(path, live)]
        if not paths:
            continue
        document: Any = _overlay(run.spec, paths, spec)
        try:
            new = ReasonerZeroRunSpec.model_validate(document, strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            problems += problems_of(error, ReasonerZeroRunSpec, document, "spec")
            continue
        broken = [each for each in violations(new) if _below(tuple(each.path.split(".")[1:]), live)]
        if broken:
            problems += [Problem(each.path, f"found {each.found}; {each.message}") for each in broken]
        else:
            run = run.model_copy(update={"spec": new})
    return run, tuple(problems)


# --------------------------------------------------------------------------------------------- leaves of a spec

_DEFAULTS: dict[str, Any] = ReasonerZeroRunSpec.model_validate(
    {"model": {"name": "-"}, "data": {"train": [{"uri": "-"}]}, "storage": {"uri": "-"}}
).model_dump(mode="json", by_alias=True)
"""What a field is that was removed from a spec. (Those without a default can't be removed from a good one.)"""


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], at: Path = ()) -> list[Path]:
    """Paths of the leaves in which two specs differ; a list is a leaf, an empty section is as good as none."""
    found: list[Path] = []
    for key in (*old, *(key for key in new if key not in old)):
        before, after, path = old.get(key, _GONE), new.get(key, _GONE), (*at, key)
        inner, outer = ({} if value is _GONE else value for value in (before, after))
        if isinstance(inner, Mapping) and isinstance(outer, Mapping):
            found += _changes(inner, outer, path)
        elif not _same(before, after):
            found.append(path)
    return found


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: ``True`` is not ``1``."""
    if one is _GONE or other is _GONE:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _overlay(spec: ReasonerZeroRunSpec, paths: Iterable[Path], new: Mapping[str, Any]) -> dict[str, Any]:
    """``spec`` with the leaves at ``paths`` as in ``new``; one that is not there gets today's default, or goes."""
    paths = list(paths)
    removed = [path for path in paths if _get(new, path) is _GONE]
    document = _with_leaves(spec.model_dump(mode="json", by_alias=True), paths, new)
    return _with_leaves(document, removed, _DEFAULTS)


def _with_leaves(document: dict[str, Any], paths: Iterable[Path], new: Mapping[str, Any]) -> dict[str, Any]:
    """``document``, changed in place, with the leaves at ``paths`` as in ``new``; one that is not there goes."""
    for path in paths:
        holder = document
        for key in path[:-1]:
            if not isinstance(holder.get(key), dict):
                holder[key] = {}
            holder = holder[key]
        value = _get(new, path)
        if value is _GONE:
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = value
    return document


def _get(document: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(document, Mapping) or key not in document:
            return _GONE
        document = document[key]
    return document


def _below(path: Path, live: str) -> bool:
    parts = tuple(live.split("."))
    return path[: len(parts)] == parts


def _is_of_the_gang(path: Path) -> bool:
    """Whether only the trainer's pods depend on it."""
    return any(_below(path, section) for section in ("trainer", "scheduling", "storage.retention"))


def _is_live(path: Path) -> bool:
    return any(_below(path, live) for live in LIVE)


# ---------------------------------------------------------------------------------------------- hostile input


def _no_json(value: Any, at: str) -> Problem | None:
    """Why a value could not be stored as JSON and read again; None where it can be. Never recurses."""
    queue: list[tuple[Any, int, str]] = [(value, 0, at)]
    while queue:
        value, depth, path = queue.pop()
        if depth > MAX_DEPTH:
            return Problem(_cut(path, 200), f"found more than {MAX_DEPTH} levels of nesting: flatten it")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str) or not _is_text(key):
                    words = f"found the key {ascii(key)[:120]}, keys must be text: put it in quotes"
                    return Problem(_cut(path, 200), words)
            queue += [(item, depth + 1, f"{path}.{key}"[:300]) for key, item in reversed(list(value.items()))]
        elif isinstance(value, list | tuple):
            items = [(item, depth + 1, f"{path}[{index}]"[:300]) for index, item in enumerate(value)]
            queue += reversed(items)
        else:
            text = _scalar_problem(value)
            if text is not None:
                return Problem(_cut(path, 200), text)
    return None


def _scalar_problem(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "found a number of more than 64 bits: change the value"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"found {value}, a finite number is required: change the value"
    if isinstance(value, str):
        return None if _is_text(value) else f"found {ascii(value)[:120]}, which is no Unicode text: change the value"
    return f"found a {type(value).__name__}, a JSON value is required: change the value"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        return False
    return True


# ----------------------------------------------------------------------------------------------------- words


def _name(metadata: Mapping[str, Any]) -> str:
    name = metadata.get("name")
    return _cut(name, 253) if isinstance(name, str) and name and _is_text(name) else "the run"


def _words(name: str, problems: Sequence[Problem]) -> str:
    """As ``SpecError`` says it, as many whole problems as there is room for."""
    return SpecError(name, tuple(_shown(problems))).args[0]  # type: ignore[no-any-return]


def _shown(problems: Sequence[Problem]) -> Iterator[Problem]:
    room = MAX_MESSAGE_LENGTH - 500
    for index, problem in enumerate(problems):
        cut = Problem(_cut(problem.path, 300), _cut(problem.text, MAX_LINE_LENGTH))
        room -= len(str(cut)) + 5
        if room < 0:
            yield Problem("...", f"and {len(problems) - index} more problems: repair the ones above first")
            return
        yield cut


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
