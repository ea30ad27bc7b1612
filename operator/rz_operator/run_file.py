"""Whatever a person can get wrong in a run file ends as one ``UserError`` that names the file and the line of bad YAML.

YAML text (and ``--set`` overrides) to a run, here or on a cluster. Called by the command line.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rz_api.document import parse
from rz_api.resource import ReasonerZeroRun, SpecError, load_run
from rz_api.run import ResolvedRun
from rz_operator.errors import UserError

LOCAL_NAMESPACE = "local"
_URL = re.compile(r"^[a-z0-9+.-]+:(?://|:)", re.IGNORECASE)


def read_run(file: Path, overrides: Sequence[str] = ()) -> ResolvedRun:
    """The run of ``file`` with ``overrides`` (``algorithm.seed=1``, paths below ``spec``), as this machine's own.

    Its storage path is absolute and its uid follows from name and storage: the same command means the same run.
    Raises UserError.
    """
    return as_local(read_object(file, overrides)[1])


def read_object(file: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], ReasonerZeroRun]:
    """The object that ``file`` with ``overrides`` describes: as it is written, and validated. Raises UserError."""
    document = read_document(file)
    for override in overrides:
        apply_override(document, override)
    try:
        return document, load_run(document)
    except SpecError as error:
        raise UserError(f"{file}: {error}") from None


def read_document(file: Path) -> dict[str, Any]:
    """The one YAML mapping in ``file``, as kubectl reads it. Raises UserError when it is missing, or not that."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"found no file {file}; a run file (YAML of kind ReasonerZeroRun) is required") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: found bytes that are no UTF-8 text ({error.reason}); YAML text is required"
        ) from error
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one value in place: ``trainer.nodes=2``, ``data.train.0.uri=x.jsonl`` or, above it, ``metadata.name=x``.

    The value is read as YAML. Raises UserError when the path leads through something that is no mapping or list, or to
    metadata that nobody reads.
    """
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise UserError(f"--set {override!r}: key.path=value is required, such as algorithm.seed=1")
    try:
        value = parse(f"value: {text}")["value"]
    except ValueError as error:
        raise UserError(f"--set {override!r}: the value is no YAML on one line ({error})") from None
    if keys[0] == "metadata":
        keys = _metadata_keys(override, keys)
    elif keys[0] != "spec":
        keys = ["spec", *keys]
    node: Any = document
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, dict):
            if last:
                node[key] = value
            elif node.get(key) is None:
                node[key] = {}
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            if last:
                node[int(key)] = value
            node = node[int(key)]
        else:
            found = f"a list of {len(node)}" if isinstance(node, list) else f"the value {node!r}"
            raise UserError(f"--set {override!r}: {'.'.join(keys[:position])} is {found}, so it has no {key!r}")


def _metadata_keys(override: str, keys: list[str]) -> list[str]:
    """Keys that lead to metadata of the user's. Those of labels and annotations have dots of their own."""
    kind, *rest = keys[1:] or [""]
    if (kind in ("name", "namespace") and not rest) or (kind in ("labels", "annotations") and rest):
        return ["metadata", kind, *([".".join(rest)] if rest else [])]
    raise UserError(
        f"--set {override!r}: found {'.'.join(keys)}; of the metadata only name, namespace, labels.KEY and "
        "annotations.KEY can be set: change the path"
    )


def as_local(accepted: ReasonerZeroRun) -> ResolvedRun:
    """The run as this machine's own: absolute storage path, and the uid that name and storage determine."""
    name, uri = accepted.metadata.name, accepted.spec.storage.uri
    if not _URL.match(uri):
        uri = str(Path(uri).expanduser().absolute())
    storage = accepted.spec.storage.model_copy(update={"uri": uri})
    return ResolvedRun(
        name=name,
        namespace=LOCAL_NAMESPACE,
        uid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"reasonerzero:{name}:{uri}")),
        spec=accepted.spec.model_copy(update={"storage": storage}),
    )
