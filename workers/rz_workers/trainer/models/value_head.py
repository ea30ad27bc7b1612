"""A critic's head is read whatever it is called, or refused by name: nobody's critic gets a fresh one without a word.

How a head begins (``new_value_head``), where it is in a file (``read``), and in which form a critic is stored
(``critic_format``). Called by ``rz_workers.trainer.models.loading`` and ``rz_workers.trainer.durable.export``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTokenClassification

from rz_workers.runtime import UserError

CriticFormat = Literal["token-classification", "backbone-and-head"]

HEADS = ("score", "value_head", "classifier")
"""What heads are called in files: by transformers' classifiers, by the published code (and here), by GPT-NeoX's."""

HEAD_FILE, HEAD_TENSOR = "value_head.safetensors", "value_head.weight"
"""Beside the backbone's files (format ``backbone-and-head``)."""


def new_value_head(hidden_size: int, *, init: str, seed: int) -> nn.Linear:
    """A linear head ``[hidden_size] -> [1]`` without bias.

    ``normal``: standard deviation 1/(hidden_size + 1) (published code); ``kaiming``: U(-b, b) with b = 1/sqrt(hidden
    size), torch's ``kaiming_uniform_(a=sqrt 5)``; ``uniform``: b = sqrt 5 (the paper, to the letter).
    """
    # A generator of its own: the global one's state depends on what ran before, and a replay must have this head.
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(hidden_size, 1, bias=False)
    with torch.no_grad():
        if init == "normal":
            head.weight.normal_(0.0, 1.0 / (hidden_size + 1), generator=generator)
        else:
            bound = math.sqrt(5.0) if init == "uniform" else 1.0 / math.sqrt(hidden_size)
            head.weight.uniform_(-bound, bound, generator=generator)
    return head


# ----------------------------------------------------------------------------------------------------- reading a head


def read(files: Iterable[Path], hidden_size: int, source: str, field: str) -> tuple[nn.Linear, str] | None:
    """The value head in safetensors files, and its tensor's name; None where none of ``HEADS`` is there.

    Its weight is ``[1, h]``, or h numbers in another form (the published 32B critic's is ``[8, h/8]``), row by row.
    Raises UserError, naming ``field`` of the spec, for another number of them, for a bias that is not zero, and for two
    heads.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in {f"{head}.{part}" for head in HEADS for part in ("weight", "bias")} & set(tensors.keys()):
                found[name] = tensors.get_tensor(name).float()
    weights = sorted(name for name in found if name.endswith(".weight"))
    if not weights:
        return None
    required = f"the value head of a critic, {hidden_size} numbers without a bias, is required: check {field}"
    if len(weights) > 1:
        raise UserError(f"{source} has the heads {', '.join(weights)}; {required}")
    name = weights[0]
    weight, bias = found[name], found.get(name.replace(".weight", ".bias"))
    if weight.numel() != hidden_size:
        raise UserError(f"{source} has {name} of shape {list(weight.shape)}; {required}")
    if bias is not None and bool(bias.any()):
        raise UserError(f"{source} has a bias beside {name} that is not zero ({bias.flatten()[0]:.3g}); {required}")
    head = nn.Linear(hidden_size, 1, bias=False)
    head.weight = nn.Parameter(weight.reshape(1, hidden_size).contiguous())
    return head, name


# ----------------------------------------------------------------------------------------------------------- formats


def critic_format(config: Any) -> CriticFormat:
    """How the critic of a policy with this configuration is exported: follows from the configuration alone."""
    return "backbone-and-head" if token_classifier(config) is None else "token-classification"


def token_classifier(config: Any) -> tuple[Any, str] | None:
    """transformers' token classifier of this configuration with one label, on the meta device, and its head's name.

    None where there is no such class, or it is more than the backbone and one linear layer, so that its logit would not
    be the value.
    """
    factory: Any = AutoModelForTokenClassification
    # Code that comes with a model (``auto_map``) has classes that transformers has no classifier for.
    if type(config) not in factory._model_mapping:
        return None
    # A copy: num_labels also writes id2label, which the backbone's configuration must not get.
    config = copy.deepcopy(config)
    config.num_labels = 1
    with torch.device("meta"):
        classifier = factory.from_config(config, trust_remote_code=False)
        backbone = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    if classifier.base_model is classifier or _shapes(classifier.base_model) != _shapes(backbone):
        return None
    prefix = f"{classifier.base_model_prefix}."
    rest = {name: shape for name, shape in _shapes(classifier).items() if not name.startswith(prefix)}
    linear = {name for name, layer in classifier.named_modules() if isinstance(layer, nn.Linear)}
    heads = [name for name in linear if rest.get(f"{name}.weight", (0,))[0] == 1]
    if len(heads) != 1 or not rest.keys() <= {f"{heads[0]}.weight", f"{heads[0]}.bias"}:
        return None
    return classifier, heads[0]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
