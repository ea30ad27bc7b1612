"""No smoothed curve is shown without the values that it was made of, and evaluations are never smoothed.

What the curves are drawn with: panels, their lines, the labels at the lines' ends. For ``charts``, ``diagnostics``.
Training curves have two lines: faint, each step as it was; bold, the mean over ``SMOOTHING_STEPS`` steps around it.
Evaluations are points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rz_workers.report.record import RunRecord
from rz_workers.report.series import SMOOTHING_STEPS, Series, metric, smooth
from rz_workers.report.style import Chart, Theme, direct_labels, new_figure, share_axis, title, version_axis

SMOOTHED = f"bold: {SMOOTHING_STEPS}-step mean"

End = tuple[float, str, str]
"""Where a curve ends: height, its label, its colour."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes; left out where no committed step has any of the metrics that it ``needs``, and where there is
    nothing ``present``."""

    draw: Callable[[Axes, RunRecord, Theme], None]
    needs: tuple[str, ...] = ()
    present: Callable[[RunRecord], bool] = lambda record: True

    def has_data(self, record: RunRecord) -> bool:
        return self.present(record) and (not self.needs or any(metric(record.commits, name) for name in self.needs))


def chart(panels: Sequence[Panel], record: RunRecord) -> Chart:
    """One panel as a figure of its own, more of them in two columns."""

    def draw(theme: Theme) -> Figure:
        if len(panels) == 1:
            figure = new_figure()
            panels[0].draw(figure.add_subplot(), record, theme)
            return figure
        rows = (len(panels) + 1) // 2
        figure = new_figure(width=11.5, height=3.5 * rows)
        for i, panel in enumerate(panels):
            panel.draw(figure.add_subplot(rows, 2, i + 1), record, theme)
        return figure

    return draw


def lines(heading: str, note: str, curves: dict[str, tuple[str, str]], form: str, *, share: bool = False) -> Panel:
    """A panel of training curves from 0 upwards.

    Args:
        curves: metric -> (label, name of its colour in ``Theme``).
        form: how the last value is written, e.g. ``{:.2f}``.
        share: whether the values are shares of 1, shown in per cent.
    """

    def draw(axes: Axes, record: RunRecord, theme: Theme) -> None:
        series = [
            (metric(record.commits, name, label), getattr(theme, colour)) for name, (label, colour) in curves.items()
        ]
        ends = trained(axes, series)
        title(axes, heading, f"{note} · {SMOOTHED}", theme)
        top = max(highest(one) for one, _ in series)
        if share:
            share_axis(axes, top)
        else:
            # matplotlib warns of limits that are equal.
            axes.set_ylim(0, 1.1 * top or 1e-6)
            axes.yaxis.set_major_formatter(lambda value, _: form.format(value) if value else "0")
        finish(axes, record, ends, form)

    return Panel(draw, tuple(curves))


def trained(axes: Axes, curves: Sequence[tuple[Series, str]]) -> list[End]:
    """Draw training curves; returns where their labels go."""
    ends = []
    for series, colour in curves:
        if not series:
            continue
        bold = smooth(series)
        axes.plot(series.x, series.y, color=colour, alpha=0.28, linewidth=1.1)
        axes.plot(bold.x, bold.y, color=colour, marker="o" if len(bold.x) == 1 else None)
        ends.append((bold.y[-1], series.label, colour))
    return ends


def evaluated(axes: Axes, curves: Sequence[tuple[Series, str]]) -> list[End]:
    """Draw evaluations as joined points; returns where their labels go."""
    ends = []
    for series, colour in curves:
        if not series:
            continue
        # Not clipped: a point at 0 or 1 is shown whole.
        axes.plot(series.x, series.y, color=colour, linewidth=1.6, marker="o", markersize=5, clip_on=False, zorder=3)
        ends.append((series.y[-1], series.label, colour))
    return ends


def finish(axes: Axes, record: RunRecord, ends: Sequence[End], form: str) -> None:
    """The horizontal axis and the labels; call it when the vertical limits are final."""
    version_axis(axes, record.commits[-1].step + 1)
    direct_labels(axes, [(height, f"{label} {form.format(height)}", colour) for height, label, colour in ends])


def highest(series: Series) -> float:
    return max(series.y, default=0.0)


def plain(text: str) -> str:
    """Text that matplotlib shall not read as mathematics."""
    return text.replace("$", r"\$")
