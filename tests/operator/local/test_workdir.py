from __future__ import annotations

from pathlib import Path

import pytest
from operator_builders import run

from rz_api.run import read_stored_run
from rz_api.status import GangState, RunStatus
from rz_operator.errors import UserError
from rz_operator.local.workdir import Workdir, read_status
from rz_operator.plan import Plan, plan


@pytest.fixture
def planned() -> Plan:
    return plan(run())


def test_a_new_workdir_has_the_plans_files_in_a_private_folder(tmp_path: Path, planned: Plan) -> None:
    workdir = Workdir.claim(tmp_path / "runs" / "tiny", planned)
    assert oct(workdir.file("").stat().st_mode & 0o777) == "0o700"
    assert read_stored_run(workdir.file("run.json").read_text()).run == planned.run
    workdir.close()


def test_the_token_stays_the_same_over_restarts(tmp_path: Path, planned: Plan) -> None:
    tokens = []
    for _ in range(2):
        workdir = Workdir.claim(tmp_path / "w", planned)
        tokens.append(workdir.file("token").read_text())
        workdir.close()
    assert tokens[0] == tokens[1]


def test_a_second_runner_in_the_same_workdir_is_refused_and_leaves_it_alone(tmp_path: Path, planned: Plan) -> None:
    workdir = Workdir.claim(tmp_path / "w", planned)
    with pytest.raises(UserError, match="another `rz run` is at work in"):
        Workdir.claim(tmp_path / "w", planned)
    assert workdir.file("token").exists()
    workdir.close()
    Workdir.claim(tmp_path / "w", planned).close()


def test_another_runs_workdir_is_refused(tmp_path: Path, planned: Plan) -> None:
    Workdir.claim(tmp_path / "w", planned).close()
    other = plan(run().model_copy(update={"uid": "u-2", "name": "other"}))
    with pytest.raises(UserError, match="belongs to run 'tiny' with storage '/tmp/store', this is run 'other'"):
        Workdir.claim(tmp_path / "w", other)
    Workdir.claim(tmp_path / "w", planned).close()


def test_a_workdir_that_cannot_be_made_is_the_users_error(tmp_path: Path, planned: Plan) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the workdir .*file/w: .*choose another with --workdir"):
        Workdir.claim(tmp_path / "file" / "w", planned)


def test_discard_removes_a_workdir_that_was_made_and_the_empty_folders_above(tmp_path: Path, planned: Plan) -> None:
    workdir = Workdir.claim(tmp_path / "runs" / "tiny", planned)
    workdir.write_status(RunStatus(), {})
    workdir.log_file("ledger-0").write_text("x")
    workdir.discard()
    assert list(tmp_path.iterdir()) == []


def test_discard_keeps_what_was_there_before(tmp_path: Path, planned: Plan) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "notes.txt").write_text("mine")
    workdir = Workdir.claim(tmp_path / "w", planned)
    workdir.write_status(RunStatus(), {})
    workdir.discard()
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["notes.txt"]


def test_discard_of_a_resumed_workdir_removes_nothing(tmp_path: Path, planned: Plan) -> None:
    first = Workdir.claim(tmp_path / "w", planned)
    first.write_status(RunStatus(), {})
    first.close()
    Workdir.claim(tmp_path / "w", planned).discard()
    assert (tmp_path / "w" / "status.json").exists()
    assert (tmp_path / "w" / ".rz" / "token").exists()


def test_status_comes_back_as_it_was_written(tmp_path: Path, planned: Plan) -> None:
    workdir = Workdir.claim(tmp_path / "w", planned)
    status = RunStatus(phase="Running", gang=GangState(incarnation=3), restarts={"trainer": 2}, progress_mark=(1, 2, 3))
    workdir.write_status(status, {"name": "tiny"})
    assert read_status(workdir.path) == (status, {"name": "tiny"})
    assert workdir.read_memory() == status
    workdir.close()


def test_a_broken_status_file_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*status.json.*remove it"):
        read_status(tmp_path)
