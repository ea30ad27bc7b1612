"""A file means here what it means to ``kubectl``: YAML text to plain values.

Called by ``rz_api.resource.load_run`` for text, and by whoever changes a document before it is judged (``rz run
--set``). PyYAML alone differs from Kubernetes' reader in three ways that bite in a spec: it takes the last of two
equal keys, reads ``1e-6`` as a string, and turns ``2025-11-22`` into a date.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader with the three differences taken out."""


# Another dictionary: changing the inherited one would change SafeLoader for the whole process.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# PyYAML follows YAML 1.1, where a float has a point and its exponent a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: dict[Any, int] = {}
    for key_node, _ in node.value:
        # `<<` may come with keys that the mapping has itself: that is what merging is for.
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ValueError(f"line {line}: found the key {key!r}, keys must be strings: put it in quotes")
        if key in keys:
            raise ValueError(f"line {line}: found `{key}` again (first in line {keys[key]}): remove one of the two")
        keys[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str) -> dict[str, Any]:
    """The one document of ``text``.

    Raises ValueError, with the line, when it is not YAML, not a mapping, not alone, or has a key twice.
    """
    try:
        # Empty documents come from a leading or trailing `---`.
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context or "unknown problem"
        raise ValueError(f"{line}this is not YAML ({problem}): check the indentation and the quotes there") from None
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML ({error}): save the file as plain UTF-8 text") from None
    if len(documents) != 1:
        raise ValueError(f"found {len(documents)} YAML documents, one is required: keep one run in a file")
    if not isinstance(documents[0], dict):
        kind = type(documents[0]).__name__
        raise ValueError(f"found a {kind}, a mapping is required: begin with apiVersion, kind, metadata and spec")
    return documents[0]
