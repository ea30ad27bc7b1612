"""An export needs nothing of this project: Hugging Face checkpoints, ``export/step-000055/{policy,critic}``.

The policy loads with ``AutoModelForCausalLM``. The critic is stored as a token classifier with one label, so that
``AutoModelForTokenClassification`` gives the value of each position as its only logit (the head's bias is 0); where
transformers has no such class, as a backbone and a file with its head (``BACKBONE_AND_HEAD`` says how that is loaded).

``python -m rz_workers.trainer.durable.export STORAGE_URI [--step N] [--out DIR]`` makes one from a checkpoint of a run;
the trainer makes one at the end of a run.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rz_workers.runtime import UserError, worker_process
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable import checkpoint
from rz_workers.trainer.models import actor_critic, loading, value_head
from rz_workers.trainer.ranks import whole

MODEL_FILES = ("config.json", "generation_config.json")
"""Files of the run's ``model/`` folder that are not the tokenizer's; the export writes its own."""

BACKBONE_AND_HEAD = """\
A critic in two parts, because transformers has no token classifier for its architecture: a backbone, which
`AutoModel` loads, and in `value_head.safetensors` the linear value head, `value_head.weight` of shape [1, h], without
a bias. With the name of this folder in `folder` and tokens of shape [batch, length] in `input_ids`:

    backbone = AutoModel.from_pretrained(folder)
    head = load_file(f"{folder}/value_head.safetensors")["value_head.weight"].to(backbone.dtype)
    values = backbone(input_ids).last_hidden_state @ head.T

with `from safetensors.torch import load_file` and `from transformers import AutoModel`. There is one value for each
token: what the critic expects as the return, having read up to that token.
"""
"""README.md in the folder of a critic of that format."""


def gather_state(module: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """All tensors of a model, a tied one once, whole and on the host, one gathered after the other; every rank must
    call it. Empty unless ``keep``: a host has no room for a whole model a rank."""
    # A generator: each tensor is on the host before the next one is gathered, so that no GPU holds the model.
    gathered = ((name, whole(tensor)) for name, tensor in actor_critic.distinct_tensors(module).items())
    return {name: tensor.cpu() for name, tensor in gathered if keep}


def write_policy(model: Any, state: dict[str, Tensor], dtype: torch.dtype, tokenizer_dir: Path, target: Path) -> None:
    """Save a causal language model with its tokenizer under ``target``.

    Args:
        model: the transformers model whose configuration is saved.
        state: tensors under the names of ``Policy`` (prefix ``model.``).
    """
    _save(model, {name.removeprefix("model."): tensor.to(dtype) for name, tensor in state.items()}, dtype, target)
    _copy_tokenizer(tokenizer_dir, target)


def write_critic(
    backbone: Any, state: dict[str, Tensor], dtype: torch.dtype, tokenizer_dir: Path, target: Path
) -> None:
    """Save the critic with its tokenizer under ``target``, in the format that its configuration has
    (``value_head.critic_format``).

    Args:
        state: tensors under the names of ``Critic`` (prefixes ``backbone.`` and ``head.``).
    """
    tensors = {name.removeprefix("backbone."): tensor.to(dtype) for name, tensor in state.items()}
    head = tensors.pop("head.weight")
    found = value_head.token_classifier(backbone.config)
    if found is not None:
        model, name = found
        tensors = {f"{model.base_model_prefix}.{key}": tensor for key, tensor in tensors.items()}
        tensors[f"{name}.weight"] = head
        # The critic's head has no bias; the class has one in some architectures.
        if model.get_submodule(name).bias is not None:
            tensors[f"{name}.bias"] = torch.zeros(1, dtype=dtype)
    else:
        model = backbone
    _save(model, tensors, dtype, target)
    if found is None:
        save_file({value_head.HEAD_TENSOR: head}, target / value_head.HEAD_FILE, metadata={"format": "pt"})
        (target / "README.md").write_text(BACKBONE_AND_HEAD)
    _copy_tokenizer(tokenizer_dir, target)


def _save(model: Any, tensors: dict[str, Tensor], dtype: torch.dtype, target: Path) -> None:
    model.save_pretrained(target, state_dict=tensors)
    # It wrote the model's own type, that of fp32 masters: loading what config.json says would double the size.
    model.config.dtype = dtype
    model.config.save_pretrained(target)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for path in source.iterdir():
        # manifest.json is that of the run's model/ folder; an export gets its own when it is stored.
        if path.is_file() and path.name not in (*MODEL_FILES, "manifest.json"):
            shutil.copy2(path, target / path.name)


def export_checkpoint(storage_uri: str, step: int | None, out: Path, *, trust_remote_code: bool = False) -> Path:
    """Export one checkpoint of a run to ``out/step-…``; the newest one where ``step`` is None. Returns the folder.

    Raises UserError when there is no run or no such checkpoint, and when its model came with code that is not trusted.
    """
    folder = RunFolder.open(ObjectStore(storage_uri))
    if folder is None:
        raise UserError(f"found no run.json in {storage_uri}; the storage folder of a run is required")
    # Sorted: of two gangs' checkpoints of one step the later gang's stays.
    stored = {number: prefix for (number, _), prefix in sorted(checkpoint.stored(folder).items())}
    if not stored or (step is not None and step not in stored):
        have = ", ".join(str(number) for number in sorted(stored)) or "none"
        raise UserError(f"found no checkpoint {'' if step is None else step} in {storage_uri}; there are: {have}")
    chosen = max(stored) if step is None else step
    spec = folder.run.spec
    # What a folder says that somebody gave us is no permission to run what is in it.
    if spec.model.trust_remote_code and not trust_remote_code:
        raise UserError(
            f"the model of the run in {storage_uri} came with code of its own (model.trustRemoteCode), which an export "
            "executes here: say --trust-remote-code if you have read it (the *.py in the run's model/ folder)"
        )
    options = {"activation_checkpointing": False, "trust_remote_code": spec.model.trust_remote_code}
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = Path(scratch) / "model"
        folder.fetch_folder(layout.MODEL_PREFIX, model_dir)

        def config() -> Any:  # each model its own: writing one changes it
            return loading.model_config(model_dir, trust_remote_code=spec.model.trust_remote_code)

        policy = actor_critic.empty_policy(config(), **options)
        critic = actor_critic.empty_critic(config(), **options) if spec.algorithm.name == "ppo" else None
        parts = {"policy": policy} | ({"critic": critic} if critic is not None else {})
        checkpoint.load_weights(folder.store, stored[chosen], parts)
        target = out / f"step-{chosen:06d}"
        dtype = getattr(torch, spec.trainer.dtype)
        write_policy(policy.model, gather_state(policy), dtype, model_dir, target / "policy")
        if critic is not None:
            write_critic(critic.backbone, gather_state(critic), dtype, model_dir, target / "critic")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="rz export", description="Export a checkpoint in Hugging Face format.")
    parser.add_argument("storage_uri", help="the run's storage folder (spec.storage.uri)")
    parser.add_argument(
        "--step", type=int, default=None, help="completed policy updates; default: the newest checkpoint"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that step-… is written to")
    parser.add_argument("--trust-remote-code", action="store_true", help="execute code that the run's model came with")
    given = parser.parse_args()
    print(export_checkpoint(given.storage_uri, given.step, given.out, trust_remote_code=given.trust_remote_code))


if __name__ == "__main__":
    with worker_process():
        main()
