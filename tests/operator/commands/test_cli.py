"""``rz`` as people call it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from local_fakes import LAST_WORDS, SUCCEED, WAIT, until
from test_run_file import GOOD

from rz_operator.local.workdir import read_status

RZ = [sys.executable, "-c", "from rz_operator.commands.cli import main; main()"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(GOOD)
    return tmp_path


def rz(here: Path, *arguments: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(here)}
    env = {name: value for name, value in env.items() if name != "KUBECONFIG" and not name.lower().endswith("_proxy")}
    return subprocess.run([*RZ, *arguments], cwd=here, capture_output=True, text=True, env=env, timeout=120)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_help_imports_nothing_that_takes_time(here: Path) -> None:
    code = (
        "import sys\nsys.argv = ['rz', '--help']\nfrom rz_operator.commands.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'pydantic', 'yaml', 'kubernetes', 'aiohttp', 'httpx'}\n"
        "heavy |= {'fsspec', 'pyarrow', 'torch', 'rz_api', 'rz_workers'}\n"
        "found = heavy & set(sys.modules)\nassert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "validate" in done.stdout


def test_validate_judges_every_file(here: Path) -> None:
    (here / "bad.yaml").write_text(GOOD.replace("gpusPerNode: 0", "gpusPerNod: 0"))
    done = rz(here, "validate", "run.yaml", "bad.yaml", "none.yaml")
    assert done.returncode == 64
    assert "run.yaml: valid (run tiny)" in done.stdout
    assert "did you mean gpusPerNode?" in done.stderr
    assert "found no file none.yaml" in done.stderr
    assert rz(here, "validate", "run.yaml", "--set", "trainer.nodes=2").returncode == 0


def test_plan_is_a_table_for_people_and_json_for_programs(here: Path) -> None:
    table = rz(here, "plan", "run.yaml", "--verbose")
    assert table.returncode == 0
    for words in ("engine transformers", "512 lease units", "rz_workers.trainer", "<ledger-0 api url>", "all ranks"):
        assert words in table.stdout
    assert "<ledger-0 api url>" not in rz(here, "plan", "run.yaml").stdout
    shown = json.loads(rz(here, "plan", "run.yaml", "--json").stdout)
    assert [role["role"] for role in shown["roles"]] == ["ledger", "reward", "rollout", "trainer"]


BAD_RUNS = [
    ("an unknown field", ["--set", "algorithm.sed=1"], "did you mean seed"),
    ("a missing file", ["--workdir", "w", "--plain"], "found no file"),
    ("GPUs that are not there", ["--set", "trainer.gpusPerNode=8"], "found 0 GPUs on this machine, 9 are required"),
    ("a suspended run", ["--set", "suspend=true"], "spec.suspend is true"),
    ("no rollouts", ["--set", "rollout.replicas=0"], "rollout.replicas is 0"),
    ("secrets", ["--set", "rollout.envFrom=[{secretRef: {name: x}}]"], "which only a cluster can resolve"),
    ("a port that is none", ["--ledger-port", "99999"], "ledger-port"),
]


@pytest.mark.parametrize(("arguments", "words"), [row[1:] for row in BAD_RUNS], ids=[row[0] for row in BAD_RUNS])
def test_a_run_that_cannot_start_says_why_and_leaves_nothing(here: Path, arguments: list[str], words: str) -> None:
    file = "none.yaml" if words == "found no file" else "run.yaml"
    done = rz(here, "run", file, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert names(here) == ["run.yaml"]


def test_a_port_in_use_is_named(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = rz(here, "run", "run.yaml", "--ledger-port", str(port))
    assert done.returncode == 64
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert names(here) == ["run.yaml"]


def test_status_of_nothing_is_the_users_error(here: Path) -> None:
    assert "found no local run in" in rz(here, "status").stderr
    done = rz(here, "status", "elsewhere")
    assert (done.returncode, "found no folder elsewhere here, and for a run on a cluster: found no" in done.stderr) == (
        64,
        True,
    )
    done = rz(here, "status", "./elsewhere")
    assert (done.returncode, "found no status.json in elsewhere" in done.stderr) == (64, True)


def test_a_narrow_terminal_cuts_nothing_out_of_a_plan(here: Path) -> None:
    narrow, wide = (rz(here, "plan", "run.yaml", "-v", columns=columns).stdout for columns in (60, 1000))
    assert narrow.split() == wide.split()
    assert narrow != wide


def test_a_plan_for_a_file_is_80_columns_wide(here: Path) -> None:
    unknown, wanted = (rz(here, "plan", "run.yaml", columns=columns).stdout for columns in (0, 80))
    assert unknown == wanted


# ------------------------------------------------------------------------------------------------------ clusters

GOOD_THERE = GOOD.replace("uri: train", "uri: s3://data/train").replace("uri: store", "uri: s3://runs/tiny")
ON_A_CLUSTER = [
    ("submit", ["submit", "there.yaml"]),
    ("status", ["status", "-n", "team"]),
    ("logs", ["logs", "tiny", "--role", "trainer"]),
    ("suspend", ["suspend", "tiny"]),
    ("resume", ["resume", "tiny", "--wait"]),
]


@pytest.mark.parametrize("arguments", [row[1] for row in ON_A_CLUSTER], ids=[row[0] for row in ON_A_CLUSTER])
def test_without_a_kubeconfig_a_cluster_command_says_what_is_missing(here: Path, arguments: list[str]) -> None:
    (here / "there.yaml").write_text(GOOD_THERE)
    done = rz(here, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("rz: found no kubeconfig (")


def test_an_api_server_that_gives_no_answer_is_no_mistake_of_the_users(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    cluster = {"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": "t"}}
    config = {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": [user]}
    (here / "config").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
    done = rz(here, "status", "-A", "--kubeconfig", "config")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the API server gives no answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_submit_judges_as_validate_does_and_refuses_paths_that_pods_cannot_follow(here: Path) -> None:
    bad = ["--set", "algorithm.klMode=penalty"]
    assert rz(here, "submit", "run.yaml", *bad).stderr == rz(here, "validate", "run.yaml", *bad).stderr
    done = rz(here, "submit", "run.yaml")
    assert done.returncode == 64
    assert "spec.storage.uri: found store, a path relative to a folder of this machine" in done.stderr
    assert "spec.data.train[0].uri: found train.jsonl" in done.stderr


def test_a_pod_template_that_breaks_the_rules_is_found_before_it_is_submitted(here: Path) -> None:
    (here / "there.yaml").write_text(GOOD_THERE)
    done = rz(here, "submit", "there.yaml", "--set", "trainer.podTemplate.spec.restartPolicy=Always")
    assert (done.returncode, "spec.trainer.podTemplate.spec.restartPolicy: found" in done.stderr) == (64, True)


def test_manifests_are_yaml_that_kubectl_would_read(here: Path) -> None:
    done = rz(here, "manifests", "run.yaml", "-n", "team", "--incarnation", "3")
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    assert {each["metadata"]["namespace"] for each in objects} == {"team"}
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "Pod"] == [
        "tiny-rollout-i1-0",
        "tiny-trainer-i3-0",
    ]
    assert json.loads(objects[0]["data"]["run.json"])["name"] == "tiny"


def test_a_role_that_is_none_is_the_users_error(here: Path) -> None:
    done = rz(here, "logs", "tiny", "--role", "train")
    assert (done.returncode, "one of ledger, reward, rollout, trainer is required" in done.stderr) == (64, True)


@pytest.mark.parametrize(("answer", "reference", "code"), [("-5", "-5.0", 0), ("-x", "x", 1)])
def test_an_answer_that_begins_with_a_minus_is_graded(here: Path, answer: str, reference: str, code: int) -> None:
    done = rz(here, "grade", answer, reference, "--verifier", "robust")
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(f"{1 - code} (ok) by the rule expression of robust")


def test_grade_wants_a_pair(here: Path) -> None:
    done = rz(here, "grade", "5")
    assert done.returncode == 64
    assert "found no reference" in done.stderr


def test_report_wants_a_run(here: Path) -> None:
    done = rz(here, "report", "elsewhere")
    assert (done.returncode, "found neither status.json nor run.json" in done.stderr) == (64, True)


# ------------------------------------------------------------------------------------- runs of fake processes


def run_fakes(here: Path, programs: dict[str, str]) -> subprocess.Popen[str]:
    """``rz run`` but for its plan, whose processes run ``programs``; in a process group of its own, as in a shell."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from local_fakes import fake_plan
from rz_operator.local.start import run_plan
sys.exit(run_plan(fake_plan(Path('.').absolute(), {programs!r}), Path('runs/fake')))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def trainer_is_ready(here: Path) -> bool:
    return any("ready" in log.read_text() for log in (here / "runs/fake/logs").glob("trainer-0-i*.log"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_that_the_same_command_resumes_and_does(here: Path, number: signal.Signals) -> None:
    with run_fakes(here, {}) as runner:
        until(lambda: trainer_is_ready(here), "the trainer")
        os.killpg(runner.pid, number)  # as a terminal does: to the whole foreground group
        out, err = runner.communicate(timeout=60)
    assert runner.returncode == 130
    assert "the same command resumes" in out + err
    assert read_status(here / "runs/fake")[0].phase == "Suspended"
    with run_fakes(here, {"trainer": SUCCEED}) as again:
        out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert "going on with trainer incarnation 2" in out


def test_a_second_runner_of_the_same_run_is_refused(here: Path) -> None:
    with run_fakes(here, {}) as first:
        until(lambda: trainer_is_ready(here), "the trainer")
        with run_fakes(here, {}) as second:
            _, err = second.communicate(timeout=60)
        assert "another `rz run` is at work" in err
        assert first.poll() is None
        first.terminate()
        first.communicate(timeout=60)
    assert first.returncode == 130


def test_a_workers_user_error_is_printed_and_leaves_no_half_made_run(here: Path) -> None:
    with run_fakes(here, {"trainer": LAST_WORDS.format("line 7 of train.jsonl is no record")}) as runner:
        _, err = runner.communicate(timeout=60)
    assert (runner.returncode, err) == (64, "rz: line 7 of train.jsonl is no record\n")
    assert names(here) == ["run.yaml"]


def test_a_user_error_after_the_run_has_begun_keeps_everything(here: Path) -> None:
    claim = "import pathlib\npathlib.Path('store').mkdir()\npathlib.Path('store/run.json').write_text('{}')\n"
    with run_fakes(here, {"trainer": claim + LAST_WORDS.format("the data changed")}) as runner:
        _, err = runner.communicate(timeout=60)
    assert (runner.returncode, "the data changed; logs are in" in err) == (64, True)
    assert names(here) == ["run.yaml", "runs", "store"]
    assert (here / "runs/fake/status.json").exists()


def test_status_shows_where_a_finished_run_stands(here: Path) -> None:
    with run_fakes(here, {"trainer": SUCCEED, "ledger": WAIT}) as runner:
        runner.communicate(timeout=60)
    done = rz(here, "status")
    assert done.returncode == 0
    assert "fake: Succeeded" in done.stdout
    assert "not running now" in done.stdout
