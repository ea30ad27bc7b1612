"""A spec is judged in one place, ``load_run``, by the same rules whether ``rz`` is given a file or the operator an
object: types and bounds (``rz_api.spec``), then the rules between fields (``rz_api.rules``).

The ``ReasonerZeroRun`` object: apiVersion, kind, metadata, spec, status; and how a user's file becomes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rz_api.conditions import Time
from rz_api.names import API_VERSION, KIND
from rz_api.problems import Problem, problems_of
from rz_api.rules import violations
from rz_api.spec import Name, ReasonerZeroRunSpec, SpecModel
from rz_api.status import RunStatus


class SpecError(ValueError):
    """A run that can't be accepted. The message lists every problem: where, what was found, required, to be changed."""

    def __init__(self, name: str, problems: tuple[Problem, ...]):
        self.problems = problems
        """At least one."""
        lines = [str(problem) for problem in problems]
        if len(lines) > 1:
            lines = [f"{len(lines)} problems", *(f"  - {line}" for line in lines)]
        super().__init__(f"{name}: " + "\n".join(lines))


class Metadata(SpecModel, extra="ignore"):
    """What this project reads of an object's metadata."""

    name: Name
    """Name of the run, unique in its namespace."""
    namespace: str | None = None
    """Namespace; absent in a file, filled in by the API server."""
    uid: str | None = None
    """Set by the API server: tells a run from an earlier one of the same name."""
    generation: Annotated[int, Field(ge=0)] | None = None
    """Set by the API server: grows with each change of the spec."""
    resource_version: str | None = None
    """Set by the API server: makes a write fail that is based on an old read."""
    creation_timestamp: Time | None = None
    """Set by the API server; gangs are served oldest run first."""
    deletion_timestamp: Time | None = None
    """Set by the API server when the object is being deleted: nothing new is started."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the object."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the object."""


class ReasonerZeroRun(SpecModel, extra="ignore"):
    """One training run, as the API server stores it."""

    api_version: Literal["reasonerzero.dev/v1alpha1"] = "reasonerzero.dev/v1alpha1"
    """Version of this schema."""
    kind: Literal["ReasonerZeroRun"] = "ReasonerZeroRun"
    """Kind of the object."""
    metadata: Metadata
    """Who the run is."""
    spec: ReasonerZeroRunSpec
    """What the run does."""
    status: RunStatus = RunStatus()
    """What became of it; written by the operator only."""


def load_run(document: str | Mapping[str, Any]) -> ReasonerZeroRun:
    """The run that a YAML text, or the object parsed from one, describes.

    Values are taken as the API server takes them: ``"5"`` is no number, ``prompts_per_step`` is no field.

    Raises SpecError with all problems at once; those between fields are looked for when each field by itself is good.
    """
    if isinstance(document, str):
        from rz_api.document import parse  # PyYAML, for those who read text; the workers read JSON

        try:
            document = parse(document)
        except ValueError as error:
            raise SpecError("the file", (Problem("YAML", str(error)),)) from None
    name = _name_of(document)
    problems = _envelope_problems(document)
    parts: dict[str, Any] = {}
    for part, model in (("metadata", Metadata), ("spec", ReasonerZeroRunSpec), ("status", RunStatus)):
        body = document.get(part)
        body = {} if body is None else body
        try:
            # Only the spec is strict: of status and metadata, times come as strings.
            parts[part] = model.model_validate(body, strict=part == "spec", by_alias=True, by_name=False)
        except ValidationError as error:
            problems += problems_of(error, model, body, part)
    if problems:
        raise SpecError(name, tuple(problems))
    # Rules compare fields: with one that is missing or of another type they would fail themselves.
    run = ReasonerZeroRun(**parts)
    broken = violations(run.spec)
    if broken:
        raise SpecError(name, tuple(Problem(each.path, f"found {each.found}; {each.message}") for each in broken))
    return run


def _name_of(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) and name else "the run"


def _envelope_problems(document: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for field, required in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = document.get(field)
        if found != required:
            words = "nothing" if found is None else repr(found)
            problems.append(Problem(field, f"found {words}, {required} is required: write `{field}: {required}`"))
    for field in document.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        belongs = field in {each.alias for each in ReasonerZeroRunSpec.model_fields.values()}
        change = "move it below spec" if belongs else "remove it; an object has apiVersion, kind, metadata and spec"
        words = f"found a field {field!r} at the top, there is none of this name: {change}"
        problems.append(Problem(str(field), words))
    return problems
