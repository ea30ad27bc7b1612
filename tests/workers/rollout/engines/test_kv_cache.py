"""The cache's name in a model's ``forward``, which changed with transformers 5.24."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rz_workers.rollout.engines.transformers.kv_cache import cache_argument


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
