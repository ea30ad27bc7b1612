"""What ``rz plan`` prints of every example: the verdict first, nothing broken at any width, no variables unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from rz_operator.commands import estimate_text
from rz_operator.commands.plan_text import as_text
from rz_operator.plan import Plan, plan
from rz_operator.run_file import read_run

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("**/*.yaml"))
ROLES = ("ledger", "reward", "rollout", "trainer")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def planned(file: Path, *overrides: str, gpu: str = "H100") -> tuple[Plan, estimate_text.Estimated]:
    made = plan(read_run(file, overrides))
    return made, estimate_text.of(made.run.spec, gpu, None, None)


def shown(file: Path, *overrides: str, width: int = 80, verbose: bool = False, gpu: str = "H100") -> list[str]:
    return as_text(*planned(file, *overrides, gpu=gpu), width=width, verbose=verbose)


def test_there_are_examples() -> None:
    assert {"orz-0.5b.yaml", "orz-7b.yaml", "run.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_word_of_an_example_is_broken_and_its_lines_fit(file: Path, width: int) -> None:
    lines = shown(file, width=width, verbose=True)
    assert " ".join(lines).split() == " ".join(shown(file, width=10_000, verbose=True)).split()
    assert [line for line in lines if len(line) > width] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_command_is_one_line_the_verdict_the_first_and_variables_are_for_verbose(file: Path) -> None:
    lines = shown(file)
    assert lines[0].startswith(("fits: about ", "does not fit on ", "no estimate: "))
    assert [line for line in lines if "rz_workers" in line] == [
        f"{role:<7}   python -m rz_workers.{role}" for role in ROLES
    ]
    assert not any(name in line for line in lines for name in ("RZ_", "OMP_", "VARIABLE"))
    assert any(line.startswith("RZ_RUN_FILE") for line in shown(file, verbose=True))


@pytest.mark.parametrize(
    ("overrides", "gpu", "want"),
    [
        pytest.param((), "H100", "fits: about 166 s a step on 64 GPUs (H100-80GB)", id="fits"),
        # 99 generation + 56 values + 239 policy + 3 publication + 223 critic, which nothing hides
        pytest.param(("rollout.placement=colocated",), "NVIDIA-A100-SXM4-80GB",
                     "fits: about 619 s a step on 40 GPUs (A100-80GB)", id="rollouts on the trainer's GPUs count once"),
        # 279 values + 1195 policy + 3 publication + 1112 critic, five times the above, behind which it generates
        pytest.param(("trainer.nodes=1",), "A100",
                     "does not fit on 32 GPUs (A100-40GB); a step would take about 2589 s", id="the trainer does not"),
        pytest.param(("model.name=Qwen/Qwen2.5-32B",), "L40S", "does not fit on 64 GPUs (L40S)",
                     id="an engine without room for a sequence takes no time"),
        pytest.param(("trainer.gpusPerNode=0",), "H100",
                     "no estimate: this run has no GPUs (trainer.gpusPerNode: 0)", id="no GPUs"),
    ],
)  # fmt: skip
def test_the_verdict_is_one_line(overrides: tuple[str, ...], gpu: str, want: str) -> None:
    assert shown(EXAMPLES / "orz-7b.yaml", *overrides, gpu=gpu)[0] == want


def reasons(*overrides: str, gpu: str) -> str:
    return "\n".join(planned(EXAMPLES / "orz-7b.yaml", *overrides, gpu=gpu)[1].reasons)


@pytest.mark.parametrize(
    ("overrides", "gpu", "words"),
    [
        pytest.param((), "A100", "--gpu A100 is taken as A100-40GB; give A100-80GB or A100-PCIe-80GB if it is one of "
                     "those", id="a name of several cards"),
        pytest.param((), "H100-80GB", "--gpu H100-80GB is taken as H100-80GB (SXM); give H100-PCIe-80GB if",
                     id="a name of two forms"),
        pytest.param((), "NVIDIA-L40-SHARED", "GPUs that pods share (SHARED)", id="shared GPUs"),
        pytest.param(("trainer.nodes=1",), "A100", "raise trainer.nodes", id="what to change"),
        pytest.param(("trainer.nodes=1",), "A100", "recommended: trainer.nodes", id="a split that fits"),
        pytest.param(("model.name=Qwen/Qwen2.5-32B",), "L40S", "no other split of 64 GPUs between trainer and rollouts "
                     "fits with the rest of the spec", id="no split fits"),
        pytest.param((), "H100", "the first trainer pod needs 90 GB of its host's memory; trainer.resources does not "
                     "say how much it gets", id="a host of unknown size"),
    ],
)  # fmt: skip
def test_what_stands_behind_the_verdict(overrides: tuple[str, ...], gpu: str, words: str) -> None:
    assert words in reasons(*overrides, gpu=gpu)


def test_a_name_of_one_card_needs_no_word_on_others() -> None:
    assert "is taken as" not in reasons(gpu="NVIDIA H100 80GB HBM3")


def test_of_a_model_that_is_unknown_the_gpus_are_counted() -> None:
    lines = shown(EXAMPLES / "orz-7b.yaml", "model.name=someone/unheard-of", width=10_000)
    assert lines[0].startswith("no estimate: cannot read the configuration of someone/unheard-of")
    assert lines[1] == "- the run asks for 64 GPUs"


def test_a_variable_has_a_row_for_each_of_its_values() -> None:
    lines = shown(EXAMPLES / "orz-7b.yaml", verbose=True)
    rows = [" ".join(line.split()) for line in lines]
    at = rows.index("RZ_INCARNATION ledger, reward, rollout 0")
    assert rows[at + 1] == "trainer <incarnation>"
    assert "RZ_LOG_LEVEL each role INFO" in rows
