import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_builders import a_folder

from rz_api import exit_codes
from rz_workers.report import timeline
from rz_workers.report.html import duration
from rz_workers.report.main import main
from rz_workers.report.record import read_run
from rz_workers.report.style import LIGHT
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import EvalSummary, Phase

PNG = b"\x89PNG\r\n\x1a\n"
CHARTS = {"reward", "response_length", "accuracy", "truncation", "reflection", "mismatch", "timeline", "curves"}


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
