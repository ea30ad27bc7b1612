"""An export needs nothing of this project: Hugging Face checkpoints, ``export/step-000055/{policy,critic}``.

The policy loads with ``AutoModelForCausalLM``. The critic is stored as a token classifier with one label, so that
``AutoModelForTokenClassification`` gives the value of each position as its only logit (the score bias is 0).

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
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification

from rz_workers.runtime import UserError, worker_process
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable import checkpoint
from rz_workers.trainer.models import actor_critic
from rz_workers.trainer.ranks import whole

MODEL_FILES = ("config.json", "generation_config.json")
"""Files of the run's ``model/`` folder that are not the tokenizer's; the export writes its own."""


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
    tensors = {name.removeprefix("model."): tensor.to(dtype) for name, tensor in state.items()}
    # Else config.json would say float32, and loading it as it says would double its size.
    model.config.dtype = dtype
    model.save_pretrained(target, state_dict=tensors)
    _copy_tokenizer(tokenizer_dir, target)


def write_critic(
    backbone: Any, state: dict[str, Tensor], dtype: torch.dtype, tokenizer_dir: Path, target: Path
) -> None:
    """Save the critic as a one-label token classifier with its tokenizer under ``target``.

    Args:
        state: tensors under the names of ``Critic`` (prefixes ``backbone.`` and ``head.``).
    """
    # A copy: num_labels also writes id2label, which the backbone's configuration must not get.
    config = type(backbone.config).from_dict(backbone.config.to_dict())
    config.num_labels = 1
    factory: Any = AutoModelForTokenClassification
    classifier = factory.from_config(config)
    prefix = "backbone."
    classifier.base_model.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    )
    with torch.no_grad():
        classifier.score.weight.copy_(state["head.weight"])
        # The critic's head has no bias; the class has one in some architectures.
        if classifier.score.bias is not None:
            classifier.score.bias.zero_()
    classifier.to(dtype).save_pretrained(target)
    _copy_tokenizer(tokenizer_dir, target)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for path in source.iterdir():
        # manifest.json is that of the run's model/ folder; an export gets its own when it is stored.
        if path.is_file() and path.name not in (*MODEL_FILES, "manifest.json"):
            shutil.copy2(path, target / path.name)


def export_checkpoint(storage_uri: str, step: int | None, out: Path) -> Path:
    """Export one checkpoint of a run to ``out/step-…``; the newest one where ``step`` is None. Returns the folder.

    Raises UserError when there is no run or no such checkpoint.
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
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = Path(scratch) / "model"
        folder.fetch_folder(layout.MODEL_PREFIX, model_dir)
        policy = actor_critic.empty_policy(actor_critic.model_config(model_dir), activation_checkpointing=False)
        critic = None
        if spec.algorithm.name == "ppo":
            critic = actor_critic.empty_critic(actor_critic.model_config(model_dir), activation_checkpointing=False)
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
    arguments = parser.parse_args()
    print(export_checkpoint(arguments.storage_uri, arguments.step, arguments.out))


if __name__ == "__main__":
    with worker_process():
        main()
