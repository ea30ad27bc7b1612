"""A checkpoint that counts is whole, and policy and critic in it agree: both and their optimizers, in object storage,
manifest last.

``checkpoints/step-000055-i1`` holds the state after 55 policy updates *and* the critic's updates on the data of step
54, so that policy and critic agree; training goes on with step 55. Nothing random needs saving: every seed follows
from (seed, step). Nothing but tensors is saved: the optimizers' other values follow from the spec and the step.

``Checkpoints.save`` copies the state to the host; a thread writes the copy while the next step runs
(``checkpoint_files`` has the format, ``checkpoint_ranks`` who does what). What ranks have to tell each other for that
goes over a process group of its own, because two threads must not use one group.

Called by ``rz_workers.trainer.main``, by ``initial`` (``model.initFrom``) and by ``export``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from rz_workers.storage import layout
from rz_workers.storage.objects import CorruptObjectError, ObjectStore, data_entry
from rz_workers.storage.records import CheckpointIndex, CheckpointManifest
from rz_workers.storage.run_folder import RunFolder, check_entry
from rz_workers.trainer.durable import checkpoint_ranks
from rz_workers.trainer.durable.checkpoint_files import ObjectReader, ObjectWriter
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.models import loading
from rz_workers.trainer.models.actor_critic import distinct_tensors
from rz_workers.trainer.ranks import Ranks, local

__all__ = ["Checkpoints", "load_weights", "newest", "read_index", "stored"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_PREFIX: TypeAdapter[str | None] = TypeAdapter(str | None)
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


# ------------------------------------------------------------------------------------------------------ what is stored


def stored(folder: RunFolder) -> dict[layout.Numbered, str]:
    """The complete checkpoints: (step, incarnation) -> prefix. One whose manifest names files that are gone is none: a
    gang that was overtaken may write a manifest when the newer gang has cleared its files away."""
    # One listing: a request for each file of each rank would be thousands.
    keys = set(folder.store.list(layout.CHECKPOINTS))
    complete = {}
    for place in {place for key in keys if (place := layout.parse_checkpoint(key)) is not None}:
        prefix = layout.checkpoint_prefix(*place)
        if layout.manifest_key(prefix) not in keys:
            continue
        manifest = folder.document(layout.manifest_key(prefix), CheckpointManifest)
        if manifest is None:  # deleted since the listing
            continue
        needed = {layout.checkpoint_index_key(prefix), *(f"{prefix}/{file}" for file in manifest.files)}
        if needed <= keys:
            complete[place] = prefix
        else:
            log.warning("%s does not count: %d of its files are missing", prefix, len(needed - keys))
    return complete


def newest(folder: RunFolder) -> str | None:
    """Prefix of the newest complete checkpoint (highest step, then highest incarnation); None without one."""
    complete = stored(folder)
    return complete[max(complete)] if complete else None


def read_index(store: ObjectStore, prefix: str) -> tuple[CheckpointManifest, CheckpointIndex]:
    """What a checkpoint is made of.

    Raises ObjectMissingError when there is no manifest, CorruptObjectError when it or the index is not what was
    written.
    """
    where = f"{store.uri}: {layout.checkpoint_index_key(prefix)}"
    try:
        manifest = CheckpointManifest.model_validate_json(store.get(layout.manifest_key(prefix)))
        data = store.get(layout.checkpoint_index_key(prefix))
        check_entry(where, data_entry(data), manifest.index)
        return manifest, CheckpointIndex.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObjectError(f"{store.uri}: {prefix} is no checkpoint of this version: {error}") from error


def load_weights(store: ObjectStore, prefix: str, models: Mapping[str, nn.Module]) -> None:
    """Put a checkpoint's weights into whole models on this process, by part (``policy``, ``critic``).

    Raises ValueError when the models are others than those of the checkpoint, with the names of the tensors that
    differ, StorageError when a file is missing or damaged.
    """
    _, index = read_index(store, prefix)
    state = {name: tensor for part, module in models.items() for name, tensor in _weights(part, module).items()}
    shapes = {name: each.shape for name, each in index.tensors.items() if name.startswith(tuple(map(_place, models)))}
    pairs = [(name, shapes[name], tuple(state[name].shape)) for name in shapes.keys() & state.keys()]
    faults = loading.tensor_faults(
        missing=state.keys() - shapes.keys(),
        unexpected=shapes.keys() - state.keys(),
        reshaped=[pair for pair in pairs if pair[1] != pair[2]],
    )
    if faults:
        raise ValueError(f"of the checkpoint's tensors are {faults}")
    checkpoint_ranks.load(state, ObjectReader(store, prefix, index), None)


# --------------------------------------------------------------------------------------------------- save and resume


@dataclass(frozen=True)
class _Taken:
    """What was copied at a step boundary, besides the tensors."""

    step: int
    policy_steps: int
    critic_steps: int


class Checkpoints:
    """One rank's checkpoints; every rank of the gang has one and calls the same methods in the same order."""

    def __init__(
        self,
        folder: RunFolder,
        ranks: Ranks,
        learner: Learner,
        incarnation: int,
        *,
        before_manifest: Callable[[], None] = lambda: None,
        when_stored: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Both calls are made on the first rank, in the thread that writes: ``before_manifest`` when the data are
        there, ``when_stored`` with the step once the checkpoint counts."""
        self._folder, self._ranks, self._learner, self._incarnation = folder, ranks, learner, incarnation
        self._before_manifest, self._when_stored = before_manifest, when_stored
        limit = timedelta(seconds=learner.spec.trainer.watchdog_seconds)
        # On all ranks at the same place: making a group is a collective.
        several = ranks.world_size > 1
        group = dist.new_group(backend="gloo", timeout=limit) if several else None
        self._messages = ranks.messages("checkpoint", group) if several else None
        # One thread: checkpoints are written in order, and the copy belongs to one at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None
        self._copy: dict[str, Tensor] = {}
        self.step = 0
        """Of the newest checkpoint that counts; 0 where there is none."""
        self.doing: str | None = None
        """What the thread does: ``data``, ``manifest`` (first rank), ``retention`` (first rank), or nothing."""

    def resume(self) -> int:
        """Load the newest checkpoint; returns the step that training goes on with, 0 where there is none.

        Raises StorageError, on every rank, when a file is missing or damaged.
        """
        # One rank looks: two listings could differ, and all ranks must load the same state.
        found = self._together(lambda: newest(self._folder) if self._ranks.is_first else None)
        prefix = self._ranks.from_first(found, _PREFIX)
        if prefix is None:
            return 0
        manifest, index = self._together(lambda: read_index(self._folder.store, prefix))
        # Moments that are not there yet torch makes by a step at rate 0; what is read takes their place.
        state = _state(self._learner)
        checkpoint_ranks.load(state, ObjectReader(self._folder.store, prefix, index), self._messages)
        _put_back(self._learner, state)
        self._learner.policy_steps, self._learner.critic_steps = manifest.policy_steps, manifest.critic_steps
        self.step = manifest.step
        log.info("resumed from %s, written by %d rank(s)", prefix, manifest.world_size)
        return manifest.step

    def _together(self, work: Callable[[], T]) -> T:
        return checkpoint_ranks.together(self._messages, work)

    def save(self, step: int) -> None:
        """Copy the state before ``step``, and begin to store it. Waits for the checkpoint before; raises as ``wait``
        does."""
        # The thread reads the copy that is about to be overwritten.
        self.wait()
        taken = _Taken(step, self._learner.policy_steps, self._learner.critic_steps)
        for name, tensor in _state(self._learner).items():
            # The same host memory every time: `rz plan` counts one copy (``rz_api.estimate.host_memory``).
            if name in self._copy:
                local(self._copy[name]).copy_(local(tensor))
            else:
                self._copy[name] = tensor.to("cpu", copy=True)
        self._job = self._thread.submit(self._store, taken)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way: ``wait`` would return, or raise, at once."""
        return self._job is None or self._job.done()

    def wait(self) -> None:
        """Until what ``save`` began is stored. Raises what went wrong with it, on every rank: SupersededError when a
        newer gang is at work, StorageError when storage failed."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def _store(self, taken: _Taken) -> None:
        started = time.monotonic()
        prefix = layout.checkpoint_prefix(taken.step, self._incarnation)

        def finish(index: CheckpointIndex, files: dict[str, int]) -> None:
            self._finish(taken, prefix, index, files)

        self.doing = "data"
        try:
            writer = ObjectWriter(self._folder.store, prefix, self._ranks.rank)
            checkpoint_ranks.save(self._copy, writer, self._messages, finish)
            self.step = taken.step
            if self._ranks.is_first:
                log.info("stored %s in %.1f s", prefix, time.monotonic() - started)
                self.doing = "retention"
                self._when_stored(taken.step)
        finally:
            self.doing = None

    def _finish(self, taken: _Taken, prefix: str, index: CheckpointIndex, files: dict[str, int]) -> None:
        """On the first rank, when every rank has written: index, then manifest."""
        self.doing = "manifest"
        store, data = self._folder.store, index.model_dump_json().encode()
        store.put(layout.checkpoint_index_key(prefix), data)
        # Index before manifest: a checkpoint counts from its manifest on.
        self._before_manifest()
        # As late as can be: writing took minutes, in which a newer gang may have come.
        self._folder.check_newest(self._incarnation)
        manifest = CheckpointManifest(
            step=taken.step,
            incarnation=self._incarnation,
            world_size=self._ranks.world_size,
            policy_steps=taken.policy_steps,
            critic_steps=taken.critic_steps,
            files=files,
            index=data_entry(data),
        )
        store.put_new(layout.manifest_key(prefix), manifest.model_dump_json(indent=1).encode())


# ------------------------------------------------------------------------------------------------------- the tensors


def _parts(learner: Learner) -> list[tuple[str, nn.Module, optim.Optimizer]]:
    parts: list[tuple[str, nn.Module, optim.Optimizer]] = [("policy", learner.policy, learner.policy_optimizer)]
    if learner.critic is not None and learner.critic_optimizer is not None:
        parts.append(("critic", learner.critic, learner.critic_optimizer))
    return parts


def _state(learner: Learner) -> dict[str, Tensor]:
    """The learner's tensors, not copied: ``policy/weights/NAME``, ``policy/optimizer/state.NAME.exp_avg``, …"""
    state: dict[str, Tensor] = {}
    for part, module, optimizer in _parts(learner):
        state |= _weights(part, module)
        moments = _moments(module, optimizer)
        state |= {f"{part}/optimizer/{name}": value for name, value in moments.items() if isinstance(value, Tensor)}
    return state


def _weights(part: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{_place(part)}{name}": tensor for name, tensor in distinct_tensors(module).items()}


def _place(part: str) -> str:
    return f"{part}/weights/"


def _moments(module: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any]:
    """What an optimizer holds, by name."""
    if not optimizer.state:
        get_optimizer_state_dict(module, optimizer, options=_FLAT)
        # Torch has made the moments by a step at rate 0 and counted that step: the first real one (none is made while
        # every step is skipped) would be corrected for bias as the second.
        for of_parameter in optimizer.state.values():
            of_parameter["step"].zero_()
    moments: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=_FLAT)
    return moments


def _put_back(learner: Learner, state: Mapping[str, Tensor]) -> None:
    """Hand the optimizers what was read; the weights were read in place."""
    for part, module, optimizer in _parts(learner):
        start = f"{part}/optimizer/"
        read = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
        # Rates, betas and the like are not stored: they follow from the spec.
        set_optimizer_state_dict(module, optimizer, _moments(module, optimizer) | read, options=_FLAT)
