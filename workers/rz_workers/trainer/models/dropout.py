"""Sampling has no dropout, and the ratio of PPO compares the same network: training has none either.

Called before a model is built, since many layers copy the number from the configuration and call the function with it.
What is left after that the start-up proof finds: two equal passes that differ.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["switch_off"]

_RATE = re.compile(r"drop")
"""``attention_dropout``, ``resid_pdrop``, ``layerdrop``, ``drop_path_rate``."""


def switch_off(config: Any) -> None:
    """Set every rate of a transformers configuration to 0, of its ``text_config`` too."""
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        for name, value in list(vars(part).items()):
            if _RATE.search(name) and isinstance(value, float):
                setattr(part, name, 0.0)
