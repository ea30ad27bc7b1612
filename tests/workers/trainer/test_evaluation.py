"""What the summary of an evaluation says of trajectories without a reward."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rz_workers.protocol.messages import EvalReply
from rz_workers.protocol.schedule import eval_units
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import write_shard
from rz_workers.trainer.evaluation import Evaluations


@pytest.mark.parametrize(
    ("masked", "accuracy", "scored"),
    [(set(), 0.5, 4), ({1, 3}, 0.0, 2), ({0, 1, 2, 3}, None, 0)],
    ids=["none is masked", "half are masked", "all are masked"],
)
def test_masked_trajectories_are_in_no_mean_and_the_denominator_says_so(
    make_run, make_trajectories, tmp_path, masked, accuracy, scored
):
    run = make_run(data={"eval": [{"uri": "held.jsonl", "name": "held"}]}, evaluation={"interval": 4, "samples": 4})
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), run)
    [unit] = eval_units(run.spec, 0, "held", 1)
    rows = make_trajectories(groups=1, samples=4)  # rewards 0 1 0 1
    rows = [replace(row, reward_status="crashed") if i in masked else row for i, row in enumerate(rows)]
    shard = write_shard(folder.store, unit, 1, rows, 0)

    class Ledger:
        def eval_shards(self, version):
            return EvalReply(shards=(shard,), units_done=1, units_total=1)

    [summary] = Evaluations(folder, Ledger(), run.spec, 4).collect(0)
    assert summary.accuracy == ({} if accuracy is None else {"held": accuracy})
    assert summary.response_length_mean.keys() == summary.truncated_fraction.keys() == summary.accuracy.keys()
    assert (summary.num_trajectories, summary.num_masked) == ({"held": scored}, {"held": len(masked)})
