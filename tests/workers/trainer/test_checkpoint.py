"""Checkpoints: what comes back, and what does not count."""

import pytest
import torch

from rz_workers.storage.objects import ObjectStore, StorageError
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer import batch as batches
from rz_workers.trainer import checkpoint
from rz_workers.trainer.learner import advantages_and_returns


@pytest.fixture
def folder(make_run, tmp_path):
    return RunFolder.claim(ObjectStore(str(tmp_path / "run")), make_run())


def train(learner, make_trajectories, steps):
    for step in steps:
        batch = batches.collate(make_trajectories(step=step, seed=step))
        values = learner.values(batch)
        advantages, returns, _ = advantages_and_returns(learner.algorithm, batch, values, None)
        learner.policy_update(batch, advantages, None)
        learner.critic_update(batch, returns, values, step)


def parameters(learner):
    return [*learner.policy.parameters(), *learner.critic.parameters()]


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(
    folder, make_learner, make_spec, make_trajectories, scratch
):
    undisturbed = make_learner(make_spec())
    train(undisturbed, make_trajectories, range(2))
    checkpoint.save(folder, undisturbed.ranks, undisturbed, step=2, incarnation=1, scratch=scratch)
    train(undisturbed, make_trajectories, range(2, 4))

    resumed = make_learner(make_spec())
    assert checkpoint.load(folder, resumed, checkpoint.newest(folder), scratch) == 2
    assert (resumed.policy_steps, resumed.critic_steps) == (2, 6)
    train(resumed, make_trajectories, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(parameters(undisturbed), parameters(resumed), strict=True))


def test_a_checkpoint_without_its_manifest_does_not_count(folder, make_learner, make_spec, scratch):
    learner = make_learner(make_spec())
    checkpoint.save(folder, learner.ranks, learner, step=2, incarnation=1, scratch=scratch)
    checkpoint.save(folder, learner.ranks, learner, step=4, incarnation=1, scratch=scratch)
    folder.store.delete(["checkpoints/step-000004-i1/manifest.json"])
    assert checkpoint.newest(folder) == "checkpoints/step-000002-i1"


def test_of_two_checkpoints_of_a_step_the_newer_incarnations_counts(folder, make_learner, make_spec, scratch):
    learner = make_learner(make_spec())
    for incarnation in (1, 2):
        checkpoint.save(folder, learner.ranks, learner, step=2, incarnation=incarnation, scratch=scratch)
    assert checkpoint.newest(folder) == "checkpoints/step-000002-i2"


def test_a_damaged_file_is_noticed(folder, make_learner, make_spec, scratch, tmp_path):
    learner = make_learner(make_spec())
    checkpoint.save(folder, learner.ranks, learner, step=2, incarnation=1, scratch=scratch)
    [path] = (tmp_path / "run/checkpoints/step-000002-i1/critic").glob("*.distcp")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="distcp"):
        checkpoint.load(folder, make_learner(make_spec()), checkpoint.newest(folder), scratch)


def test_a_run_without_a_checkpoint_has_no_newest(folder):
    assert checkpoint.newest(folder) is None
