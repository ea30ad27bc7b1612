"""What the chart has from elsewhere in the project: ``python charts/generate.py`` writes it, ``--check`` compares.

========================================  =========================================================
written, below charts/reasonerzero        made from
========================================  =========================================================
``templates/crd.yaml``                    crds/reasonerzeroruns.yaml
``values.schema.json``                    values.yaml and its comments; Kubernetes' published schemas
``README.md``                             charts/README.in.md, values.yaml and its comments, files/alerts.yaml
``Chart.yaml``: both versions             pyproject.toml
``files/dashboards/*.json``               dashboards/*.json
========================================  =========================================================

The operator's rights (files/rbac.yaml) and the alerts (files/alerts.yaml) are written by hand, there and only there:
the templates read them with ``.Files.Get``. ``make verify`` runs the check, and so do tests/charts.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "reasonerzero"
CRD = ROOT / "crds" / "reasonerzeroruns.yaml"
DASHBOARDS = ROOT / "dashboards"
BY = "python charts/generate.py"

KUBERNETES = "1.37.0"
"""Of the schemas that values of Kubernetes' own types are checked with; fields of newer servers are refused."""
PACKAGES = ("io.k8s.api.core.v1", "io.k8s.api.networking.v1", "io.k8s.apimachinery.pkg.apis.meta.v1")
"""Where the types are that values.yaml names ``k8s.Toleration`` and the like."""

OWN_LABELS = (
    "helm.sh/chart",
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
)
"""Of the chart: selectors depend on them, so that values may not set them."""
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

Schema = dict[str, Any]

# ------------------------------------------------------------------------------------------------------ values.yaml


@dataclass(frozen=True)
class Value:
    """One key of values.yaml. Those below it are in ``children``, where its schema does not say what they are."""

    path: tuple[str, ...]
    default: Any
    description: str
    schema: Schema
    section: str
    children: tuple[Value, ...] = ()

    @cached_property
    def dotted(self) -> str:
        return ".".join(self.path)


def values() -> tuple[Value, ...]:
    text = (CHART / "values.yaml").read_text()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return tuple(_values(root, yaml.safe_load(text), text.splitlines(), ()))


def _values(node: yaml.MappingNode, defaults: Any, lines: list[str], above: tuple[str, ...]) -> Iterator[Value]:
    for key, value in node.value:
        path = (*above, key.value)
        description, schema = _comment(lines, key.start_mark.line, path)
        section = next((line[7:] for line in lines[key.start_mark.line :: -1] if line.startswith("# ---- ")), "")
        default = defaults[key.value]
        children: tuple[Value, ...] = ()
        if isinstance(value, yaml.MappingNode) and "$ref" not in schema:
            children = tuple(_values(value, default, lines, path))
        elif not description:
            raise SystemExit(f"values.yaml: {'.'.join(path)} has no comment above it; say what it is")
        yield Value(path, default, description, schema, section, children)


def _comment(lines: list[str], line: int, path: tuple[str, ...]) -> tuple[str, Schema]:
    """The comment that ends right above ``line``: its text, and what its ``@schema`` lines say."""
    words: list[str] = []
    schema: Schema = {}
    while line and lines[line - 1].strip().startswith("# ") and not lines[line - 1].startswith("# ----"):
        line -= 1
        text = lines[line].strip()[2:]
        if text.startswith("@schema "):
            # A flow mapping with "$ref: ..." in it is YAML as it stands.
            schema = yaml.safe_load(text.removeprefix("@schema ")) | schema
        else:
            words.insert(0, text)
    if not isinstance(schema, dict):
        raise SystemExit(f"values.yaml: the @schema of {'.'.join(path)} is no mapping")
    return " ".join(words), schema


# ------------------------------------------------------------------------------------------------ values.schema.json


def schema(tree: tuple[Value, ...]) -> str:
    """JSON schema (2020-12) of the values. Keys that nobody knows are refused at every level."""
    root = _object(tree)
    # Helm hands the parent's `global` to every chart that is another chart's dependency.
    root["properties"]["global"] = {"type": "object", "description": "Of a parent chart; not used here."}
    definitions = _own_definitions()
    pending = _refs(root) - definitions.keys()
    while pending:
        name = pending.pop()
        definitions[name] = _kubernetes_definition(name)
        pending |= _refs(definitions[name]) - definitions.keys()
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart reasonerzero",
        "$comment": f"Generated from values.yaml: {BY}",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }
    return json.dumps(document, indent=1) + "\n"


def _object(tree: tuple[Value, ...]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _property(value) for value in tree},
    }


def _property(value: Value) -> Schema:
    described: Schema = {"description": value.description} if value.description else {}
    if value.children:
        return described | _object(value.children)
    if "$ref" in value.schema:
        return described | value.schema
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    found = described | {"type": kinds[type(value.default)]} | value.schema
    if found["type"] == "array" and "items" not in found:
        raise SystemExit(f"values.yaml: {value.dotted} is a list; an @schema with items is required")
    return found


def _own_definitions() -> dict[str, Schema]:
    text = {"type": "string"}
    image = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "repository": {
                **text,
                "pattern": "^[a-z0-9]([-._a-z0-9/]*[a-z0-9])?$",
                "description": "Without a registry.",
            },
            "tag": {**text, "pattern": "^([A-Za-z0-9_][-.A-Za-z0-9_]{0,127})?$", "description": "Empty: appVersion."},
            "digest": {**text, "pattern": "^(sha256:[0-9a-f]{64})?$", "description": "Wins over the tag."},
        },
    }
    return {
        "stringMap": {"type": "object", "additionalProperties": text},
        "labels": {
            "type": "object",
            "additionalProperties": text,
            "propertyNames": {"pattern": LABEL_KEY, "not": {"enum": list(OWN_LABELS)}},
        },
        "image": image,
        "runRules": _run_rules(),
        "alertNames": {"type": "array", "items": {"enum": [rule["alert"] for rule in alerts()]}},
    }


def _run_rules() -> Schema:
    """An entry of ``admissionPolicy.runs``. No quotes: its texts stand in expressions and in their messages."""
    namespace = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
    image = {"type": "string", "pattern": "^[a-z0-9][-A-Za-z0-9._:/@]*$"}
    field = {"type": "string", "pattern": "^(metadata|spec)[.][A-Za-z]+$"}
    folder = {"type": "string", "pattern": "^([a-z][a-z0-9+.-]*://|/)[-A-Za-z0-9._~/@]*/$"}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["namespaces"],
        "properties": {
            "namespaces": {"type": "array", "minItems": 1, "items": namespace},
            "images": {"type": "array", "minItems": 1, "items": image},
            "podTemplate": {"type": "array", "items": field},
            "trustRemoteCode": {"type": "boolean"},
            "storage": {"type": "array", "minItems": 1, "items": folder},
        },
    }


def _refs(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"].removeprefix("#/$defs/")} if isinstance(part.get("$ref"), str) else set()
        return own.union(*(_refs(each) for each in part.values()))
    return set().union(*(_refs(each) for each in part)) if isinstance(part, list) else set()


def _kubernetes_definition(name: str) -> Schema:
    """``k8s.Toleration`` and the like, closed, and without the descriptions, which are Kubernetes' own."""
    kind = name.removeprefix("k8s.")
    if kind == name:
        raise SystemExit(f"values.yaml refers to {name}, which charts/generate.py does not define")
    for package in PACKAGES:
        found = kubernetes_definitions().get(f"{package}.{kind}")
        if found is not None:
            closed: Schema = _closed(found)
            return closed
    raise SystemExit(f"values.yaml refers to {name}, which Kubernetes {KUBERNETES} does not have in {PACKAGES}")


def _closed(part: Any, *, names: bool = False) -> Any:
    """``names``: the keys are those of fields."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _closed(value, names=key == "properties") for key, value in part.items() if names or _says(key)}
    of_nothing = "object" in kept.get("type", ()) and "additionalProperties" not in kept  # managedFields of a server
    if not names and ("properties" in kept or of_nothing):
        kept["additionalProperties"] = False
    if not names and isinstance(kept.get("$ref"), str):
        target = kept["$ref"].rpartition("/")[2]
        if target.endswith((".api.resource.Quantity", ".util.intstr.IntOrString")):
            return {"type": ["string", "number"] if target.endswith("Quantity") else ["string", "integer"]}
        return {"$ref": f"#/$defs/k8s.{target.rpartition('.')[2]}"}
    return kept


def _says(keyword: str) -> bool:
    return keyword not in ("description", "$schema", "$id", "default") and not keyword.startswith("x-")


_definitions: dict[str, Schema] = {}


def kubernetes_definitions() -> dict[str, Schema]:
    """Every type of Kubernetes, by its full name, from the package kubernetes-validate."""
    if not _definitions:
        try:
            import kubernetes_validate
        except ImportError:
            raise SystemExit("found no package kubernetes-validate; it is required: make setup") from None
        folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
        _definitions.update(json.loads((folder / "_definitions.json").read_text())["$defs"])
    return _definitions


# ---------------------------------------------------------------------------------------------------------- README.md

README = ROOT / "charts" / "README.in.md"


def readme(tree: tuple[Value, ...]) -> str:
    sections: dict[str, list[str]] = {}
    for value in _leaves(tree):
        default = json.dumps(value.default)
        row = f"| `{value.dotted}` | `{default}` | {value.description.replace('|', chr(92) + '|')} |"
        sections.setdefault(value.section, ["| value | default | what |", "|---|---|---|"]).append(row)
    tables = "".join(f"\n### {title}\n\n" + "\n".join(rows) + "\n" for title, rows in sections.items())
    rows = ["| alert | severity | for | when |", "|---|---|---|---|"]
    for rule in alerts():
        summary = re.sub(
            r"\{\{ \$(?:labels\.)?(\w+) \}\}", lambda found: found[1].upper(), rule["annotations"]["summary"]
        )
        rows.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule['for']} | {summary} |")
    return README.read_text().format(
        by=BY, version=version(), kubernetes=KUBERNETES, sections=tables, alerts="\n".join(rows) + "\n"
    )


def _leaves(tree: tuple[Value, ...]) -> Iterator[Value]:
    for value in tree:
        if value.children:
            yield from _leaves(value.children)
        else:
            yield value


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


# -------------------------------------------------------------------------------------------------- templates/crd.yaml

CRD_HEAD = """\
{{- /* Generated by `%s` from crds/reasonerzeroruns.yaml. */}}
{{- $rules := semverCompare ">=1.25-0" .Capabilities.KubeVersion.Version }}
{{- $fieldPaths := semverCompare ">=1.28-0" .Capabilities.KubeVersion.Version }}
{{- if .Values.crd.install }}
"""
CRD_METADATA = """\
  {{- if .Values.crd.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
  labels:
    {{- include "reasonerzero.labels" . | nindent 4 }}
"""
RULES = "x-kubernetes-validations:"


def crd_template(source: str) -> str:
    """The CRD as a template: with annotation and labels of the chart, and its CEL rules where the server knows them:
    from 1.25, the field that a rule is about from 1.28.

    Works on lines, so that what Helm renders is the source to the character. Raises ValueError for a source whose
    metadata is not just a name.
    """
    lines = [line for line in source.splitlines() if not line.startswith("#")]
    start = lines.index("metadata:")
    if not re.fullmatch(r"  name: \S+", lines[start + 1]) or lines[start + 2].startswith(" "):
        raise ValueError("the CRD's metadata has more than a name; charts/generate.py must be told where it goes")
    out = [CRD_HEAD % BY]
    depth = -1
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if depth >= 0 and (indent < depth or (indent == depth and not line.lstrip().startswith("- "))):
            out.append("{{- end }}\n")
            depth = -1
        if line.strip() == RULES:
            out.append("{{- if $rules }}\n")
            depth = indent
        text = line.replace("{{", '{{ "{{" }}') + "\n"
        if depth >= 0 and line.strip().startswith("fieldPath: "):
            text = f"{{{{- if $fieldPaths }}}}\n{text}{{{{- end }}}}\n"
        out.append(text)
        if number == start + 1:
            out.append(CRD_METADATA)
    if depth >= 0:
        out.append("{{- end }}\n")
    return "".join([*out, "{{- end }}\n"])


# --------------------------------------------------------------------------------------------------------------- main


def version() -> str:
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def generated() -> dict[Path, str]:
    """Every generated file with what it should hold."""
    tree = values()
    chart = re.sub(r"(?m)^(version|appVersion): .*$", rf"\1: {version()}", (CHART / "Chart.yaml").read_text())
    found = {
        CHART / "Chart.yaml": chart,
        CHART / "README.md": readme(tree),
        CHART / "values.schema.json": schema(tree),
        CHART / "templates" / "crd.yaml": crd_template(CRD.read_text()),
    }
    for dashboard in sorted(DASHBOARDS.glob("*.json")):
        found[CHART / "files" / "dashboards" / dashboard.name] = dashboard.read_text()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Write what the chart has from elsewhere in the project.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where something differs")
    options = parser.parse_args()
    wanted = generated()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    extra = [path for path in (CHART / "files" / "dashboards").glob("*") if path not in wanted]
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale + extra)
    if options.check:
        if names:
            print(f"not what would be generated: {names}; run {BY}, and commit the result", file=sys.stderr)
        return 1 if names else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    for path in extra:
        path.unlink()
    print(f"written: {names or 'nothing, all is as it should be'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
