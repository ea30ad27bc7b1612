"""examples/tiny: a few steps of pre-training, the files of a build, and that run.yaml fits them."""

import hashlib
import json
import random
from itertools import islice
from pathlib import Path

import build
import pytest
import torch
import yaml
from corpus import documents, packed_batches
from measure import FORCED_STYLES, Measured
from pretrain import Recipe, loss_of, new_model, pretrain
from task import PROMPT_TEMPLATE, Problem, draw_distinct
from tokenizer import build_tokenizer

from rz_api.resource import load_run
from rz_workers.data.datasets import read_source

RUN_FILE = Path(build.__file__).with_name("run.yaml")
SHORT = Recipe(steps=8, rows=4, warmup_steps=2)


def weights_after(seed: int, recipe: Recipe) -> tuple[str, list[float]]:
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, seed)
    losses: list[float] = []
    batches = packed_batches(documents(seed), tokenizer, recipe.rows, recipe.row_tokens)
    pretrain(model, batches, recipe, lambda step, loss: losses.append(loss))
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest(), losses


def test_pre_training_is_the_same_to_the_bit_for_the_same_seed() -> None:
    first, losses = weights_after(0, SHORT)
    assert weights_after(0, SHORT) == (first, losses)
    assert weights_after(1, SHORT)[0] != first


def test_pre_training_lowers_the_loss() -> None:
    _, losses = weights_after(0, SHORT)
    assert losses[-1] < losses[0] - 0.5


def test_packed_documents_are_scored_as_if_alone() -> None:
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, seed=0)
    texts = list(islice(documents(0), 20))
    packed = next(packed_batches(iter(texts), tokenizer, num_rows=1, num_tokens=160))
    count = int(packed.documents.max()) + 1
    with torch.no_grad():
        together = loss_of(model, packed)
        alone, tokens = torch.tensor(0.0), 0
        for text in texts[:count]:
            single = next(packed_batches(iter([text, " =?" * 158]), tokenizer, num_rows=1, num_tokens=160))
            num = int((single.labels() >= 0).sum())
            alone, tokens = alone + loss_of(model, single) * num, tokens + num
    assert together.item() == pytest.approx(alone.item() / tokens, abs=1e-5)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe(steps=110, warmup_steps=10, learning_rate=1.0)
    assert [recipe.rate(step) for step in (0, 9, 10, 60)] == pytest.approx([0.1, 1.0, 1.0, 0.5])
    assert recipe.rate(109) < 0.001


def test_progress_is_a_line_every_few_seconds_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    on_step = build.progress_printer(5, lambda: next(times))
    for step in range(1, 6):
        on_step(step, 1.5)
    assert capsys.readouterr().out.splitlines() == [
        "  step    3/5  loss 1.500  about 3 s left",
        "  step    5/5  loss 1.500  about 0 s left",
    ]


def test_a_base_model_whose_long_answers_are_unreliable_is_refused() -> None:
    weak = Measured(0.1, 15.0, 0.0, {"direct": 0.05, "terse": 0.1, "full": 0.59})
    with pytest.raises(SystemExit, match=r"right in 59\.0% of cases, at least 60% is required"):
        build.check_reliable(weak, seed=3)


def test_a_base_model_at_the_bound_is_accepted() -> None:
    build.check_reliable(Measured(0.1, 15.0, 0.0, {"full": 0.60}), seed=3)


@pytest.mark.parametrize(
    ("style", "beginning"),
    [("direct", " </think>"), ("terse", " 7 a 15"), ("full", " 7 a+8 = 15")],
)
def test_a_style_is_forced_by_its_first_tokens_alone(style: str, beginning: str) -> None:
    assert FORCED_STYLES[style](Problem(7, (8, -4, -1))) == beginning


def test_an_existing_folder_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["build.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="exists already and is never overwritten"):
        build.main()


def test_run_yaml_is_a_valid_run_that_uses_the_corpus_prompt_and_the_built_files() -> None:
    run = load_run(yaml.safe_load(RUN_FILE.read_text()))
    assert run.metadata.name == "tiny"
    assert run.spec.data.prompt_template == PROMPT_TEMPLATE
    assert run.spec.model.name == "runs/tiny/base/model"
    assert [source.uri for source in run.spec.data.train] == ["runs/tiny/base/train.jsonl"]
    assert [(source.name, source.uri) for source in run.spec.data.eval] == [("heldout", "runs/tiny/base/heldout.jsonl")]


def test_the_longest_prompt_fits_the_run() -> None:
    tokenizer = build_tokenizer()
    longest = PROMPT_TEMPLATE.replace("{question}", Problem(1, (1,) * 8).question)
    spec = load_run(yaml.safe_load(RUN_FILE.read_text())).spec
    assert 1 + len(tokenizer.encode(longest, add_special_tokens=False)) == 22 <= spec.data.max_prompt_tokens
    assert spec.rollout.max_model_length <= new_model(tokenizer, 0).config.max_position_embeddings


def test_the_workers_read_the_written_problems(tmp_path: Path) -> None:
    problems = draw_distinct(random.Random(0), 5, held_out=True)
    build.write_problems(problems, tmp_path / "heldout.jsonl")
    source = load_run(yaml.safe_load(RUN_FILE.read_text())).spec.data.eval[0]
    records = read_source(source.model_copy(update={"uri": str(tmp_path / "heldout.jsonl")}))
    assert [(record.question, record.reference_answer) for record in records] == [
        (problem.question, str(problem.answer)) for problem in problems
    ]
    first = json.loads((tmp_path / "heldout.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"question", "answer"}
