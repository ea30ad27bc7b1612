"""What ``rz plan`` says of memory and time, and where it takes the model's shape from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rz_api.models import refusal
from rz_api.spec import ModelSpec
from rz_operator.commands import estimate_text, model_config
from rz_operator.errors import UserError
from rz_operator.run_file import read_run

EXAMPLES = Path(__file__).parents[3] / "examples"
NOBODY = "http://127.0.0.1:9"
"""The hub, as one sees it without a network."""


def rz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command_line("plan", *arguments)


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from rz_operator.commands.cli import main; main()"]
    environment = {**os.environ, "HF_ENDPOINT": NOBODY, "COLUMNS": "200"}
    return subprocess.run(
        [*program, *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def example(name: str, *overrides: str):
    return read_run(EXAMPLES / name, overrides).spec


@pytest.mark.parametrize("name", ["orz-0.5b.yaml", "orz-1.5b.yaml", "orz-7b.yaml", "orz-32b.yaml"])
def test_every_example_of_the_papers_sizes_fits_an_h100(name):
    document = estimate_text.of(example(name), "H100", None, None).document
    assert document["fits"], document["problems"]
    assert 10 < document["stepSeconds"]["total"] < 3600


def test_the_command_shows_memory_time_and_a_better_split():
    done = rz(str(EXAMPLES / "orz-7b.yaml"))
    assert done.returncode == 0, done.stderr
    for words in ("7.62B parameters on H100-80GB", "a trainer GPU", "checkpoint staging", "critic update", "fits"):
        assert words in done.stdout
    assert "recommended: trainer.nodes" in done.stdout


def test_what_does_not_fit_is_said_here_and_in_the_json_and_is_no_failure_of_the_command():
    arguments = (str(EXAMPLES / "orz-32b.yaml"), "--gpu", "A100-40GB", "--set", "trainer.nodes=1")
    table, shown = rz(*arguments), rz(*arguments, "--json")
    assert (table.returncode, shown.returncode) == (0, 0)
    verdict, reason, *_ = table.stdout.splitlines()
    assert verdict.startswith("does not fit on 72 GPUs (A100-40GB)")
    assert reason.startswith("- a trainer GPU would hold 147 GB, it has 40 GB")
    estimated = json.loads(shown.stdout)["estimate"]
    assert estimated["fits"] is False
    assert "raise trainer.nodes" in estimated["problems"][0]


def test_without_the_hub_there_is_a_plan_and_a_word_on_what_to_give():
    done = rz(str(EXAMPLES / "orz-7b.yaml"), "--set", "model.name=someone/unheard-of")
    assert done.returncode == 0, done.stderr
    assert "rz_workers.trainer" in done.stdout
    assert "no estimate: cannot read the configuration of someone/unheard-of" in done.stdout.replace("\n", " ")
    assert "--model-config" in done.stdout


def test_a_run_without_gpus_has_no_estimate():
    done = rz(str(EXAMPLES / "tiny" / "run.yaml"), "--json")
    assert json.loads(done.stdout)["estimate"] == {"unknown": "this run has no GPUs (trainer.gpusPerNode: 0)"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "H9000"), "One of A100-40GB, A100-80GB"),
        (("--model-config", "nowhere.json"), "cannot read nowhere.json"),
        (("--set", "trainer.resources.limits={memory: plenty}"), "such as 512Gi is required"),
    ],
)
def test_bad_input_is_a_user_error(arguments, words):
    done = rz(str(EXAMPLES / "orz-7b.yaml"), *arguments)
    assert done.returncode == 64
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_shape_comes_from_the_models_folder_or_its_bucket(tmp_path):
    config = {**model_config.KNOWN["Qwen/Qwen2.5-0.5B"], "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in (str(tmp_path), tmp_path.as_uri()):
        assert model_config.read_shape(ModelSpec(name=name)).layers == 3
    assert model_config.read_shape(ModelSpec(name="Qwen/Qwen2.5-7B"), tmp_path / "config.json").layers == 3


@pytest.mark.parametrize("text", ["{", "[]", "{}"], ids=["no JSON", "no object", "no model"])
def test_a_configuration_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json of a"):
        model_config.read_shape(ModelSpec(name=str(tmp_path)))


MIXTURE = {"model_type": "qwen3_moe", "num_experts": 128, "hidden_size": 2048, "intermediate_size": 6144}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("plan", "orz-7b.yaml", "--model-config", "config.json"), id="a plan"),
        pytest.param(("plan", "tiny/run.yaml", "--model-config", "config.json"), id="a plan without GPUs"),
        pytest.param(("plan", "tiny/run.yaml", "--set", "model.name=."), id="a plan, of the model's folder"),
        pytest.param(("validate", "orz-7b.yaml", "--model", "config.json"), id="validation"),
        pytest.param(("validate", "tiny/run.yaml", "--model", "."), id="validation, of the model's folder"),
    ],
)
def test_what_the_trainer_would_refuse_is_refused_in_its_words(tmp_path, monkeypatch, arguments):
    (tmp_path / "config.json").write_text(json.dumps(MIXTURE))
    monkeypatch.chdir(tmp_path)
    command, file, *more = arguments
    done = command_line(command, str(EXAMPLES / file), *more)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.rstrip().endswith(refusal(MIXTURE))


def test_a_model_that_can_be_trained_is_no_word_of_validation(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(model_config.KNOWN["Qwen/Qwen2.5-7B"]))
    done = command_line("validate", str(EXAMPLES / "orz-7b.yaml"), "--model", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_memory_that_a_pod_asks_for_is_the_hosts_limit():
    spec = example("orz-7b.yaml", "trainer.resources.limits={memory: 64Gi}")
    assert estimate_text.host_memory(spec) == 64 * 2**30
    assert estimate_text.of(spec, "H100", None, None).document["trainerHost"]["limit"] == 64 * 2**30


def test_a_longer_mean_response_takes_longer():
    spec = example("orz-7b.yaml")
    short, long = (estimate_text.of(spec, "H100", None, mean).document["stepSeconds"]["total"] for mean in (500, 4000))
    assert long > 3 * short
