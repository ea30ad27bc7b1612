"""A run asks for no more positions than its model knows: engines refuse that, or compute what the trainer does not.

Arithmetic on a ``config.json``; ``models.refusal`` asks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["too_long"]

_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
_CHANGING = ("dynamic", "longrope", "su")
"""Kinds of rotary embeddings that are others for all tokens of a pass when one of its sequences is long."""


def too_long(config: Mapping[str, Any], tokens: int) -> str | None:
    """Why a run whose sequences may have ``tokens`` tokens (prompt and response) cannot have a model of this
    configuration, as a sentence that says what was found and what to change; None where nothing says so."""
    nested = config.get("text_config")
    text = nested if isinstance(nested, Mapping) else config
    for rope in _ropes(text):
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        before = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
        if kind not in _CHANGING:
            continue
        changes_at = before or (text.get("max_position_embeddings") if kind == "dynamic" else None)
        if isinstance(changes_at, int) and tokens > changes_at:
            return (
                f"rotary embeddings of kind {kind} change where a sequence of the pass is longer than {changes_at} "
                f"tokens, which depends on what shares its pack, and rollout.maxModelLength is {tokens}: at most "
                f"{changes_at} is required; lower it (and data.maxPromptTokens, rollout.sampling.maxNewTokens), or "
                "change model.name"
            )
    most = _positions(text)
    if most is not None and tokens > most:
        return (
            f"the model knows {most} positions, and rollout.maxModelLength is {tokens}: at most {most} is required; "
            "lower it (and data.maxPromptTokens, rollout.sampling.maxNewTokens), or change model.name"
        )
    return None


def _positions(text: Mapping[str, Any]) -> int | None:
    """How many positions the model was made for, as vLLM counts them; None where the file does not say."""
    found: int | None = next((text[name] for name in _FIELDS if isinstance(text.get(name), int)), None)
    if found is None:
        return None
    most = [found]
    for rope in _ropes(text):
        factor, before = rope.get("factor"), rope.get("original_max_position_embeddings")
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        if isinstance(factor, int | float) and kind in ("linear", "yarn"):
            most.append(int((before if kind == "yarn" and isinstance(before, int) else found) * factor))
    return max(most)


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Parameters of rotary embeddings, of each kind of layer where they differ."""
    for name in ("rope_parameters", "rope_scaling"):
        found = text.get(name)
        if isinstance(found, Mapping):
            inner = [each for each in found.values() if isinstance(each, Mapping)]
            yield from inner or [found]
