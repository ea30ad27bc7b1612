"""What the processes of a run do with a model that came with code; ``test_start.py`` runs it, a process for each word.

``start`` is the first rank up to a checkpoint, ``other-rank`` one that has shapes alone, ``sample`` a rollout,
``export`` is ``rz export`` and loads what it wrote. Settings come from the environment.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM

from rz_workers.rollout.engines.transformers.engine import TransformersEngine
from rz_workers.runtime import Settings
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer import startup
from rz_workers.trainer.durable import export
from rz_workers.trainer.durable.checkpoint import Checkpoints
from rz_workers.trainer.models import actor_critic, loading
from rz_workers.trainer.ranks import Ranks

ONE_RANK = Ranks(0, 1, torch.device("cpu"), None)


def main(word: str) -> None:
    settings = Settings.from_environment()
    storage = settings.run.spec.storage.uri
    if word == "start":
        inputs = startup.read_inputs(settings.run, settings.scratch)
        folder, _ = startup.claim_folder(settings, inputs)
        learner = startup.build_learner(settings, ONE_RANK, inputs, _model(folder, settings))
        checkpoints = Checkpoints(folder, ONE_RANK, learner, 1)
        checkpoints.save(2)
        checkpoints.wait()
        return
    folder = RunFolder.open(ObjectStore(storage), settings.run)
    assert folder is not None
    if word == "other-rank":
        config = loading.model_config(_model(folder, settings), trust_remote_code=True)
        policy = actor_critic.empty_policy(config, activation_checkpointing=True, trust_remote_code=True)
        critic = actor_critic.empty_critic(config, activation_checkpointing=True, trust_remote_code=True)
        assert (type(policy.model).__name__, type(critic.backbone).__name__) == ("XForCausalLM", "XModel")
    elif word == "sample":
        engine = TransformersEngine(_model(folder, settings), "float32", 64, trust_remote_code=True)
        shapes = {name: shape for name, shape in engine._layout.shapes.items() if name not in engine._layout.tied}
        engine.load_weights(0, {name: torch.ones(shape) for name, shape in shapes.items()})
        assert len(engine.score((1, 2, 3))) == 2
    else:
        written = export.export_checkpoint(storage, None, settings.scratch / "out", trust_remote_code=True)
        policy = AutoModelForCausalLM.from_pretrained(written / "policy", trust_remote_code=True)
        critic = AutoModel.from_pretrained(written / "critic", trust_remote_code=True)
        assert (type(policy).__name__, type(critic).__name__) == ("XForCausalLM", "XModel")
        assert (written / "critic" / "value_head.safetensors").exists()


def _model(folder: RunFolder, settings: Settings) -> Path:
    local = settings.scratch / "run-model"
    folder.fetch_folder("model", local)
    return local


if __name__ == "__main__":
    main(sys.argv[1])
