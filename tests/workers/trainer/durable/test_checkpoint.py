"""Checkpoints: what comes back, what does not count, and what is written behind the next step."""

import subprocess
import sys
import threading
from pathlib import Path

import checkpoint_gang
import pytest
import torch

from rz_workers.runtime import SupersededError
from rz_workers.storage import layout
from rz_workers.storage.objects import CorruptObjectError, ObjectStore, StorageError
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import encode
from rz_workers.trainer.durable import checkpoint, checkpoint_files
from rz_workers.trainer.durable.checkpoint import Checkpoints
from rz_workers.trainer.method import batch as batches
from rz_workers.trainer.method.learner import advantages_and_returns


class WatchedStore(ObjectStore):
    """Notes what is read, and holds up writing while ``gate`` is closed."""

    def __init__(self, uri):
        super().__init__(uri)
        self.ranges: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def get_range(self, key, start, size):
        self.ranges.append((key, size))
        return super().get_range(key, start, size)

    def put_parts(self, key, parts):
        assert self.gate.wait(60)
        super().put_parts(key, parts)


@pytest.fixture
def folder(make_run, tmp_path):
    folder = RunFolder.claim(WatchedStore(str(tmp_path / "run")), make_run())
    folder.claim_incarnation(1)
    return folder


@pytest.fixture
def new_learner(make_learner, make_spec):
    return lambda: make_learner(make_spec())


def train(learner, make_trajectories, steps):
    for step in steps:
        batch = batches.collate(make_trajectories(step=step, seed=step))
        values = learner.values(batch)
        advantages, returns, _ = advantages_and_returns(learner.algorithm, batch, values, None)
        learner.policy_update(batch, advantages, None)
        learner.critic_update(batch, returns, values, step)


def parameters(learner):
    return [*learner.policy.parameters(), *learner.critic.parameters()]


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(parameters(one), parameters(other), strict=True))


def save(folder, learner, step, incarnation=1, **calls):
    checkpoints = Checkpoints(folder, learner.ranks, learner, incarnation, **calls)
    checkpoints.save(step)
    checkpoints.wait()


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(folder, new_learner, make_trajectories):
    undisturbed = new_learner()
    train(undisturbed, make_trajectories, range(2))
    save(folder, undisturbed, step=2)
    train(undisturbed, make_trajectories, range(2, 4))

    resumed = new_learner()
    assert Checkpoints(folder, resumed.ranks, resumed, 2).resume() == 2
    assert (resumed.policy_steps, resumed.critic_steps) == (2, 6)
    train(resumed, make_trajectories, range(2, 4))
    assert same_bits(undisturbed, resumed)


def test_a_checkpoint_before_the_first_update_changes_nothing_of_it(folder, new_learner, make_trajectories):
    """As after steps that were all skipped."""
    undisturbed, saved, resumed = new_learner(), new_learner(), new_learner()
    save(folder, saved, step=2)
    assert Checkpoints(folder, resumed.ranks, resumed, 2).resume() == 2
    assert (resumed.policy_steps, resumed.critic_steps) == (0, 0)
    for learner in (undisturbed, saved, resumed):
        train(learner, make_trajectories, range(2, 4))
    assert same_bits(undisturbed, saved)
    assert same_bits(undisturbed, resumed)


def test_a_checkpoint_holds_the_state_of_its_step_although_training_goes_on_meanwhile(
    folder, new_learner, make_trajectories
):
    learner = new_learner()
    train(learner, make_trajectories, range(1))
    expected = [parameter.detach().clone() for parameter in parameters(learner)]
    checkpoints = Checkpoints(folder, learner.ranks, learner, 1)
    folder.store.gate.clear()
    checkpoints.save(1)
    train(learner, make_trajectories, range(1, 2))
    assert not checkpoints.is_settled
    assert checkpoint.newest(folder) is None
    folder.store.gate.set()
    checkpoints.wait()
    assert checkpoints.step == 1

    resumed = new_learner()
    assert Checkpoints(folder, resumed.ranks, resumed, 2).resume() == 1
    assert all(torch.equal(a, b) for a, b in zip(expected, parameters(resumed), strict=True))


def test_the_next_checkpoint_waits_for_the_one_before(folder, new_learner, make_trajectories):
    learner, stored = new_learner(), []
    train(learner, make_trajectories, range(1))
    checkpoints = Checkpoints(folder, learner.ranks, learner, 1, when_stored=stored.append)
    folder.store.gate.clear()
    checkpoints.save(1)
    threading.Timer(0.2, folder.store.gate.set).start()
    checkpoints.save(2)
    assert stored == [1]
    checkpoints.wait()
    assert stored == [1, 2]
    assert sorted(checkpoint.stored(folder)) == [(1, 1), (2, 1)]


def test_the_same_state_has_the_same_bytes(folder, new_learner, make_trajectories, tmp_path):
    learner = new_learner()
    train(learner, make_trajectories, range(1))
    save(folder, learner, step=1)
    save(folder, learner, step=2)
    root = tmp_path / "run" / "checkpoints"
    for part in ("policy", "critic"):
        files = [sorted((root / f"step-00000{step}-i1" / part).iterdir()) for step in (1, 2)]
        assert [f.name for f in files[0]] == ["rank-00000-0.bin"]
        assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_tensors_are_cut_into_pieces_and_pieces_into_files(folder, new_learner, make_trajectories, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "PIECE_BYTES", 128)  # two rows of 16 floats
    monkeypatch.setattr(checkpoint_files, "FILE_BYTES", 4096)
    monkeypatch.setattr(checkpoint_files, "REQUEST_BYTES", 512)
    learner = new_learner()
    train(learner, make_trajectories, range(1))
    save(folder, learner, step=1)
    manifest, index = checkpoint.read_index(folder.store, "checkpoints/step-000001-i1")
    assert max(manifest.files.values()) <= 4096
    embedding = index.tensors["policy/weights/model.model.embed_tokens.weight"]
    assert embedding.shape == (29, 16)
    assert sorted(piece.sizes for piece in embedding.pieces) == [(1, 16)] + [(2, 16)] * 14
    resumed = new_learner()
    Checkpoints(folder, resumed.ranks, resumed, 2).resume()
    assert same_bits(learner, resumed)
    assert max(size for _, size in folder.store.ranges) <= 512


def test_weights_alone_are_read_without_the_optimizers_bytes(folder, new_learner, make_models, make_trajectories):
    learner = new_learner()
    train(learner, make_trajectories, range(1))
    save(folder, learner, step=1)
    policy, critic = make_models()
    checkpoint.load_weights(folder.store, "checkpoints/step-000001-i1", {"policy": policy, "critic": critic})
    assert all(torch.equal(a, b) for a, b in zip(learner.policy.parameters(), policy.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(learner.critic.parameters(), critic.parameters(), strict=True))
    wanted = sum(p.nbytes for p in parameters(learner))
    assert sum(size for _, size in folder.store.ranges) == wanted


def test_nothing_in_a_checkpoint_is_a_pickle(folder, new_learner, make_trajectories, tmp_path):
    learner = new_learner()
    train(learner, make_trajectories, range(1))
    save(folder, learner, step=1)
    names = sorted(
        path.relative_to(tmp_path / "run/checkpoints/step-000001-i1").as_posix()
        for path in (tmp_path / "run/checkpoints").rglob("*")
        if path.is_file()
    )
    assert names == ["critic/rank-00000-0.bin", "index.json", "manifest.json", "policy/rank-00000-0.bin"]
    sizes = checkpoint.read_index(folder.store, "checkpoints/step-000001-i1")[0].files
    # Weights and two moments as fp32, and one step counter of 4 bytes a tensor.
    for part, module in (("policy", learner.policy), ("critic", learner.critic)):
        tensors = list(module.parameters())
        assert sizes[f"{part}/rank-00000-0.bin"] == 12 * sum(t.numel() for t in tensors) + 4 * len(tensors)


def test_a_checkpoint_without_its_manifest_does_not_count(folder, new_learner):
    learner = new_learner()
    save(folder, learner, step=2)
    save(folder, learner, step=4)
    folder.store.delete(["checkpoints/step-000004-i1/manifest.json"])
    assert checkpoint.newest(folder) == "checkpoints/step-000002-i1"


def test_a_manifest_whose_files_were_cleared_away_does_not_count(folder, new_learner):
    learner = new_learner()
    save(folder, learner, step=2)
    save(folder, learner, step=4)
    folder.store.delete(["checkpoints/step-000004-i1/critic/rank-00000-0.bin"])
    assert checkpoint.newest(folder) == "checkpoints/step-000002-i1"


def test_of_two_checkpoints_of_a_step_the_newer_incarnations_counts(folder, new_learner):
    learner = new_learner()
    save(folder, learner, step=2, incarnation=1)
    folder.claim_incarnation(2)
    save(folder, learner, step=2, incarnation=2)
    assert checkpoint.newest(folder) == "checkpoints/step-000002-i2"


@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_damaged_file_is_noticed_and_named(folder, new_learner, tmp_path, where):
    learner = new_learner()
    save(folder, learner, step=2)
    [path] = (tmp_path / "run/checkpoints/step-000002-i1/critic").iterdir()
    data = bytearray(path.read_bytes())
    if where == "middle":
        data[len(data) // 2] ^= 1
    else:
        del data[-1]
    path.write_bytes(data)
    resumed = new_learner()
    with pytest.raises(CorruptObjectError, match=r"critic/rank-00000-0\.bin: the bytes of 'critic/.*not those"):
        Checkpoints(folder, resumed.ranks, resumed, 2).resume()


def test_a_damaged_index_is_noticed(folder, new_learner):
    save(folder, new_learner(), step=2)
    key = layout.checkpoint_index_key("checkpoints/step-000002-i1")
    folder.store.put(key, folder.store.get(key).replace(b"float32", b"float64", 1))
    resumed = new_learner()
    with pytest.raises(CorruptObjectError, match=r"index\.json"):
        Checkpoints(folder, resumed.ranks, resumed, 2).resume()


def test_a_run_without_a_checkpoint_begins_at_step_0(folder, new_learner):
    learner = new_learner()
    assert Checkpoints(folder, learner.ranks, learner, 1).resume() == 0


def test_what_goes_wrong_behind_the_step_is_raised_at_the_next_wait(folder, new_learner):
    learner, stored = new_learner(), []

    def refuse(key, parts):
        raise StorageError("the bucket is gone")

    folder.store.put_parts = refuse
    checkpoints = Checkpoints(folder, learner.ranks, learner, 1, when_stored=stored.append)
    checkpoints.save(1)
    with pytest.raises(StorageError, match="the bucket is gone"):
        checkpoints.wait()
    assert (stored, checkpoints.step) == ([], 0)


def test_a_gang_that_was_overtaken_writes_no_manifest(folder, new_learner):
    learner = new_learner()
    checkpoints = Checkpoints(folder, learner.ranks, learner, 1, before_manifest=lambda: folder.claim_incarnation(2))
    checkpoints.save(1)
    with pytest.raises(SupersededError):
        checkpoints.wait()
    assert checkpoint.newest(folder) is None


def test_what_must_come_before_the_manifest_does(folder, new_learner):
    seen = []
    save(
        folder,
        new_learner(),
        step=1,
        before_manifest=lambda: seen.append(checkpoint.newest(folder)),
        when_stored=lambda step: seen.append(checkpoint.newest(folder)),
    )
    assert seen == [None, "checkpoints/step-000001-i1"]


def test_a_checkpoint_of_another_model_is_refused(folder, new_learner, make_models):
    save(folder, new_learner(), step=1)
    policy, _ = make_models()
    policy.model.model.norm.weight = torch.nn.Parameter(torch.ones(8))
    with pytest.raises(
        ValueError, match=r"1 of another shape \(policy/weights/model\.model\.norm\.weight \[16\] in place of \[8\]\)"
    ):
        checkpoint.load_weights(folder.store, "checkpoints/step-000001-i1", {"policy": policy})


class TwoRanks:
    """What ranks tell each other, as the first of two has it; the other is well."""

    rank = 0

    def __init__(self):
        self.told = []

    def gather(self, value, kind):
        self.told.append(value)
        return [value, None]


@pytest.mark.parametrize("call", ["list", "get"], ids=["looks for checkpoints", "reads what one is made of"])
def test_where_storage_fails_as_a_rank_looks_the_others_are_told(folder, new_learner, monkeypatch, call):
    learner = new_learner()
    checkpoints = Checkpoints(folder, learner.ranks, learner, 1)
    checkpoints.save(1)
    checkpoints.wait()

    def fail(key):
        raise StorageError("no answer")

    checkpoints._messages = ranks = TwoRanks()
    monkeypatch.setattr(folder.store, call, fail)
    with pytest.raises(StorageError, match="no answer"):
        checkpoints.resume()
    assert ranks.told[-1] == ("StorageError", "no answer")


@pytest.mark.thorough
def test_checkpoints_move_between_1_2_and_4_ranks_and_replicated_shards(make_run, make_trajectories, tmp_path):
    (tmp_path / "step-0.parquet").write_bytes(encode(make_trajectories(groups=3, samples=3)))
    (tmp_path / "run.json").write_text(make_run().model_dump_json(by_alias=True))
    program = Path(checkpoint_gang.__file__)
    ranks = [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(world_size), tmp_path], stderr=subprocess.PIPE, text=True
        )
        for world_size in (2, 4)
        for rank in range(world_size)
    ]
    try:
        alone = checkpoint_gang.Rank("1", 0, tmp_path)
        alone.write()
        alone.read_all()
        for process in ranks:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    for writer in checkpoint_gang.LAYOUTS:
        written = torch.load(tmp_path / f"{writer}.pt")
        for reader in checkpoint_gang.LAYOUTS:
            read = torch.load(tmp_path / f"{writer} read by {reader}.pt")
            assert read.keys() == written.keys()
            assert all(torch.equal(read[name], written[name]) for name in written), f"{writer} -> {reader}"
