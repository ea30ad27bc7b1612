"""``model.initFrom``: checkpoints and exports, on this machine and in a bucket, and everything else."""

import pytest
import torch

from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable import export, initial
from rz_workers.trainer.durable.checkpoint import Checkpoints


@pytest.fixture
def checkpoint_of(make_run, make_learner, tmp_path):
    """Makes a run with a checkpoint of step 2, whose weights are not the models' first ones; its learner and URI."""

    def make(uri=None, **sections):
        run = make_run(**sections)
        uri = uri or str(tmp_path / "run")
        folder = RunFolder.claim(ObjectStore(uri), run)
        folder.claim_incarnation(1)
        learner = make_learner(run.spec)
        with torch.no_grad():
            for module in (learner.policy, learner.critic):
                for parameter in module.parameters() if module is not None else ():
                    parameter.add_(1.0)
        checkpoints = Checkpoints(folder, learner.ranks, learner, 1)
        checkpoints.save(2)
        checkpoints.wait()
        return learner, f"{uri}/checkpoints/step-000002-i1"

    return make


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"], ids=["a path", "a file URL", "with a slash at its end"])
def test_a_checkpoint_gives_policy_and_critic_their_weights(checkpoint_of, make_models, tmp_path, form):
    learner, uri = checkpoint_of()
    found = initial.find(form.format(uri), tmp_path)
    assert isinstance(found, initial.Checkpoint)
    policy, critic = make_models()
    found.load({"policy": policy, "critic": critic})
    for ours, theirs in ((policy, learner.policy), (critic, learner.critic)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_checkpoint_in_a_bucket_is_read_where_it_lies(checkpoint_of, make_models, scratch):
    learner, uri = checkpoint_of("memory://runs/earlier")
    policy, _ = make_models()
    found = initial.find(uri, scratch)
    assert isinstance(found, initial.Checkpoint)
    found.load({"policy": policy})
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), learner.policy.parameters(), strict=True))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["{}", "file://{}", "memory://exports/step-000002"], ids=["a path", "a file URL", "a bucket"]
)
def test_an_export_gives_its_parts(make_models, tmp_path, scratch, place):
    policy, critic = make_models()
    (tmp_path / "model").mkdir()
    folder = tmp_path / "export" / "step-000002"
    export.write_policy(policy.model, export.gather_state(policy), torch.float32, tmp_path / "model", folder / "policy")
    export.write_critic(
        critic.backbone, export.gather_state(critic), torch.float32, tmp_path / "model", folder / "critic"
    )
    uri = place.format(folder)
    if uri.startswith("memory://"):
        for path in folder.rglob("*.*"):
            ObjectStore(uri).upload(path, path.relative_to(folder).as_posix())
    found = initial.find(uri, scratch)
    assert isinstance(found, initial.Export)
    for part in ("policy", "critic"):
        text = (folder / part / "config.json").read_text()
        assert (initial.Path(found.part(part)) / "config.json").read_text() == text


def test_an_export_without_a_critic_says_what_ppo_requires(tmp_path, scratch):
    (tmp_path / "export" / "policy").mkdir(parents=True)
    (tmp_path / "export" / "policy" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no critic; with algorithm\.name ppo .* model\.initFrom"):
        initial.find(str(tmp_path / "export"), scratch).part("critic")


def test_a_checkpoint_without_a_critic_says_what_ppo_requires(checkpoint_of, make_models, scratch):
    _, uri = checkpoint_of(algorithm={"name": "grpo"})
    policy, critic = make_models()
    found = initial.find(uri, scratch)
    found.load({"policy": policy})
    with pytest.raises(UserError, match=r"has no critic; with algorithm\.name ppo .* model\.initFrom"):
        found.load({"policy": policy, "critic": critic})


def test_a_checkpoint_of_another_model_is_the_users_to_change(checkpoint_of, make_models, scratch):
    _, uri = checkpoint_of()
    policy, _ = make_models()
    policy.model.model.norm.weight = torch.nn.Parameter(torch.ones(8))
    with pytest.raises(UserError, match=r"of another model than model\.name: .*norm\.weight \[16\] in place of \[8\]"):
        initial.find(uri, scratch).load({"policy": policy})


def test_layers_of_a_checkpoint_that_the_model_has_not_are_named(checkpoint_of, make_models, scratch):
    _, uri = checkpoint_of()
    policy, _ = make_models()
    del policy.model.model.layers[1]
    with pytest.raises(UserError, match=r"9 unexpected \(policy/weights/model\.model\.layers\.1\..* and 1 more\)"):
        initial.find(uri, scratch).load({"policy": policy})


def test_an_export_counts_with_both_its_parts(make_run, tmp_path, scratch):
    """Each has a manifest; what can be named is the export."""
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), make_run())
    for part in ("policy", "critic"):
        (scratch / part).mkdir()
        (scratch / part / "config.json").write_text("{}")
        folder.store_folder(f"export/step-000004/{part}", scratch / part, {})
    with pytest.raises(UserError, match=r"whole run, which has export/step-000004, at"):
        initial.find(str(tmp_path / "run"), scratch)


def test_a_whole_run_says_which_of_its_checkpoints_can_be_named(checkpoint_of, scratch):
    _, uri = checkpoint_of()
    run = uri.partition("/checkpoints/")[0]
    with pytest.raises(UserError, match=r"folder of a whole run, which has checkpoints/step-000002-i1,.*initFrom"):
        initial.find(run, scratch)


def test_a_checkpoint_that_was_never_completed_is_none(checkpoint_of, scratch, tmp_path):
    _, uri = checkpoint_of()
    (tmp_path / "run/checkpoints/step-000002-i1/manifest.json").unlink()
    with pytest.raises(UserError, match=r"found a checkpoint that was never completed .*model\.initFrom"):
        initial.find(uri, scratch)


@pytest.mark.parametrize("uri", ["{}/none", "none/none", "owner/model"], ids=["absolute", "relative", "a hub id"])
def test_nothing_there_is_the_users_to_change(tmp_path, scratch, uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"found nothing at .*: check model\.initFrom"):
        initial.find(uri.format(tmp_path), scratch)


def test_something_else_is_named(tmp_path, scratch):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("")
    with pytest.raises(UserError, match=r"found config\.json, model\.safetensors at .*/model; a checkpoint"):
        initial.find(str(tmp_path / "model"), scratch)
