"""Of an earlier run only weights are taken, optimizers are always fresh: ``model.initFrom``.

Called at the start, on the first rank alone, before anything is written; the other ranks get the weights from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rz_workers.runtime import UserError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.trainer.durable import checkpoint
from rz_workers.trainer.durable.sources import local_source

__all__ = ["Checkpoint", "Export", "find"]

REQUIRED = (
    "a checkpoint (…/checkpoints/step-000055-i1) or an export (…/export/step-000055) of an earlier run is required: "
    "check model.initFrom"
)
CRITIC_REQUIRED = (
    "with algorithm.name ppo that of a ppo run is required: name such a run's in model.initFrom, or remove it and give "
    "the policy's export as model.name, so that the critic starts from it too"
)
_SHOWN = 8
_USABLE = ("checkpoints/", "export/")


@dataclass(frozen=True)
class Export:
    """A folder of this machine with a Hugging Face model for each part (``rz_workers.trainer.durable.export``)."""

    folder: Path

    def part(self, name: str) -> str:
        """Where ``policy`` or ``critic`` loads from. Raises UserError where the export has no such part."""
        if not (self.folder / name / "config.json").is_file():
            raise UserError(f"the export {self.folder} has no {name}; {CRITIC_REQUIRED}")
        return str(self.folder / name)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint where it lies: only the weights are read, in ranges, by the first rank."""

    store: ObjectStore
    prefix: str

    def load(self, models: dict[str, nn.Module]) -> None:
        """Put the weights into the models, by part.

        Raises UserError when the models are of another shape, or the checkpoint has no critic and one is asked for.
        """
        where = f"the checkpoint {self.store.uri}/{self.prefix}"
        _, index = checkpoint.read_index(self.store, self.prefix)
        for part in models:
            if not any(name.startswith(f"{part}/") for name in index.tensors):
                raise UserError(f"{where} has no {part}; {CRITIC_REQUIRED}")
        try:
            checkpoint.load_weights(self.store, self.prefix, models)
        except ValueError as error:
            raise UserError(
                f"{where} is of another model than model.name: {error}. The model that the earlier run started from is "
                "required: check model.name and model.initFrom"
            ) from error


def find(uri: str, scratch: Path, secret_name: str | None = None) -> Checkpoint | Export:
    """What lies at ``uri``. An export with a URL is copied below ``scratch``; ``secret_name`` gives access to it.

    Raises UserError, saying what was found, when it is neither a complete checkpoint nor an export.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = ObjectStore(parent or ("/" if uri.startswith("/") else "."), secret_name)
    keys = store.list(f"{name}/")
    if {layout.manifest_key(name), layout.checkpoint_index_key(name)} <= set(keys):
        return Checkpoint(store, name)
    if f"{name}/policy/config.json" in keys:
        return Export(Path(local_source(uri, scratch, secret_name) if "://" in uri else uri))
    raise UserError(f"found {_contents(name, keys)} at {uri}; {REQUIRED}")


def _contents(folder: str, keys: list[str]) -> str:
    if not keys:
        return "nothing"
    below = [key.removeprefix(f"{folder}/") for key in keys]
    if layout.RUN in below:
        complete = [key.rpartition("/")[0] for key in below if key.endswith("/manifest.json")]
        # An export has a manifest for each part.
        usable = sorted({"/".join(prefix.split("/")[:2]) for prefix in complete if prefix.startswith(_USABLE)})
        return f"the folder of a whole run, which has {', '.join(usable[-_SHOWN:]) or 'no checkpoint yet'},"
    # ``checkpoint_files`` names its files so: what lies there was meant as a checkpoint.
    if any(name.endswith(".bin") and "/rank-" in name for name in below):
        return "a checkpoint that was never completed (it has no manifest.json)"
    names = sorted({name.split("/", 1)[0] for name in below})
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
