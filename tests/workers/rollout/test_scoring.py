"""Responses on their way to the reward service."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from worker_builders import verdict_of

from rz_workers.protocol.messages import Verdict, VerifyItem
from rz_workers.rollout.scoring import MAX_ITEMS, Scorer, wait_for


def item(text: str) -> VerifyItem:
    return VerifyItem(response=text, reference_answer="", stopped=True)


class SlowReward:
    """Answers once ``gate`` is open; notes the size of each request."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.sizes: list[int] = []

    def verify(self, items: Sequence[VerifyItem]) -> tuple[Verdict, ...]:
        self.sizes.append(len(items))
        self.started.set()
        assert self.gate.wait(30)
        return tuple(map(verdict_of, items))

    def trouble(self) -> str | None:
        return None


def test_each_response_gets_its_own_verdict() -> None:
    reward = SlowReward()
    reward.gate.set()
    scorer = Scorer(reward)
    texts = ["a" * length for length in range(50)]
    verdicts = wait_for([scorer.submit(item(text)) for text in texts], lambda: False)
    assert verdicts is not None
    assert [verdict.extracted_answer for verdict in verdicts] == texts


def test_what_comes_together_during_a_request_goes_into_the_next_ones() -> None:
    reward = SlowReward()
    scorer = Scorer(reward)
    futures = [scorer.submit(item("first"))]
    assert reward.started.wait(30)
    futures += [scorer.submit(item("later")) for _ in range(MAX_ITEMS + 4)]
    reward.gate.set()
    assert wait_for(futures, lambda: False) is not None
    assert reward.sizes == [1, MAX_ITEMS, 4]


def test_cancelled_responses_are_not_asked_for() -> None:
    reward = SlowReward()
    scorer = Scorer(reward)
    first = scorer.submit(item("first"))
    assert reward.started.wait(30)
    dropped = [scorer.submit(item("dropped")) for _ in range(3)]
    assert all(future.cancel() for future in dropped)
    last = scorer.submit(item("last"))
    reward.gate.set()
    assert wait_for([first, last], lambda: False) is not None
    assert reward.sizes == [1, 1]


def test_waiting_ends_when_it_is_pointless() -> None:
    scorer = Scorer(SlowReward())
    assert wait_for([scorer.submit(item("x"))], lambda: True) is None


def test_a_failed_request_is_the_failure_of_its_responses_alone() -> None:
    class FailsOnce(SlowReward):
        def verify(self, items: Sequence[VerifyItem]) -> tuple[Verdict, ...]:
            verdicts = super().verify(items)
            if len(self.sizes) == 1:
                raise ValueError("refused")
            return verdicts

    reward = FailsOnce()
    scorer = Scorer(reward)
    first = scorer.submit(item("first"))
    assert reward.started.wait(30)
    second = scorer.submit(item("second"))
    reward.gate.set()
    with pytest.raises(ValueError, match="refused"):
        wait_for([first], lambda: False)
    assert wait_for([second], lambda: False) == [verdict_of(item("second"))]
