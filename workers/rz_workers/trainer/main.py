"""The trainer: vanilla PPO with a separate critic, one optimizer step of the policy per training step, strictly
on-policy.

Every rank of the gang runs this; rank 0 also speaks to the ledger and writes to storage. For step v, from the weights
of version v:

1. **Take** the step's trajectories, frozen by the ledger once the last one is complete.
2. **Values** of every response token, from the critic as it is after the update on step v-1's data.
3. **Advantages**: GAE with lambda = gamma = 1, normalised over the whole batch.
4. **Policy update**: one optimizer step on the whole batch; none where every trajectory is masked, or where
``algorithm.skipUniformSteps`` finds nothing to learn.
5. **Publish** version v+1, with the scores of a canary by which rollouts prove that they compute with it. From here on
rollouts generate step v+1.
6. **Critic update** on step v's data, behind that generation. Values of step v+1 wait for it: they are step 2 of the
next turn. (Where rollouts share the trainer's devices nothing can run behind them, and where
``trainer.overlapCritic`` is off nothing shall: there 6 comes before 5.)
7. **Commit** the step: consumed shards, metrics, resulting weights. Evaluations that have finished are written too.
8. **Checkpoint** every ``trainer.checkpoint.interval`` steps and at each milestone, policy and critic in agreement:
copied to the host here, stored behind the next step.

A gang that restarts resumes from the newest checkpoint and takes the steps since then again: their trajectories are
stored, so nothing is generated twice, and a version that comes out with the same bits is not published again.

| waits for                     | released by                | if it never comes                                       |
|-------------------------------|----------------------------|---------------------------------------------------------|
| the other ranks               | their start                | the watchdog ends the rank, retriable                   |
| all units of step v           | the step's frozen manifest | it keeps asking; the ledger names the role that blocks  |
| values: the critic of v-1     | its own work               | the watchdog                                            |
| rollouts to receive v+1       | each one's word            | ``transferSeconds``, then on without them: they load it |
| rollouts to sleep (colocated) | the ledger                 | no word for ``leaseSeconds``: dead                      |
| the last evaluation           | the ledger                 | as for units                                            |
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from pydantic import TypeAdapter
from torch import Tensor

from rz_workers.protocol.messages import Canary, Publication, ShardRef
from rz_workers.protocol.schedule import is_eval_version
from rz_workers.runtime import DrainedError, Settings, UserError, WorkerError, on_terminate
from rz_workers.status_server import start_status_server
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import DataManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import read_shards
from rz_workers.storage_reports import start_reporting
from rz_workers.trainer import startup
from rz_workers.trainer.canary import canary_tokens
from rz_workers.trainer.durable import export
from rz_workers.trainer.durable.checkpoint import Checkpoints
from rz_workers.trainer.durable.publication import Publisher
from rz_workers.trainer.durable.retention import is_checkpoint_step
from rz_workers.trainer.first_rank import FirstRankDuty
from rz_workers.trainer.method.batch import TrainBatch, collate
from rz_workers.trainer.method.finite import NonFiniteLossError
from rz_workers.trainer.method.learner import Learner, advantages_and_returns, why_no_update
from rz_workers.trainer.ranks import Ranks, join
from rz_workers.trainer.timeline import Timeline
from rz_workers.trainer.watchdog import Watchdog

log = logging.getLogger(__name__)

# What the first rank tells the others.
_TOKENS = TypeAdapter(tuple[int, ...])
_COUNT = TypeAdapter(int)
_FLAG = TypeAdapter(bool)
_FLAGS = TypeAdapter(tuple[bool, bool])
_TAKEN: TypeAdapter[tuple[tuple[ShardRef, ...] | None, bool]] = TypeAdapter(tuple[tuple[ShardRef, ...] | None, bool])
_LEFT = TypeAdapter(tuple[int, bool])


def main() -> None:
    settings = Settings.from_environment()
    stop = on_terminate(lambda: log.info("asked to stop: checkpoint at the next step boundary, then exit"))
    watchdog = Watchdog(settings.run.spec.trainer.watchdog_seconds)
    at_work: list[Trainer] = []  # empty while models load, which may take long: the port answers from the start
    start_status_server(settings, lambda: at_work[0].status() if at_work else starting(settings))
    ranks = join(settings)
    start_reporting(f"trainer-{ranks.rank}", settings)
    trainer = Trainer.start(settings, ranks, stop, watchdog)
    at_work.append(trainer)
    for step in range(trainer.next_step, trainer.total_steps):
        trainer.step(step)
    trainer.finish()


def starting(settings: Settings) -> dict[str, object]:
    """What the read-only port says before ``Trainer.status`` can."""
    return {"run": settings.run.name, "rank": settings.rank, "incarnation": settings.incarnation, "state": "starting"}


class Trainer:
    """One rank's view of the run between two steps."""

    def __init__(
        self,
        settings: Settings,
        ranks: Ranks,
        learner: Learner,
        folder: RunFolder,
        data: DataManifest,
        model_dir: Path,
        stop: threading.Event,
        watchdog: Watchdog,
        duty: FirstRankDuty | None,
        publisher: Publisher,
        canary: tuple[int, ...],
        committed: int = 0,
    ) -> None:
        """``canary``: the tokens that every version is scored on. ``committed``: steps that earlier gangs committed."""
        self.settings, self.spec, self.ranks, self.learner, self.folder = (
            settings,
            settings.run.spec,
            ranks,
            learner,
            folder,
        )
        self.total_steps = data.total_steps
        self.next_step = 0
        self.model_dir = model_dir
        self._stop, self._watchdog = stop, watchdog
        self._timeline = Timeline("trainer")
        self._checkpoint_step = 0
        self._duty, self._publisher, self._canary, self._committed = duty, publisher, canary, committed
        self._checkpoints = Checkpoints(
            folder,
            ranks,
            learner,
            settings.incarnation,
            # A resume makes no version again that is older than its checkpoint, and an evaluation may want one.
            before_manifest=publisher.finish,
            when_stored=duty.checkpointed if duty is not None else lambda step: None,
        )

    @staticmethod
    def start(settings: Settings, ranks: Ranks, stop: threading.Event, watchdog: Watchdog) -> Trainer:
        """Check the inputs, own the folder, build the models, and resume or publish version 0."""
        inputs = startup.read_inputs(settings.run, settings.scratch) if ranks.is_first else None
        if inputs is not None:
            startup.claim_folder(settings, inputs)
        ranks.barrier()
        # Behind the barrier: what follows reads the folder that the first rank claims.
        storage = settings.run.spec.storage
        folder = RunFolder.open(ObjectStore(storage.uri, storage.secret_name), settings.run)
        data = folder.data_manifest() if folder else None
        assert folder is not None, "the first rank has just claimed it"
        assert data is not None, "the first rank has just written it"
        model_dir = settings.scratch / "run-model"
        folder.fetch_folder(layout.MODEL_PREFIX, model_dir)
        learner = startup.build_learner(settings, ranks, inputs, model_dir, on_progress=watchdog.pat)
        duty = None
        if ranks.is_first:
            device_name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else None
            duty = FirstRankDuty.take_up(settings, folder, data, learner.shape, device_name, stop, on_wait=watchdog.pat)
        publisher = Publisher(
            settings,
            ranks,
            folder,
            announce=duty.ledger.announce_weights if duty else None,
            open_transfer=duty.ledger.open_transfer if duty else None,
            on_progress=watchdog.pat,
            metrics=duty.metrics if duty else None,
        )
        canary = ranks.from_first(canary_tokens(folder) if ranks.is_first else (), _TOKENS)
        committed = ranks.from_first(max(folder.steps(), default=-1) + 1 if ranks.is_first else 0, _COUNT)
        trainer = Trainer(
            settings, ranks, learner, folder, data, model_dir, stop, watchdog, duty, publisher, canary, committed
        )
        trainer.next_step = trainer._checkpoint_step = trainer._checkpoints.resume()
        # Never by broadcast: rollouts hold this version or a newer one, or load what storage has.
        trainer.publish(trainer.next_step, is_new=False)
        if duty is not None:
            duty.metrics.follow(lambda: trainer._timeline.current)
            duty.begin(trainer.next_step)
        return trainer

    # -------------------------------------------------------------------------------------------------- one step

    def step(self, step: int) -> None:
        """Steps 1 to 8 of the module's docstring."""
        with self._timeline.phase("wait"):
            shards = self.take(step)
        try:
            self.train(step, shards)
        except NonFiniteLossError as error:
            raise self.not_finite(step, shards, error) from error
        self.next_step = step + 1
        # The first rank decides for all: signals and threads are not at the same point everywhere.
        draining, settled = self.ranks.from_first((self._stop.is_set(), self._checkpoints.is_settled), _FLAGS)
        if settled:
            self._checkpoints.wait()
        if draining:
            self.end_early(f"after step {step}")
        if is_checkpoint_step(self.spec.trainer.checkpoint, step + 1, self.total_steps):
            with self._timeline.phase("checkpoint"):
                self.save_checkpoint()

    def train(self, step: int, shards: tuple[ShardRef, ...]) -> None:
        """Steps 2 to 7: values, both updates, the new version, the commit."""
        trajectories = read_shards(self.folder.store, shards)
        batch = collate(trajectories)
        skipped = why_no_update(self.spec.algorithm, batch)
        if skipped is not None:
            log.warning("step %d makes no update of the policy: %s", step, skipped)
        figures = {"policy_update_skipped": float(skipped is not None)}
        update_critic: Callable[[], dict[str, float]] = dict
        if batch.num_trajectories:
            of_policy, update_critic = self.policy_update(batch, step, is_skipped=skipped is not None)
            figures |= of_policy
        overlaps = self.spec.rollout.placement == "separate" and self.spec.trainer.overlap_critic
        if not overlaps:
            figures |= update_critic()
        # Of a step without an update too: a version is a step's outcome, here with the digest of the one before.
        with self._timeline.phase("publish"):
            published = self.publish(step + 1, is_new=step >= self._committed)
        if overlaps:
            figures |= update_critic()
        if self._duty is not None and published is not None:
            self._duty.commit(step, shards, trajectories, batch, figures, published, self._timeline)

    def policy_update(
        self, batch: TrainBatch, step: int, *, is_skipped: bool
    ) -> tuple[dict[str, float], Callable[[], dict[str, float]]]:
        """Steps 2 to 4: the step's figures so far, and the critic's update, still to be made."""
        learner = self.learner
        with self._timeline.phase("values"):
            values = learner.values(batch)
        with self._timeline.phase("policy_update"):
            ref_logprobs = learner.reference_logprobs(batch)
            advantages, returns, figures = advantages_and_returns(self.spec.algorithm, batch, values, ref_logprobs)
            if not is_skipped:
                figures |= learner.policy_update(batch, advantages, ref_logprobs)
        return figures, partial(self.critic_update, batch, returns, values, step, is_moved=not is_skipped)

    def take(self, step: int) -> tuple[ShardRef, ...]:
        """Wait for the step's trajectories. A request to stop ends the wait: this is a step boundary."""
        while True:
            shards, draining = None, self._stop.is_set()
            if self._duty is not None and not draining:
                shards, draining = self._duty.ask_for(step, self._publisher.newest)
            shards, draining = self.ranks.from_first((shards, draining), _TAKEN)
            self._watchdog.pat()
            if shards is not None and not draining:
                return shards
            if draining:
                self.end_early(f"before step {step}")

    def critic_update(
        self, batch: TrainBatch, returns: Tensor, values: Tensor, step: int, *, is_moved: bool
    ) -> dict[str, float]:
        """Also measures how far the policy moved, if it did: neither delays the new version where both run behind
        it."""
        with self._timeline.phase("measure"):
            moved = self.learner.update_kl(batch) if is_moved else {}
        with self._timeline.phase("critic_update"):
            return moved | self.learner.critic_update(batch, returns, values, step)

    def publish(self, version: int, *, is_new: bool) -> Publication | None:
        """Score the canary with the policy as it is, and hand the policy out as ``version``; None but on rank 0.

        Args:
            is_new: whether rollouts cannot hold the version yet: no gang has committed the step that made it.
        """
        canary = Canary(token_ids=self._canary, logprobs=self.learner.score(self._canary))
        weights = self._publisher.publish(
            self.learner.policy,
            version,
            canary,
            is_new=is_new,
            must_be_stored=is_eval_version(self.spec, version, self.total_steps),
        )
        return Publication(weights=weights, canary=canary) if weights is not None else None

    def save_checkpoint(self) -> None:
        """Begin the checkpoint of the state before ``next_step``, unless that is what the newest one holds (or nothing
        has happened yet)."""
        # All ranks agree on both numbers, so that all take part in a save or none does.
        if self.next_step != self._checkpoint_step:
            self._checkpoint_step = self.next_step
            self._checkpoints.save(self.next_step)

    # ---------------------------------------------------------------------------------------------------- the end

    def not_finite(self, step: int, shards: tuple[ShardRef, ...], error: NonFiniteLossError) -> WorkerError:
        """What to end with: retriable the first time, when a faulty device may be the reason; terminal when an earlier
        gang came to the same."""
        again = False
        if self._duty is not None:
            again = self._duty.failed_steps.record(step, shards, error.model, str(error))
        # All ranks wait for the first one: as soon as one ends, the others are ended, recorded or not.
        if not self.ranks.from_first(again, _FLAG):
            return WorkerError(f"step {step}: {error}. The step is tried once more")
        return UserError(
            f"step {step}: {error}. So it is for the second time on the same data, and would be each time: create "
            "another run, with a storage.uri of its own, that starts from this one's last checkpoint (model.initFrom) "
            f"with a lower algorithm.{error.model}.learningRate or trainer.dtype float32, or without the prompts of "
            f"these groups, which are in {layout.trajectories_prefix(step)}/"
        )

    def end_early(self, when: str) -> NoReturn:
        """Checkpoint and stop, as asked."""
        self.save_checkpoint()
        self._checkpoints.wait()
        if self._duty is not None:
            self._duty.end_early()
        raise DrainedError(f"stopped on request {when}, with a checkpoint")

    def finish(self) -> None:
        """Wait for the last evaluation, export both models, and tell the ledger that the run is complete."""
        self._checkpoints.wait()
        self.await_evaluations()
        self._publisher.finish()
        self.export()
        if self._duty is not None:
            self._duty.finish(self.total_steps)
        self.ranks.barrier()

    def export(self) -> None:
        """Store both models. The policy is in storage before the critic is made, and a critic that can't be made costs
        nothing else: it stays in the last checkpoint."""
        policy, critic, duty = self.learner.policy, self.learner.critic, self._duty
        local, dtype = self.settings.scratch / "export", getattr(torch, self.spec.trainer.dtype)
        state = export.gather_state(policy, keep=duty is not None)
        if duty is not None:
            export.write_policy(policy.model, state, dtype, self.model_dir, local / "policy")
            duty.store_export("policy", local, self.total_steps)
        if critic is None:
            return
        state = export.gather_state(critic, keep=duty is not None)
        if duty is None:
            return
        try:
            export.write_critic(critic.backbone, state, dtype, self.model_dir, local / "critic")
        except Exception:
            log.exception(
                "the critic is not exported; `rz export` makes it from the last checkpoint when this is mended"
            )
        else:
            duty.store_export("critic", local, self.total_steps)

    def await_evaluations(self) -> None:
        while True:
            left = self._duty.evaluations_left(self.total_steps) if self._duty is not None else 0
            left, draining = self.ranks.from_first((left, self._stop.is_set()), _LEFT)
            self._watchdog.pat()
            if left == 0:
                return
            if draining:
                raise DrainedError(
                    "stopped on request while the last evaluation was under way; every step is committed"
                )
            # Not a sleep: a request to stop ends it at once.
            self._stop.wait(0.2)

    def status(self) -> dict[str, object]:
        """For the read-only port."""
        return {
            "run": self.settings.run.name,
            "rank": self.ranks.rank,
            "incarnation": self.settings.incarnation,
            "next_step": self.next_step,
            "total_steps": self.total_steps,
            "last_checkpoint_step": self._checkpoints.step,
            "checkpoint": self._checkpoints.doing,
            "phase": self._timeline.current,
        }
