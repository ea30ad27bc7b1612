"""Tensors go from trainer to rollouts under the names that they have in a checkpoint: every engine knows those.

transformers renames tensors while it loads and names them back while it stores (GPT-NeoX: ``embed_out.weight`` in a
checkpoint is ``lm_head.weight`` in memory). vLLM reads checkpoints, so a version that is published under a model's own
names would not load there. For most models both are the same.
"""

from __future__ import annotations

from typing import Any

import torch

from rz_workers.runtime import UserError

__all__ = ["stored_names"]


def stored_names(model: Any) -> dict[str, str]:
    """Name in memory -> name in a checkpoint, of each parameter and persistent buffer of a transformers model. Of the
    class alone, whatever checkpoint it was loaded from; not yet sharded, which changes its class.

    Raises UserError where transformers stores a tensor in another form than it has in memory, not only by another name.
    """
    from transformers.core_model_loading import revert_weight_conversion

    names = list(model.state_dict(keep_vars=True))
    # On the host, also within ``torch.device("meta")``, where ranks make models that have only shapes.
    marks = {name: torch.tensor(place, device="cpu") for place, name in enumerate(names)}
    # What a model was loaded from is remembered there, and would be given back: a critic's checkpoint has other names.
    loaded_by = getattr(model, "_weight_conversions", None)
    model._weight_conversions = None
    try:
        stored = revert_weight_conversion(model, marks)
        found = {names[int(mark)]: name for name, mark in stored.items()}
    # Splitting, merging or turning a tensor of no dimension: torch says so in its own ways.
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError) as error:
        raise UserError(_other_form(model)) from error
    finally:
        model._weight_conversions = loaded_by
    if len(found) != len(names):
        raise UserError(_other_form(model))
    return {name: found[name] for name in names}


def _other_form(model: Any) -> str:
    return (
        f"transformers stores tensors of a model of type {model.config.model_type} in another form than it has in "
        "memory (split or merged), so that rollouts could not load what the trainer publishes: a model that is stored "
        "as it is computed is required; change model.name"
    )
