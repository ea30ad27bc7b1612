"""A step that no gang can take ends the run at its second try, not at its last one.

A loss that is not finite may come from a faulty device, and another try goes well; or from the model and the data, and
every try ends alike. So a gang records the step that it could not take before it ends
(``storage.records.FailedStep``), and the next one that fails at the same step, with the same model on the same data,
ends the run. Called by the first rank alone (``rz_workers.trainer.main``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from rz_workers.protocol.messages import ShardRef
from rz_workers.storage import layout
from rz_workers.storage.records import FailedStep
from rz_workers.storage.run_folder import RunFolder

log = logging.getLogger(__name__)


class FailedSteps:
    """Of the gangs before this one."""

    def __init__(self, folder: RunFolder, incarnation: int) -> None:
        self._folder, self._incarnation = folder, incarnation
        self._earlier = tuple(one for one in folder.failed_steps() if one.incarnation < incarnation)

    def record(self, step: int, shards: Sequence[ShardRef], model: str, complaint: str) -> bool:
        """Record that ``model``'s update on ``shards`` is not finite; whether it was so in an earlier gang."""
        self._folder.check_newest(self._incarnation)
        data = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
        if any((one.step, one.model, one.data) == (step, model, data) for one in self._earlier):
            return True
        self._folder.write_failed_step(
            FailedStep(step=step, incarnation=self._incarnation, model=model, data=data, complaint=complaint)
        )
        return False

    def committed(self, step: int) -> None:
        """The step was taken after all: what failed before was no fault of the data, and counts no more."""
        gone = [one for one in self._earlier if one.step == step]
        if gone:
            log.info("step %d failed in an earlier gang (%s) and was taken in this one", step, gone[0].complaint)
            self._folder.store.delete([layout.failed_step_key(one.step, one.incarnation) for one in gone])
            self._earlier = tuple(one for one in self._earlier if one.step != step)
