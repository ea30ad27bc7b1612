"""Checkpoints: the learner's whole state with ``torch.distributed.checkpoint``, manifest last.

``checkpoints/step-000055-i1`` holds the state after 55 policy updates *and* the critic's updates on the data of step
54, so that policy and critic agree; training goes on with step 55. Nothing random needs saving: every seed follows
from (seed, step).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn, optim
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from rz_workers.storage import layout
from rz_workers.storage.records import FileEntry, Manifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.learner import Learner
from rz_workers.trainer.ranks import Ranks


def save(folder: RunFolder, ranks: Ranks, learner: Learner, *, step: int, incarnation: int, scratch: Path) -> None:
    """Write the checkpoint of ``step``; every rank calls it and writes its own part, the first one the manifest,
    last."""
    prefix = layout.checkpoint_prefix(step, incarnation)
    local = scratch / "checkpoint"
    shutil.rmtree(local, ignore_errors=True)
    local.mkdir(parents=True)
    written: dict[str, FileEntry] = {}
    for name, module, optimizer in _parts(learner):
        model_state, optimizer_state = get_state_dict(module, optimizer)
        writer = FileSystemWriter(local / name, single_file_per_rank=True, sync_files=False)
        with _single_process_is_meant():
            state_dict_saver.save({"model": model_state, "optimizer": optimizer_state}, storage_writer=writer)
        for path in sorted((local / name).iterdir()):
            written[f"{name}/{path.name}"] = folder.store.upload(path, f"{prefix}/{name}/{path.name}")
    files = {path: entry for part in ranks.gather(written) for path, entry in part.items()}
    if ranks.is_first:
        manifest = Manifest(
            files=files,
            info={
                "step": step,
                "incarnation": incarnation,
                "policy_steps": learner.policy_steps,
                "critic_steps": learner.critic_steps,
                "world_size": ranks.world_size,
            },
        )
        folder.check_newest(incarnation)
        folder.store.put_new(layout.manifest_key(prefix), manifest.model_dump_json(indent=1).encode())
    shutil.rmtree(local, ignore_errors=True)
    ranks.barrier()


def stored(folder: RunFolder) -> dict[tuple[int, int], str]:
    """The complete checkpoints: (step, incarnation) -> prefix."""
    prefixes = [key.rsplit("/", 1)[0] for key in folder.store.list("checkpoints/") if key.endswith("/manifest.json")]
    return {parsed: prefix for prefix in prefixes if (parsed := layout.parse_checkpoint(prefix)) is not None}


def newest(folder: RunFolder) -> str | None:
    """Prefix of the newest complete checkpoint (highest step, then highest incarnation); None without one."""
    complete = stored(folder)
    return complete[max(complete)] if complete else None


def load(folder: RunFolder, learner: Learner, prefix: str, scratch: Path) -> int:
    """Put the checkpoint into the learner, on any number of ranks; returns the step that training goes on with.

    Raises StorageError when a file is missing or damaged.
    """
    local = scratch / "restore"
    shutil.rmtree(local, ignore_errors=True)
    manifest = folder.fetch_folder(prefix, local)
    for name, module, optimizer in _parts(learner):
        model_state, optimizer_state = get_state_dict(module, optimizer)
        state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
        with _single_process_is_meant():
            state_dict_loader.load(state, storage_reader=FileSystemReader(local / name))
        set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    learner.policy_steps = int(manifest.info["policy_steps"] or 0)
    learner.critic_steps = int(manifest.info["critic_steps"] or 0)
    shutil.rmtree(local, ignore_errors=True)
    return int(manifest.info["step"] or 0)


@contextmanager
def _single_process_is_meant() -> Iterator[None]:
    """Without a process group (``rz export``) torch asks whether a single process is meant: it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _parts(learner: Learner) -> list[tuple[str, nn.Module, optim.Optimizer]]:
    parts: list[tuple[str, nn.Module, optim.Optimizer]] = [("policy", learner.policy, learner.policy_optimizer)]
    if learner.critic is not None and learner.critic_optimizer is not None:
        parts.append(("critic", learner.critic, learner.critic_optimizer))
    return parts
