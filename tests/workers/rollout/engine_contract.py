"""What every engine must do. A test module subclasses ``EngineContract`` and gives it a ``make_engine`` fixture.

The engine under test is made for the word tokenizer of ``rollout_builders`` and a model whose next token is spread over
many words, so that responses end in all ways.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rollout_builders import ANSWER_ID, EOS_ID, MAX_MODEL_TOKENS, never, params, requests

from rz_workers.rollout.engine import EOS, Engine, Finished, SampleRequest, SamplingParams
from rz_workers.runtime import UserError, WorkerError

MakeEngine = Callable[..., tuple[Engine, dict[str, torch.Tensor]]]
"""``make_engine(version=0, seed=0)``: an engine that holds these weights, and the weights."""


def by_row(engine: Engine, rows: list[SampleRequest], sampling: SamplingParams | None = None) -> list[Finished]:
    finished = list(engine.generate(rows, sampling or params(stop=("</answer>",)), never))
    assert sorted(response.index for response in finished) == list(range(len(rows)))
    return sorted(finished, key=lambda response: response.index)


def assert_same_bits(first: list[Finished], second: list[Finished]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.token_ids == other.token_ids
        assert torch.equal(torch.tensor(one.logprobs), torch.tensor(other.logprobs))
        assert one == other


class EngineContract:
    """The suite; ``make_engine`` comes from the subclass's module."""

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
        assert_same_bits(first, by_row(engine, requests()))
        by_row(engine, requests(5, 7, first_seed=99, lengths=(3, 30)))
        assert_same_bits(first, by_row(engine, requests()))

    def test_another_engine_with_the_same_weights_gives_the_same_bits(self, make_engine: MakeEngine) -> None:
        first, second = make_engine()[0], make_engine()[0]
        assert_same_bits(by_row(first, requests()), by_row(second, requests()))

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
        assert_same_bits(first, by_row(engine, requests()))

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
        assert_same_bits(first, by_row(engine, requests()))

    def test_responses_are_yielded_before_the_longest_one_is_finished(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        asked = []
        responses = engine.generate(
            requests(4, 16), params(stop=("</answer>",), max_new_tokens=60), lambda: bool(asked.append(None))
        )
        next(responses)
        assert len(asked) < 60

    def test_a_cancelled_call_ends_early_and_leaves_the_engine_usable(self, make_engine: MakeEngine) -> None:
        engine, _ = make_engine()
        expected = by_row(engine, requests())
        asked = iter([False, False, True])
        assert len(list(engine.generate(requests(), params(), lambda: next(asked)))) < 12
        assert_same_bits(expected, by_row(engine, requests()))

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
