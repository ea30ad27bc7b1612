"""The bars of ``bars.toml``: what a change must hold of the figures that are measured here.

Each program of this folder calls ``hold`` at its end, once for each of its bars, and ends with 1 when one is missed. A
bar is a ratio or a count that holds on any machine; seconds are printed and never held.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

__all__ = ["BARS", "hold"]

BARS = Path(__file__).with_name("bars.toml")


def hold(name: str, measured: float, bars: Path = BARS) -> bool:
    """Print ``name 1.66 (bar: at least 1.5) holds``, or ``MISSED``; whether it holds. NaN never does.

    Raises ValueError when ``bars`` has no such bar.
    """
    known = tomllib.loads(bars.read_text())
    if name not in known:
        raise ValueError(f"found no bar {name} in {bars}, which has {', '.join(known)}: write it there")
    bar = known[name]
    if "at_least" in bar:
        bound, holds = f"at least {bar['at_least']:g}", measured >= bar["at_least"]
    else:
        bound, holds = f"at most {bar['at_most']:g}", measured <= bar["at_most"]
    print(f"{name} {measured:.3g} (bar: {bound}) {'holds' if holds else 'MISSED'}", flush=True)
    return holds
