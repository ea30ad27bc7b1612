"""The transformers engine: the contract, and its log-probs against the plain model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_contract import EngineContract, MakeEngine, by_row, model_of, trainer_logprobs
from rollout_builders import (
    EOS_ID,
    MAX_MODEL_TOKENS,
    WORDS,
    build_engine,
    build_model,
    never,
    params,
    plain_logprobs,
    requests,
    weights_of,
)
from safetensors import safe_open

from rz_workers.rollout.engines.fit import eos_token_ids
from rz_workers.rollout.engines.interface import EOS, SampleRequest, WeightsMismatchError
from rz_workers.rollout.engines.transformers.decode import distinct_prompts, gaps
from rz_workers.rollout.engines.transformers.engine import TransformersEngine
from rz_workers.runtime import UserError


@pytest.fixture
def make_engine(tmp_path: Path) -> MakeEngine:
    def make(version: int = 0, seed: int = 0, kind: str = "tied") -> tuple[TransformersEngine, dict[str, torch.Tensor]]:
        model = model_of(tmp_path / kind, kind, seed)
        return build_engine(tmp_path / kind, model, version), weights_of(model)

    return make


class TestTransformersEngine(EngineContract):
    pass


# ---------------------------------------------------------------------------------------------------- what ends a row


@pytest.mark.parametrize(
    ("generation_config", "config", "want"),
    [
        pytest.param({"eos_token_id": [5, 6]}, None, {5, 6, EOS_ID}, id="a list, as Llama 3 and Qwen have"),
        pytest.param({"eos_token_id": 7}, [5, 6], {7, EOS_ID}, id="the generation configuration goes first"),
        pytest.param({}, [5, 6], {5, 6, EOS_ID}, id="one that names none"),
        pytest.param(None, [5, 6], {5, 6, EOS_ID}, id="none at all"),
        pytest.param(None, None, {EOS_ID}, id="the tokenizer's alone"),
    ],
)
def test_end_of_sequence_tokens_are_those_of_the_model_and_the_tokenizer(
    tmp_path: Path, generation_config: dict[str, Any] | None, config: list[int] | None, want: set[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config} if config else {}))
    if generation_config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation_config))
    assert eos_token_ids(tmp_path, EOS_ID) == want


def test_a_response_ends_by_each_of_several_eos_tokens_and_counts_as_stopped(tmp_path: Path) -> None:
    model = build_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    responses = by_row(build_engine(tmp_path, model), requests(4, 16), params(max_new_tokens=100))
    stopped = [response for response in responses if response.finish_reason == "stop"]
    assert {response.stop_reason for response in stopped} == {EOS}
    assert {response.token_ids[-1] for response in stopped} == {5, 6, EOS_ID}
    assert not any({5, 6, EOS_ID} & set(response.token_ids[:-1]) for response in responses)


def test_padding_of_the_vocabulary_is_sampled_as_the_trainer_scores_it_and_has_no_text(tmp_path: Path) -> None:
    model = build_model(tmp_path, tied=False)
    with torch.no_grad():
        model.lm_head.weight[len(WORDS) :] *= 2  # unlike real ones, so that they come up
    rows = requests(2, 4)
    responses = by_row(build_engine(tmp_path, model), rows, params(max_new_tokens=40))
    padding = [token for response in responses for token in response.token_ids if token >= len(WORDS)]
    assert set(padding) == set(range(len(WORDS), len(WORDS) + 5))
    for response, expected in zip(responses, trainer_logprobs(tmp_path, model, rows, responses), strict=True):
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, rtol=0, atol=1e-5)
        words = [WORDS[token] for token in response.token_ids if token < len(WORDS)]
        assert response.text == " ".join(words)


# ------------------------------------------------------------------------------------------------------ log-probs


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied embeddings", "a head of its own"])
def test_logprobs_are_those_of_a_plain_forward_with_padding_and_dropped_rows(
    tmp_path: Path, family: str, tied: bool
) -> None:
    model = build_model(tmp_path, family, tied=tied)
    engine = build_engine(tmp_path, model)
    rows = requests(4, 6, lengths=(1, 20))
    responses = by_row(engine, rows, params(stop=("</answer>",), max_new_tokens=50))
    assert len({len(response.token_ids) for response in responses}) > 5, "rows should be dropped at many lengths"
    for request, response in zip(rows, responses, strict=True):
        expected = plain_logprobs(model, request, response)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, rtol=0, atol=1e-5)


def test_logprobs_are_right_across_several_enlargements_of_the_cache(tmp_path: Path) -> None:
    model = build_model(tmp_path, kv_heads=4)
    rows = requests(2, 2)
    for response in by_row(build_engine(tmp_path, model), rows, params(max_new_tokens=200)):
        expected = plain_logprobs(model, rows[response.index], response)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied embeddings", "a head of its own"])
def test_logits_of_a_model_in_bfloat16_are_never_rounded_to_bfloat16(tmp_path: Path, tied: bool) -> None:
    model = build_model(tmp_path, tied=tied, spread=1.0)
    model.to(torch.bfloat16)
    engine = TransformersEngine(tmp_path, "bfloat16", MAX_MODEL_TOKENS)
    engine.load_weights(0, weights_of(model))
    ids = torch.tensor([3 * i % 40 for i in range(100)])
    with torch.inference_mode():
        hidden = engine._model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
    logits = hidden.double() @ model.lm_head.weight.double().T
    expected = torch.log_softmax(logits, dim=-1).gather(-1, ids[1:, None])[:, 0]
    assert logits.abs().max() > 16, "where bfloat16 is rounded to an eighth"
    torch.testing.assert_close(torch.tensor(engine.score(ids.tolist())).double(), expected, rtol=0, atol=2e-5)


def test_logprobs_are_those_of_the_distribution_at_its_temperature(tmp_path: Path) -> None:
    model = build_model(tmp_path)
    rows = requests(2, 3)
    for response in by_row(build_engine(tmp_path, model), rows, params(temperature=0.6)):
        expected = plain_logprobs(model, rows[response.index], response, temperature=0.6)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, rtol=0, atol=1e-5)


def test_bfloat16_weights_are_sampled_in_bfloat16(tmp_path: Path) -> None:
    model = build_model(tmp_path)
    engine = TransformersEngine(tmp_path, "bfloat16", MAX_MODEL_TOKENS)
    engine.load_weights(0, {name: tensor.bfloat16() for name, tensor in weights_of(model).items()})
    rows = requests(3, 4, lengths=(1, 12))
    for response in by_row(engine, rows):
        expected = plain_logprobs(model.bfloat16(), rows[response.index], response)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected.float(), rtol=0, atol=0.1)


# -------------------------------------------------------------------------------------------------- other processes

SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from rollout_builders import build_engine, build_model, never, params, requests
folder = Path(sys.argv[1])
responses = build_engine(folder, build_model(folder)).generate(requests(), params(stop=("</answer>",)), never)
print(json.dumps([[r.index, r.token_ids, r.logprobs] for r in responses]))
"""


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    engine = build_engine(tmp_path, build_model(tmp_path))
    here = [
        [r.index, list(r.token_ids), list(r.logprobs)]
        for r in engine.generate(requests(), params(stop=("</answer>",)), never)
    ]
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(tmp_path),
        str(torch.get_num_threads()),
        str(Path(__file__).parents[1]),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert json.loads(output.splitlines()[-1]) == here


# ------------------------------------------------------------------------------------------------------- stopping


def test_eos_tokens_of_the_generation_configuration_stop_too(tmp_path: Path) -> None:
    model = build_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    responses = by_row(build_engine(tmp_path, model), requests(4, 16), params(max_new_tokens=60))
    ends = {response.token_ids[-1] for response in responses if response.stop_reason == "eos"}
    assert {3, 4} <= ends
    assert not any({3, 4} & set(response.token_ids[:-1]) for response in responses)


# -------------------------------------------------------------------------------------------------------- weights


def test_tied_tensors_that_were_published_apart_must_agree(tmp_path: Path) -> None:
    model = build_model(tmp_path, tied=True)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = TransformersEngine(tmp_path, "float32", MAX_MODEL_TOKENS)
    engine.load_weights(0, weights)
    weights["lm_head.weight"] += 1
    with pytest.raises(WeightsMismatchError, match="differ, but the model's configuration ties them"):
        engine.load_weights(1, weights)


# --------------------------------------------------------------------------------------------------- other families

WINDOWED: list[tuple[str, dict[str, Any]]] = [
    ("mistral", {"sliding_window": 16}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    ("gemma3_text", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    ("olmo3", {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}),
    ("phi3", {"sliding_window": 16, "pad_token_id": 0}),
]


@pytest.mark.parametrize(("family", "changes"), WINDOWED, ids=[row[0] for row in WINDOWED])
def test_layers_with_a_window_are_sampled_with_it(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    """Prompts longer and shorter than the window, which responses cross."""
    model = build_model(tmp_path, family, changes=changes)
    rows = requests(3, 3, lengths=(2, 30))
    engine = build_engine(tmp_path, model)
    for response in by_row(engine, rows, params(max_new_tokens=50)):
        request = rows[response.index]
        expected = plain_logprobs(model, request, response)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, rtol=0, atol=1e-5)
        scored = engine.score([*request.prompt_token_ids, *response.token_ids])
        torch.testing.assert_close(torch.tensor(scored[-len(expected) :]), expected, rtol=0, atol=1e-5)


def test_a_model_with_layers_that_are_no_attention_is_refused(tmp_path: Path) -> None:
    build_model(tmp_path, "qwen2")
    config = json.loads((tmp_path / "config.json").read_text())
    config["layer_types"] = ["full_attention", "linear_attention"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"\['linear_attention'\].*rollout.engine vllm"):
        TransformersEngine(tmp_path, "float32", MAX_MODEL_TOKENS)


def test_tensors_come_under_the_names_of_a_checkpoint(tmp_path: Path) -> None:
    """GPT-NeoX: ``embed_out.weight`` in a checkpoint, ``lm_head.weight`` in memory."""
    model = build_model(tmp_path, "gpt_neox", tied=False)
    engine = build_engine(tmp_path, model)
    model.save_pretrained(tmp_path / "checkpoint")
    with safe_open(tmp_path / "checkpoint" / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name) + 0.01 for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    assert "embed_out.weight" in stored
    engine.load_weights(1, stored)
    own = engine._model.state_dict()
    assert torch.equal(own["lm_head.weight"], stored["embed_out.weight"])


# ------------------------------------------------------------------------------------------------------ pure parts


@pytest.mark.parametrize(
    ("rows", "ended", "want"),
    [
        pytest.param(6, [1, 4], ([1], [5], 4), id="the last row moves into the gap"),
        pytest.param(6, [4, 5], ([], [], 4), id="gaps at the end need no move"),
        pytest.param(6, [0, 1, 2], ([0, 1, 2], [3, 4, 5], 3), id="half of the rows move"),
        pytest.param(3, [0, 1], ([0], [2], 1), id="one row is left"),
    ],
)
def test_gaps_are_closed_from_the_end(rows: int, ended: list[int], want: tuple[list[int], list[int], int]) -> None:
    holes, movers, kept = gaps(rows, ended)
    assert (holes.tolist(), movers.tolist(), kept) == want


def test_prompts_are_computed_once_for_all_rows_that_share_them() -> None:
    rows = [SampleRequest(prompt, 0) for prompt in ((1, 2), (3,), (1, 2))]
    prompts, of_row = distinct_prompts(rows)
    assert (prompts, of_row.tolist()) == ([(1, 2), (3,)], [0, 1, 0])
