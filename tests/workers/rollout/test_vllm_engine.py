"""The vLLM engine: the contract, its own way of taking weights, and several calls at once.

An engine is two processes that import vLLM, half a minute or more, so that the whole module shares one for each model.
"""

from __future__ import annotations

import gc
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip(
        "vllm is not installed; `make demo ENGINE=vllm` makes .venv-vllm, which has it", allow_module_level=True
    )

import torch
from engine_contract import MODELS, EngineContract, MakeEngine, by_row, model_of, trainer_logprobs
from prometheus_client import REGISTRY, generate_latest
from rollout_builders import MAX_MODEL_TOKENS, build_engine, never, params, requests, weights_of
from safetensors.torch import save_file

from rz_workers.rollout.engine import ConcurrentEngine, Engine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of vLLM and what it imports; theirs to heed
    from rz_workers.rollout.vllm_engine import StaleWeightsError, VllmEngine

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], VllmEngine]]:
    made: dict[str, VllmEngine] = {}

    def engine(kind: str) -> VllmEngine:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "model"
            model_of(folder, kind)
            made[kind] = VllmEngine(folder, "float32", MAX_MODEL_TOKENS)
        return made[kind]

    yield engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sockets that vLLM leaves to the garbage collector
        while made:
            made.popitem()[1].close()
        gc.collect()


@pytest.fixture
def make_engine(tmp_path: Path, engines: Callable[[str], VllmEngine]) -> MakeEngine:
    def make(version: int = 0, seed: int = 0, kind: str = "tied") -> tuple[Engine, dict[str, torch.Tensor]]:
        engine, weights = engines(kind), weights_of(model_of(tmp_path / f"{kind}-{seed}", kind, seed))
        engine.load_weights(version, weights)
        return engine, weights

    return make


class TestVllmEngine(EngineContract):
    tolerance = 1e-5

    def test_another_engine_with_the_same_weights_gives_the_same_bits(self, make_engine: MakeEngine) -> None:
        pytest.skip("engines of the tier `equivalent` promise no bits; the trainer's log-probs are the measure")

    def test_weights_that_went_and_came_back_give_the_same_bits(self, make_engine: MakeEngine) -> None:
        """The contract's test, in an order that fits one engine for all weights."""
        engine, _ = make_engine(version=0, seed=0)
        first = by_row(engine, requests())
        engine, _ = make_engine(version=1, seed=1)
        assert engine.weight_version == 1
        assert [r.token_ids for r in by_row(engine, requests())] != [r.token_ids for r in first]
        engine, _ = make_engine(version=0, seed=0)
        assert engine.weight_version == 0
        self.assert_same(first, by_row(engine, requests()))


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_responses_are_those_of_the_transformers_engine(
    make_engine: MakeEngine, tmp_path: Path, kind: str
) -> None:
    engine, _ = make_engine(kind=kind)
    other = build_engine(tmp_path / kind, model_of(tmp_path / kind, kind))
    sampling = params(top_k=1, max_new_tokens=80, stop=("</answer>", "an"))
    assert by_row(engine, requests(6, 2), sampling) == by_row(other, requests(6, 2), sampling)


# -------------------------------------------------------------------------------------------------------- weights


def rpc(engine: VllmEngine, method: str, *args: Any) -> Any:
    return engine._await(engine._llm.collective_rpc(method, args=args), 60)


def test_a_tied_head_that_stayed_behind_is_caught_and_mended(make_engine: MakeEngine, tmp_path: Path) -> None:
    """vLLM 0.32 on CPUs: the embedding is new, the packed copy of it that makes the logits is the old one."""
    engine, _ = make_engine()
    assert isinstance(engine, VllmEngine)
    model = model_of(tmp_path, "tied", seed=1)
    file = str(tmp_path / "new.safetensors")
    save_file(weights_of(model), file)

    rpc(engine, "replace_tensors", file)
    (complaint,) = rpc(engine, "complain_of_head", file)
    assert "computes with other weights" in complaint
    rows = requests(2, 2)
    stale = by_row(engine, rows)
    scored = trainer_logprobs(tmp_path / "trainer", model, rows, stale)
    assert max(float((torch.tensor(r.logprobs) - s).abs().max()) for r, s in zip(stale, scored, strict=True)) > 0.1

    rpc(engine, "mend_head")
    assert rpc(engine, "complain_of_head", file) == [None]


def test_a_tied_head_that_missed_an_update_of_1e_6_is_caught_in_fp32(make_engine: MakeEngine, tmp_path: Path) -> None:
    """On weights of the size that real models have (0.02; these have 0.2, so the step is ten times larger)."""
    engine, weights = make_engine()
    assert isinstance(engine, VllmEngine)
    torch.manual_seed(0)
    file = str(tmp_path / "new.safetensors")
    save_file({name: tensor + 1e-5 * torch.randn_like(tensor).sign() for name, tensor in weights.items()}, file)
    rpc(engine, "replace_tensors", file)
    assert rpc(engine, "complain_of_head", file) != [None]
    rpc(engine, "mend_head")
    assert rpc(engine, "complain_of_head", file) == [None]


def test_a_load_whose_head_stays_stale_fails_and_leaves_no_version(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = make_engine()
    assert isinstance(engine, VllmEngine)
    original = engine._llm.collective_rpc

    async def without_mending(method: str, timeout: float | None = None, args: Any = ()) -> Any:
        assert method == "load_published"
        await original("replace_tensors", args=args)
        return await original("complain_of_head", args=args)

    with monkeypatch.context() as patch:
        patch.setattr(engine._llm, "collective_rpc", without_mending)
        with pytest.raises(StaleWeightsError, match="weights version 3: the logits of the head are off"):
            engine.load_weights(3, weights_of(model_of(tmp_path, "tied", seed=2)))
    assert engine.weight_version is None
    assert not list(tmp_path.glob("*-weights"))
    make_engine()


# ------------------------------------------------------------------------------------------------- several calls


def test_calls_run_beside_each_other_and_an_abandoned_one_leaves_the_others_alone(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    assert isinstance(engine, ConcurrentEngine)
    units = [requests(2, 4, first_seed=seed) for seed in (0, 100, 200)]
    alone = [by_row(engine, unit, params(max_new_tokens=60)) for unit in units]

    calls = [engine.generate(unit, params(max_new_tokens=60), never) for unit in units]
    abandoned = engine.generate(requests(2, 8, first_seed=300), params(max_new_tokens=200), lambda: True)
    together: dict[int, list[Any]] = {}

    def consume(number: int) -> None:
        together[number] = sorted(calls[number], key=lambda response: response.index)

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert list(abandoned) == []
    for thread in threads:
        thread.join()
    for number in range(3):
        TestVllmEngine().assert_same(alone[number], together[number])


def test_there_is_room_when_nothing_runs_and_none_while_rows_wait(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    assert isinstance(engine, ConcurrentEngine)
    assert engine.has_room()
    call = engine.generate(requests(40, 8), params(max_new_tokens=200), never)  # 320 rows; 256 run at a time
    assert not engine.has_room()
    for number, _ in enumerate(call):
        if number == 0:
            assert not engine.has_room()
    assert engine.has_room()


def test_more_prompt_tokens_than_one_step_takes_are_sampled_over_several(make_engine: MakeEngine) -> None:
    """On a CPU, vLLM 0.32 fails when it cuts a prompt in pieces whose row has a seed."""
    engine, _ = make_engine()
    assert len(by_row(engine, requests(32, 2, lengths=(190, 220)), params(max_new_tokens=8))) == 64


def test_rows_of_one_prompt_share_its_keys_and_the_metrics_say_so(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(kind="untied")  # made last in this module: its metrics are those in the registry
    by_row(engine, requests(1, 8, lengths=(200, 200)), params(max_new_tokens=4))
    text = generate_latest(REGISTRY).decode()
    assert 'vllm:generation_tokens_total{engine="0",model_name="policy"}' in text
    hits = REGISTRY.get_sample_value("vllm:prefix_cache_hits_total", {"engine": "0", "model_name": "policy"})
    assert hits
    assert hits >= 128
