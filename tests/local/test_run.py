"""A whole run as processes on this machine: what it leaves behind, and what the commands say about it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

pytestmark = pytest.mark.local

REPOSITORY = Path(__file__).parents[2]


def rz(*arguments, cwd):
    return subprocess.run(
        [str(Path(sys.executable).with_name("rz")), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_step_is_committed_once_with_all_its_trajectories(undisturbed):
    commits = undisturbed.commits()
    assert sorted(commits) == [0, 1, 2, 3]
    for step, commit in commits.items():
        assert sum(shard["rows"] for shard in commit["shards"]) == 8 * 4
        assert {shard["weight_version"] for shard in commit["shards"]} == {step}
        assert len({json.dumps(shard["unit"]) for shard in commit["shards"]}) == len(commit["shards"])


def test_evaluations_are_made_of_the_base_model_every_interval_and_the_last_version(undisturbed):
    versions = sorted(int(file.parent.name.split("-")[1]) for file in undisturbed.storage.glob("eval/*/summary.json"))
    assert versions == [0, 2, 4]


def test_metrics_hold_one_line_a_step_with_the_sampler_close_to_the_trainer(undisturbed):
    lines = [json.loads(line) for line in (undisturbed.storage / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        assert line["mismatch_abs_mean"] < 1e-5
        assert line["ratio_max"] == 1.0
        assert line["staleness_mean"] == 0.0


def test_every_stored_metric_is_documented(undisturbed):
    from rz_api.step_metrics import STEP_METRICS

    for commit in undisturbed.commits().values():
        assert set(commit["metrics"]) <= set(STEP_METRICS)


def test_the_exported_models_load_with_transformers(undisturbed):
    script = (
        "import sys; from transformers import AutoModelForCausalLM as P, AutoModelForTokenClassification "
        "as C, AutoTokenizer as T\n"
        "folder = sys.argv[1]; P.from_pretrained(folder + '/policy'); C.from_pretrained(folder + '/critic')\n"
        "text = 'User: 7 a+8 b-4 =? Assistant: <think>'; t = T.from_pretrained(folder + '/policy'); assert "
        "t.decode(t(text)['input_ids']) == text"
    )
    folder = undisturbed.storage / "export" / "step-000004"
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readmes_line_queries_the_trajectories(undisturbed):
    [query] = re.findall(r"SELECT step.*?ORDER BY step", (REPOSITORY / "README.md").read_text(), re.S)
    rows = duckdb.sql(query.replace("runs/tiny/storage", str(undisturbed.storage))).fetchall()
    assert [row[0] for row in rows] == [0, 1, 2, 3]


def test_the_report_has_curves_and_the_summary_its_figures(undisturbed, tmp_path):
    done = rz("report", undisturbed.storage, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["weights_sha256"] == undisturbed.weights_sha256()
    assert summary["steps"] == 4
    assert summary["generated_tokens"] > 0
    assert {"seed", "heldout_accuracy_first", "heldout_accuracy_last", "response_length_first", "wall_seconds"} <= set(
        summary
    )
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()


def test_a_finished_run_started_again_says_so_and_changes_nothing(undisturbed):
    before = sorted(path.name for path in undisturbed.storage.rglob("*"))
    code, output = undisturbed.run()
    assert code == 0, output
    assert sorted(path.name for path in undisturbed.storage.rglob("*")) == before


def test_a_checkpoint_can_be_exported_by_itself(undisturbed, tmp_path):
    done = rz("export", undisturbed.storage, "--step", 2, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "step-000002" / "policy" / "model.safetensors").exists()


def test_a_second_run_on_the_same_folder_is_refused(undisturbed, make_run, tmp_path):
    other = make_run(
        tmp_path / "other", storage={"uri": str(undisturbed.storage)}, algorithm={"totalSteps": 4, "seed": 7}
    )
    before = undisturbed.commits()
    code, output = other.run()
    assert code == 64, output
    assert "storage" in output
    assert "Traceback" not in output
    assert undisturbed.commits() == before
    assert not other.workdir.exists()
