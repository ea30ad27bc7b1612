"""A procedural task is won by what its own scorer says, not by a text that equals one of its answers.

The verifier ``reasoning-gym``: the source's URI is its name, the item travels in the record's fields. Called in
verifier children; the task is made once, in the fork server.
"""

from __future__ import annotations

from rz_workers.data.procedural import dataset_of, score, task_name
from rz_workers.reward.interface import Example, Judgement, Verifier

RULE = "task"


def task_scorer(uri: str) -> Verifier:
    """Raises UserError where the package or the task is not there."""
    dataset, _ = dataset_of(uri)
    task = task_name(uri)

    def verifier(example: Example) -> Judgement:
        return Judgement(score(dataset, task, example.answer, dict(example.fields)), RULE)

    return verifier
