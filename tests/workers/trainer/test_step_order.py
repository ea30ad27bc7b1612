"""The order of a step: the critic trains behind the generation of the next step, and values wait for it."""

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gang import spoil

from rz_api import exit_codes
from rz_workers.protocol.messages import ShardRef, WeightsInfo
from rz_workers.protocol.schedule import train_units
from rz_workers.runtime import DrainedError, Settings, UserError, WorkerError
from rz_workers.storage.objects import ObjectStore, StorageError
from rz_workers.storage.records import DataManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import write_shard
from rz_workers.trainer.durable.failed_steps import FailedSteps
from rz_workers.trainer.main import Trainer
from rz_workers.trainer.method import ppo
from rz_workers.trainer.method.finite import NonFiniteLossError
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.ranks import Ranks
from rz_workers.trainer.watchdog import Watchdog


class RecordingLearner(Learner):
    """A real learner that also notes what it does and with which critic."""

    def __init__(self, events, *arguments):
        super().__init__(*arguments)
        self.events = events

    def values(self, batch):
        step = int(batch.weight_versions[0])
        self.events.append(("values", step, f"critic after {self.critic_steps} updates"))
        return super().values(batch)

    def policy_update(self, batch, advantages, ref_logprobs):
        self.events.append(("policy update", int(batch.weight_versions[0])))
        return super().policy_update(batch, advantages, ref_logprobs)

    def critic_update(self, batch, returns, old_values, step):
        self.events.append(("critic update", step))
        return super().critic_update(batch, returns, old_values, step)


class FakeDuty:
    """The first rank's duty without ledger."""

    def __init__(self, events, shards_of):
        self.events, self.shards_of = events, shards_of
        self.checkpoints, self.ended = [], 0
        self.failed_steps = None
        self.may_store = threading.Event()
        self.may_store.set()

    def ask_for(self, step, newest):
        return self.shards_of[step], False

    def commit(self, step, *rest):
        self.events.append(("commit", step))

    def checkpointed(self, step):
        """In the thread that wrote the checkpoint."""
        assert self.may_store.wait(60)
        self.checkpoints.append(step)

    def end_early(self):
        self.ended += 1

    def evaluations_left(self, version):
        return 0

    def store_export(self, part, local, total_steps):
        files = sorted(path.name for path in (local / part).iterdir())
        self.events.append(("stored", part, "model.safetensors" in files, (local / "critic").exists()))

    def finish(self, total_steps):
        self.events.append(("finished", total_steps))


class FakePublisher:
    """``publish`` is where generation of the next step starts."""

    newest = None

    def __init__(self, events):
        self.events, self.canaries = events, []

    def publish(self, policy, version, canary, *, is_new, must_be_stored):
        self.events.append(("publish", version))
        self.canaries.append(canary)
        return WeightsInfo(version=version, digest="d", incarnation=1, prefix="weights/x")

    def finish(self):
        pass


@pytest.fixture
def trainer(make_trainer):
    return make_trainer()


@pytest.fixture
def make_trainer(make_run, make_models, make_trajectories, tmp_path: Path, scratch: Path):
    def make(*, overlap_critic=True, algorithm=None, changed=lambda row: row, **rollout):
        """``changed`` makes another row of each trajectory."""
        trainer = {"checkpoint": {"interval": 2}, "overlapCritic": overlap_critic}
        run = make_run(rollout={"samplesPerLease": 2} | rollout, trainer=trainer, algorithm=algorithm or {})

        def rows_of(step):
            return [changed(row) for row in make_trajectories(step=step, seed=step)]

        return _trainer(run, make_models, rows_of, tmp_path, scratch)

    return make


def _trainer(run, make_models, rows_of, tmp_path: Path, scratch: Path):
    store = ObjectStore(str(tmp_path / "run"))
    folder = RunFolder.claim(store, run)
    folder.claim_incarnation(1)
    shards_of: dict[int, tuple[ShardRef, ...]] = {}
    for step in range(4):
        rows = rows_of(step)
        shards_of[step] = tuple(
            write_shard(store, unit, 1, [row for row in rows if row.group_id in unit.group_ids], step)
            for unit in train_units(run.spec, 2, step)
        )
    settings = Settings.from_environment(
        {"RZ_RUN_FILE": _run_file(tmp_path, run), "RZ_SCRATCH": str(scratch), "RZ_INCARNATION": "1"}
    )
    events: list[tuple] = []
    ranks = Ranks(0, 1, torch.device("cpu"), None)
    learner = RecordingLearner(events, run.spec, ranks, *make_models(), None)
    data = DataManifest(fingerprint="f", num_prompts=2, eval_sets={}, total_steps=4, files={})
    trainer = Trainer(
        settings,
        ranks,
        learner,
        folder,
        data,
        tmp_path,
        threading.Event(),
        Watchdog(1000.0),
        FakeDuty(events, shards_of),
        FakePublisher(events),
        canary=(1, 2, 3, 4),
    )
    trainer._duty.failed_steps = FailedSteps(folder, 1)
    return trainer, events


def _run_file(folder: Path, run) -> str:
    path = folder / "run-file.json"
    path.write_text(run.model_dump_json(by_alias=True))
    return str(path)


def test_a_step_publishes_before_the_critic_trains_and_values_wait_for_the_critic(trainer):
    trainer, events = trainer
    for step in range(3):
        trainer.step(step)
    assert events == [
        ("values", 0, "critic after 0 updates"),
        ("policy update", 0),
        ("publish", 1),
        ("critic update", 0),
        ("commit", 0),
        ("values", 1, "critic after 3 updates"),
        ("policy update", 1),
        ("publish", 2),
        ("critic update", 1),
        ("commit", 1),
        ("values", 2, "critic after 6 updates"),
        ("policy update", 2),
        ("publish", 3),
        ("critic update", 2),
        ("commit", 2),
    ]


@pytest.mark.parametrize(
    "fields", [{"placement": "colocated"}, {"overlap_critic": False}], ids=["devices are shared", "overlap is off"]
)
def test_where_nothing_runs_behind_generation_the_critic_trains_before_a_version_goes_out(make_trainer, fields):
    trainer, events = make_trainer(**fields)
    for step in range(2):
        trainer.step(step)
    assert [event for event in events if event[0] in ("critic update", "publish")] == [
        ("critic update", 0),
        ("publish", 1),
        ("critic update", 1),
        ("publish", 2),
    ]


@pytest.mark.parametrize(
    ("step_0", "trains_critic"),
    [({"reward_status": "crashed"}, False), ({"reward": 0.0}, True)],
    ids=["every trajectory is masked", "all rewards are equal"],
)
@pytest.mark.parametrize("overlap_critic", [True, False])
def test_a_step_without_an_update_publishes_the_same_weights_and_the_next_one_goes_on(
    make_trainer, caplog, step_0, trains_critic, overlap_critic
):
    trainer, events = make_trainer(
        overlap_critic=overlap_critic,
        algorithm={"skipUniformSteps": True, "policy": {"warmupSteps": 4, "learningRate": 1e-3}},
        changed=lambda row: replace(row, **step_0) if row.step == 0 else row,
    )
    committed = []
    trainer._duty.commit = lambda step, shards, rows, batch, figures, *rest: committed.append(figures)
    before = [parameter.clone() for parameter in trainer.learner.policy.parameters()]
    trainer.step(0)
    assert [event for event in events if event[0] in ("policy update", "publish")] == [("publish", 1)]
    assert (("critic update", 0) in events) == trains_critic
    assert all(map(torch.equal, before, trainer.learner.policy.parameters()))
    assert "step 0 makes no update of the policy" in caplog.text
    [figures] = committed
    assert figures["policy_update_skipped"] == 1.0
    assert not {"policy_loss", "policy_update_kl", "policy_learning_rate"} & figures.keys()
    assert ("critic_loss" in figures) == trains_critic
    assert all(map(math.isfinite, figures.values()))
    trainer.step(1)
    assert (trainer.learner.policy_steps, committed[1]["policy_update_skipped"]) == (1, 0.0)
    assert committed[1]["policy_learning_rate"] == pytest.approx(1e-3 / 4), "the first of its warm-up"


@pytest.mark.parametrize("overlap_critic", [True, False])
def test_the_way_that_an_update_moved_the_policy_is_measured(make_trainer, overlap_critic):
    trainer, _ = make_trainer(overlap_critic=overlap_critic)
    measured = {}
    trainer._duty.commit = lambda step, shards, trajectories, batch, figures, *rest: measured.update(figures)
    trainer.step(0)
    assert 0 < measured["policy_update_kl"] < 0.1
    assert 0.9 < measured["weights_changed_fraction"] <= 1
    assert measured["critic_loss_after"] < measured["critic_loss_before"]


def test_a_version_goes_out_with_the_scores_of_its_own_weights(trainer):
    trainer, _ = trainer
    trainer.step(0)
    [canary] = trainer._publisher.canaries
    assert canary.token_ids == (1, 2, 3, 4)
    assert canary.logprobs == trainer.learner.score((1, 2, 3, 4))
    assert len(canary.logprobs) == 3
    trainer.step(1)
    assert trainer._publisher.canaries[1].logprobs != canary.logprobs


def test_a_request_to_stop_while_waiting_checkpoints_and_ends(trainer):
    trainer, _ = trainer
    trainer.step(0)
    trainer._stop.set()
    with pytest.raises(DrainedError, match="before step 1"):
        trainer.step(1)
    assert (trainer._duty.checkpoints, trainer._duty.ended) == ([1], 1)


def test_a_request_to_stop_in_mid_step_finishes_the_step_first(trainer):
    trainer, events = trainer
    ask = trainer._duty.ask_for
    trainer._duty.ask_for = lambda *asked: (ask(*asked), trainer._stop.set())[0]
    with pytest.raises(DrainedError, match="after step 0"):
        trainer.step(0)
    assert events[-1] == ("commit", 0)
    assert (trainer._duty.checkpoints, trainer._duty.ended) == ([1], 1)


def test_a_checkpoint_is_stored_behind_the_next_step(trainer):
    trainer, events = trainer
    trainer._duty.may_store.clear()
    for step in range(3):
        trainer.step(step)
    assert events[-1] == ("commit", 2)
    assert trainer._duty.checkpoints == []
    trainer._duty.may_store.set()
    trainer.step(3)  # ends in a checkpoint, which waits for the one before
    trainer._checkpoints.wait()
    assert trainer._duty.checkpoints == [2, 4]


def test_what_goes_wrong_with_a_checkpoint_ends_the_gang_at_a_step_boundary(trainer):
    trainer, events = trainer

    def fail(step):
        raise StorageError("the bucket is gone")

    trainer._checkpoints._when_stored = fail
    trainer.step(0)
    trainer.step(1)
    while not trainer._checkpoints.is_settled:
        time.sleep(0.01)
    with pytest.raises(StorageError, match="the bucket is gone"):
        trainer.step(2)
    assert events[-1] == ("commit", 2)


def test_the_policy_is_stored_before_the_critic_is_made(trainer):
    trainer, events = trainer
    trainer.finish()
    assert events == [
        ("stored", "policy", True, False),
        ("stored", "critic", True, True),
        ("finished", 4),
    ]


def test_a_critic_that_cannot_be_exported_costs_nothing_else(trainer, caplog):
    trainer, events = trainer
    trainer.learner.critic.backbone.config = None
    trainer.finish()
    assert events == [("stored", "policy", True, False), ("finished", 4)]
    assert "the critic is not exported" in caplog.text


@pytest.mark.parametrize(("model", "function"), [("policy", "policy_loss"), ("critic", "value_loss")])
def test_a_loss_that_is_not_finite_is_tried_once_more_and_then_ends_the_run(
    make_trainer, monkeypatch, tmp_path: Path, model, function
):
    trainer, events = make_trainer()
    trainer.step(0)
    with monkeypatch.context() as patched:
        patched.setattr(ppo, function, spoil(getattr(ppo, function)))
        with pytest.raises(WorkerError, match=rf"^step 1: the {model}'s loss is nan on .* tried once more$") as first:
            trainer.step(1)
        # A gang that starts anew.
        trainer.folder.claim_incarnation(2)
        trainer._duty.failed_steps = FailedSteps(trainer.folder, 2)
        with pytest.raises(
            UserError, match=rf"^step 1: the {model}'s loss .* second time .* algorithm\.{model}\.learningRate"
        ) as second:
            trainer.step(1)
    assert (first.value.exit_code, second.value.exit_code) == (exit_codes.INTERNAL_ERROR, exit_codes.USER_ERROR)
    assert ("commit", 1) not in events


@pytest.mark.parametrize(("again", "kind"), [(False, WorkerError), (True, UserError)])
def test_the_other_ranks_end_as_the_first_one_says(trainer, again, kind):
    trainer, _ = trainer
    trainer._duty = None
    trainer.ranks = SimpleNamespace(from_first=lambda value, kind: again)
    assert type(trainer.not_finite(1, (), NonFiniteLossError("policy", "loss", torch.nan, [2]))) is kind
