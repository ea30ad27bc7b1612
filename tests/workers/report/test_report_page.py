import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_builders import a_folder, a_recovery, growing_metrics, weights

from rz_api import exit_codes
from rz_api.step_metrics import STEP_METRICS
from rz_workers.report import timeline
from rz_workers.report.charts import charts
from rz_workers.report.html import duration
from rz_workers.report.main import main
from rz_workers.report.record import read_run
from rz_workers.report.style import LIGHT, render
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import EvalSummary, Phase, StepCommit

PNG = b"\x89PNG\r\n\x1a\n"
LEARNING = {"reward", "response_length", "accuracy", "truncation", "reflection", "timeline", "curves"}
DIAGNOSTICS = {"stability", "critic", "mismatch", "lengths", "endings", "verdicts", "pace"}
CHARTS = LEARNING | DIAGNOSTICS


def report(tmp_path: Path, **folder: object) -> Path:
    a_folder(tmp_path / "storage", **folder)  # type: ignore[arg-type]
    out = tmp_path / "out"
    main([str(tmp_path / "storage"), "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("finished"))


def test_every_chart_is_a_png_beside_the_page(finished: Path) -> None:
    assert {path.stem for path in finished.glob("*.png")} == CHARTS
    assert all(path.read_bytes().startswith(PNG) for path in finished.glob("*.png"))


def test_every_chart_but_the_overview_is_on_the_page(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert set(re.findall(r'<img alt="([^"]+)"', page)) == {name.replace("_", " ") for name in CHARTS - {"curves"}}


def test_what_was_not_measured_has_no_chart(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "storage", committed=0)
    bare = StepCommit(step=0, incarnation=1, shards=(), weights=weights(1), metrics={"reward_mean": 0.5})
    folder.commit_step(bare)
    main([str(tmp_path / "storage"), "--out", str(tmp_path)])
    assert {path.stem for path in tmp_path.glob("*.png")} == LEARNING - {"accuracy", "timeline"}


def test_a_run_without_a_critic_has_no_chart_of_it(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "storage", committed=0)
    policy = {"policy_entropy": 1.0, "policy_grad_norm": 0.5, "advantage_std": 1.0}
    folder.commit_step(StepCommit(step=0, incarnation=1, shards=(), weights=weights(1), metrics=policy))
    found = charts(read_run(folder.store))
    assert "stability" in found
    assert "critic" not in found


def test_every_metric_of_the_last_step_is_explained(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for name in growing_metrics(2, random.Random(0)):
        assert f"<td>{name}</td>" in page
        assert escape(STEP_METRICS[name].formula) in page


def test_a_stop_string_with_a_dollar_sign_is_no_formula(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, steps=2)
    sampling = folder.run.spec.rollout.sampling.model_copy(update={"stop": ["$x_", "", "", "$a{$"]})
    rollout = folder.run.spec.rollout.model_copy(update={"sampling": sampling})
    run = folder.run.model_copy(update={"spec": folder.run.spec.model_copy(update={"rollout": rollout})})
    record = dataclasses.replace(read_run(folder.store), run=run)
    assert render(charts(record)["endings"], LIGHT).startswith(PNG)


def test_recoveries_tell_what_replay_saved(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "storage", steps=3)
    same = a_recovery(2, resumed_step=1, replayed_steps=1)
    other = a_recovery(3, world_size=4, weights_equal=False, canary_difference_max=2.5e-7)
    for recovery in (same, other):
        folder.write_recovery(recovery)
    main([str(tmp_path / "storage"), "--out", str(tmp_path)])
    rows = re.findall(r"<tr><td>(\d \(\d ranks?\).*?)</tr>", (tmp_path / "report.html").read_text())
    assert [re.sub("</?td>", "|", row).replace("||", "|").strip("|") for row in rows] == [
        "2 (1 rank)|step 1|1 in 2 s|8 trajectories, 1,000 tokens|1 min 15 s|the same, to the bit",
        "3 (4 ranks)|the start|2 in 2 s|8 trajectories, 1,000 tokens|1 min 15 s|"
        "others: log-probs of the canary differ by at most 2.5e-07",
    ]


def test_verdicts_of_the_last_step_by_source(finished: Path) -> None:
    page = (finished / "report.html").read_text().partition("Verdicts by source")[2].partition("</div>")[0]
    assert "<th>source</th><th>reward</th><th>ok</th><th>truncated</th><th>crashed</th>" in page
    assert "<tr><td>math</td><td>0.6</td><td>50</td><td>0</td><td>2</td></tr>" in page
    assert "<tr><td>&lt;quiz&gt;</td><td>0.1</td><td>20</td><td>30</td><td>0</td></tr>" in page


def test_a_run_without_recoveries_does_not_speak_of_them(finished: Path) -> None:
    assert "Recoveries" not in (finished / "report.html").read_text()


def test_the_summary_is_a_flat_object(finished: Path) -> None:
    content = json.loads((finished / "summary.json").read_text())
    assert not [name for name, value in content.items() if isinstance(value, dict | list)]
    assert content["heldout_accuracy_first"] == pytest.approx(0.21)


def test_the_page_loads_nothing_from_anywhere(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert set(re.findall(r'(?:src|srcset|href)="([^,]{0,40})', page)) == {"data:image/png;base64"}
    assert "<script" not in page
    assert "url(" not in page


def test_what_a_model_wrote_is_escaped(finished: Path) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (finished / "report.html").read_text()


def test_the_page_is_well_formed(finished: Path) -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "img", "source", "br"}:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed((finished / "report.html").read_text())
    assert open_tags == []


def test_samples_of_first_and_last_step_stand_side_by_side(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    headings = re.findall(r'<h3>Step (\d+) · <span class="\w+">(\w+)</span></h3>', page)
    assert headings == [("0", "correct"), ("2", "correct"), ("0", "incorrect"), ("2", "incorrect")]


def test_a_finished_run_is_not_called_unfinished(finished: Path) -> None:
    assert "This run is not finished" not in (finished / "report.html").read_text()


def test_an_unfinished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report(tmp_path, steps=5, committed=2)
    assert "<b>This run is not finished:</b> 2 of 5 steps" in (out / "report.html").read_text()
    assert capsys.readouterr().out == f"{out / 'report.html'} (the run is not finished)\n"


def test_one_step_without_evaluation_sets_is_enough(tmp_path: Path) -> None:
    out = report(tmp_path, steps=5, committed=1, eval_sets=())
    assert {path.stem for path in out.glob("*.png")} == CHARTS - {"accuracy"}


def test_trajectories_that_retention_deleted_are_said_to_be_missing(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "storage")
    folder.store.delete([key for key in folder.store.list("trajectories/") if "step-000000" in key])
    main([str(tmp_path / "storage"), "--out", str(tmp_path)])
    assert "The trajectories of this step were deleted" in (tmp_path / "report.html").read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no run\.json in .*give the run's storage\.uri"):
        main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "nothing").exists()
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_committed_step_is_refused(tmp_path: Path) -> None:
    a_folder(tmp_path / "storage", committed=0)
    with pytest.raises(UserError, match="found no committed step of the run 'tiny'"):
        main([str(tmp_path / "storage"), "--out", str(tmp_path / "out")])


def test_an_unwritable_output_folder_is_the_users_error(tmp_path: Path) -> None:
    a_folder(tmp_path / "storage")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give a writable folder as --out"):
        main([str(tmp_path / "storage"), "--out", str(tmp_path / "file")])


def test_a_bad_command_line_names_the_usage() -> None:
    with pytest.raises(UserError, match=r"--out; usage: python -m rz_workers\.report"):
        main(["somewhere"])


def test_the_command_ends_with_the_users_exit_code_and_last_words(tmp_path: Path) -> None:
    words = tmp_path / "words"
    ended = subprocess.run(
        [sys.executable, "-m", "rz_workers.report", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "RZ_TERMINATION_LOG": str(words)},
        check=False,
    )
    assert ended.returncode == exit_codes.USER_ERROR
    assert "Traceback" not in ended.stderr
    assert words.read_text().startswith("found no run.json")


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        pytest.param(47.6, "48 s", id="seconds"),
        pytest.param(185.0, "3 min 5 s", id="minutes"),
        pytest.param(8040.0, "2 h 14 min", id="hours"),
        pytest.param(475_200.0, "5 d 12 h", id="days, as the paper's 7B run"),
    ],
)
def test_duration(seconds: float, want: str) -> None:
    assert duration(seconds) == want


def test_the_timelines_last_panel_is_a_trained_step_although_the_last_evaluation_is_of_a_later_version(tmp_path):
    folder = a_folder(tmp_path, steps=3, committed=2)
    phase = Phase(name="evaluate", role="rollout", started=1.0, seconds=1.0)
    blank: dict[str, float] = {}
    folder.write_eval_summary(
        EvalSummary(
            version=3,
            accuracy=blank,
            response_length_mean=blank,
            truncated_fraction=blank,
            num_trajectories={},
            files={},
            phase=phase,
        )
    )
    figure = timeline.draw(read_run(ObjectStore(str(tmp_path))), LIGHT)
    assert all(axes.patches for axes in figure.axes)
