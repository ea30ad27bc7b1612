"""The vLLM engine: the contract, its own way of taking weights, and several calls at once.

An engine is two processes that import vLLM, half a minute or more, so that the whole module shares one for each model.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import subprocess
import sys
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

import engine_contract
import torch
from broadcasts import Trainer
from engine_contract import (
    CANARY,
    MODELS,
    EngineContract,
    MakeEngine,
    by_row,
    make_weights,
    trainer_scores,
)
from prometheus_client import REGISTRY, generate_latest
from rollout_builders import (
    MAX_MODEL_TOKENS,
    build_engine,
    build_model,
    never,
    params,
    plain_logprobs,
    requests,
    until,
    weights_of,
)
from safetensors.torch import save_file

from rz_workers.protocol.messages import Canary
from rz_workers.rollout.engines.interface import ConcurrentEngine, Engine, StaleWeightsError, WeightsMismatchError
from rz_workers.rollout.engines.vllm.orphans import carriers
from rz_workers.rollout.proof import bits_of, judge

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of vLLM and what it imports; theirs to heed
    from rz_workers.rollout.engines.vllm.engine import HungEngineError, VllmEngine

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("default"),
]


def model_of(folder: Path, kind: str, seed: int = 0) -> Any:
    """The contract's models, and one whose weights have the size of real ones (0.02)."""
    if kind == "bfloat16":
        return build_model(folder, head_dim=32, spread=0.02, seed=seed)
    return engine_contract.model_of(folder, kind, seed)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], VllmEngine]]:
    made: dict[str, VllmEngine] = {}

    def engine(kind: str) -> VllmEngine:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "model"
            model_of(folder, kind)
            made[kind] = VllmEngine(folder, "bfloat16" if kind == "bfloat16" else "float32", MAX_MODEL_TOKENS)
        return made[kind]

    yield engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sockets that vLLM leaves to the garbage collector
        while made:
            made.popitem()[1].close()
        for _ in range(3):  # what the first round frees lets go of more
            gc.collect()


@pytest.fixture
def make_engine(tmp_path: Path, engines: Callable[[str], VllmEngine]) -> MakeEngine:
    def make(version: int = 0, seed: int = 0, kind: str = "tied") -> tuple[Engine, dict[str, torch.Tensor]]:
        engine, weights = engines(kind), weights_of(model_of(tmp_path / f"{kind}-{seed}", kind, seed))
        if kind == "bfloat16":
            weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
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


OTHER_FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("qwen3", {}),
    ("mistral", {"sliding_window": 16}),
    ("gemma3_text", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    ("olmo2", {}),
    ("phi3", {"pad_token_id": 0}),
    ("gpt_neox", {"num_key_value_heads": 4}),  # it has no groups; vLLM would believe the field
]


@pytest.mark.parametrize(("family", "changes"), OTHER_FAMILIES, ids=[row[0] for row in OTHER_FAMILIES])
def test_a_model_of_another_family_is_sampled_as_what_it_is(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    """Windows are crossed, and tensors come under the names that the trainer publishes."""
    folder = tmp_path / "model"
    model = build_model(folder, family, tied=False, head_dim=32, changes={"hidden_size": 128, **changes})
    engine = VllmEngine(folder, "float32", MAX_MODEL_TOKENS)
    try:
        engine.load_weights(0, weights_of(model))
        rows = requests(3, 2, lengths=(2, 30))
        for response in by_row(engine, rows, params(max_new_tokens=50)):
            expected = plain_logprobs(model, rows[response.index], response)
            torch.testing.assert_close(torch.tensor(response.logprobs), expected, rtol=0, atol=1e-4)
    finally:
        engine.close()


# -------------------------------------------------------------------------------------------------------- weights


def rpc(engine: VllmEngine, method: str, *args: Any) -> Any:
    """Of the engine's only worker."""
    (result,) = engine._await(engine._llm.collective_rpc(method, args=args), 60, method)
    return result


def saved(file: Path, weights: dict[str, torch.Tensor]) -> str:
    save_file(weights, file)
    return str(file)


def canary_of(folder: Path, model: Any) -> Canary:
    return Canary(token_ids=CANARY, logprobs=tuple(trainer_scores(folder, model, CANARY).tolist()))


def vllm_engine(make_engine: MakeEngine, **options: Any) -> tuple[VllmEngine, dict[str, torch.Tensor]]:
    engine, weights = make_engine(**options)
    assert isinstance(engine, VllmEngine)
    return engine, weights


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_of_a_load_is_compared(make_engine: MakeEngine, tmp_path: Path, kind: str) -> None:
    engine, weights = vllm_engine(make_engine, kind=kind)
    report = rpc(engine, "prove", saved(tmp_path / "same.safetensors", weights))
    assert report == {"complaint": None, "equal": len(weights), "unknown": 0}


def test_a_tied_head_that_stayed_behind_is_caught_and_mended(make_engine: MakeEngine, tmp_path: Path) -> None:
    """vLLM 0.32 on CPUs: the embedding is new, the packed copy of it that makes the logits is the old one. The head's
    own check finds it, and so does the canary."""
    engine, _ = vllm_engine(make_engine)
    model = model_of(tmp_path, "tied", seed=1)
    canary = canary_of(tmp_path / "trainer", model)
    file = saved(tmp_path / "new.safetensors", weights_of(model))

    rpc(engine, "replace_tensors", file)
    assert "the head are off by" in rpc(engine, "prove")["complaint"]
    with pytest.raises(StaleWeightsError, match="nats beside the trainer"):
        judge(canary, engine.score(CANARY), "float32", None, "new")

    rpc(engine, "mend_head")
    assert rpc(engine, "prove", file)["complaint"] is None
    assert judge(canary, engine.score(CANARY), "float32", None, "new").error < 1e-4


def test_a_tied_head_that_missed_an_update_of_1e_6_is_caught_in_fp32(make_engine: MakeEngine, tmp_path: Path) -> None:
    """On weights of the size that real models have (0.02; these have 0.2, so the step is ten times larger)."""
    engine, weights = vllm_engine(make_engine)
    torch.manual_seed(0)
    new = {name: tensor + 1e-5 * torch.randn_like(tensor).sign() for name, tensor in weights.items()}
    file = saved(tmp_path / "new.safetensors", new)
    rpc(engine, "replace_tensors", file)
    assert "the head are off by" in rpc(engine, "prove")["complaint"]
    rpc(engine, "mend_head")
    assert rpc(engine, "prove", file)["complaint"] is None


def test_an_update_of_1e_6_in_bfloat16_is_told_from_none(make_engine: MakeEngine, tmp_path: Path) -> None:
    """The distance to the trainer's scores cannot tell: it is rounding alone, before as after. The bits can, and the
    tensors."""
    old = {name: tensor.bfloat16() for name, tensor in masters(tmp_path).items()}
    new = {name: tensor.bfloat16() for name, tensor in masters(tmp_path, steps=1).items()}
    changed = sum(int((old[name] != new[name]).sum()) for name in old)
    assert 0 < changed < 0.1 * sum(tensor.numel() for tensor in old.values()), "one step changes few bfloat16 weights"
    model = model_of(tmp_path, "bfloat16").float()
    model.load_state_dict({name: tensor.float() for name, tensor in new.items()}, strict=False)
    model.tie_weights()
    canary = canary_of(tmp_path / "trainer", model)

    engine, _ = vllm_engine(make_engine, kind="bfloat16")
    engine.load_weights(0, old)
    before = "digest of the old", bits_of(engine.score(CANARY))
    assert judge(canary, engine.score(CANARY), "bfloat16", None, "digest of the new").error < 0.1

    skipped = engine.score(CANARY)  # the update that does nothing
    with pytest.raises(StaleWeightsError, match="same bits as before"):
        judge(canary, skipped, "bfloat16", before, "digest of the new")
    complaint = rpc(engine, "prove", saved(tmp_path / "new.safetensors", new))["complaint"]
    behind = sum(not torch.equal(old[name], new[name]) for name in old)
    assert f"{behind} of {len(old)} tensors that were compared are not those that were published" in complaint

    engine.load_weights(1, new)
    proof = judge(canary, engine.score(CANARY), "bfloat16", before, "digest of the new")
    assert proof.bits != before[1]
    with Trainer().sends(2, old) as order:  # and back, by broadcast
        engine.receive_weights(order)
    assert bits_of(engine.score(CANARY)) == before[1]


def masters(folder: Path, steps: int = 0) -> dict[str, torch.Tensor]:
    """fp32 weights of usual size, after AdamW's first steps at a learning rate of 1e-6 (which go by the sign)."""
    weights = weights_of(model_of(folder, "bfloat16"))
    torch.manual_seed(1)
    return {name: tensor - steps * 1e-6 * torch.randn_like(tensor).sign() for name, tensor in weights.items()}


def test_an_update_that_left_one_layer_out_is_caught(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine, _ = vllm_engine(make_engine)
    new = make_weights(tmp_path, "tied", 1)
    left_out = {name for name in new if name.startswith("model.layers.1.")}
    assert left_out
    half = {name: tensor for name, tensor in new.items() if name not in left_out}
    rpc(engine, "replace_tensors", saved(tmp_path / "half.safetensors", half))
    rpc(engine, "mend_head")
    report = rpc(engine, "prove", saved(tmp_path / "new.safetensors", new))
    # Norms of fresh models are ones in both versions, so that they are as published all the same.
    norms = {name for name in left_out if name.endswith("norm.weight")}
    assert f"{len(left_out - norms)} of {len(new)} tensors that were compared are not those" in report["complaint"]
    assert "'model.layers.1." in report["complaint"]
    assert report["equal"] == len(new) - len(left_out - norms)


def test_a_load_whose_head_stays_stale_fails_and_leaves_no_version(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = vllm_engine(make_engine)
    original = engine._llm.collective_rpc

    async def without_mending(method: str, args: Any = ()) -> Any:
        assert method == "load_published"
        await original("replace_tensors", args=args)
        return await original("prove")

    with monkeypatch.context() as patch:
        patch.setattr(engine._llm, "collective_rpc", without_mending)
        with pytest.raises(StaleWeightsError, match="weights version 3: the logits of the head are off"):
            engine.load_weights(3, make_weights(tmp_path, "tied", 2))
    assert engine.weight_version is None
    assert not list(tmp_path.glob("*-weights"))
    make_engine()


def test_a_broadcast_that_breaks_off_in_a_layer_leaves_nothing_of_it_behind(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """vLLM 0.32 keeps the first tensors of a layer until it has all of them, also those of an update that failed."""
    engine, weights = vllm_engine(make_engine)
    before = engine.score(CANARY)
    others = make_weights(tmp_path, "tied", 1)
    cut_off = {name: tensor for name, tensor in others.items() if "up_proj" not in name and "k_proj" not in name}
    with pytest.raises(WeightsMismatchError, match="4 tensors are absent"), Trainer().sends(1, cut_off) as order:
        engine.receive_weights(order)
    engine.load_weights(0, weights)
    assert engine.score(CANARY) == before
    report = rpc(engine, "prove", saved(tmp_path / "same.safetensors", weights))
    assert report == {"complaint": None, "equal": len(weights), "unknown": 0}


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
    engine, _ = make_engine(kind="bfloat16")  # made last in this module: its metrics are those in the registry
    by_row(engine, requests(1, 8, lengths=(200, 200)), params(max_new_tokens=4))
    text = generate_latest(REGISTRY).decode()
    assert 'vllm:generation_tokens_total{engine="0",model_name="policy"}' in text
    hits = REGISTRY.get_sample_value("vllm:prefix_cache_hits_total", {"engine": "0", "model_name": "policy"})
    assert hits
    assert hits >= 128


# ------------------------------------------------------------------------------------------------------- failures


def core_of(engine: VllmEngine) -> int:
    """Process id of vLLM's scheduler."""
    (process,) = engine._llm.engine_core.resources.engine_manager.processes
    return int(process.pid)


def test_an_engine_that_hangs_ends_the_unit_with_an_error(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = vllm_engine(make_engine)
    monkeypatch.setattr(engine, "_hang_seconds", 1.0)
    os.kill(core_of(engine), signal.SIGSTOP)
    try:
        with pytest.raises(HungEngineError, match="made no token for 1 s: it hangs"):
            by_row(engine, requests())
        with pytest.raises(HungEngineError, match="did not look up within 1 s"):
            engine._await(engine._llm.collective_rpc("device_name"), 1.0, "look up")
    finally:
        os.kill(core_of(engine), signal.SIGCONT)
    assert len(by_row(engine, requests())) == len(requests())


SCRIPT = """
import sys
from pathlib import Path
if __name__ == "__main__":
    from rz_workers.rollout.engines.vllm.engine import VllmEngine
    VllmEngine(Path(sys.argv[1]), "float32", 256)
"""


def test_a_rollout_that_is_killed_while_vllm_starts_leaves_no_process(tmp_path: Path) -> None:
    model_of(tmp_path / "model", "tied")
    script = tmp_path / "rollout.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "model")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as rollout:
        until(lambda: bool(carriers(f"{rollout.pid}-")), 300)  # of which the first begins to import
        rollout.kill()
    until(lambda: not carriers(f"{rollout.pid}-"))
