"""The configuration of a run's base model, for ``rz plan`` and ``rz validate --model``: from its folder, its bucket,
the hub, or what is known."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rz_api.models import refusal
from rz_api.shapes import ModelShape
from rz_api.spec import ModelSpec
from rz_operator.errors import UserError

HUB_SECONDS = 5.0
"""Longest wait for the hub: a plan must not hang where there is no network."""

_QWEN = {"model_type": "qwen2", "vocab_size": 151_936, "tie_word_embeddings": False}


def _qwen(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    return {
        **_QWEN,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **more,
    }


KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _qwen(896, 4864, 24, 14, 2, tie_word_embeddings=True),
    "Qwen/Qwen2.5-1.5B": _qwen(1536, 8960, 28, 12, 2, tie_word_embeddings=True),
    "Qwen/Qwen2.5-3B": _qwen(2048, 11_008, 36, 16, 2, tie_word_embeddings=True),
    "Qwen/Qwen2.5-7B": _qwen(3584, 18_944, 28, 28, 4, vocab_size=152_064),
    "Qwen/Qwen2.5-14B": _qwen(5120, 13_824, 48, 40, 8, vocab_size=152_064),
    "Qwen/Qwen2.5-32B": _qwen(5120, 27_648, 64, 40, 8, vocab_size=152_064),
}
"""Of the paper's base models, from their config.json, so that their runs can be planned without the hub."""


class RefusedError(UserError):
    """The model is known, and cannot be trained."""


def read_config(model: ModelSpec, config_file: Path | None = None) -> dict[str, Any]:
    """The configuration of the run's model. ``config_file``, or the one in that folder, is read instead of the model's
    own, if given.

    Raises UserError, which says where it was looked for and what to give.
    """
    if config_file is None:
        return _find(model)
    return _read_file(config_file / "config.json" if config_file.is_dir() else config_file)


def read_shape(model: ModelSpec, config_file: Path | None = None, tokens: int | None = None) -> ModelShape:
    """The shape of the run's model; arguments as for ``read_config`` and ``check``.

    Raises UserError, which says where it was looked for and what to give, and RefusedError for a model that the trainer
    would refuse.
    """
    where = str(config_file) if config_file is not None else model.name
    config = read_config(model, config_file)
    check(config, where, tokens)
    try:
        return ModelShape.from_config(config)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def check(config: Mapping[str, Any], where: str, tokens: int | None = None) -> None:
    """Refuse what the trainer refuses of this configuration, in its words. Raises RefusedError. ``tokens``: of the
    run's longest sequence."""
    if (reason := refusal(config, tokens)) is not None:
        raise RefusedError(f"{where}: {reason}")


def _find(model: ModelSpec) -> dict[str, Any]:
    if "://" in model.name:
        return _read_bucket(model.name)
    folder = Path(model.name)
    if folder.is_dir():
        return _read_file(folder / "config.json")
    return KNOWN.get(model.name) or _read_hub(model)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return _parse(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; the config.json of a Hugging Face model is required") from None


def _read_bucket(uri: str) -> dict[str, Any]:
    file = f"{uri.rstrip('/')}/config.json"
    try:
        import fsspec

        with fsspec.open(file, "rt", encoding="utf-8") as stream:
            text: str = stream.read()
    except Exception as error:  # each backend raises its own
        raise UserError(
            f"cannot read {file}: {type(error).__name__}: {error}; give a copy of it with --model-config FILE"
        ) from None
    return _parse(file, text)


def _read_hub(model: ModelSpec) -> dict[str, Any]:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    address = f"{endpoint}/{model.name}/resolve/{model.revision or 'main'}/config.json"
    try:
        with urllib.request.urlopen(address, timeout=HUB_SECONDS) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(
            f"cannot read the configuration of {model.name} from the hub ({error}); known without it are "
            f"{', '.join(KNOWN)}: give the model's config.json with --model-config FILE"
        ) from None
    return _parse(address, text)


def _parse(where: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is no JSON ({error}); the config.json of a Hugging Face model is required") from None
    if not isinstance(config, dict):
        raise UserError(f"{where} holds a JSON {type(config).__name__}; the config.json of a model is required")
    return config
