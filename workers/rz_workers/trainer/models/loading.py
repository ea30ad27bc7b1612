"""What is trained is what the file says: a checkpoint that lacks tensors, or has others, is refused by their names.

Policies and critics from Hugging Face checkpoints (``load_policy``, ``load_critic``), and what the run's ``model/``
folder holds of them (``save_description``, ``model_config``). Called at the start, on the first rank alone, and by
``rz_workers.trainer.durable.export``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from rz_api.models import refusal
from rz_workers.runtime import UserError, first_line
from rz_workers.trainer.models import dropout, value_head
from rz_workers.trainer.models.actor_critic import Critic, Policy, prepare
from rz_workers.trainer.models.attention import PACKED_SDPA

log = logging.getLogger(__name__)

MODEL_FIELD = "model.name"

_SHOWN = 8
_HEAD_TENSORS = {f"{head}.{part}" for head in value_head.HEADS for part in ("weight", "bias")}
_OUTPUT_LAYERS = {"lm_head.weight", "lm_head.bias", "embed_out.weight"}
_COMPUTE_NOTHING = {
    "initializer_range", "max_position_embeddings", "max_window_layers", "pretraining_tp", "tie_word_embeddings",
    "use_cache",
}  # fmt: skip
"""Fields of configurations that change nothing in what a backbone computes here; ``layer_types`` has what
``max_window_layers`` means."""


def load_policy(
    source: str,
    *,
    revision: str | None,
    trust_remote_code: bool,
    activation_checkpointing: bool,
    field: str = MODEL_FIELD,
) -> Policy:
    """The causal language model at ``source`` (a folder or a hub id) in fp32.

    Raises UserError, naming ``field`` of the spec, when it can't be loaded, when the file has not exactly the tensors
    of its configuration, and as ``read_config``.
    """
    config = read_config(source, revision, trust_remote_code, field)
    with _explained(source, field):
        model = _load(AutoModelForCausalLM, source, config, revision, trust_remote_code, field, _HEAD_TENSORS)
    _check_ties(model, source, field)
    prepare(model, activation_checkpointing=activation_checkpointing)
    return Policy(model)


def load_critic(
    source: str,
    *,
    revision: str | None,
    trust_remote_code: bool,
    activation_checkpointing: bool,
    init: str | None,
    seed: int,
    field: str = MODEL_FIELD,
    policy_config: Any = None,
) -> Critic:
    """The backbone at ``source`` in fp32 with the value head that is in its files, or, where none is, a fresh one
    (``value_head.new_value_head``); with ``init`` None there must be one.

    ``policy_config`` is that of the policy where this comes from somewhere else: both must be the same network. Raises
    UserError, naming ``field`` of the spec.
    """
    config = read_config(source, revision, trust_remote_code, field)
    with _explained(source, field):
        if policy_config is not None:
            _check_same_network(config, policy_config, source, field)
        # A policy of the base model is loaded too: there everything that is no backbone's is looked at.
        needless = _HEAD_TENSORS | _OUTPUT_LAYERS if init is None else None
        backbone = _load(AutoModel, source, config, revision, trust_remote_code, field, needless)
        hidden_size = backbone.config.get_text_config().hidden_size
        found = value_head.read(_weight_files(source, revision), hidden_size, source, field)
    prepare(backbone, activation_checkpointing=activation_checkpointing)
    if found is not None:
        log.info("critic from %s, with the value head that is there (%s)", source, found[1])
        return Critic(backbone, found[0])
    if init is None:
        names = ", ".join(f"{head}.weight" for head in value_head.HEADS)
        raise UserError(
            f"found no value head at {source}: none of its tensors is {names}. A critic is required, as a run exports "
            f"it or as one is published: check {field}"
        )
    log.info("critic from %s, with a fresh value head (%s)", source, init)
    return Critic(backbone, value_head.new_value_head(hidden_size, init=init, seed=seed))


# ------------------------------------------------------------------------------------------------------ the run's model


def save_description(policy: Policy, critic: Critic | None, folder: Path) -> None:
    """Write what every process makes the model from: configurations and, where the model came with code, that code."""
    config = policy.model.config
    for model in (policy.model, *([critic.backbone] if critic is not None else [])):
        # Set by the Auto classes on classes that are not transformers' own. A configuration brings only its own file.
        if model._auto_class is not None:
            folder.mkdir(parents=True, exist_ok=True)
            custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)
    policy.model.generation_config.save_pretrained(folder)


def model_config(model_dir: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers configuration of the run's ``model/`` folder, as the trainer computes: fp32, no dropout."""
    config = AutoConfig.from_pretrained(str(model_dir), trust_remote_code=trust_remote_code)
    dropout.switch_off(config)
    # Masters are fp32; ``trainer.dtype`` is that of the passes (``ranks.shard``).
    config.dtype = torch.float32
    return config


# ------------------------------------------------------------------------------------------------------------- loading


def read_config(source: str, revision: str | None, trust_remote_code: bool, field: str = MODEL_FIELD) -> Any:
    """The transformers configuration of the model at ``source``, without dropout.

    Raises UserError, naming ``field`` of the spec, when it can't be loaded, or no run can train such a model
    (``rz_api.models``).
    """
    with _explained(source, field):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    if (reason := refusal(config.to_dict())) is not None:
        raise UserError(f"{source}: {reason}")
    dropout.switch_off(config)
    return config


@contextmanager
def _explained(source: str, field: str) -> Iterator[None]:
    """Whatever the files of a model make transformers raise: the model is what has to change."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    # Each library has errors of its own: of a cut file, or a field of another type, safetensors' and huggingface_hub's
    # are no ValueError.
    except Exception as error:
        with_it = ", model.revision" if field == MODEL_FIELD else ""
        raise UserError(
            f"the model {source!r} does not load: {first_line(error)}. A folder, bucket URL or hub id of a Hugging "
            f"Face checkpoint with safetensors weights is required: check {field}{with_it} and model.secretName"
        ) from error


def _load(
    factory: Any,
    source: str,
    config: Any,
    revision: str | None,
    trust_remote_code: bool,
    field: str,
    needless: Collection[str] | None,
) -> Any:
    """``needless``: tensors that the file may have although the model has not; None for all."""
    model, report = factory.from_pretrained(
        source,
        config=config,
        revision=revision,
        trust_remote_code=trust_remote_code,
        # fp32 masters: a step of 1e-6 vanishes in bfloat16, which keeps 8 bits of a number.
        dtype=torch.float32,
        attn_implementation=PACKED_SDPA,
        # A .bin file is a pickle, and loading one runs code of whoever made it.
        use_safetensors=True,
        # Reported with their names below; else the error has none.
        ignore_mismatched_sizes=True,
        # Without the tensors that the class itself calls harmless, and those that are tied to one that is there.
        output_loading_info=True,
    )
    missing = report["missing_keys"]
    unexpected = report["unexpected_keys"] - set(needless) if needless is not None else ()
    faults = tensor_faults(missing, unexpected, report["mismatched_keys"])
    if faults:
        raise UserError(
            f"the tensors of {source} are not those of its config.json: {faults}. A whole checkpoint of this "
            f"configuration is required: check {field}{_untied_hint(model, missing)}"
        )
    # Sampling would be the first to notice, by an index out of bounds.
    broken = [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(
            f"the tensors of {source} hold NaN or infinity: {len(broken)} of them ({_some(sorted(broken))}). A "
            f"checkpoint of finite numbers is required: check {field}"
        )
    return model


def _untied_hint(model: Any, missing: Collection[str]) -> str:
    layer = model.get_output_embeddings()
    if not any(model.get_parameter_or_buffer(name) is getattr(layer, "weight", 0) for name in missing):
        return ""
    return ", or, if its output layer is the embedding, set tie_word_embeddings: true in config.json"


Reshaped = tuple[str, Sequence[int], Sequence[int]]
"""Name of a tensor, the shape that was found and the one that is required."""


def tensor_faults(missing: Collection[str], unexpected: Collection[str], reshaped: Collection[Reshaped]) -> str:
    """The tensors in which a file and a model differ, by name, at most 8 of each kind; empty where they do not."""
    shapes = [f"{name} {list(found)} in place of {list(required)}" for name, found, required in reshaped]
    kinds = (("missing", missing), ("of another shape", shapes), ("unexpected", unexpected))
    return "; ".join(f"{len(names)} {kind} ({_some(sorted(names))})" for kind, names in kinds if names)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _check_ties(model: Any, source: str, field: str) -> None:
    """transformers does not tie tensors that differ in the file; engines, which go by the configuration, do."""
    for name, tied_to in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if model.get_parameter(name) is not model.get_parameter(tied_to):
            raise UserError(
                f"config.json of {source} ties {name} to {tied_to} (tie_word_embeddings: true), and its file has both, "
                "with different values. One of them is wrong: set tie_word_embeddings: false in config.json, remove "
                f"{name} from the file, or change {field}"
            )


def _check_same_network(config: Any, policy_config: Any, source: str, field: str) -> None:
    """A critic computes as the policy's configuration says, after a restart at the latest."""
    ours, theirs = policy_config.get_text_config().to_dict(), config.get_text_config().to_dict()
    # What every configuration has says nothing of the network (names of classes, labels, tokens); what only one of them
    # has, its class does not know.
    known = (ours.keys() & theirs.keys()) - PretrainedConfig().to_dict().keys() - _COMPUTE_NOTHING | {"model_type"}
    differ = [
        f"{name} {theirs[name]!r} in place of {ours[name]!r}"
        for name in sorted(known)
        if theirs[name] != ours[name] and not name.endswith(("_token_id", "_dropout", "_pdrop"))
    ]
    if differ:
        raise UserError(
            f"the critic {source} is another network than the policy: {_some(differ)}. A critic of the policy's "
            f"architecture and size is required: check {field} and model.name"
        )


def _weight_files(source: str, revision: str | None) -> list[Path]:
    """The files that ``from_pretrained`` reads weights from, and the value head's."""

    def find(name: str) -> Path | None:
        found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        return Path(found) if found is not None else None

    names = [SAFE_WEIGHTS_NAME]
    if find(SAFE_WEIGHTS_NAME) is None:
        index = find(SAFE_WEIGHTS_INDEX_NAME)
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index is not None else []
    return [file for name in (*names, value_head.HEAD_FILE) if (file := find(name)) is not None]
