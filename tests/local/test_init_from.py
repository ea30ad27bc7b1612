"""A run that starts from another run's weights: a checkpoint, read by another number of ranks, and an export."""

import json

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("folder", "nodes"), [("checkpoints/step-000004-i1", 2), ("export/step-000004", 1)], ids=["checkpoint", "export"]
)
def test_version_0_has_the_bits_that_the_earlier_run_ended_with(make_run, undisturbed, tmp_path, folder, nodes):
    run = make_run(
        tmp_path,
        algorithm={"totalSteps": 1, "promptsPerStep": 4},
        evaluation={"interval": 100},
        trainer={"nodes": nodes},
    )
    run.document["spec"]["model"]["initFrom"] = str(undisturbed.storage / folder)
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    [manifest] = run.storage.glob("weights/v000000-*/manifest.json")
    assert json.loads(manifest.read_text())["digest"] == undisturbed.weights_sha256()
    # The critic came along: it explains more of the returns than one with a fresh head, whose values are close to 0.
    assert abs(run.commits()[0]["metrics"]["value_mean"]) > 0.01


def test_a_whole_run_is_no_place_to_start_from(make_run, undisturbed, tmp_path):
    run = make_run(tmp_path)
    run.document["spec"]["model"]["initFrom"] = str(undisturbed.storage)
    code, output = run.run()
    assert code == 64, output
    assert "checkpoints/step-000004-i1" in output
    assert "model.initFrom" in output
    assert not run.storage.exists()
