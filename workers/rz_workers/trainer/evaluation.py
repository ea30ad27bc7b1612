"""An evaluation that has a summary is whole: the shards of a version's evaluation become one Parquet file a set, and
the summary is written last.

Rollouts sample the evaluation sets in the gaps of training (DESIGN.md 3); the trainer looks at each step boundary which
evaluations the ledger has complete, and waits only at the end of the run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.protocol.client import LedgerClient
from rz_workers.protocol.messages import EvalReply, ShardRef
from rz_workers.protocol.schedule import is_eval_version
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectExistsError
from rz_workers.storage.records import EvalSummary, FileEntry, Phase
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import encode, read_shard


class Evaluations:
    """What is still to be collected."""

    def __init__(self, folder: RunFolder, ledger: LedgerClient, spec: ReasonerZeroRunSpec, total_steps: int) -> None:
        self._folder, self._ledger = folder, ledger
        done = folder.eval_summaries()
        self.pending = [
            version
            for version in range(total_steps + 1)
            if is_eval_version(spec, version, total_steps) and version not in done
        ]
        """Versions without a summary, ascending; those that are not published yet among them."""

    def unfinished(self, version: int) -> list[int]:
        """Versions up to ``version`` that still need their weights."""
        return [pending for pending in self.pending if pending <= version]

    def collect(self, version: int) -> list[EvalSummary]:
        """Write the summaries of the evaluations up to ``version`` that are complete by now; returns them."""
        summaries = []
        for candidate in self.unfinished(version):
            reply = self._ledger.eval_shards(candidate)
            if reply.shards is None:
                continue
            summaries.append(self._write(candidate, reply.shards, _phase(reply)))
            self.pending.remove(candidate)
        return summaries

    def _write(self, version: int, shards: Sequence[ShardRef], phase: Phase | None) -> EvalSummary:
        by_set: dict[str, list[Trajectory]] = {}
        for shard in shards:
            by_set.setdefault(shard.unit.eval_set or "", []).extend(read_shard(self._folder.store, shard))
        files = {}
        for name, trajectories in by_set.items():
            trajectories.sort(key=lambda t: (t.group_id, t.sample_index))
            key = layout.eval_table_key(version, name)
            with contextlib.suppress(ObjectExistsError):  # An earlier incarnation ended before the summary.
                self._folder.store.put_new(key, encode(trajectories))
            # Read back: an earlier gang's bytes may differ (another zstd), and the summary names what is there.
            stored = self._folder.store.get(key)
            files[key.rsplit("/", 1)[1]] = FileEntry(size_bytes=len(stored), sha256=hashlib.sha256(stored).hexdigest())
        # Last: a set counts once the summary names it.
        return self._folder.write_eval_summary(_summary(version, by_set, files, phase))


def _summary(
    version: int, by_set: Mapping[str, Sequence[Trajectory]], files: dict[str, FileEntry], phase: Phase | None
) -> EvalSummary:
    """Means are over what is not masked; a set of which nothing is left has none."""
    scored = {name: [t for t in rows if not t.is_masked] for name, rows in by_set.items()}
    some = {name: rows for name, rows in scored.items() if rows}
    return EvalSummary(
        version=version,
        accuracy={name: fmean(t.reward for t in rows) for name, rows in some.items()},
        response_length_mean={name: fmean(len(t.response_token_ids) for t in rows) for name, rows in some.items()},
        truncated_fraction={name: fmean(t.finish_reason == "length" for t in rows) for name, rows in some.items()},
        num_trajectories={name: len(rows) for name, rows in scored.items()},
        num_masked={name: len(rows) - len(scored[name]) for name, rows in by_set.items()},
        files=files,
        phase=phase,
    )


def _phase(reply: EvalReply) -> Phase | None:
    if reply.started is None or reply.finished is None:
        return None
    return Phase(name="evaluate", role="rollout", started=reply.started, seconds=reply.finished - reply.started)
