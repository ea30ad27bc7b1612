"""Nothing is decided by the record of a recovery: what a gang that took over made of the steps that were there.

The first rank's duty (``rz_workers.trainer.first_rank``) calls it: ``Replay.begin`` when the state is loaded, ``seen``
after each commit, ``end`` before the gang ends. The record (``storage.records.Recovery``) says what was replayed and
reused, and whether it came out equal; it is for people and the report.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from rz_workers.storage.records import Recovery, StepCommit, StepManifest
from rz_workers.storage.run_folder import RunFolder

log = logging.getLogger(__name__)


class Replay:
    """The steps of one gang, held against those that earlier gangs committed."""

    def __init__(
        self,
        folder: RunFolder,
        incarnation: int,
        world_size: int,
        resumed_step: int,
        earlier: Mapping[int, StepCommit],
        frozen: Sequence[StepManifest],
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._incarnation, self._world_size = folder, incarnation, world_size
        self._resumed_step, self._earlier, self._frozen = resumed_step, earlier, frozen
        self._clock, self._began = clock, clock()
        self._caught_up: float | None = None
        self._pairs: list[tuple[StepCommit, StepCommit]] = []
        self._is_written = incarnation == 1  # the first gang has nothing to recover

    @staticmethod
    def begin(
        folder: RunFolder,
        incarnation: int,
        world_size: int,
        resumed_step: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> Replay:
        """Look at what is there before the gang takes its first step. ``clock`` gives seconds."""
        earlier = {step: commit for step, commit in folder.steps().items() if step >= resumed_step}
        frozen: list[StepManifest] = []
        while manifest := folder.step_manifest(resumed_step + len(frozen)):
            frozen.append(manifest)
        return Replay(folder, incarnation, world_size, resumed_step, earlier, frozen, clock)

    def seen(self, commit: StepCommit) -> None:
        """The gang committed a step: a replayed one, or the first new one, with which the recovery is over."""
        if commit.step in self._earlier:
            self._pairs.append((self._earlier[commit.step], commit))
            if len(self._pairs) == len(self._earlier):
                self._caught_up = self._clock()
        else:
            self.end()

    def end(self) -> None:
        """Write the record, once: there will be no further replayed step."""
        if self._is_written:
            return
        self._is_written = True
        units = [shard for manifest in self._frozen for shard in manifest.shards]
        recovery = Recovery(
            incarnation=self._incarnation,
            resumed_step=self._resumed_step,
            replayed_steps=len(self._pairs),
            trajectories_reused=sum(shard.rows for shard in units),
            tokens_reused=sum(shard.stats.response_tokens for shard in units),
            generation_seconds_saved=math.fsum(
                max(0.0, manifest.generation_finished - manifest.generation_started) for manifest in self._frozen
            ),
            replay_seconds=(self._caught_up or self._clock()) - self._began if self._earlier else 0.0,
            world_size=self._world_size,
            # True without a pair: nothing was replayed, so nothing differs.
            weights_equal=all(old.weights.digest == new.weights.digest for old, new in self._pairs),
            canary_difference_max=largest_difference(
                (old.canary_logprobs, new.canary_logprobs) for old, new in self._pairs
            ),
        )
        self._folder.write_recovery(recovery)
        log.info(
            "recovered from step %d: %d step(s) replayed in %.1f s, %d trajectories reused, weights %s",
            recovery.resumed_step,
            recovery.replayed_steps,
            recovery.replay_seconds,
            recovery.trajectories_reused,
            "equal to the bit" if recovery.weights_equal else f"differ by {recovery.canary_difference_max} (canary)",
        )


def largest_difference(pairs: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Over pairs of scores of the same tokens; None where no pair can be compared.

    Example: ``[((-1.0, -2.0), (-1.0, -2.5))]`` gives 0.5.
    """
    comparable = [(old, new) for old, new in pairs if old and len(old) == len(new)]
    return max((abs(a - b) for old, new in comparable for a, b in zip(old, new, strict=True)), default=None)
