"""What a model's ``forward`` takes: the cache's name changed with transformers 5.24, people's own code has others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rz_workers.rollout.engines.transformers.kv_cache import cache_argument, last_logits_argument


class SinceTransformers524:
    def forward(self, input_ids: Any, cache: Any = None, **options: Any) -> None: ...


class BeforeIt:
    def forward(self, input_ids: Any, past_key_values: Any = None, **options: Any) -> None: ...


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        pytest.param(SinceTransformers524().forward, "cache", id="a model of transformers 5.24"),
        pytest.param(BeforeIt().forward, "past_key_values", id="an older one, or one of people's own code"),
    ],
)
def test_a_model_gets_its_cache_under_the_name_that_its_forward_takes(forward: Callable[..., None], name: str) -> None:
    assert cache_argument(forward) == name


class PeoplesOwn:
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


class Named:
    def forward(self, input_ids: Any, logits_to_keep: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("forward", "given"),
    [
        pytest.param(Named().forward, {"logits_to_keep": 1}, id="by name"),
        pytest.param(BeforeIt().forward, {"logits_to_keep": 1}, id="passed on"),
        pytest.param(PeoplesOwn().forward, {}, id="unknown"),
    ],
)
def test_a_model_computes_the_newest_logits_alone_where_it_can(forward: Callable[..., None], given: Any) -> None:
    assert last_logits_argument(forward) == given
