"""No expression reads a field that may be absent: CEL of the CRD, written out from the short form in ``rz_api.rules``.

Called by ``rz_api.crd`` alone. A CEL rule sees an object as the user wrote it, and an absent field is an error there;
so each use of an optional field has to ask for it first and fall back to its default, which is taken from the
pydantic model.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rz_api.spec import ReasonerZeroRunSpec

_STARTED = "has(oldSelf.status) && has(oldSelf.status.phase) && oldSelf.status.phase != 'Pending'"


def expand(cel: str, model: type[BaseModel], root: str = "self") -> str:
    """The expression with ``$a.b`` and ``$has(a.b)`` written out for objects of ``model`` at ``root``.

    Example, ``$trainer.nodes``: ``((has(self.trainer) && has(self.trainer.nodes)) ? self.trainer.nodes : 1)``.
    """
    # First: the pattern below would take ``$has`` for a field.
    cel = re.sub(r"\$has\(([\w.]+)\)", lambda match: _presence(match[1], model, root) or "true", cel)
    return re.sub(r"\$(\w+(?:\.\w+)*)", lambda match: _or_default(match[1], model, root), cel)


def immutable(path: str) -> str:
    """Transition rule at the object's root: ``spec.path`` stays as it was, once the run has started."""
    if _is_model(_field_at(path, ReasonerZeroRunSpec).annotation):
        new, old = (_presence(path, ReasonerZeroRunSpec, root) for root in ("self.spec", "oldSelf.spec"))
        same = f"self.spec.{path} == oldSelf.spec.{path}"
        if new:
            # A section has no literal to compare with: absent before and after is the same, else both must be there.
            same = f"{new} == {old} && (!{new} || {same})"
    else:
        new, old = (_or_default(path, ReasonerZeroRunSpec, root) for root in ("self.spec", "oldSelf.spec"))
        same = f"{new} == {old}"
    return f"!({_STARTED}) || ({same})"


def _or_default(path: str, model: type[BaseModel], root: str) -> str:
    presence = _presence(path, model, root)
    if not presence:
        return f"{root}.{path}"
    return f"({presence} ? {root}.{path} : {_literal(_default_at(path, model))})"


def _presence(path: str, model: type[BaseModel], root: str) -> str:
    """``has`` of every optional field on the way, outermost first; empty where all are required."""
    checks = []
    keys = path.split(".")
    for depth in range(1, len(keys) + 1):
        prefix = ".".join(keys[:depth])
        # Reading below an absent field is an error in CEL: each optional one on the way is asked for.
        if not _field_at(prefix, model).is_required():
            checks.append(f"has({root}.{prefix})")
    return f"({' && '.join(checks)})" if len(checks) > 1 else "".join(checks)


def _default_at(path: str, model: type[BaseModel]) -> Any:
    """The value that an absent field has: the outermost section that may be absent brings its own."""
    first, _, rest = path.partition(".")
    field = _field_at(first, model)
    if field.is_required():
        return _default_at(rest, _section(first, model))
    value = field.get_default(call_default_factory=True)
    for key in rest.split(".") if rest else ():
        value = getattr(value, _attribute(key, type(value)))
    return value


def _field_at(path: str, model: type[BaseModel]) -> FieldInfo:
    """The pydantic field at a camelCase path. Raises StopIteration where the table names one that is not there."""
    *sections, last = path.split(".")
    for section in sections:
        model = _section(section, model)
    return model.model_fields[_attribute(last, model)]


def _section(alias: str, model: type[BaseModel]) -> type[BaseModel]:
    annotation = model.model_fields[_attribute(alias, model)].annotation
    assert isinstance(annotation, type), f"{alias} of {model.__name__} is no section"
    assert issubclass(annotation, BaseModel), f"{alias} of {model.__name__} is no section"
    return annotation


def _attribute(alias: str, model: type[BaseModel]) -> str:
    return next(name for name, field in model.model_fields.items() if field.alias == alias)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        # No escapes: no default has a quote.
        assert "'" not in value, value
        return f"'{value}'"
    assert isinstance(value, bool | int | float), f"{value!r} can't be written in CEL; ask with $has first"
    # repr keeps a float's point: CEL does not convert between int and double.
    return str(value).lower() if isinstance(value, bool) else repr(value)
