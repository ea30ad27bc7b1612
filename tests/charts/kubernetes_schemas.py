"""Kubernetes' published schemas, strict: unknown fields are errors. From the package kubernetes-validate, whose own
``validate`` reads megabytes anew for each object."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource


def errors(body: dict[str, Any], server: str) -> list[str]:
    """What is wrong with an object for a server of version ``server`` (``1.31``); FileNotFoundError for a kind that
    this version does not have."""
    api_version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", body["apiVersion"])
    schema = json.loads((_folder(server) / f"{body['kind'].lower()}-{api_version}.json").read_text())
    validator = jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(server))
    return [
        f"{'/'.join(str(part) for part in each.absolute_path)}: {each.message}" for each in validator.iter_errors(body)
    ]


def _folder(server: str) -> Path:
    return Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{server}.0-local-strict"


@functools.cache
def _definitions(server: str) -> Registry[Any]:
    found: Registry[Any] = (
        Resource.from_contents(json.loads((_folder(server) / "_definitions.json").read_text())) @ Registry()
    )
    return found
