"""Whole runs of the kinds of models that people bring, to what transformers makes of their export."""

import json

import pytest
import torch
from foreign_models import FOREIGN, model_folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]

IN_SHORT = ("gpt_neox", "mistral with a window of 16")
"""Those that ``make test`` runs."""


def short_run(make_run, folder, model, **fields):
    return make_run(
        folder,
        model={"name": str(model), **fields},
        algorithm={"totalSteps": 2, "promptsPerStep": 4, "samplesPerPrompt": 4},
        evaluation={"interval": 100},
    )


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in IN_SHORT else pytest.mark.thorough) for kind in FOREIGN]
)
def test_a_run_ends_with_an_export_that_scores_as_the_trainer_does(make_run, base, tmp_path, kind):
    run = short_run(
        make_run, tmp_path / "run", FOREIGN[kind](tmp_path / "model", base), trustRemoteCode=kind == "remote code"
    )
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    commits = run.commits()
    # The sampler and the trainer have the same model, tokens beyond any window included.
    assert all(commit["metrics"]["mismatch_max"] < 1e-4 for commit in commits.values())
    [first] = run.storage.glob("weights/v000000-*/manifest.json")
    tokens = torch.tensor(json.loads(first.read_text())["canary"]["token_ids"])
    exported = AutoModelForCausalLM.from_pretrained(
        run.storage / "export" / "step-000002" / "policy",
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=kind == "remote code",
    )
    with torch.no_grad():
        logprobs = exported(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
    scores = logprobs.gather(-1, tokens[1:, None])[:, 0]
    torch.testing.assert_close(scores, torch.tensor(commits[1]["canary_logprobs"]), rtol=0, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["tied, and the file has another head", "untied, and the file has no head"])
def test_a_file_that_is_not_what_its_configuration_says_is_refused_before_anything_is_claimed(
    make_run, base, tmp_path, fault
):
    folder = model_folder(tmp_path / "model", base, "llama", tie_word_embeddings=False)
    file = folder / "model.safetensors"
    if fault.startswith("tied"):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    else:
        tensors = load_file(file)
        del tensors["lm_head.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
    run = short_run(make_run, tmp_path / "run", folder)
    code, output = run.run()
    assert code == 64, output
    assert "lm_head.weight" in output
    assert "model.name" in output
    assert not run.storage.exists() or not list(run.storage.iterdir())
