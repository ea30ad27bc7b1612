"""What every engine must do. A test module subclasses ``EngineContract`` and gives it a ``make_engine`` fixture.

The engine under test is made for one of ``MODELS``, whose next token is spread over many, so that responses end in all
ways. Log-probs are held against the trainer's own scoring.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from broadcasts import Trainer
from rollout_builders import (
    ANSWER_ID,
    EOS_ID,
    MAX_MODEL_TOKENS,
    build_model,
    byte_tokenizer,
    never,
    params,
    requests,
    weights_of,
    word_tokenizer,
)

from rz_workers.rollout.engines.interface import (
    EOS,
    Engine,
    Finished,
    SampleRequest,
    SamplingParams,
    WeightsMismatchError,
)
from rz_workers.runtime import UserError, WorkerError
from rz_workers.storage.checksums import describe_all, digest
from rz_workers.trainer.models.actor_critic import Policy
from rz_workers.trainer.models.loading import load_policy
from rz_workers.transfer.errors import TransferError

CANARY = tuple(3 * i % 40 for i in range(1, 100))
"""[T] tokens that every model of these tests has."""

MakeEngine = Callable[..., tuple[Engine, dict[str, torch.Tensor]]]
"""``make_engine(version=0, seed=0, kind="tied")``: an engine that holds these weights, and the weights."""

MODELS: dict[str, dict[str, Any]] = {
    "tied": {"family": "llama", "tied": True, "tokenizer": word_tokenizer},
    "untied": {"family": "llama", "tied": False, "tokenizer": byte_tokenizer},
}


def model_of(folder: Path, kind: str, seed: int = 0) -> Any:
    """``build_model`` for one of ``MODELS``, with heads of a size that every engine has."""
    options = MODELS[kind]
    return build_model(folder, options["family"], options["tokenizer"](), tied=options["tied"], head_dim=32, seed=seed)


def make_weights(folder: Path, kind: str, seed: int) -> dict[str, torch.Tensor]:
    return weights_of(model_of(folder / f"weights-{kind}-{seed}", kind, seed))


def trainer_logprobs(
    folder: Path, model: Any, requests: list[SampleRequest], responses: list[Finished], temperature: float = 1.0
) -> list[torch.Tensor]:
    """[T] of each response, as the trainer scores ``model``."""
    model.save_pretrained(folder)
    policy = load_policy(str(folder), revision=None, trust_remote_code=False, activation_checkpointing=False)
    return [_score(policy, requests[response.index], response, temperature) for response in responses]


def _score(policy: Policy, request: SampleRequest, response: Finished, temperature: float) -> torch.Tensor:
    ids = torch.tensor([*request.prompt_token_ids, *response.token_ids])
    rows = torch.arange(len(request.prompt_token_ids) - 1, len(ids) - 1)
    with torch.no_grad():
        logprobs, _ = policy(ids, torch.arange(len(ids)), (len(ids),), rows, ids[rows + 1], temperature)
    return logprobs


def trainer_scores(folder: Path, model: Any, token_ids: tuple[int, ...]) -> torch.Tensor:
    """[T - 1] log-probs of ``token_ids[1:]``."""
    response = Finished(0, token_ids[1:], (), "", "length", None)
    return trainer_logprobs(folder, model, [SampleRequest(token_ids[:1], 0)], [response])[0]


def by_row(engine: Engine, rows: list[SampleRequest], sampling: SamplingParams | None = None) -> list[Finished]:
    finished = list(engine.generate(rows, sampling or params(stop=("</answer>",)), never))
    assert sorted(response.index for response in finished) == list(range(len(rows)))
    return sorted(finished, key=lambda response: response.index)


class EngineContract:
    """The suite; ``make_engine`` comes from the subclass's module."""

    tolerance = 0.0
    """By how much log-probs of the same call may differ; 0 is the tier *bitwise*
    (``rz_workers.rollout.engines.interface``)."""

    def assert_same(self, first: list[Finished], second: list[Finished]) -> None:
        for one, other in zip(first, second, strict=True):
            assert one.token_ids == other.token_ids
            assert (one.text, one.finish_reason, one.stop_reason) == (
                other.text,
                other.finish_reason,
                other.stop_reason,
            )
            torch.testing.assert_close(
                torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=0, atol=self.tolerance
            )

    def test_every_row_is_finished_once_with_as_many_logprobs_as_tokens(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        for response in by_row(engine, requests()):
            assert 1 <= len(response.token_ids) <= 24
            assert len(response.logprobs) == len(response.token_ids)
            assert all(logprob <= 0 for logprob in response.logprobs)

    def test_a_response_ends_with_the_token_that_stopped_it(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        seen = set()
        for response in by_row(engine, requests(4, 16), params(stop=("</answer>",), max_new_tokens=40)):
            seen.add(response.stop_reason)
            body, last = response.token_ids[:-1], response.token_ids[-1]
            assert not {ANSWER_ID, EOS_ID} & set(body)
            match response.stop_reason:
                case "</answer>":
                    assert (response.finish_reason, last) == ("stop", ANSWER_ID)
                    assert response.text.endswith("</answer>")
                case str(reason):
                    assert (reason, response.finish_reason, last) == (EOS, "stop", EOS_ID)
                case None:
                    assert (response.finish_reason, len(response.token_ids)) == ("length", 40)
        assert seen == {"</answer>", EOS, None}, "the rows should show every way to end"

    def test_a_stop_in_the_last_allowed_token_counts_as_a_stop(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        rows = requests(4, 16)
        stopped = next(r for r in by_row(engine, rows) if r.finish_reason == "stop" and len(r.token_ids) > 1)
        short = params(stop=("</answer>",), max_new_tokens=len(stopped.token_ids))
        assert by_row(engine, rows, short)[stopped.index].finish_reason == "stop"

    def test_the_same_call_gives_the_same_bits_again_and_after_other_calls(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        first = by_row(engine, requests())
        self.assert_same(first, by_row(engine, requests()))
        by_row(engine, requests(5, 7, first_seed=99, lengths=(3, 30)))
        self.assert_same(first, by_row(engine, requests()))

    def test_another_engine_with_the_same_weights_gives_the_same_bits(self, make_engine: MakeEngine) -> None:
        first, second = make_engine()[0], make_engine()[0]
        self.assert_same(by_row(first, requests()), by_row(second, requests()))

    def test_weights_that_went_and_came_back_give_the_same_bits(self, make_engine: MakeEngine) -> None:
        engine, weights = make_engine(version=0, seed=0)
        _, others = make_engine(version=1, seed=1)
        first = by_row(engine, requests())
        engine.load_weights(1, others)
        assert engine.weight_version == 1
        changed = by_row(engine, requests())
        assert [r.token_ids for r in changed] != [r.token_ids for r in first]
        engine.load_weights(0, weights)
        assert engine.weight_version == 0
        self.assert_same(first, by_row(engine, requests()))

    def test_rows_of_one_prompt_differ_by_their_seed_alone(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        rows = [SampleRequest((1, 2, 3), seed) for seed in (5, 6, 5)]
        first, second, third = by_row(engine, rows)
        assert first.token_ids == third.token_ids
        assert first.token_ids != second.token_ids

    def test_the_global_random_state_is_neither_used_nor_changed(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = by_row(engine, requests())
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(2)
        self.assert_same(first, by_row(engine, requests()))

    def test_responses_are_yielded_before_the_longest_one_is_finished(self, make_engine: MakeEngine) -> None:
        """Those that are not there yet when the first one comes can still be cancelled."""
        engine, _ = make_engine()
        seen: list[Finished] = []
        sampling = params(stop=("</answer>",), max_new_tokens=200)
        for response in engine.generate(requests(4, 16), sampling, lambda: bool(seen)):
            seen.append(response)
        assert 0 < len(seen) < 64

    def test_a_cancelled_call_ends_early_and_leaves_the_engine_usable(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        expected = by_row(engine, requests())
        asked: list[None] = []
        cancelled = engine.generate(
            requests(), params(max_new_tokens=200), lambda: bool(asked.append(None) or asked[1:])
        )
        assert len(list(cancelled)) < 12
        self.assert_same(expected, by_row(engine, requests()))

    # ------------------------------------------------------------------------------------------------- log-probs

    @pytest.mark.parametrize("kind", MODELS)
    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_logprobs_are_the_trainers(
        self, make_engine: MakeEngine, tmp_path: Path, kind: str, temperature: float
    ) -> None:
        engine, _ = make_engine(kind=kind)
        rows = requests(4, 6, lengths=(1, 20))
        responses = by_row(engine, rows, params(max_new_tokens=50, temperature=temperature))
        expected = trainer_logprobs(tmp_path, model_of(tmp_path, kind), rows, responses, temperature)
        for response, scored in zip(responses, expected, strict=True):
            torch.testing.assert_close(torch.tensor(response.logprobs), scored, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("kind", MODELS)
    def test_logprobs_are_those_of_new_weights_after_a_load(
        self, make_engine: MakeEngine, tmp_path: Path, kind: str
    ) -> None:
        engine, _ = make_engine(kind=kind)
        rows = requests(2, 4, lengths=(40, 60))
        by_row(engine, rows)
        engine, _ = make_engine(version=1, seed=1, kind=kind)
        responses = by_row(engine, rows)
        expected = trainer_logprobs(tmp_path, model_of(tmp_path, kind, seed=1), rows, responses)
        for response, scored in zip(responses, expected, strict=True):
            torch.testing.assert_close(torch.tensor(response.logprobs), scored, rtol=0, atol=1e-4)

    def test_logprobs_are_those_of_the_distribution_that_top_k_and_top_p_leave(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        rows = requests(2, 3)
        for sampling in (params(top_k=2), params(top_p=0.3)):
            plain = by_row(engine, rows, params())
            cut = by_row(engine, rows, sampling)
            assert sum(map(sum, (r.logprobs for r in cut))) > sum(map(sum, (r.logprobs for r in plain)))
        # Of two tokens, the likelier one has at least half of the mass, and it is drawn most of the time.
        logprobs = [x for r in by_row(engine, requests(4, 8), params(top_k=2)) for x in r.logprobs]
        assert sum(x >= -0.6932 for x in logprobs) > len(logprobs) / 2

    @pytest.mark.parametrize("kind", MODELS)
    def test_top_k_of_one_draws_the_likeliest_token_with_certainty(
        self, make_engine: MakeEngine, tmp_path: Path, kind: str
    ) -> None:
        engine, _ = make_engine(kind=kind)
        model, rows = model_of(tmp_path, kind), requests(2, 3)
        for response in by_row(engine, rows, params(top_k=1)):
            prompt = rows[response.index].prompt_token_ids
            assert response.logprobs == (0.0,) * len(response.token_ids)
            with torch.no_grad():
                likeliest = model(input_ids=torch.tensor([[*prompt, *response.token_ids]])).logits[0].argmax(-1)
            assert tuple(likeliest[len(prompt) - 1 : -1].tolist()) == response.token_ids

    def test_a_stop_string_that_ends_inside_a_token_keeps_the_token_whole(self, make_engine: MakeEngine) -> None:
        """Stop strings of two letters, so that random tokens complete many: the text is cut, the tokens are not."""
        engine, _ = make_engine(kind="untied")
        tokenizer = byte_tokenizer()
        stop = ("an", "er", "e ", "w", "s e")
        cut = 0
        for response in by_row(engine, requests(4, 16), params(stop=stop, max_new_tokens=60)):
            whole = tokenizer.decode(list(response.token_ids))
            if response.finish_reason == "stop" and response.stop_reason != EOS:
                assert response.text.endswith(response.stop_reason)
                assert whole.startswith(response.text)
                assert not any(s in tokenizer.decode(list(response.token_ids[:-1])) for s in stop)
                cut += whole != response.text
            else:
                assert response.text == whole
                assert not any(s in whole for s in stop)
        assert cut > 0, "no stop string ended inside a token; choose others"

    # ----------------------------------------------------------------------------------------------------- scores

    @pytest.mark.parametrize("kind", MODELS)
    def test_scores_are_the_trainers(self, make_engine: MakeEngine, tmp_path: Path, kind: str) -> None:
        engine, _ = make_engine(kind=kind)
        scores = torch.tensor(engine.score(CANARY))
        assert scores.shape == (len(CANARY) - 1,)
        expected = trainer_scores(tmp_path, model_of(tmp_path, kind), CANARY)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)

    def test_scores_have_the_same_bits_whatever_was_sampled_before(self, make_engine: MakeEngine) -> None:
        engine, weights = make_engine()
        first = engine.score(CANARY)
        by_row(engine, [SampleRequest(CANARY, seed) for seed in range(3)])
        assert engine.score(CANARY) == first
        engine.load_weights(1, weights)
        assert engine.score(CANARY) == first

    def test_the_smallest_update_of_one_weight_changes_the_bits_of_the_scores(self, make_engine: MakeEngine) -> None:
        engine, weights = make_engine()
        first = engine.score(CANARY)
        changed = {name: tensor.clone() for name, tensor in weights.items()}
        changed["model.layers.0.mlp.down_proj.weight"][3] *= 1 + 1e-5
        engine.load_weights(1, changed)
        assert engine.score(CANARY) != first

    def test_the_hardware_has_a_name_that_stays(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        assert engine.name in engine.hardware
        assert "float32" in engine.hardware
        assert engine.hardware == make_engine()[0].hardware

    # ------------------------------------------------------------------------------------------------- broadcasts

    @pytest.mark.parametrize("kind", MODELS)
    def test_weights_that_were_received_compute_as_those_that_were_loaded(
        self, make_engine: MakeEngine, tmp_path: Path, kind: str
    ) -> None:
        greedy = params(top_k=1, max_new_tokens=40)
        engine, others = make_engine(version=2, seed=2, kind=kind)
        loaded = by_row(engine, requests(), greedy), engine.score(CANARY)
        engine, _ = make_engine(version=0, seed=0, kind=kind)
        assert engine.receiver.workers == 1
        trainer = Trainer()
        groups = set()
        for version, seed in ((1, 1), (2, 2)):
            tensors = others if seed == 2 else make_weights(tmp_path, kind, seed)
            with trainer.sends(version, tensors) as order:
                assert engine.receive_weights(order) == digest(describe_all(tensors))
            assert trainer.arrived == ("rollout",)
            assert (engine.weight_version, engine.receiver.group) == (version, trainer.group)
            groups.add(trainer.group)
        assert len(groups) == 1, "the second version comes in the group of the first"
        assert (by_row(engine, requests(), greedy), engine.score(CANARY)) == loaded

    def test_a_broadcast_that_fails_leaves_no_version_and_no_trace(
        self, make_engine: MakeEngine, tmp_path: Path
    ) -> None:
        engine, weights = make_engine()
        before = engine.score(CANARY)
        trainer, others = Trainer(), make_weights(tmp_path, "tied", 1)
        name = "model.layers.1.mlp.up_proj.weight"

        def change(described: dict[str, Any]) -> None:
            described[name] = (*described[name][:2], "0" * 32)

        with pytest.raises(TransferError, match=name), trainer.sends(1, others, change) as order:
            engine.receive_weights(order)
        assert trainer.arrived == ()
        assert (engine.weight_version, engine.receiver.group) == (None, None)
        engine.load_weights(0, weights)
        assert engine.score(CANARY) == before
        with trainer.sends(1, others) as order:
            engine.receive_weights(order)
        assert (engine.weight_version, engine.receiver.group) == (1, trainer.group)
        assert engine.score(CANARY) != before

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), id="a tensor is absent"),
            pytest.param(lambda w: w.update(odd=torch.zeros(1)), id="a tensor is unknown"),
            pytest.param(lambda w: w.update({min(w): torch.zeros(1)}), id="a tensor has another shape"),
        ],
    )
    def test_a_broadcast_of_another_model_is_refused(
        self, make_engine: MakeEngine, change: Callable[[dict[str, torch.Tensor]], object]
    ) -> None:
        engine, weights = make_engine()
        before = engine.score(CANARY)
        others = dict(weights)
        change(others)
        with (
            pytest.raises(WeightsMismatchError, match="weights version 7 do not fit"),
            Trainer().sends(7, others) as it,
        ):
            engine.receive_weights(it)
        assert engine.weight_version is None
        engine.load_weights(0, weights)
        assert engine.score(CANARY) == before

    # ----------------------------------------------------------------------------------------------------- sleeping

    def test_an_engine_that_slept_samples_as_before(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        first, scores = by_row(engine, requests()), engine.score(CANARY)
        for _ in range(2):
            engine.sleep()
        for _ in range(2):
            engine.wake()
        assert engine.weight_version == 0
        self.assert_same(first, by_row(engine, requests()))
        assert engine.score(CANARY) == scores

    def test_weights_come_to_an_engine_that_slept(self, make_engine: MakeEngine, tmp_path: Path) -> None:
        engine, _ = make_engine()
        first = engine.score(CANARY)
        engine.sleep()
        engine.wake()
        with Trainer().sends(1, make_weights(tmp_path, "tied", 1)) as order:
            engine.receive_weights(order)
        assert (engine.weight_version, engine.score(CANARY) == first) == (1, False)

    # --------------------------------------------------------------------------------------------------- refusals

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda w: w.pop(sorted(w)[1]), id="a tensor is absent"),
            pytest.param(lambda w: w.update(odd=torch.zeros(1)), id="a tensor is unknown"),
            pytest.param(lambda w: w.update({min(w): torch.zeros(1)}), id="a tensor has another shape"),
        ],
    )
    def test_weights_of_another_model_are_refused(
        self, make_engine: MakeEngine, change: Callable[[dict[str, torch.Tensor]], object]
    ) -> None:
        engine, weights = make_engine()
        change(weights)
        with pytest.raises(WorkerError, match="weights version 7 do not fit"):
            engine.load_weights(7, weights)
        assert engine.weight_version is None

    def test_a_prompt_that_does_not_fit_the_context_is_refused(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        long = [SampleRequest((1,) * (MAX_MODEL_TOKENS - 10), 0)]
        with pytest.raises(UserError, match="maxModelLength"):
            list(engine.generate(long, params(max_new_tokens=11), never))
