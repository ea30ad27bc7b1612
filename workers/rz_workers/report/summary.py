"""``summary.json``: the run in a few numbers, for scripts and for the project's own acceptance tests. Pure.

Called by ``main`` after the folder is read, and by ``html`` for the table of facts.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from rz_workers.report.record import RunRecord
from rz_workers.report.series import critic_hidden_fraction, evaluation


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SetSummary(_Model):
    """One evaluation set. In the file each field is prefixed by the set's name, ``-`` written as ``_``: the set
    ``math-500`` gives ``math_500_accuracy_first``. All are null until the set has been evaluated."""

    accuracy_first: float | None = None
    """Mean reward over problems and samples of the earliest evaluation (the base model's)."""
    accuracy_last: float | None = None
    """The same of the newest evaluation; of the final policy when the run is complete."""
    response_length_first: float | None = None
    """Mean response length of the earliest evaluation, tokens."""
    response_length_last: float | None = None
    """Mean response length of the newest evaluation, tokens."""


class Summary(_Model):
    """What ``summary.json`` holds; ``flat`` gives the file's content, with the sets' fields beside the others."""

    run: str
    """Name of the run."""
    complete: bool
    """Whether every step is committed and, where there are evaluation sets, the last version is evaluated."""
    seed: int
    """``algorithm.seed``."""
    steps: int
    """Committed training steps, which is the number of policy updates and the last weight version."""
    total_steps: int | None
    """Steps that the run is to have; null while its data are not prepared."""
    evaluations: dict[str, SetSummary]
    """Set -> its figures."""
    response_length_first: float | None
    """Mean length of the training responses of the first step, tokens."""
    response_length_last: float | None
    """Mean length of the training responses of the last committed step, tokens."""
    reward_first: float | None
    """Mean reward of the training responses of the first step."""
    reward_last: float | None
    """Mean reward of the training responses of the last committed step."""
    wall_seconds: float
    """From the start of the first timed phase (usually the first lease) to the end of the last one, seconds. Nothing is
    taken out: evaluations, restarts and time in which the run was stopped count. What comes before it does not count
    (installation, making a demo's base model, start-up), nor what comes after the last step's last phase (its
    checkpoint, the last evaluation, the export)."""
    generated_tokens: int
    """Response tokens of the consumed training trajectories and of all evaluations."""
    evaluation_tokens: int
    """The evaluations' part of ``generated_tokens`` (mean length times trajectories, rounded)."""
    trajectories_consumed: int
    """Training trajectories that some committed step was trained on."""
    trajectories_unused: int
    """Stored training trajectories of committed steps that were not trained on: later attempts of a unit that was
    handed out again. 0 in a run in which nothing was sampled twice."""
    restarts: int
    """Trainer incarnations after the first."""
    steps_replayed: int
    """Committed steps that a later incarnation computed again from their stored trajectories."""
    replay_seconds: float
    """What that took, seconds."""
    trajectories_reused: int
    """Training trajectories that a later incarnation took from storage, of replayed steps and of the one that was being
    trained on."""
    tokens_reused: int
    """Their response tokens: generation that replay saved."""
    generation_seconds_saved: float
    """How long they were sampled for the first time, seconds: wall time that replay saved."""
    replays_equal: bool | None
    """Whether every replayed step ended in the same weights, to the bit; null where none was replayed."""
    critic_hidden_fraction: float | None
    """Share of the critic's updates that ran while the next step was generated, the last step's left out; null without
    a critic, and with fewer than two steps."""
    weights_sha256: str
    """Digest of the last published weight version: over names, dtypes, shapes and bytes of all tensors. Equal for two
    runs means equal to the bit."""

    def flat(self) -> dict[str, Any]:
        """The fields as ``summary.json`` has them: ``evaluations`` spread out as ``<set>_<field>``."""
        content = self.model_dump(exclude={"evaluations"})
        for name, figures in self.evaluations.items():
            content |= {f"{name.replace('-', '_')}_{field}": value for field, value in figures.model_dump().items()}
        return content


def summarize(record: RunRecord) -> Summary:
    """Compute the summary of a run that has at least one committed step."""
    first, last = record.commits[0], record.commits[-1]
    shards = [shard for commit in record.commits for shard in commit.shards]
    evaluation_tokens = sum(
        round(length * evaluated.num_trajectories[name])
        for evaluated in record.evaluations
        for name, length in evaluated.response_length_mean.items()
    )
    phases = [phase for _, phase in record.phases()]
    replayed = [recovery for recovery in record.recoveries if recovery.replayed_steps]
    wall = max(p.started + p.seconds for p in phases) - min(p.started for p in phases) if phases else 0.0
    return Summary(
        run=record.run.name,
        complete=record.complete,
        seed=record.run.spec.algorithm.seed,
        steps=len(record.commits),
        total_steps=record.total_steps,
        evaluations={name: _of_set(record, name) for name in record.eval_sets},
        response_length_first=first.metrics.get("response_length_mean"),
        response_length_last=last.metrics.get("response_length_mean"),
        reward_first=first.metrics.get("reward_mean"),
        reward_last=last.metrics.get("reward_mean"),
        wall_seconds=round(wall, 3),
        generated_tokens=sum(shard.stats.response_tokens for shard in shards) + evaluation_tokens,
        evaluation_tokens=evaluation_tokens,
        trajectories_consumed=sum(shard.rows for shard in shards),
        trajectories_unused=sum(shard.rows for shard in record.unused),
        restarts=max(0, record.incarnations - 1),
        steps_replayed=sum(recovery.replayed_steps for recovery in replayed),
        replay_seconds=round(sum(recovery.replay_seconds for recovery in replayed), 3),
        trajectories_reused=sum(recovery.trajectories_reused for recovery in record.recoveries),
        tokens_reused=sum(recovery.tokens_reused for recovery in record.recoveries),
        generation_seconds_saved=round(sum(r.generation_seconds_saved for r in record.recoveries), 3),
        replays_equal=all(recovery.weights_equal for recovery in replayed) if replayed else None,
        critic_hidden_fraction=critic_hidden_fraction(record.commits),
        weights_sha256=last.weights.digest,
    )


def _of_set(record: RunRecord, name: str) -> SetSummary:
    accuracy = evaluation(record.evaluations, "accuracy", name).y
    length = evaluation(record.evaluations, "response_length_mean", name).y
    if not accuracy or not length:
        return SetSummary()
    return SetSummary(
        accuracy_first=accuracy[0],
        accuracy_last=accuracy[-1],
        response_length_first=length[0],
        response_length_last=length[-1],
    )
