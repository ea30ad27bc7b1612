"""Every causal language model of the locked transformers is trained right or refused, as docs/models.md says.

There is no third outcome: what would be trained wrong is refused by its configuration or by the start-up proof. All of
it runs in ``make test-thorough``, a fifth and what people bring most in ``make test``.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import conformance
import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rz_api import models, models_doc
from rz_workers.trainer.models import attention, dropout, loading

# Models warn of their own experiments and of what they deprecate.
pytestmark = pytest.mark.filterwarnings("ignore")

ALWAYS = {
    *("gemma3_text", "gpt_neox", "llama", "mistral", "olmo3", "opt", "phi3", "qwen2", "qwen3", "qwen3_next"),
    *("seed_oss", "stablelm", "starcoder2"),
}

SLOW = {"emu3"}
"""10 seconds: its picture decoder is not made smaller."""


def is_sampled(model_type: str) -> bool:
    return model_type not in SLOW and hashlib.sha256(model_type.encode()).digest()[0] % 5 == 0


TYPES = [
    pytest.param(each, marks=() if each in ALWAYS or is_sampled(each) else pytest.mark.thorough)
    for each in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_is_trained_right_or_refused(model_type: str, tmp_path: Path) -> None:
    found = conformance.judge_type(model_type, tmp_path)
    assert found.verdict in ("right", "refused"), found
    known = models_doc.read().models
    if transformers.__version__ == models_doc.read().transformers:  # test-oldest and test-newest have others
        assert (known[model_type].verdict, known[model_type].critic) == (found.verdict, found.critic_format), (
            f"found {found}: `make models` writes docs/models.md anew"
        )


def test_the_page_has_every_architecture() -> None:
    if transformers.__version__ == models_doc.read().transformers:
        assert set(models_doc.read().models) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), "run `make models`"


def test_the_pages_vllm_is_that_of_the_lock() -> None:
    assert models_doc.read().vllm == models_doc.vllm_of(models_doc.DOCS.parent), "run write_models.py with --vllm"


@pytest.mark.thorough
@pytest.mark.parametrize("model_type", models.BY_TYPE)
def test_no_type_is_refused_by_name_that_would_be_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_type: str
) -> None:
    refuse_nothing(monkeypatch)
    found = conformance.judge_type(model_type, tmp_path)
    assert found.verdict == "refused", f"{found}: take it out of rz_api.models"


def refuse_nothing(patch: pytest.MonkeyPatch) -> None:
    """By the configuration alone."""
    for module in (conformance, loading):
        patch.setattr(module, "refusal", lambda config: None)


def drop_windows(patch: pytest.MonkeyPatch) -> None:
    def all_before(layout: attention.PackLayout, longest: int, window: int) -> torch.Tensor:
        return attention.in_window(longest, longest, torch.device("cpu"))

    patch.setattr(attention.PackLayout, "visible", all_before)


def keep_dropout(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dropout, "switch_off", lambda config: setattr(config, "attention_dropout", 0.0))


WRONG: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "layers that pass nothing on": ("stablelm", lambda patch: None),
    "layers with a state": ("recurrent_gemma", lambda patch: None),
    "logits that are capped": ("nanochat", lambda patch: None),
    "windows that are dropped": ("mistral", drop_windows),
    "dropout by a function": ("starcoder2", keep_dropout),
}
"""Model type, and what is undone of what makes it right; of the first three, that their configuration refuses them."""


@pytest.mark.parametrize("proven", [False, True], ids=["is measured as wrong", "is refused by the proof alone"])
@pytest.mark.parametrize(("model_type", "break_it"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model_type: str,
    break_it: Callable[[pytest.MonkeyPatch], None],
    proven: bool,
) -> None:
    refuse_nothing(monkeypatch)
    if not proven:
        monkeypatch.setattr(conformance, "prove", lambda *_, **__: None)
    break_it(monkeypatch)
    found = conformance.judge_type(model_type, tmp_path)
    assert found.verdict == ("refused" if proven else "wrong"), found
