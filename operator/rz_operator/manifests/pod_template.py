"""Whatever a user's ``podTemplate`` says, a run's pods are named, found and restarted as the operator expects.

It is a partial pod template, merged over the rendered one by a table. ``MERGED`` names every place where the two are
combined; everything else that the user gives replaces what was rendered, and ``null`` removes it. ``PROTECTED`` names
what a run's pods are known by, which can't be given. ``pod`` calls ``merge`` for each role; the main container's name
is ``main``.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from rz_api import names
from rz_api.names import Role
from rz_api.rules import show
from rz_operator.errors import UserError
from rz_operator.manifests.context import Body


class Merge(Enum):
    """How two values of one place are combined."""

    FIELDS = "field by field"
    """Mappings: the user's fields over the rendered ones, each by its own row of the table."""
    NAMED = "by name, then field by field"
    """Lists: an entry whose name was rendered is merged into that one, any other is appended."""
    NAMED_WHOLE = "by name, the user's entry as a whole"
    """Lists: an entry whose name was rendered takes its place, any other is appended. For entries of which only one
    kind may be set, such as the source of a volume."""


MERGED: Mapping[str, Merge] = {
    "metadata": Merge.FIELDS,
    "metadata.labels": Merge.FIELDS,
    "metadata.annotations": Merge.FIELDS,
    "spec": Merge.FIELDS,
    "spec.nodeSelector": Merge.FIELDS,
    "spec.volumes": Merge.NAMED_WHOLE,
    "spec.containers": Merge.NAMED,
    "spec.containers[].env": Merge.NAMED_WHOLE,
    "spec.containers[].ports": Merge.NAMED_WHOLE,
    "spec.containers[].volumeMounts": Merge.NAMED_WHOLE,
    "spec.initContainers": Merge.NAMED,
}
"""Place in the pod template -> how it is merged; ``[]`` stands for an entry of a list."""

PROTECTED: Mapping[str, str] = {
    "metadata.name": "a pod's name holds its role, number and incarnation",
    "metadata.generateName": "a pod's name holds its role, number and incarnation",
    "metadata.namespace": "a run's pods are in its namespace",
    "metadata.ownerReferences": "a run's pods belong to the run and are deleted with it",
    "metadata.finalizers": "nothing may hold up the deletion of a run's pods",
    "spec.hostname": "trainer ranks find each other by it",
    "spec.subdomain": "trainer ranks find each other by it",
    "spec.restartPolicy": "the operator decides which pods are restarted",
}
"""Place -> why it can't be given."""

KEPT = frozenset(("metadata", "metadata.labels", "metadata.annotations", "spec", "spec.containers"))
"""Places that ``null`` does not remove: without them it would be no pod, or nobody's."""


def merge(rendered: Body, given: Mapping[str, Any] | None, role: Role, soft: Collection[str] = frozenset()) -> Body:
    """``rendered`` (metadata and spec of a pod) with the user's template over it; neither is changed. ``soft``:
    rendered labels and annotations that are nobody's sign, so that the user's may replace them.

    Raises UserError for a template that says who the pod is, or whose parts are not of the right kind.
    """
    if not given:
        return rendered
    at = f"spec.{role}.podTemplate"
    _check(rendered, given, at, soft)
    merged = _fields(rendered, given, "", at)
    if merged["spec"].get("hostNetwork") and "dnsPolicy" not in (given.get("spec") or {}):
        # The default would resolve names as the node does, and none of the run's Services.
        merged["spec"]["dnsPolicy"] = "ClusterFirstWithHostNet"
    return merged


def _check(rendered: Body, given: Mapping[str, Any], at: str, soft: Collection[str]) -> None:
    for field in given:
        if field not in ("metadata", "spec"):
            raise UserError(
                f"{at}.{field}: found {show(given[field])}; a pod template has metadata and spec: move it below one of "
                "them, or remove it"
            )
    for path, reason in PROTECTED.items():
        section, field = path.split(".")
        part = given.get(section)
        if isinstance(part, Mapping) and field in part:
            raise UserError(f"{at}.{path}: found {show(part[field])}; {reason}: remove it")
    metadata = given.get("metadata")
    for kind in ("labels", "annotations"):
        entries = metadata.get(kind) if isinstance(metadata, Mapping) else None
        for key, value in entries.items() if isinstance(entries, Mapping) else ():
            if value is not None and not isinstance(value, str):
                raise UserError(
                    f"{at}.metadata.{kind}: found {show(value)} at {key}; a string is required: put it in quotes"
                )
            is_rendered = str(key) in rendered["metadata"].get(kind, {}) and key not in soft
            if is_rendered or names.is_ours(str(key)):
                raise UserError(
                    f"{at}.metadata.{kind}: found {key}; the operator knows the run's pods by it: remove it, or use "
                    "another key"
                )


def _combine(rendered: Any, given: Any, path: str, at: str) -> Any:
    how = MERGED.get(path)
    if how is None:
        return copy.deepcopy(given)
    if how is Merge.FIELDS:
        if not isinstance(given, Mapping):
            raise UserError(f"{at}.{path}: found {show(given)}; a mapping is required: write its fields below it")
        return _fields(rendered or {}, given, path, at)
    if not isinstance(given, list) or not all(map(_is_named, given)):
        raise UserError(
            f"{at}.{path}: found {show(given)}; a list of entries with a name (a string) each is "
            "required, they are merged by it: give every entry its name"
        )
    return _by_name(rendered or [], given, path, at, whole=how is Merge.NAMED_WHOLE)


def _is_named(entry: Any) -> bool:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return isinstance(name, str) and bool(name)


def _fields(rendered: Mapping[str, Any], given: Mapping[str, Any], path: str, at: str) -> Body:
    merged = dict(rendered)
    for field, value in given.items():
        inner = f"{path}.{field}" if path else str(field)
        if value is None:
            if inner in KEPT:
                continue
            merged.pop(field, None)
        else:
            merged[field] = _combine(rendered.get(field), value, inner, at)
    return merged


def _by_name(rendered: list[Body], given: list[Body], path: str, at: str, *, whole: bool) -> list[Body]:
    """Rendered entries keep their order. Of several given entries with one rendered name the first is merged, so that
    a second mount of a rendered volume is written as the first one, repeated, and the second."""
    merged = list(rendered)
    free = {entry["name"]: position for position, entry in enumerate(rendered)}
    for entry in given:
        position = free.pop(entry["name"], None)
        if position is None:
            merged.append(copy.deepcopy(dict(entry)))
        elif whole:
            merged[position] = copy.deepcopy(dict(entry))
        else:
            merged[position] = _fields(rendered[position], entry, f"{path}[]", at)
    return merged
