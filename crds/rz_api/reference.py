"""docs/reference.md has every field of a run as the CRD has it: ``python -m rz_api.reference [--check]`` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rz_api import names, rules
from rz_api.crd import build

PATH = Path(__file__).parent.parent.parent / "docs" / "reference.md"

Schema = dict[str, Any]


def render() -> str:
    root = build()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = [_introduction()]
    for name, section in root["spec"]["properties"].items():
        rows = "".join(_row(path, schema) for path, schema in _fields(name, section))
        parts.append(f"## {name}\n\n{section['description']}\n\n| field | type | what it is |\n|---|---|---|\n{rows}")
    rows = "".join(_row(path, schema) for path, schema in _fields("", root["status"]))
    parts.append(f"## status\n\nWritten by the operator.\n\n| field | type | what it is |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def _introduction() -> str:
    fixed = "".join(f"- `{path}`: {why}.\n" for path, why in rules.IMMUTABLE)
    return f"""# Every field of a run

<!-- Written by `python -m rz_api.reference` from the models in crds/rz_api. -->

`{names.API_VERSION}`, kind `{names.KIND}`, short name `rzr`. `kubectl explain rzr.spec` shows the same.
A field that is left out has the default that its row names, which is the paper's value where the paper has one. Rules
that compare fields are checked by the API server (1.25 and newer), by `rz validate` and by the operator, in the same
words.

Fixed once a run was accepted:

{fixed}"""


def _fields(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Fields below ``path`` in the schema's order; a list's fields are below ``path[]``."""
    inner = schema.get("items", schema)
    properties = inner.get("properties", {}) if isinstance(inner, dict) else {}
    if not properties:
        yield path, schema
        return
    prefix = f"{path}[]" if inner is not schema else path
    for name, field in properties.items():
        yield from _fields(f"{prefix}.{name}" if prefix else name, field)


def _row(path: str, schema: Schema) -> str:
    # A bar ends a cell of a Markdown table.
    words = schema.get("description", "").replace("|", "\\|").replace("\n", " ")
    return f"| `{path}` | {_type(schema)} | {words} |\n"


def _type(schema: Schema) -> str:
    kind = schema.get("type", "any")
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = [f"{'above' if schema.get('exclusiveMinimum') else 'at least'} {low}"] if low is not None else []
    bounds += [f"{'below' if schema.get('exclusiveMaximum') else 'at most'} {high}"] if high is not None else []
    return ", ".join([str(kind), *bounds])


def main() -> None:
    text = render()
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text)
    elif not PATH.exists() or PATH.read_text() != text:
        sys.exit(f"{PATH.name} is not what the models say: run `python -m rz_api.reference`")


if __name__ == "__main__":
    main()
