"""The house style of every chart, in one place: colours, type, grid, direct labels. For ``charts`` and ``timeline``.

Two themes, because the report's page follows the reader's light or dark setting.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

DPI = 160
"""Pixels per inch of the PNGs: sharp on a laptop at half size."""


@dataclass(frozen=True)
class Theme:
    """Colours of one reading mode."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    blue: str
    green: str
    orange: str
    purple: str
    amber: str
    slate: str
    sky: str

    def cycle(self, index: int) -> str:
        """Colour of the ``index``-th curve of a chart with many."""
        colours = (self.blue, self.orange, self.green, self.purple, self.amber, self.slate)
        return colours[index % len(colours)]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1b2330",
    muted="#667085",
    grid="#e6e9ef",
    blue="#2462c9",
    green="#12805c",
    orange="#d4551f",
    purple="#7a45bd",
    amber="#b98a00",
    slate="#8a94a6",
    sky="#7fb0ea",
)
DARK = Theme(
    name="dark",
    paper="#171b22",
    ink="#e7ebf2",
    muted="#98a2b3",
    grid="#2a313c",
    blue="#75a7ff",
    green="#46c79a",
    orange="#ff9563",
    purple="#bf9bff",
    amber="#e4bd4f",
    slate="#7d8899",
    sky="#4a76b8",
)

Chart = Callable[[Theme], Figure]
"""A chart is drawn once for each theme."""


def render(chart: Chart, theme: Theme) -> bytes:
    """Draw a chart as PNG."""
    with matplotlib.rc_context(_rc(theme)):
        figure = chart(theme)
        buffer = io.BytesIO()
        # Else matplotlib writes its version into the file.
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(width: float = 8.4, height: float = 4.2) -> Figure:
    """A figure of that size in inches; margins are the layout engine's."""
    return Figure(figsize=(width, height), layout="constrained")


def title(axes: Axes, heading: str, note: str, theme: Theme) -> None:
    """A bold heading at the left and under it one line that says what is drawn."""
    axes.set_title(f"{heading}\n", loc="left")
    line = axes.annotate(
        note, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", color=theme.muted, fontsize=9
    )
    line.set_in_layout(False)  # a long line must not narrow the axes


def version_axis(axes: Axes, last: int) -> None:
    """The shared horizontal axis, from version 0 to ``last``."""
    axes.set_xlabel("policy updates")
    axes.set_xlim(0, max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))


def share_axis(axes: Axes, highest: float) -> None:
    """A vertical axis of shares, from 0 to a little above ``highest`` (at most 1), in per cent."""
    axes.set_ylim(0, min(1.0, max(highest * 1.15, 0.02)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if highest > 0.06 else 1))


def direct_labels(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name curves at their right end in place of a legend: (height in data units, text, colour) each, moved apart where
    they would touch. Call it when the vertical limits are final."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.075
    heights = spread([height for height, _, _ in ends], gap)
    for (_, text, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            text,
            (1, (height - low) / (high - low)),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9.5,
            fontweight="bold",
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart until neighbours are ``gap`` away from each other, around where they were; order is kept.

    Example, gap 2: ``[1, 1]`` becomes ``[0, 2]``.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[list[int], float]] = []  # members from below, height of the lowest
    for index in order:
        members, base = [index], heights[index]
        while blocks and base < blocks[-1][1] + len(blocks[-1][0]) * gap:
            members = blocks.pop()[0] + members
            base = sum(heights[m] - k * gap for k, m in enumerate(members)) / len(members)
        blocks.append((members, base))
    placed = [0.0] * len(heights)
    for members, base in blocks:
        for k, member in enumerate(members):
            placed[member] = base + k * gap
    return placed


def _rc(theme: Theme) -> dict[Any, Any]:
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that the charts are the same everywhere
        "font.size": 10,
        "text.color": theme.ink,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "axes.labelsize": 9,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlecolor": theme.ink,
        "axes.titlepad": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.grid,
        "ytick.color": theme.grid,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "ytick.major.size": 0,
        "lines.linewidth": 2.2,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.w_pad": 0.14,
        "figure.constrained_layout.h_pad": 0.12,
    }
