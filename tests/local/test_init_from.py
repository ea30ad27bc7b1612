"""A run that starts from another run's weights: a checkpoint, read by another number of ranks, and an export."""

import json

import pytest

pytestmark = [pytest.mark.local, pytest.mark.thorough, pytest.mark.timeout(900)]

STEPS = ("step-000004", "step-000001")
"""Exports of the earlier run and of the one that starts from it."""


@pytest.mark.parametrize(
    ("folder", "nodes"),
    [("checkpoints/step-000004-i1", 2), ("export/step-000004", 1)],
    ids=["checkpoint", "export"],
)
def test_policy_and_critic_begin_with_the_bits_that_the_earlier_run_ended_with(
    make_run, undisturbed, tmp_path, folder, nodes
):
    run = make_run(
        tmp_path,
        algorithm={"totalSteps": 1, "promptsPerStep": 4},
        evaluation={"interval": 100},
        trainer={"nodes": nodes},
    )
    run.document["spec"]["model"]["initFrom"] = str(undisturbed.storage / folder)
    for model in ("policy", "critic"):  # so small a rate that no weight moves: what ends is what began
        run.document["spec"]["algorithm"][model] |= {"learningRate": 1e-30}
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    [manifest] = run.storage.glob("weights/v000000-*/manifest.json")
    assert json.loads(manifest.read_text())["digest"] == undisturbed.weights_sha256()
    for model in ("policy", "critic"):
        ends = [storage / "export" for storage in (undisturbed.storage, run.storage)]
        files = [end / step / model / "model.safetensors" for end, step in zip(ends, STEPS, strict=True)]
        assert files[0].read_bytes() == files[1].read_bytes(), model


def test_a_whole_run_is_no_place_to_start_from(make_run, undisturbed, tmp_path):
    run = make_run(tmp_path)
    run.document["spec"]["model"]["initFrom"] = str(undisturbed.storage)
    code, output = run.run()
    assert code == 64, output
    assert "checkpoints/step-000004-i1" in output
    assert "model.initFrom" in output
    assert not run.storage.exists()
