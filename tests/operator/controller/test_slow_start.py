"""Many calls at once, begun so that a refusal costs one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rz_operator.controller.slow_start import AT_ONCE, slow_start, together


class Calls:
    """Notes how many of them are under way at a time; ``answer`` decides each."""

    def __init__(self, answer: Callable[[int], bool] = lambda item: True) -> None:
        self.begun: list[int] = []
        self.batches: list[int] = []
        self._answer = answer
        self._under_way = 0

    async def __call__(self, item: int) -> bool:
        if not self._under_way:
            self.batches.append(0)
        self._under_way += 1
        self.batches[-1] += 1
        self.begun.append(item)
        try:
            await asyncio.sleep(0)
            return self._answer(item)
        finally:
            self._under_way -= 1


def begin(calls: Calls, items: Sequence[int], **options: Any) -> int:
    return asyncio.run(slow_start(items, calls, **options))


def test_it_doubles_up_to_its_limit() -> None:
    calls = Calls()
    assert begin(calls, range(80)) == 80
    assert calls.batches == [1, 2, 4, 8, AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE, 1]
    assert calls.begun == list(range(80))


@pytest.mark.parametrize(("refused", "tried"), [(0, 1), (1, 3), (5, 7), (40, 47)])
def test_the_batch_of_the_first_refusal_is_the_last(refused: int, tried: int) -> None:
    assert begin(Calls(lambda item: item != refused), range(1000)) == tried


def test_a_failure_ends_it_too_and_is_raised_when_its_batch_has_ended() -> None:
    def answer(item: int) -> bool:
        if item in (8, 9):
            raise ValueError(f"{item}")
        return True

    calls = Calls(answer)
    with pytest.raises(ValueError, match="8"):
        begin(calls, range(1000))
    assert calls.begun == list(range(15))


def test_no_batch_begins_when_the_time_is_up() -> None:
    calls = Calls()
    assert begin(calls, range(1000), may_go_on=lambda: len(calls.begun) < 7) == 7


def test_what_is_done_together_is_all_done() -> None:
    def answer(item: int) -> bool:
        if item % 10 == 3:
            raise ValueError(f"{item}")
        return False

    calls = Calls(answer)
    failed = asyncio.run(together(range(40), calls))
    assert [str(error) for error in failed] == ["3", "13", "23", "33"]
    assert calls.batches == [AT_ONCE, AT_ONCE, 8]
